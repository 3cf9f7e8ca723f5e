//! Freeing the initramfs: every file in it is memory.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, openat, statat, unlinkat};

/// Deeper than any tree we put into an initramfs; beyond it files are left alone.
const MAX_DEPTH: usize = 32;

/// Removes everything below `root` that is on the same file system. Another file system that is mounted there is neither
/// entered nor touched: by then the real root may hang below.
///
/// Goes on after an error and returns the first one, because each file that can go is memory won.
pub(super) fn empty(root: &File) -> io::Result<()> {
    let device = fstat(root)?.st_dev;
    empty_directory(root, device, MAX_DEPTH)
}

fn empty_directory(directory: impl AsFd, device: u64, depth: usize) -> io::Result<()> {
    let mut first = Ok(());
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let removed = remove(&directory, name, device, depth);
        first = first.and(removed);
    }
    first
}

fn remove(directory: impl AsFd, name: &std::ffi::CStr, device: u64, depth: usize) -> io::Result<()> {
    let status = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if status.st_dev != device {
        return Ok(());
    }
    if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
        return Ok(unlinkat(&directory, name, AtFlags::empty())?);
    }
    if depth == 0 {
        return Ok(());
    }
    let child: OwnedFd = openat(
        &directory,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    empty_directory(&child, device, depth - 1)?;
    match unlinkat(&directory, name, AtFlags::REMOVEDIR) {
        // Something of another file system is mounted below, and stays.
        Ok(()) | Err(rustix::io::Errno::NOTEMPTY | rustix::io::Errno::BUSY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn whole_tree_goes_and_links_are_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("keep"), "x").unwrap();
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b/c")).unwrap();
        fs::write(root.path().join("a/b/file"), "x").unwrap();
        symlink(outside.path(), root.path().join("a/link")).unwrap();
        symlink("/nonexistent", root.path().join("dangling")).unwrap();

        empty(&File::open(root.path()).unwrap()).unwrap();

        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        assert!(outside.path().join("keep").exists());
    }

    /// /proc is another file system wherever the tests run: a tree that reports it as its own device is left alone.
    #[test]
    fn other_file_systems_are_not_touched() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("file"), "x").unwrap();
        let elsewhere = fstat(File::open("/proc").unwrap()).unwrap().st_dev;

        empty_directory(File::open(root.path()).unwrap(), elsewhere, MAX_DEPTH).unwrap();

        assert!(root.path().join("file").exists());
    }
}
