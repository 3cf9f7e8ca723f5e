//! Compaction: at once for readers, in slices for memory.

use super::{Mvcc, Revision, Row};
use crate::state::Rejection;

impl Mvcc {
    /// Refuses reads below `revision` from now on.
    pub fn compact(&mut self, revision: i64) -> Result<(), Rejection> {
        if revision <= self.compact_revision {
            return Err(Rejection::Compacted);
        }
        if revision > self.revision {
            return Err(Rejection::FutureRevision);
        }
        self.compact_revision = revision;
        Ok(())
    }

    /// Removes at most `limit` rows that no read at `floor` or later can see, and gives their revisions. Fewer than
    /// `limit` means that none are left. `floor` is the compacted revision, or lower while a reader still needs it.
    pub fn remove_garbage(&mut self, floor: i64, limit: usize) -> Vec<Revision> {
        let floor = floor.min(self.compact_revision);
        let mut removed = Vec::new();
        while removed.len() < limit {
            let Some(revision) = self.next_garbage(floor) else { break };
            if self.remove(revision).is_some() {
                removed.push(revision);
            }
        }
        removed
    }

    fn next_garbage(&mut self, floor: i64) -> Option<Revision> {
        let garbage = &mut self.garbage;
        if garbage.superseded.front().is_some_and(|(successor, _)| *successor <= floor) {
            return garbage.superseded.pop_front().map(|(_, revision)| revision);
        }
        if garbage.tombstones.front().is_some_and(|revision| revision.main < floor) {
            return garbage.tombstones.pop_front();
        }
        None
    }

    fn remove(&mut self, revision: Revision) -> Option<Row> {
        let row = self.log.remove(revision)?;
        self.index.remove(row.key(), revision);
        self.bytes -= row.kv().as_bytes().len() as u64;
        Some(row)
    }
}
