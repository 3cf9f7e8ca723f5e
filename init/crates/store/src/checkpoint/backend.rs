//! redb's storage on a [`DiskFile`], so that tests can put their own disk below the database too.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::StorageBackend;

use crate::disk::DiskFile;

/// The file's size as last set, without asking the file system.
#[derive(Clone, Debug, Default)]
pub(super) struct Size(Arc<AtomicU64>);

impl Size {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub(super) struct Backend {
    file: Arc<dyn DiskFile>,
    size: Size,
}

impl Backend {
    pub(super) fn new(file: Arc<dyn DiskFile>) -> (Self, Size) {
        let size = Size::default();
        (Self { file, size: size.clone() }, size)
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        let len = self.file.len()?;
        self.size.0.store(len, Ordering::Relaxed);
        Ok(len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.size.0.store(len, Ordering::Relaxed);
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, data)
    }
}
