//! What a watch that is behind reads.

use keelson_etcd_api::encoded::Event;

use super::Spec;
use crate::mvcc::{Mvcc, Revision};

/// Rows looked at in one go: what the state's read lock is held for.
const SLICE_ROWS: usize = 2048;
/// Bytes of events in one answer. A single revision may exceed both.
const SLICE_BYTES: usize = 1 << 20;

/// A piece of history.
#[derive(Debug)]
pub struct Slice {
    pub events: Vec<Event>,
    /// The first revision that is not in it.
    pub next: i64,
}

/// The watch wants what compaction has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    pub compact_revision: i64,
}

/// Reads events of a watch from a revision on, up to the one that readers see, in whole revisions.
pub fn read(mvcc: &Mvcc, spec: &Spec, from: i64, visible: i64) -> Result<Slice, Compacted> {
    if from < mvcc.compact_revision() {
        return Err(Compacted { compact_revision: mvcc.compact_revision() });
    }
    let mut slice = Slice { events: Vec::new(), next: from };
    let mut bytes = 0;
    let mut current = 0;
    for (looked_at, row) in mvcc.rows_from(Revision::first_of(from)).enumerate() {
        let main = row.revision().main;
        if main > visible {
            break;
        }
        if main != current {
            slice.next = main;
            if looked_at >= SLICE_ROWS || bytes >= SLICE_BYTES {
                return Ok(slice);
            }
            current = main;
        }
        if spec.range.contains(row.key()) {
            let event = mvcc.event(row, spec.prev_kv);
            if spec.wants(&event) {
                bytes += event.kv.as_bytes().len() + event.prev_kv.as_ref().map_or(0, |kv| kv.as_bytes().len());
                slice.events.push(event);
            }
        }
    }
    slice.next = visible.max(from - 1) + 1;
    Ok(slice)
}
