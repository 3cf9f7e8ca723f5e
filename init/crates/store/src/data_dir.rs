//! The data directory of a process: opened, and locked against a second one.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::disk::HostDisk;

const LOCK_FILE: &str = "lock";
/// How long a process that was just killed may take to be gone: it holds the lock until its memory is freed.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);
const LOCK_POLL: Duration = Duration::from_millis(20);

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
    pub async fn open(path: &Path) -> Result<Self, DataDirError> {
        let disk = HostDisk::open(path).map_err(|source| DataDirError::Open { path: path.to_owned(), source })?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let lock = options
            .open(path.join(LOCK_FILE))
            .map_err(|source| DataDirError::Lock { path: path.to_owned(), source })?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { disk: Arc::new(disk), _lock: lock }),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => tokio::time::sleep(LOCK_POLL).await,
                Err(TryLockError::WouldBlock) => return Err(DataDirError::InUse { path: path.to_owned() }),
                Err(TryLockError::Error(source)) => {
                    return Err(DataDirError::Lock { path: path.to_owned(), source });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_locked_against_a_second_process_but_waits_for_one_that_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        let first = DataDir::open(&path).await.unwrap();
        assert!(matches!(DataDir::open(&path).await, Err(DataDirError::InUse { .. })));
        let second = DataDir::open(&path);
        let end = async {
            tokio::time::sleep(LOCK_TIMEOUT / 2).await;
            drop(first);
        };
        assert!(tokio::join!(second, end).0.is_ok());
    }
}
