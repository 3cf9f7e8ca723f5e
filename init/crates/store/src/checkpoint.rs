//! The applied state on disk, in redb: what recovery starts from, so that the log can be short.
//!
//! # Why in this form
//!
//! Applying never touches this database. What changed since the last checkpoint is taken from the state between two batches (a
//! move of memory) and committed by a thread of its own, in one transaction with the applied index and the membership. Commits are
//! durable (`Durability::Immediate`); one that is not would have to share the only writer with them, and apply would stall for the length
//! of each checkpoint. `quick_repair` is on: without it a kill makes the next open walk the whole file.
//!
//! # Layout, version 1
//!
//! File `state.redb`. Table `meta`: name -> bytes. `format` holds magic "KEELCKPT", u32 version, u32 oldest version that reads it, u64 store id;
//! `applied` a protobuf of applied place, membership and bytes in use, which all rows must add up to. Tables `revisions`, `leases`, `state`: key -> value of
//! `state::Row`, the value followed by a CRC-32 of table, key and value, since redb verifies nothing when it reads. Integers are little endian.
//!
//! Upgrade rule: as the log's. A new table may be added without a new version if a release that does not know it may ignore it.
//!
//! # Invariants
//!
//! - Rows and applied index are of the same moment, always.
//! - The log is purged only up to an applied index that is durable here.
//! - A checkpoint may be ahead of the log's end (followers apply before their log is flushed); recovery survives that, except where nothing is
//!   committed without this member's log.

mod ahead;
mod backend;
mod defragment;
mod rows;
pub mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use prost::Message;
use redb::{Database, Durability, ReadableDatabase, TableDefinition};

use crate::disk::Disk;
use crate::log::LogId;
use crate::member::Membership;
use crate::state::{Delta, LoadError, Row, Table};

pub use ahead::Ahead;
pub use rows::Rows;

const FILE_NAME: &str = "state.redb";
const FORMAT_MAGIC: &[u8; 8] = b"KEELCKPT";
const FORMAT_VERSION: u32 = 1;
const OLDEST_READER: u32 = 1;
/// redb's page cache. Checkpoints append and recovery reads once, front to back: a large one would only take memory from the state.
const CACHE_BYTES: usize = 4 << 20;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const KEY_FORMAT: &str = "format";
const KEY_APPLIED: &str = "applied";

type RowTable<'a> = TableDefinition<'a, &'static [u8], &'static [u8]>;

fn table_definition(table: Table) -> RowTable<'static> {
    TableDefinition::new(match table {
        Table::Revisions => "revisions",
        Table::Leases => "leases",
        Table::Meta => "state",
        Table::ClusterRevisions => "cluster_revisions",
        Table::ClusterLeases => "cluster_leases",
        Table::ClusterMeta => "cluster_state",
    })
}

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("{operation} the checkpoint")]
    Database {
        operation: &'static str,
        #[source]
        source: Box<redb::Error>,
    },
    #[error("{operation} the checkpoint")]
    Io {
        operation: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("state.redb is no checkpoint of this store: {0}")]
    Format(&'static str),
    #[error(
        "state.redb is written in format {version}, readable from format {oldest}; this release reads format {FORMAT_VERSION}: run a newer release"
    )]
    Newer { version: u32, oldest: u32 },
    #[error("state.redb belongs to another store ({found:016x}, this one is {expected:016x}): files were mixed up")]
    Foreign { found: u64, expected: u64 },
    #[error("the checkpoint's applied index cannot be decoded")]
    Applied(#[source] prost::DecodeError),
    #[error("defragmenting needs {needed} bytes beside the checkpoint; the disk has {available} to spare")]
    NoRoom { needed: u64, available: u64 },
    #[error(
        "the checkpoint is damaged: a row of table {table:?} does not match its checksum. This member must join as a new one"
    )]
    Row { table: Table },
    #[error(
        "the checkpoint is damaged: its rows have {found} bytes and should have {expected}. This member must join as a new one"
    )]
    Missing { found: u64, expected: u64 },
    #[error("the checkpoint is damaged: it cannot be read. This member must join as a new one")]
    Unreadable,
}

