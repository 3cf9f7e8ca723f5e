//! Early mounts: the kernel's own file systems and those in memory, as a table.
//!
//! Everything is nosuid, nodev and noexec unless a row says why not. What a kernel may lack, or a machine, is optional.

use std::io;
use std::path::Path;

use keelson_sys::mount::{self, MountFlags};
use thiserror::Error;

#[derive(Debug, Error)]
#[error("cannot mount {file_system} at {target}")]
pub(crate) struct MountError {
    target: &'static str,
    file_system: &'static str,
    source: io::Error,
}

#[derive(Debug)]
struct EarlyMount {
    target: &'static str,
    file_system: &'static str,
    flags: MountFlags,
    data: &'static str,
    need: Need,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Needed before the root is found; kept across the move to it.
    FirstStage,
    Required,
    /// Skipped where its directory does not exist or the kernel does not have it.
    Optional,
}

const STRICT: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

const fn row(
    target: &'static str,
    file_system: &'static str,
    flags: MountFlags,
    data: &'static str,
    need: Need,
) -> EarlyMount {
    EarlyMount { target, file_system, flags, data, need }
}

const MOUNTS: &[EarlyMount] = &[
    row("/proc", "proc", STRICT, "", Need::FirstStage),
    row("/sys", "sysfs", STRICT, "", Need::FirstStage),
    // Devices are what it is for.
    row("/dev", "devtmpfs", MountFlags::NOSUID.union(MountFlags::NOEXEC), "mode=0755", Need::FirstStage),
    // What services tell each other, containerd's tasks, mount points of pods. A fifth of the memory is a bound, not a need.
    row("/run", "tmpfs", STRICT, "mode=0755,size=20%", Need::FirstStage),
    // Terminals of `kubectl exec`: devices again. Group tty and the modes are what grantpt(3) expects.
    row(
        "/dev/pts",
        "devpts",
        MountFlags::NOSUID.union(MountFlags::NOEXEC),
        "gid=5,mode=0620,ptmxmode=0666",
        Need::Required,
    ),
    row("/dev/shm", "tmpfs", STRICT, "mode=1777,size=20%", Need::Required),
    row("/dev/mqueue", "mqueue", STRICT, "", Need::Optional),
    row("/tmp", "tmpfs", STRICT, "mode=1777,size=10%", Need::Required),
    // nsdelegate: a cgroup namespace is a boundary of delegation. memory_recursiveprot: memory.min and memory.low of a group
    // protect what is below it, which kubelet counts on. See cgroup-v2 in the kernel's documentation.
    row("/sys/fs/cgroup", "cgroup2", STRICT, "nsdelegate,memory_recursiveprot", Need::Required),
    row("/sys/fs/bpf", "bpf", STRICT, "mode=0700", Need::Optional),
    row("/sys/kernel/security", "securityfs", STRICT, "", Need::Optional),
    row("/sys/kernel/tracing", "tracefs", STRICT, "mode=0700", Need::Optional),
    row("/sys/fs/pstore", "pstore", STRICT, "", Need::Optional),
    row("/sys/firmware/efi/efivars", "efivarfs", STRICT, "", Need::Optional),
];

/// Mounts what finding the root needs, and makes the directories for it: the initramfs has none.
pub(crate) fn mount_first_stage() -> Result<(), MountError> {
    for row in MOUNTS.iter().filter(|row| row.need == Need::FirstStage) {
        // An existing directory is as good; a missing one is the mount's error.
        let _ = std::fs::create_dir(row.target);
        mount_row(row)?;
    }
    Ok(())
}

/// Mounts all that is not mounted yet, and makes the root's mount propagate: containers' `rshared` volumes depend on it.
/// Returns what optional mounts are missing.
pub(crate) fn mount_all() -> Result<Vec<&'static str>, MountError> {
    let mounted = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut missing = Vec::new();
    for row in MOUNTS.iter().filter(|row| !mount::is_mount_point(&mounted, Path::new(row.target))) {
        // /dev and /run are empty when mounted; elsewhere the kernel has the directory or there is none.
        if row.target.starts_with("/dev/") {
            let _ = std::fs::create_dir(row.target);
        }
        match mount_row(row) {
            Err(_) if row.need == Need::Optional => missing.push(row.target),
            result => result?,
        }
    }
    mount::make_shared_recursively(Path::new("/")).map_err(|source| MountError {
        target: "/",
        file_system: "shared propagation",
        source,
    })?;
    Ok(missing)
}

fn mount_row(row: &EarlyMount) -> Result<(), MountError> {
    mount::mount(row.file_system, Path::new(row.target), row.file_system, row.flags, row.data)
        .map_err(|source| MountError { target: row.target, file_system: row.file_system, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_runs_set_id_programs() {
        for row in MOUNTS {
            assert!(row.flags.contains(MountFlags::NOSUID | MountFlags::NOEXEC), "{}", row.target);
        }
    }

    #[test]
    fn a_mount_comes_after_the_one_it_lies_in() {
        for (index, row) in MOUNTS.iter().enumerate() {
            let later = &MOUNTS[index + 1..];
            assert!(later.iter().all(|other| !Path::new(row.target).starts_with(other.target)), "{}", row.target);
        }
    }

    #[test]
    fn kubelet_gets_its_cgroup_options() {
        let row = MOUNTS.iter().find(|row| row.target == "/sys/fs/cgroup").unwrap();
        assert_eq!(row.data, "nsdelegate,memory_recursiveprot");
        assert_ne!(row.need, Need::Optional);
    }
}
