//! etcd's hash of a store, by which members (and ours with an etcd's) can be compared.
//!
//! It is CRC-32C over the name of etcd's bucket, `key`, and then for each row its key and value as etcd has them in its
//! database, in revision order. Left out are rows above the revision asked for, rows at or below the compacted one that
//! are not what a reader at the revision asked for sees, and a tombstone exactly at the compacted revision (older
//! releases of etcd remove that one, newer do not). etcd has one more rule: when no key exists at the revision asked for,
//! it hashes whatever rows its compaction has left; a finished compaction leaves what a reader at the compacted revision
//! sees, so that is what is taken here. So nothing depends on how far a compaction is.

use super::{Mvcc, Revision, Row};
use crate::mvcc::key_range::KeyRange;

/// A hash being computed, a slice of rows at a time.
#[derive(Debug)]
pub struct Hasher {
    pub revision: i64,
    pub compact_revision: i64,
    /// Of the rows below the compacted revision, those that a reader at this revision sees are in the hash.
    keep_at: i64,
    next: Revision,
    hash: u32,
}

impl Hasher {
    pub fn new(mvcc: &Mvcc, revision: i64) -> Self {
        let compact_revision = mvcc.compact_revision;
        let everything = KeyRange::everything();
        let some_key = mvcc.live_rows(&everything, revision).next().is_some();
        let keep_at = if some_key { revision } else { compact_revision };
        Self { revision, compact_revision, keep_at, next: Revision::default(), hash: crc32c::crc32c(b"key") }
    }

    /// Takes in at most `limit` rows; the hash, once there are no more. The compacted revision that [`Hasher::new`] saw
    /// must be held back from being overtaken by physical compaction meanwhile.
    pub fn step(&mut self, mvcc: &Mvcc, limit: usize) -> Option<u32> {
        let mut rows = mvcc.rows_from(self.next);
        for row in rows.by_ref().take(limit) {
            let revision = row.revision();
            if revision.main > self.revision {
                return Some(self.hash);
            }
            self.next = Revision { sub: revision.sub + 1, ..revision };
            if self.includes(mvcc, row) {
                let (key, length) = revision.to_etcd_key(row.is_tombstone());
                self.hash = crc32c::crc32c_append(self.hash, key.get(..length).unwrap_or(&key));
                self.hash = crc32c::crc32c_append(self.hash, row.kv().as_bytes());
            }
        }
        rows.next().is_none().then_some(self.hash)
    }

    fn includes(&self, mvcc: &Mvcc, row: &Row) -> bool {
        let revision = row.revision();
        if row.is_tombstone() && revision.main == self.compact_revision {
            return false;
        }
        let seen = || mvcc.get(row.key(), self.keep_at).is_some_and(|seen| seen.revision() == revision);
        revision.main > self.compact_revision || seen()
    }
}