impl CheckpointError {
    fn database<E: Into<redb::Error>>(operation: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Database { operation, source: Box::new(error.into()) }
    }
}

/// redb believes what it reads, and panics where that makes no sense.
fn guarded<T>(read: impl FnOnce() -> Result<T, CheckpointError>) -> Result<T, CheckpointError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or(Err(CheckpointError::Unreadable))
}

impl From<CheckpointError> for LoadError {
    fn from(error: CheckpointError) -> Self {
        Self::Read(io::Error::other(error))
    }
}

/// How far the rows are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub last: Option<LogId>,
    /// The membership in force at `last`, and the entry that holds it.
    pub membership: Membership,
    pub membership_id: Option<LogId>,
}

/// The database. Cheap to share; readers see the commit that was last when they began, also while the file is being replaced.
#[derive(Debug)]
pub struct Checkpoint {
    open: RwLock<Arc<Open>>,
    /// Files that were replaced and may still be read.
    retired: Mutex<Vec<Arc<Open>>>,
}

/// An open file of it.
#[derive(Debug)]
struct Open {
    database: Database,
    size: backend::Size,
    /// Shared with each reader. Readers do not share the database itself: it is closed with the checkpoint, and by nobody later.
    readers: Arc<()>,
}

impl Open {
    fn new(file: Arc<dyn crate::disk::DiskFile>) -> Result<Self, CheckpointError> {
        let (backend, size) = backend::Backend::new(file);
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(backend)
            .map_err(CheckpointError::database("open"))?;
        Ok(Self { database, size, readers: Arc::default() })
    }

    fn begin(&self) -> Result<redb::WriteTransaction, CheckpointError> {
        let mut transaction = self.database.begin_write().map_err(CheckpointError::database("write"))?;
        let durable = transaction.set_durability(Durability::Immediate);
        durable.map_err(|error| CheckpointError::Io { operation: "write", source: io::Error::other(error) })?;
        transaction.set_quick_repair(true);
        Ok(transaction)
    }

    fn read(&self) -> Result<redb::ReadTransaction, CheckpointError> {
        self.database.begin_read().map_err(CheckpointError::database("read"))
    }
}

