//! What services expect on DATA and STATE: directories with their owners, and the places of the read-only root that are
//! writable because a directory of DATA is mounted over them.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use keelson_job::{DATA, STATE};
use keelson_sys::mount;
use thiserror::Error;

#[derive(Debug, Error)]
pub(crate) enum LayoutError {
    #[error("cannot make {}", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("cannot mount {} on {target}", source_path.display())]
    Bind { source_path: PathBuf, target: &'static str, source: io::Error },
}

/// Path below the file system, owner (user and group), mode.
type Row = (&'static str, u32, u32);

const ROOT: u32 = 0;
const STORE: u32 = 64001;
const PROXY: u32 = 64002;
const APISERVER: u32 = 64004;
const LOG: u32 = 64007;

const STATE_DIRECTORIES: &[Row] = &[("store", STORE, 0o700), ("pki", ROOT, 0o700), ("cluster", ROOT, 0o700)];

const DATA_DIRECTORIES: &[Row] = &[
    ("lib", ROOT, 0o755),
    ("lib/containerd", ROOT, 0o711),
    ("lib/kubelet", ROOT, 0o750),
    ("lib/keelson-proxy", PROXY, 0o700),
    ("log", ROOT, 0o755),
    ("log/keelson", LOG, 0o750),
    ("log/pods", ROOT, 0o755),
    ("log/containers", ROOT, 0o755),
    ("log/audit", APISERVER, 0o700),
    ("tmp", ROOT, 0o1777),
    ("cache", ROOT, 0o755),
    ("etc", ROOT, 0o755),
    ("etc/cni", ROOT, 0o755),
    ("etc/cni/net.d", ROOT, 0o755),
    ("etc/kubernetes", ROOT, 0o755),
    ("opt", ROOT, 0o755),
    ("opt/cni", ROOT, 0o755),
    ("opt/cni/bin", ROOT, 0o755),
];

/// Directories of DATA that show at places of the root: what daemon sets for CNI and CSI write to. The volume plug-ins'
/// directory is kubelet's own below /var.
const BINDS: &[(&str, &str)] =
    &[("etc/cni/net.d", "/etc/cni/net.d"), ("etc/kubernetes", "/etc/kubernetes"), ("opt/cni/bin", "/opt/cni/bin")];

/// Makes it all. What exists keeps its contents and gets its owner and mode again.
pub(super) fn lay_out() -> Result<(), LayoutError> {
    directories(Path::new(STATE), STATE_DIRECTORIES)?;
    let data = Path::new(DATA);
    directories(data, DATA_DIRECTORIES)?;
    links(data)?;
    for (directory, target) in BINDS {
        let source_path = data.join(directory);
        mount::bind(&source_path, Path::new(target)).map_err(|source| LayoutError::Bind {
            source_path,
            target,
            source,
        })?;
    }
    Ok(())
}

fn directories(base: &Path, rows: &[Row]) -> Result<(), LayoutError> {
    for (name, owner, mode) in rows {
        let path = base.join(name);
        directory(&path, *owner, *mode).map_err(|source| LayoutError::Make { path, source })?;
    }
    Ok(())
}

fn directory(path: &Path, owner: u32, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    chown(path, Some(owner), Some(owner))
}

/// Programs say /var/run and mean /run: containerd's network namespaces, for one.
fn links(data: &Path) -> Result<(), LayoutError> {
    for (name, target) in [("run", "/run"), ("lock", "/run/lock")] {
        let path = data.join(name);
        match symlink(target, &path) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(LayoutError::Make { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_before_their_children() {
        for (index, (name, ..)) in DATA_DIRECTORIES.iter().enumerate() {
            let parent = Path::new(name).parent().unwrap();
            let before = DATA_DIRECTORIES.iter().take(index).any(|(other, ..)| Path::new(other) == parent);
            assert!(before || parent == Path::new(""), "{name}");
        }
    }

    #[test]
    fn everything_that_is_bound_is_made() {
        for (source, _) in BINDS {
            assert!(DATA_DIRECTORIES.iter().any(|(name, ..)| name == source), "{source}");
        }
    }

    #[test]
    fn links_that_exist_are_kept() {
        let data = tempfile::tempdir().unwrap();
        links(data.path()).unwrap();
        links(data.path()).unwrap();
        assert_eq!(fs::read_link(data.path().join("run")).unwrap(), Path::new("/run"));
    }
}
