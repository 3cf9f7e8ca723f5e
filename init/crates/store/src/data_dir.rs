//! The data directory of a process: opened, and locked against a second one.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::HostDisk;

const LOCK_FILE: &str = "lock";

#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("open the data directory {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the data directory {} is in use by another process", path.display())]
    InUse { path: PathBuf },
    #[error("lock the data directory {}", path.display())]
    Lock {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Locked as long as it lives. The kernel drops the lock with the process, however that ends.
#[derive(Debug)]
pub struct DataDir {
    pub disk: Arc<HostDisk>,
    _lock: File,
}

impl DataDir {
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let disk = HostDisk::open(path).map_err(|source| DataDirError::Open { path: path.to_owned(), source })?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let lock = options
            .open(path.join(LOCK_FILE))
            .map_err(|source| DataDirError::Lock { path: path.to_owned(), source })?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { disk: Arc::new(disk), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(DataDirError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(DataDirError::Lock { path: path.to_owned(), source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_locked_against_a_second_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        let first = DataDir::open(&path).unwrap();
        assert!(matches!(DataDir::open(&path), Err(DataDirError::InUse { .. })));
        drop(first);
        DataDir::open(&path).unwrap();
    }
}
