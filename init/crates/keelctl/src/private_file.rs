//! Files that hold keys: readable by their owner only, and replaced whole.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("cannot make the directory {}", path.display())]
    MakeDirectory { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} exists already", path.display())]
    Exists { path: PathBuf },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} can be read by others (mode {mode:04o}); run: chmod 600 {}", path.display(), path.display())]
    Exposed { path: PathBuf, mode: u32 },
}

/// Writes a file that must not exist yet.
pub(crate) fn create(path: &Path, content: &str) -> Result<(), FileError> {
    make_parent(path)?;
    let mut file = match open_new(path) {
        Ok(file) => file,
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
            return Err(FileError::Exists { path: path.to_path_buf() });
        }
        Err(source) => return Err(FileError::Write { path: path.to_path_buf(), source }),
    };
    write(&mut file, content).map_err(|source| FileError::Write { path: path.to_path_buf(), source })
}

/// Writes a file or puts it in the place of what was there, so that a reader sees the old or the new one.
pub(crate) fn replace(path: &Path, content: &str) -> Result<(), FileError> {
    make_parent(path)?;
    let error = |source| FileError::Write { path: path.to_path_buf(), source };
    let mut name = path.as_os_str().to_owned();
    // Two keelctl at the same time must not write the same file.
    name.push(format!(".{}.new", std::process::id()));
    let temporary = PathBuf::from(name);
    let written =
        open_new(&temporary).and_then(|mut file| write(&mut file, content)).and_then(|()| fs::rename(&temporary, path));
    if let Err(source) = written {
        // It holds half a file at most.
        let _ = fs::remove_file(&temporary);
        return Err(error(source));
    }
    Ok(())
}

/// Reads a file with a key, and refuses one that others can read.
pub(crate) fn read_secret(path: &Path) -> Result<String, FileError> {
    let error = |source| FileError::Read { path: path.to_path_buf(), source };
    let mode = fs::metadata(path).map_err(error)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(FileError::Exposed { path: path.to_path_buf(), mode });
    }
    fs::read_to_string(path).map_err(error)
}

fn open_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)
}

fn write(file: &mut File, content: &str) -> io::Result<()> {
    file.write_all(content.as_bytes())?;
    file.sync_all()
}

fn make_parent(path: &Path) -> Result<(), FileError> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(DIRECTORY_MODE);
    builder.create(parent).map_err(|source| FileError::MakeDirectory { path: parent.to_path_buf(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_for_their_owner_and_secrets_must_be() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a/b/key");
        create(&path, "secret").expect("created");
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        assert!(matches!(create(&path, "other"), Err(FileError::Exists { .. })));
        assert_eq!(read_secret(&path).expect("read"), "secret");
        replace(&path, "new").expect("replaced");
        assert_eq!(read_secret(&path).expect("read"), "new");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("changed");
        let error = read_secret(&path).expect_err("exposed");
        assert!(error.to_string().contains("chmod 600"), "{error}");
        let left: Vec<_> = fs::read_dir(path.parent().expect("a parent")).expect("a directory").collect();
        assert_eq!(left.len(), 1);
    }
}
