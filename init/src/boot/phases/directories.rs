//! What services find in `/run/keelson` when they start: their own directories, and the node's configuration.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use keelson_config::{CLOCK_FLOOR_PATH, NODE_CONFIG_PATH, REGISTRY_CREDENTIALS_PATH, Secrets, TOKEN_PATH};
use thiserror::Error;

use super::{Machine, PhaseResult, clock_floor};
use crate::console::Console;

/// A directory in /run: its path, its owner (user and group alike), its mode.
type Row = (&'static str, u32, u32);

/// The fixed accounts of keelson's own services and Kubernetes' (the image's /etc/passwd has the same).
const STORE: u32 = 64001;
const PROXY: u32 = 64002;
const NETWORK: u32 = 64003;
const APISERVER: u32 = 64004;
const CONTROLLER_MANAGER: u32 = 64005;
const SCHEDULER: u32 = 64006;
const LOG: u32 = 64007;
const ROOT: u32 = 0;

/// Directories that hold keys are for their owner only; those in which services publish are for all to read.
const DIRECTORIES: &[Row] = &[
    ("/run/keelson", ROOT, 0o755),
    ("/run/keelson/config", ROOT, 0o755),
    ("/run/keelson/init", ROOT, 0o755),
    ("/run/keelson/network", NETWORK, 0o755),
    ("/run/keelson/log", LOG, 0o755),
    ("/run/keelson/cluster", ROOT, 0o755),
    ("/run/keelson/proxy", PROXY, 0o755),
    ("/run/keelson/store", STORE, 0o700),
    ("/run/keelson/kube-apiserver", APISERVER, 0o700),
    ("/run/keelson/kube-controller-manager", CONTROLLER_MANAGER, 0o700),
    ("/run/keelson/kube-scheduler", SCHEDULER, 0o700),
    ("/run/keelson/kubelet", ROOT, 0o700),
    ("/run/keelson/kube-proxy", ROOT, 0o700),
    ("/run/keelson/containerd", ROOT, 0o700),
    ("/run/keelson/user-images", ROOT, 0o755),
    // Where /var/lock leads.
    ("/run/lock", ROOT, 0o755),
    // keelson-cluster's login1 listens here.
    ("/run/dbus", ROOT, 0o755),
];

#[derive(Debug, Error)]
enum DirectoryError {
    #[error("cannot make {path}")]
    Make { path: &'static str, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot write the configuration as JSON")]
    Encode(#[source] serde_json::Error),
}

pub(super) fn run(machine: &mut Machine, _: &mut Console) -> PhaseResult {
    for row in DIRECTORIES {
        make(row).map_err(|source| DirectoryError::Make { path: row.0, source })?;
    }
    let node = serde_json::to_vec_pretty(machine.node()?).map_err(DirectoryError::Encode)?;
    write(Path::new(NODE_CONFIG_PATH), 0o644, &node)?;
    let secrets = std::mem::take(&mut machine.secrets);
    if let Some(token) = &secrets.token {
        write(Path::new(TOKEN_PATH), 0o600, token.expose().as_bytes())?;
    }
    if !secrets.registry_credentials.is_empty() {
        let text = registries(&secrets).map_err(DirectoryError::Encode)?;
        write(Path::new(REGISTRY_CREDENTIALS_PATH), 0o600, &text)?;
    }
    // Without a build time (no image has that fault) there is no floor.
    let floor = clock_floor::build_time().unwrap_or_default();
    write(Path::new(CLOCK_FLOOR_PATH), 0o644, format!("{}\n", floor.as_secs()).as_bytes())?;
    Ok(String::new())
}

/// `{"registry.example": ["user name", "password"]}`
fn registries(secrets: &Secrets) -> Result<Vec<u8>, serde_json::Error> {
    let credentials = secrets.registry_credentials.iter();
    let by_host: BTreeMap<_, _> =
        credentials.map(|(host, given)| (host, [given.username.as_str(), given.password.expose()])).collect();
    serde_json::to_vec(&by_host)
}

fn make(&(path, owner, mode): &Row) -> io::Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // The mode again: the umask may have taken bits, and the directory may have been there.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    chown(path, Some(owner), Some(owner))
}

/// Whole or not at all: a reader that watches the directory sees the file appear complete.
fn write(path: &Path, mode: u32, contents: &[u8]) -> Result<(), DirectoryError> {
    let failed = |source| DirectoryError::Write { path: path.to_owned(), source };
    let unfinished = path.with_extension("new");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&unfinished).map_err(failed)?;
    file.write_all(contents).map_err(failed)?;
    fs::rename(&unfinished, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_with_keys_are_closed_to_others() {
        for (path, owner, mode) in DIRECTORIES {
            let publishes = *owner == ROOT || [NETWORK, LOG, PROXY].contains(owner);
            assert!(publishes || *mode == 0o700, "{path}");
        }
    }

    #[test]
    fn parents_come_first() {
        for (index, (path, ..)) in DIRECTORIES.iter().enumerate().skip(1) {
            let parent = Path::new(path).parent().unwrap();
            let before = DIRECTORIES.iter().take(index).any(|(other, ..)| Path::new(other) == parent);
            assert!(before || parent == Path::new("/run"), "{path}");
        }
    }

    #[test]
    fn file_appears_whole_with_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        write(&path, 0o600, b"secret").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"secret");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
