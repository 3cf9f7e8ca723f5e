//! The multi-version key space: every key as of every revision since the last compaction.
//!
//! ```text
//! index   ordered       key      -> its rows, oldest first        reads, counts, historical reads
//! log     append-only   revision -> the same rows                 watches that start in the past, hashes, checkpoints
//! queues  superseded rows, by the revision from which no read can see them     compaction
//! ```
//! A row is a key-value pair in its wire encoding behind a reference count, so the index, the log, every answer and every
//! watch share one copy of it; reading one is a copy of a pointer under the read lock, and encoding an answer a copy of
//! bytes after it.
//!
//! Why queues: a compaction then touches exactly the rows that it removes. etcd walks its whole index and all rows below
//! the compacted revision each time, which is where its pauses come from.
//!
//! Invariants:
//! - everything here is deterministic: no clock, no randomness, no order of a hash map. (When superseded rows are removed
//!   is not, but no answer depends on it.)
//! - rows are appended in revision order; a row is in the log if and only if it is in the index
//! - a read at revision R is refused below the compacted revision, and every row it can see at or above is present
//!
//! Memory: all rows are held in memory, as etcd's are by mapping its file. [`row::Row`] is the one place through which a
//! pair's bytes are reached: a cache bounded in bytes, over the rows of the checkpoint, belongs there.

use std::collections::VecDeque;

use keelson_etcd_api::encoded::{Event, Malformed};

use self::index::KeyIndex;
pub use self::key_range::KeyRange;
pub use self::revision::Revision;
pub use self::row::Row;
use self::row::RowLog;
use crate::lease::Leases;

mod compaction;
pub mod hash;
mod index;
mod key_range;
pub mod range;
mod revision;
mod row;
pub mod txn;
mod write;

/// The revision of an empty store, as etcd has it: the first change gets revision 2.
const FIRST_REVISION: i64 = 1;
/// What "never compacted" compares as. etcd's value shows where a request names a negative revision.
const NEVER_COMPACTED: i64 = -1;

/// The events of one transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Changes {
    pub revision: i64,
    pub events: Vec<Event>,
}

/// The whole state that a range of keys consists of.
#[derive(Debug)]
pub struct Mvcc {
    index: KeyIndex,
    log: RowLog,
    /// Of the last transaction that changed something.
    revision: i64,
    compact_revision: i64,
    pub leases: Leases,
    garbage: Garbage,
    bytes: u64,
}

/// Rows that a compaction to the given revision or a later one removes; each queue ascends.
#[derive(Debug, Default)]
struct Garbage {
    /// The revision of the row's successor.
    superseded: VecDeque<(i64, Revision)>,
    /// A tombstone goes when the compacted revision is behind it: at that revision, a watch may still start there.
    tombstones: VecDeque<Revision>,
}

impl Default for Mvcc {
    fn default() -> Self {
        Self {
            index: KeyIndex::default(),
            log: RowLog::default(),
            revision: FIRST_REVISION,
            compact_revision: NEVER_COMPACTED,
            leases: Leases::default(),
            garbage: Garbage::default(),
            bytes: 0,
        }
    }
}

impl Mvcc {
    pub fn revision(&self) -> i64 {
        self.revision
    }

    pub fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    /// Keys that exist at the newest revision.
    pub fn live_keys(&self) -> usize {
        self.index.live()
    }

    /// Rows of all revisions.
    pub fn rows(&self) -> usize {
        self.log.len()
    }

    /// Bytes of keys and values of all revisions, as they are kept.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The pair of a key as of a revision.
    fn get(&self, key: &[u8], revision: i64) -> Option<&Row> {
        self.index.get(key)?.live_at(revision)
    }

    /// Adds a row, which must be the newest. The one way into index, log and queues, when writing and when loading.
    fn append(&mut self, row: Row) {
        let revision = row.revision();
        self.bytes += row.kv().as_bytes().len() as u64;
        if row.is_tombstone() {
            self.garbage.tombstones.push_back(revision);
        }
        if let Some(superseded) = self.index.push(row.clone()) {
            self.garbage.superseded.push_back((revision.main, superseded));
        }
        self.log.push(row);
    }

    /// Rows at and behind a revision, in order, whatever is compacted.
    pub fn rows_from(&self, revision: Revision) -> impl Iterator<Item = &Row> {
        self.log.from(revision)
    }

    /// What a watch shows for a row. The pair before it is the one before the transaction; a creation has none.
    pub fn event(&self, row: &Row, with_previous: bool) -> Event {
        let (parts, delete, main) = (row.parts(), row.is_tombstone(), row.revision().main);
        let created = !delete && parts.create_revision == parts.mod_revision;
        let before = main - 1;
        let readable = with_previous && !created && before >= self.compact_revision;
        let prev_kv = readable.then(|| self.get(parts.key, before));
        let kv = if delete { write::deletion(parts.key, main) } else { row.kv().clone() };
        Event { delete, kv, prev_kv: prev_kv.flatten().map(|row| row.kv().clone()) }
    }

    /// Rebuilds from a checkpoint: its rows in order, then its leases, then what [`Mvcc::finish_load`] takes.
    pub fn load_row(&mut self, revision: Revision, encoded: &[u8]) -> Result<(), Malformed> {
        self.append(Row::from_bytes(revision, encoded)?);
        Ok(())
    }

    /// Ends a rebuild. The revision may be higher than that of the last row, which a compaction can have removed.
    pub fn finish_load(&mut self, revision: i64, compact_revision: i64) {
        let last = self.log.last().map_or(FIRST_REVISION, |last| last.main);
        self.revision = revision.max(last);
        self.compact_revision = compact_revision;
        for history in self.index.iter() {
            let newest = history.newest();
            let lease = if newest.is_tombstone() { 0 } else { newest.parts().lease };
            if lease != 0 {
                self.leases.attach(crate::lease::LeaseId(lease), history.key());
            }
        }
    }
}
