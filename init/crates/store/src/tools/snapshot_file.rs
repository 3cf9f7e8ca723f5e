//! A snapshot in a file: one of ours (see `server::snapshot` for its layout) or one of etcd's, told apart by how they begin.
//!
//! Both end with a SHA-256 of what is before it, which is checked before anything is believed. etcd's own database file may be read as well;
//! it has no checksum, which the caller then has to waive.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use bytes::Bytes;

use super::bbolt::{Bbolt, BboltError};
use super::etcd_file::EtcdFile;
use crate::mvcc::hash::Hasher;
use crate::server::ETCD_CLUSTER_VERSION;
use crate::server::snapshot::{BLOCK, FORMAT, MAGIC};
use crate::state::{LoadError, Replicated as _, Row, State, Table};

const CHECKSUM_LEN: usize = 32;
const HEADER_LEN: usize = 16;
/// Rows hashed in one step; nobody waits for the state here.
const HASH_ROWS: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotError {
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read the etcd database")]
    Bbolt(#[from] BboltError),
    #[error("{} has no checksum: it is not what a snapshot ends with. If it is an etcd's database file, give --skip-hash-check", path.display())]
    NoChecksum { path: PathBuf },
    #[error("{} is damaged: it does not match its checksum", path.display())]
    Checksum { path: PathBuf },
    #[error("{} is a snapshot of format {version}, readable from format {oldest}; this release reads format {FORMAT}: run a newer release", path.display())]
    Newer { path: PathBuf, version: u32, oldest: u32 },
    #[error("the snapshot is damaged: {0}")]
    Row(&'static str),
    #[error("load the snapshot")]
    Load(#[from] LoadError),
    #[error(
        "the snapshot is of an etcd with users and roles, which are not served here: give --drop-users to leave them behind"
    )]
    Users,
}

/// What `snapshot status` tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) hash: u32,
    pub(super) revision: i64,
    pub(super) total_keys: usize,
    pub(super) total_size: u64,
    pub(super) version: String,
}

#[derive(Debug)]
pub(super) struct SnapshotFile {
    path: PathBuf,
    len: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Ours,
    Etcd(EtcdFile),
}

impl SnapshotFile {
    pub(super) fn open(path: &Path) -> Result<Self, SnapshotError> {
        let failed = |source| SnapshotError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let mut start = [0; HEADER_LEN];
        let ours = file.read_exact(&mut start).is_ok() && start.starts_with(MAGIC);
        if !ours {
            let kind = Kind::Etcd(EtcdFile(Bbolt::open(path)?));
            return Ok(Self { path: path.to_owned(), len, kind });
        }
        let number =
            |at: usize| start.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes);
        let (version, oldest) = (number(8), number(12));
        if oldest > FORMAT {
            return Err(SnapshotError::Newer { path: path.to_owned(), version, oldest });
        }
        Ok(Self { path: path.to_owned(), len, kind: Kind::Ours })
    }

    /// Compares the file with the checksum at its end.
    pub(super) fn verify(&self) -> Result<(), SnapshotError> {
        let failed = |source| SnapshotError::Read { path: self.path.clone(), source };
        if self.len % BLOCK != CHECKSUM_LEN as u64 {
            return Err(SnapshotError::NoChecksum { path: self.path.clone() });
        }
        let mut reader = BufReader::with_capacity(1 << 16, File::open(&self.path).map_err(failed)?);
        let mut digest = digest::Context::new(&digest::SHA256);
        let mut left = self.len - CHECKSUM_LEN as u64;
        let mut buffer = vec![0; 1 << 16];
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let part = buffer.get_mut(..part).unwrap_or_default();
            reader.read_exact(part).map_err(failed)?;
            digest.update(part);
            left -= part.len() as u64;
        }
        let mut checksum = [0; CHECKSUM_LEN];
        reader.read_exact(&mut checksum).map_err(failed)?;
        if digest.finish().as_ref() == checksum {
            Ok(())
        } else {
            Err(SnapshotError::Checksum { path: self.path.clone() })
        }
    }

    pub(super) fn facts(&self) -> Result<Facts, SnapshotError> {
        let Kind::Etcd(file) = &self.kind else { return self.our_facts() };
        file.facts()
    }

    /// Of ours, the hash is the one that members tell of their newest revision.
    fn our_facts(&self) -> Result<Facts, SnapshotError> {
        let state = State::default();
        state.load(&mut self.our_rows()?)?;
        state.public().read(|mvcc, revision| {
            let mut hasher = Hasher::new(mvcc, revision);
            let hash = loop {
                if let Some(hash) = hasher.step(mvcc, HASH_ROWS) {
                    break hash;
                }
            };
            Ok(Facts {
                hash,
                revision,
                total_keys: mvcc.live_keys(),
                total_size: self.len.saturating_sub(CHECKSUM_LEN as u64),
                version: ETCD_CLUSTER_VERSION.to_owned(),
            })
        })
    }

    /// All rows by table and key, ascending. Users of an etcd are left behind only if that is asked for.
    pub(super) fn rows(
        &self,
        drop_users: bool,
    ) -> Result<Box<dyn Iterator<Item = Result<Row, LoadError>> + '_>, SnapshotError> {
        match &self.kind {
            Kind::Ours => Ok(Box::new(self.our_rows()?)),
            Kind::Etcd(file) => {
                if !drop_users && file.has_users()? {
                    return Err(SnapshotError::Users);
                }
                Ok(Box::new(file.rows()?))
            }
        }
    }

    fn our_rows(&self) -> Result<OurRows, SnapshotError> {
        let failed = |source| SnapshotError::Read { path: self.path.clone(), source };
        let mut reader = BufReader::with_capacity(1 << 16, File::open(&self.path).map_err(failed)?);
        reader.seek(SeekFrom::Start(HEADER_LEN as u64)).map_err(failed)?;
        Ok(OurRows { reader, left: self.len.saturating_sub((HEADER_LEN + CHECKSUM_LEN) as u64), done: false })
    }
}

/// The records of one of our snapshots.
#[derive(Debug)]
struct OurRows {
    reader: BufReader<File>,
    left: u64,
    done: bool,
}

impl OurRows {
    fn take(&mut self, len: u64) -> io::Result<Bytes> {
        self.left = self.left.checked_sub(len).ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut buffer = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?];
        self.reader.read_exact(&mut buffer)?;
        Ok(buffer.into())
    }

    fn field(&mut self) -> io::Result<Bytes> {
        let length = self.take(4)?;
        let length = length.as_ref().try_into().map_or(0, u32::from_be_bytes);
        self.take(u64::from(length))
    }

    fn advance(&mut self) -> io::Result<Option<Row>> {
        let table = self.take(1)?.first().copied().unwrap_or(0);
        if table == 0 {
            return Ok(None);
        }
        let table = Table::ALL.into_iter().find(|known| *known as u8 == table);
        let table = table.ok_or_else(|| io::Error::other("a record belongs to no table"))?;
        Ok(Some(Row { table, key: self.field()?, value: self.field()? }))
    }
}

impl Iterator for OurRows {
    type Item = Result<Row, LoadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let row = self.advance();
        self.done = !matches!(row, Ok(Some(_)));
        row.map_err(LoadError::Read).transpose()
    }
}
