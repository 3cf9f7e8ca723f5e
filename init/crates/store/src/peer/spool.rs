//! A snapshot on its way in: rows are kept in a file until the last has come, so that a transfer that breaks off has changed nothing and
//! memory holds one piece at a time.
//!
//! The file is written and read by one process in one life, and removed with the value, so it has no version. Each piece is a length, a CRC-32 and
//! rows as they were sent. It is never synced: what it is installed into is.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::wire::{decode_rows, encode_rows};
use crate::disk::{Disk, DiskFile};
use crate::state::{LoadError, Row};

const FILE_PREFIX: &str = "snapshot-";
const HEADER_LEN: usize = 8;
/// More than any piece has.
const LARGEST_PIECE: u32 = 512 << 20;

/// Rows that came in, in order; an iterator once they are all there.
#[derive(Debug)]
pub struct Spool {
    disk: Arc<dyn Disk>,
    name: String,
    file: Arc<dyn DiskFile>,
    written: u64,
    read: u64,
    piece: std::vec::IntoIter<Row>,
}

impl Spool {
    /// A file of its own for each transfer: the end of an old one must not take the new one's away.
    pub fn create(disk: Arc<dyn Disk>, transfer: u64) -> io::Result<Self> {
        let name = format!("{FILE_PREFIX}{transfer:016x}");
        let file = disk.create(&name)?;
        Ok(Self { disk, name, file, written: 0, read: 0, piece: Vec::new().into_iter() })
    }

    /// Removes what a former process left.
    pub fn clean(disk: &dyn Disk) -> io::Result<()> {
        disk.list()?.iter().filter(|name| name.starts_with(FILE_PREFIX)).try_for_each(|name| disk.remove(name))
    }

    pub fn push(&mut self, rows: Vec<Row>) -> io::Result<()> {
        let rows = encode_rows(rows);
        let len = u32::try_from(rows.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut piece = Vec::with_capacity(HEADER_LEN + rows.len());
        piece.extend_from_slice(&len.to_le_bytes());
        piece.extend_from_slice(&crc32fast::hash(&rows).to_le_bytes());
        piece.extend_from_slice(&rows);
        self.file.write_at(self.written, &piece)?;
        self.written += piece.len() as u64;
        Ok(())
    }

    fn read_piece(&mut self) -> io::Result<Vec<Row>> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the received snapshot was damaged on this disk");
        let mut header = [0; HEADER_LEN];
        self.file.read_at(self.read, &mut header)?;
        let [a, b, c, d, crc @ ..] = header;
        let len = u32::from_le_bytes([a, b, c, d]);
        if len > LARGEST_PIECE {
            return Err(damaged());
        }
        let mut rows = vec![0; len as usize];
        self.file.read_at(self.read + HEADER_LEN as u64, &mut rows)?;
        if crc32fast::hash(&rows) != u32::from_le_bytes(crc) {
            return Err(damaged());
        }
        self.read += HEADER_LEN as u64 + u64::from(len);
        decode_rows(Bytes::from(rows)).map_err(io::Error::other)
    }
}

impl Iterator for Spool {
    type Item = Result<Row, LoadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.piece.next() {
                return Some(Ok(row));
            }
            if self.read >= self.written {
                return None;
            }
            match self.read_piece() {
                Ok(rows) => self.piece = rows.into_iter(),
                Err(error) => {
                    self.read = self.written;
                    return Some(Err(LoadError::Read(error)));
                }
            }
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(error) = self.disk.remove(&self.name) {
            tracing::warn!(%error, "a received snapshot's file cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fake::FakeDisk;
    use crate::state::Table;

    fn row(number: u64) -> Row {
        let key = Bytes::copy_from_slice(&number.to_be_bytes());
        Row { table: Table::Revisions, key, value: Bytes::from(vec![7; 100]) }
    }

    #[test]
    fn rows_come_out_as_they_went_in_and_the_file_goes() {
        let disk = FakeDisk::new();
        let mut spool = Spool::create(Arc::new(disk.clone()), 1).unwrap();
        spool.push((0..10).map(row).collect()).unwrap();
        spool.push(Vec::new()).unwrap();
        spool.push((10..15).map(row).collect()).unwrap();
        let rows: Vec<Row> = spool.by_ref().map(Result::unwrap).collect();
        assert_eq!(rows, (0..15).map(row).collect::<Vec<_>>());
        drop(spool);
        assert!(disk.list().unwrap().is_empty());
    }

    #[test]
    fn damage_on_the_way_is_an_error_and_the_end() {
        let disk = FakeDisk::new();
        let mut spool = Spool::create(Arc::new(disk.clone()), 1).unwrap();
        spool.push(vec![row(1)]).unwrap();
        let mut content = disk.content("snapshot-0000000000000001").unwrap();
        content[40] ^= 1;
        disk.set_content("snapshot-0000000000000001", content);
        assert!(spool.next().unwrap().is_err());
        assert!(spool.next().is_none());
    }
}
