//! Kernel settings: applied early, then read back, so that what is shown is what is true.
//!
//! The image's own are a [`table`] with a reason each; the node's configuration comes after it and wins. A setting that this
//! kernel does not have, or does not keep, is named on the console and does not stop the boot.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{Machine, PhaseResult};
use crate::console::Console;

mod table;

const ROOT: &str = "/proc/sys";

#[derive(Debug, Error)]
enum SysctlError {
    #[error("{0} is not a setting's name")]
    Name(String),
    #[error("cannot set {name}")]
    Write { name: String, source: io::Error },
    #[error("{name} is {found} after being set to {wanted}")]
    Differs { name: String, wanted: String, found: String },
}

impl SysctlError {
    fn is_absent(&self) -> bool {
        matches!(self, Self::Write { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

pub(super) fn run(machine: &mut Machine, console: &mut Console) -> PhaseResult {
    let own = table::SYSCTLS.iter().map(|row| (row.name, row.value, row.optional));
    let configured = machine.node()?.sysctls.iter().map(|(name, value)| (name.as_str(), value.as_str(), false));
    let mut applied = 0_usize;
    for (name, value, optional) in own.chain(configured) {
        match apply(Path::new(ROOT), name, value) {
            Ok(()) => applied += 1,
            Err(error) if optional && error.is_absent() => {}
            Err(error) => console.warn("sysctls", crate::recovery::chain(&error)),
        }
    }
    Ok(format!("{applied} set and read back"))
}

fn apply(root: &Path, name: &str, value: &str) -> Result<(), SysctlError> {
    let path = path(root, name).ok_or_else(|| SysctlError::Name(name.to_owned()))?;
    let failed = |source| SysctlError::Write { name: name.to_owned(), source };
    fs::write(&path, value).map_err(failed)?;
    let found = fs::read_to_string(&path).map_err(failed)?;
    if words(&found).eq(words(value)) {
        return Ok(());
    }
    Err(SysctlError::Differs { name: name.to_owned(), wanted: value.to_owned(), found: found.trim().to_owned() })
}

/// The kernel separates a setting's several values by tabs.
fn words(value: &str) -> impl Iterator<Item = &str> {
    value.split_ascii_whitespace()
}

/// Where a setting is, in sysctl(8)'s spelling: dots between the parts, and a slash for a dot inside one (`eth0/100`).
fn path(root: &Path, name: &str) -> Option<PathBuf> {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "-_/".contains(character);
    let mut path = root.to_owned();
    for part in name.split('.') {
        if part.is_empty() || !part.chars().all(allowed) {
            return None;
        }
        let part = part.replace('/', ".");
        if part.starts_with('.') {
            return None;
        }
        path.push(part);
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_written_and_read_back() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("net/ipv4")).unwrap();
        fs::write(root.path().join("net/ipv4/ip_forward"), "0\n").unwrap();
        apply(root.path(), "net.ipv4.ip_forward", "1").unwrap();
        assert_eq!(fs::read_to_string(root.path().join("net/ipv4/ip_forward")).unwrap(), "1");
    }

    #[test]
    fn setting_that_does_not_exist_is_named() {
        let root = tempfile::tempdir().unwrap();
        let error = apply(root.path(), "kernel.nothing", "1").unwrap_err();
        assert_eq!(error.to_string(), "cannot set kernel.nothing");
        assert!(error.is_absent());
    }

    #[test]
    fn names_cannot_leave_the_tree() {
        let root = Path::new("/proc/sys");
        assert_eq!(
            path(root, "net.ipv4.conf.eth0/100.rp_filter").unwrap(),
            Path::new("/proc/sys/net/ipv4/conf/eth0.100/rp_filter")
        );
        for name in ["", "a..b", "a./b", "..", "a.//.b", "a b", "/etc/passwd", "a.b\0"] {
            assert_eq!(path(root, name), None, "{name}");
        }
    }

    #[test]
    fn several_values_are_compared_as_words() {
        assert!(words("4\t4\t1\t7\n").eq(words("4 4 1 7")));
    }
}
