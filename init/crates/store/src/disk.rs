//! The storage that the log and the checkpoints stand on, as a trait.
//!
//! One flat directory of files, with the few operations that durability is made of, each as weak as a file system really is:
//! a write is durable once `sync_data` returned, a name once `sync_directory` did, and in between anything may be lost in any
//! order. Everything above takes `Arc<dyn Disk>`, so that tests put a disk below it that loses, tears and fails on purpose.
//! The calls block; they are made from threads of their own (the log's writer, the checkpoint's).

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

#[cfg(test)]
pub mod fake;
pub mod host;

pub use host::HostDisk;

/// A directory.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Makes an empty file, or empties the one that is there.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Names of all files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Replaces `to` if it is there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_directory(&self) -> io::Result<()>;
    /// Bytes that can still be allocated.
    fn available(&self) -> io::Result<u64>;
}

/// An open file. Offsets are explicit, so readers and the writer share it without a lock.
pub trait DiskFile: Debug + Send + Sync + 'static {
    fn len(&self) -> io::Result<u64>;
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves blocks for the first `len` bytes and extends the file to them, so that later writes there cannot run out of space.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Fills `buffer` or fails with `UnexpectedEof`.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Makes the file's bytes and length durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
}

/// Writes a small file so that after a crash either the old or the new content is there, whole.
pub fn replace_file(disk: &dyn Disk, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.tmp");
    let file = disk.create(&temporary)?;
    file.write_at(0, content)?;
    file.sync_data()?;
    disk.rename(&temporary, name)?;
    disk.sync_directory()
}

/// Reads a whole file; `None` if there is none of that name.
pub fn read_file(disk: &dyn Disk, name: &str) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = usize::try_from(file.len()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut content = vec![0; len];
    file.read_at(0, &mut content)?;
    Ok(Some(content))
}