impl Checkpoint {
    /// Opens the checkpoint, or makes an empty one.
    pub fn open(disk: &dyn Disk, store_id: u64) -> Result<Self, CheckpointError> {
        let file = match disk.open(FILE_NAME) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                disk.create(FILE_NAME).map_err(|source| CheckpointError::Io { operation: "make", source })?
            }
            Err(source) => return Err(CheckpointError::Io { operation: "open", source }),
        };
        defragment::remove_leftover(disk).map_err(|source| CheckpointError::Io { operation: "clear up", source })?;
        disk.sync_directory().map_err(|source| CheckpointError::Io { operation: "make", source })?;
        guarded(|| {
            let checkpoint = Self { open: RwLock::new(Arc::new(Open::new(file)?)), retired: Mutex::default() };
            checkpoint.check_format(store_id)?;
            Ok(checkpoint)
        })
    }

    fn open_file(&self) -> Arc<Open> {
        Arc::clone(&self.open.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn check_format(&self, store_id: u64) -> Result<(), CheckpointError> {
        let format = self.meta(KEY_FORMAT)?;
        let Some(format) = format else {
            return self.write_format(store_id);
        };
        let fields = (|| {
            let magic = format.get(..8)?;
            let version = u32::from_le_bytes(format.get(8..12)?.try_into().ok()?);
            let oldest = u32::from_le_bytes(format.get(12..16)?.try_into().ok()?);
            let store = u64::from_le_bytes(format.get(16..24)?.try_into().ok()?);
            Some((magic, version, oldest, store))
        })();
        let (magic, version, oldest, found) = fields.ok_or(CheckpointError::Format("its format record is short"))?;
        if magic != FORMAT_MAGIC {
            return Err(CheckpointError::Format("its format record is of something else"));
        }
        if oldest > FORMAT_VERSION {
            return Err(CheckpointError::Newer { version, oldest });
        }
        if found != store_id {
            return Err(CheckpointError::Foreign { found, expected: store_id });
        }
        Ok(())
    }

    fn write_format(&self, store_id: u64) -> Result<(), CheckpointError> {
        let mut format = Vec::with_capacity(24);
        format.extend_from_slice(FORMAT_MAGIC);
        format.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        format.extend_from_slice(&OLDEST_READER.to_le_bytes());
        format.extend_from_slice(&store_id.to_le_bytes());
        let transaction = self.open_file().begin()?;
        start(&transaction, &format)?;
        transaction.commit().map_err(CheckpointError::database("commit"))
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, CheckpointError> {
        let transaction = self.open_file().read()?;
        let meta = match transaction.open_table(META) {
            Ok(meta) => meta,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(CheckpointError::database("read")(error)),
        };
        let value = meta.get(key).map_err(CheckpointError::database("read"))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    /// How far the rows are, and how many bytes they have.
    pub fn applied(&self) -> Result<(Applied, u64), CheckpointError> {
        let Some(encoded) = guarded(|| self.meta(KEY_APPLIED))? else { return Ok((Applied::default(), 0)) };
        decode_applied(&encoded)
    }

    /// The rows of the last commit, with how far they are.
    pub fn rows(&self) -> Result<Rows, CheckpointError> {
        guarded(|| Rows::new(&self.open_file()))
    }

    /// Commits what changed, durably, and returns how many bytes all rows have.
    pub fn commit(&self, delta: &Delta, applied: &Applied) -> Result<u64, CheckpointError> {
        self.close_retired();
        let (_, before) = self.applied()?;
        let transaction = self.open_file().begin()?;
        let mut used = before;
        for chunk in delta.deletes.chunk_by(|(a, _), (b, _)| a == b) {
            let Some((table, _)) = chunk.first() else { continue };
            let mut rows =
                transaction.open_table(table_definition(*table)).map_err(CheckpointError::database("write"))?;
            for (_, key) in chunk {
                let old = rows.remove(key.as_ref()).map_err(CheckpointError::database("write"))?;
                used = used.saturating_sub(old.map_or(0, |old| row_bytes(key, old.value())));
            }
        }
        let mut value = Vec::new();
        for chunk in delta.puts.chunk_by(|a, b| a.table == b.table) {
            let Some(Row { table, .. }) = chunk.first() else { continue };
            let mut rows =
                transaction.open_table(table_definition(*table)).map_err(CheckpointError::database("write"))?;
            for row in chunk {
                rows::encode_value(row, &mut value);
                let old =
                    rows.insert(row.key.as_ref(), value.as_slice()).map_err(CheckpointError::database("write"))?;
                used = used.saturating_sub(old.map_or(0, |old| row_bytes(&row.key, old.value())));
                used += row_bytes(&row.key, &value);
            }
        }
        finish(transaction, applied, used)?;
        Ok(used)
    }

    /// Replaces all rows by those of a snapshot of another member.
    pub fn replace(
        &self,
        rows: &mut dyn Iterator<Item = Result<Row, LoadError>>,
        applied: &Applied,
    ) -> Result<u64, LoadError> {
        let transaction = self.open_file().begin()?;
        for table in Table::ALL {
            transaction
                .delete_table(table_definition(table))
                .map_err(|error| CheckpointError::database("replace")(error))?;
        }
        let mut used = 0;
        let mut value = Vec::new();
        let mut rows = rows.peekable();
        while let Some(first) = rows.peek() {
            let Ok(Row { table, .. }) = first else { break };
            let of_table = *table;
            let mut table =
                transaction.open_table(table_definition(of_table)).map_err(CheckpointError::database("replace"))?;
            while let Some(row) = rows.next_if(|row| row.as_ref().is_ok_and(|row| row.table == of_table)) {
                let row = row?;
                rows::encode_value(&row, &mut value);
                used += row_bytes(&row.key, &value);
                table.insert(row.key.as_ref(), value.as_slice()).map_err(CheckpointError::database("replace"))?;
            }
        }
        if let Some(Err(error)) = rows.next() {
            return Err(error);
        }
        finish(transaction, applied, used)?;
        Ok(used)
    }

    /// Closes replaced files that nobody reads any more, whose space the disk then has back.
    fn close_retired(&self) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|open| Arc::strong_count(&open.readers) > 1);
    }

    /// Size of the file.
    pub fn file_bytes(&self) -> u64 {
        self.open_file().size.get()
    }
}

/// The first things in a file: its format, and all tables.
fn start(transaction: &redb::WriteTransaction, format: &[u8]) -> Result<(), CheckpointError> {
    let mut meta = transaction.open_table(META).map_err(CheckpointError::database("write"))?;
    meta.insert(KEY_FORMAT, format).map_err(CheckpointError::database("write"))?;
    for table in Table::ALL {
        transaction.open_table(table_definition(table)).map_err(CheckpointError::database("write"))?;
    }
    Ok(())
}

fn finish(transaction: redb::WriteTransaction, applied: &Applied, used: u64) -> Result<(), CheckpointError> {
    {
        let mut meta = transaction.open_table(META).map_err(CheckpointError::database("write"))?;
        let encoded = encode_applied(applied, used);
        meta.insert(KEY_APPLIED, encoded.as_slice()).map_err(CheckpointError::database("write"))?;
    }
    transaction.commit().map_err(CheckpointError::database("commit"))
}

/// What a row counts for in the bytes in use.
fn row_bytes(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64
}

#[derive(Clone, PartialEq, Message)]
struct AppliedRecord {
    #[prost(message, optional, tag = "1")]
    last: Option<LogIdRecord>,
    #[prost(bytes = "bytes", tag = "2")]
    membership: Bytes,
    #[prost(message, optional, tag = "3")]
    membership_id: Option<LogIdRecord>,
    #[prost(uint64, tag = "4")]
    bytes_in_use: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct LogIdRecord {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
}

/// Protobuf and a CRC-32 behind it.
fn encode_applied(applied: &Applied, used: u64) -> Vec<u8> {
    let record = |id: LogId| LogIdRecord { term: id.term, index: id.index };
    let mut encoded = AppliedRecord {
        last: applied.last.map(record),
        membership: applied.membership.encode().into(),
        membership_id: applied.membership_id.map(record),
        bytes_in_use: used,
    }
    .encode_to_vec();
    encoded.extend_from_slice(&crc32fast::hash(&encoded).to_le_bytes());
    encoded
}

fn decode_applied(encoded: &[u8]) -> Result<(Applied, u64), CheckpointError> {
    let (record, crc) = encoded
        .split_last_chunk::<4>()
        .filter(|(record, crc)| crc32fast::hash(record) == u32::from_le_bytes(**crc))
        .ok_or(CheckpointError::Row { table: Table::Meta })?;
    let _ = crc;
    let record = AppliedRecord::decode(record).map_err(CheckpointError::Applied)?;
    let id = |record: LogIdRecord| LogId { term: record.term, index: record.index };
    let applied = Applied {
        last: record.last.map(id),
        membership: Membership::decode(record.membership).map_err(CheckpointError::Applied)?,
        membership_id: record.membership_id.map(id),
    };
    Ok((applied, record.bytes_in_use))
}

/// A checkpoint that several parts hold.
pub type Shared = Arc<Checkpoint>;
