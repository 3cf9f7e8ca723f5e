//! Mounts. See mount(2), umount(2).

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::mount as raw;

pub use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

/// Mounts a file system. `data` is the file system's own options.
pub fn mount(source: &str, target: &Path, file_system: &str, flags: MountFlags, data: &str) -> io::Result<()> {
    let data = CString::new(data)?;
    Ok(raw::mount(source, target, file_system, flags, data.as_c_str())?)
}

/// Makes the tree at `source` visible at `target` too. Mount flags of its own take a [`remount_bind`].
pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    Ok(raw::mount_bind(source, target)?)
}

/// Changes a mount's own flags without touching its file system.
pub fn remount_bind(target: &Path, flags: MountFlags) -> io::Result<()> {
    Ok(raw::mount_remount(target, flags | MountFlags::BIND, c"")?)
}

/// Makes a file system read-only, for all its mounts.
pub fn remount_read_only(target: &Path) -> io::Result<()> {
    Ok(raw::mount_remount(target, MountFlags::RDONLY, c"")?)
}

/// Moves a mount with all that is mounted below it.
pub fn move_mount(source: &Path, target: &Path) -> io::Result<()> {
    Ok(raw::mount_move(source, target)?)
}

/// Makes a mount and all below it shared: what is mounted there later shows in copies of the tree. Kubelet needs it of the
/// root for mounts to propagate into containers.
pub fn make_shared_recursively(target: &Path) -> io::Result<()> {
    Ok(raw::mount_change(target, MountPropagationFlags::SHARED | MountPropagationFlags::REC)?)
}

pub fn unmount(target: &Path, flags: UnmountFlags) -> io::Result<()> {
    Ok(raw::unmount(target, flags)?)
}

/// Makes `root` this process's root and working directory.
pub fn enter_root(root: &Path) -> io::Result<()> {
    rustix::process::chroot(root)?;
    Ok(rustix::process::chdir("/")?)
}

/// Whether something is mounted exactly at `path`, by the mount table's own words in mountinfo form (proc(5)).
pub fn is_mount_point(mountinfo: &str, path: &Path) -> bool {
    table(mountinfo).any(|mount| mount.point.as_bytes() == path.as_os_str().as_bytes())
}

/// A line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub point: String,
    /// Its kind, with its own kind behind a dot for FUSE (`fuse.sshfs`).
    pub file_system: String,
}

/// A table in mountinfo form, in the order in which they were mounted.
pub fn table(mountinfo: &str) -> impl Iterator<Item = Mount> {
    mountinfo.lines().filter_map(|line| {
        let point = unescape(line.split(' ').nth(4)?);
        // A number of optional fields goes before the hyphen.
        let (_, behind) = line.split_once(" - ")?;
        Some(Mount { point, file_system: behind.split(' ').next()?.to_owned() })
    })
}

/// Undoes the octal escapes of proc(5) for space, tab, newline and backslash.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "22 1 0:2 / / ro shared:1 - erofs /dev/loop0 ro\n\
                         23 22 0:21 / /proc rw,nosuid - proc proc rw\n\
                         24 22 0:22 / /var/a\\040b rw - ext4 /dev/vda2 rw\n";

    #[test]
    fn mount_points_come_in_order_and_unescaped_with_their_file_systems() {
        let mounts: Vec<_> = table(TABLE).map(|mount| (mount.point, mount.file_system)).collect();
        let wanted = [("/", "erofs"), ("/proc", "proc"), ("/var/a b", "ext4")];
        assert_eq!(mounts, wanted.map(|(point, kind)| (point.to_owned(), kind.to_owned())));
    }

    #[test]
    fn mount_point_is_matched_whole() {
        assert!(is_mount_point(TABLE, Path::new("/proc")));
        assert!(!is_mount_point(TABLE, Path::new("/pro")));
        assert!(!is_mount_point(TABLE, Path::new("/run")));
    }
}
