//! Files that survive a power cut whole: the old content or the new one, never a part.
//!
//! A file is written under a name of its own beside its place, given owner and mode while nobody can open it, forced to
//! the disk, renamed, and then its directory is forced too: `fsync` of a file says nothing about its name, fsync(2). A
//! name left over by a cut is truncated by the next write of the same file. The trait exists so that tests can cut the
//! power at any step.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Certificates, settings and identities are kilobytes; whatever is larger is not one of ours.
const LARGEST_FILE: u64 = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("reading {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is larger than {LARGEST_FILE} bytes")]
    TooLarge { path: PathBuf },
    #[error("writing {path}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("creating the directory {path}")]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("removing {path}")]
    Remove { path: PathBuf, source: std::io::Error },
}

/// Who owns a file. A process that is not root writes everything as itself, which is how tests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    pub const ROOT: Self = Self { uid: 0, gid: 0 };

    /// A fixed account whose group has the same number.
    pub const fn account(id: u32) -> Self {
        Self { uid: id, gid: id }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(u32);

impl Mode {
    /// Keys and what contains them: read by their owner, replaced and never edited.
    pub const SECRET: Self = Self(0o400);
    /// Settings that one account reads.
    pub const PRIVATE: Self = Self(0o600);
    /// What any process may read: certificates of authorities, status.
    pub const PUBLIC: Self = Self(0o644);
    /// A directory that one account enters.
    pub const PRIVATE_DIRECTORY: Self = Self(0o700);
    pub const PUBLIC_DIRECTORY: Self = Self(0o755);

    pub fn bits(self) -> u32 {
        self.0
    }
}

pub trait Files: Send + Sync {
    /// `None` if there is no such file.
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, FilesError>;
    /// Replaces the file as a whole. Its directory must exist.
    fn write(&self, path: &Path, content: &[u8], mode: Mode, owner: Owner) -> Result<(), FilesError>;
    /// Makes a directory, with missing parents, and sets mode and owner of the last one.
    fn directory(&self, path: &Path, mode: Mode, owner: Owner) -> Result<(), FilesError>;
    /// Removes a file; one that is not there is no error.
    fn remove(&self, path: &Path) -> Result<(), FilesError>;

    /// Leaves a file alone that already has this content, so that watchers wake only for news.
    fn update(&self, path: &Path, content: &[u8], mode: Mode, owner: Owner) -> Result<bool, FilesError> {
        if self.read(path)?.as_deref() == Some(content) {
            return Ok(false);
        }
        self.write(path, content, mode, owner)?;
        Ok(true)
    }
}

/// The file system as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct StandardFiles;

impl Files for StandardFiles {
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, FilesError> {
        let read_error = |source| FilesError::Read { path: path.to_owned(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(read_error(error)),
        };
        let mut content = Vec::new();
        file.take(LARGEST_FILE + 1).read_to_end(&mut content).map_err(read_error)?;
        if content.len() as u64 > LARGEST_FILE {
            return Err(FilesError::TooLarge { path: path.to_owned() });
        }
        Ok(Some(content))
    }

    fn write(&self, path: &Path, content: &[u8], mode: Mode, owner: Owner) -> Result<(), FilesError> {
        replace(path, content, mode, owner).map_err(|source| FilesError::Write { path: path.to_owned(), source })
    }

    fn directory(&self, path: &Path, mode: Mode, owner: Owner) -> Result<(), FilesError> {
        make_directory(path, mode, owner).map_err(|source| FilesError::Directory { path: path.to_owned(), source })
    }

    fn remove(&self, path: &Path) -> Result<(), FilesError> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(FilesError::Remove { path: path.to_owned(), source: error })
            }
            _ => Ok(()),
        }
    }
}

fn replace(path: &Path, content: &[u8], mode: Mode, owner: Owner) -> std::io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(ErrorKind::InvalidFilename.into());
    };
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(".new");
    let temporary = directory.join(temporary_name);

    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(i32::from_ne_bytes(rustix::fs::OFlags::NOFOLLOW.bits().to_ne_bytes()))
        .open(&temporary)?;
    file.write_all(content)?;
    give(&file, mode, owner)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

fn make_directory(path: &Path, mode: Mode, owner: Owner) -> std::io::Result<()> {
    let created = !path.exists();
    DirBuilder::new().recursive(true).mode(Mode::PUBLIC_DIRECTORY.bits()).create(path)?;
    let directory = File::open(path)?;
    give(&directory, mode, owner)?;
    if created {
        directory.sync_all()?;
        if let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
    }
    Ok(())
}

/// The owner first: changing it may clear mode bits, chown(2).
fn give(file: &File, mode: Mode, owner: Owner) -> std::io::Result<()> {
    if rustix::process::geteuid().is_root() {
        fchown(file, Some(owner.uid), Some(owner.gid))?;
    }
    file.set_permissions(Permissions::from_mode(mode.bits()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn replaces_a_file_and_sets_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        StandardFiles.write(&path, b"one", Mode::SECRET, Owner::ROOT).unwrap();
        StandardFiles.write(&path, b"two", Mode::SECRET, Owner::ROOT).unwrap();
        assert_eq!(StandardFiles.read(&path).unwrap().unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o400);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_name_left_by_a_cut_does_not_disturb() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(directory.path().join(".key.new"), b"half of a longer content").unwrap();
        StandardFiles.write(&path, b"whole", Mode::PRIVATE, Owner::ROOT).unwrap();
        assert_eq!(StandardFiles.read(&path).unwrap().unwrap(), b"whole");
    }

    #[test]
    fn does_not_follow_a_link_planted_at_the_temporary_name() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        std::fs::write(&victim, b"untouched").unwrap();
        std::os::unix::fs::symlink(&victim, directory.path().join(".key.new")).unwrap();
        let path = directory.path().join("key");
        assert!(StandardFiles.write(&path, b"secret", Mode::SECRET, Owner::ROOT).is_err());
        assert_eq!(std::fs::read(&victim).unwrap(), b"untouched");
    }

    #[test]
    fn update_writes_only_news() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("settings");
        assert!(StandardFiles.update(&path, b"a", Mode::PUBLIC, Owner::ROOT).unwrap());
        let inode = std::fs::metadata(&path).unwrap().ino();
        assert!(!StandardFiles.update(&path, b"a", Mode::PUBLIC, Owner::ROOT).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
    }

    #[test]
    fn a_missing_file_is_none_and_removing_it_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("absent");
        assert!(StandardFiles.read(&path).unwrap().is_none());
        StandardFiles.remove(&path).unwrap();
    }
}
