//! Rows: in the order of their revisions, and per key.

use std::collections::VecDeque;
use std::mem;
use std::slice;

use keelson_etcd_api::encoded::{KeyValue, Parts};

use super::revision::Revision;

/// One change of one key. A tombstone carries the key alone; a live pair's version is at least 1, which tells the two
/// apart wherever only the pair is at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub revision: Revision,
    pub tombstone: bool,
    pub kv: KeyValue,
}

impl Row {
    pub fn new(revision: Revision, kv: KeyValue) -> Self {
        let tombstone = kv.parts().version == 0;
        Self { revision, tombstone, kv }
    }

    pub fn parts(&self) -> Parts<'_> {
        self.kv.parts()
    }
}

/// Rows per piece of the log: a removal moves at most this many, a look-up searches this many in one cache-friendly run.
const CHUNK_ROWS: usize = 256;

/// All rows by revision. Appended at one end; compaction takes rows out of the middle.
#[derive(Debug, Default)]
pub(super) struct RowLog {
    /// Never holds an empty chunk.
    chunks: VecDeque<Vec<Row>>,
    length: usize,
}

impl RowLog {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Appends a row, whose revision must be the highest.
    pub(super) fn push(&mut self, row: Row) {
        assert!(self.last().is_none_or(|last| last < row.revision), "row {} is appended out of order", row.revision);
        self.length += 1;
        match self.chunks.back_mut() {
            Some(chunk) if chunk.len() < CHUNK_ROWS => chunk.push(row),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK_ROWS);
                chunk.push(row);
                self.chunks.push_back(chunk);
            }
        }
    }

    pub(super) fn last(&self) -> Option<Revision> {
        Some(self.chunks.back()?.last()?.revision)
    }

    /// The chunk that holds the first row at or behind `revision`, and that row's place in it.
    fn find(&self, revision: Revision) -> (usize, usize) {
        let chunk = self.chunks.partition_point(|chunk| chunk.last().is_some_and(|row| row.revision < revision));
        let rows = self.chunks.get(chunk).map_or(&[][..], Vec::as_slice);
        (chunk, rows.partition_point(|row| row.revision < revision))
    }

    pub(super) fn remove(&mut self, revision: Revision) -> Option<Row> {
        let (index, place) = self.find(revision);
        let chunk = self.chunks.get_mut(index)?;
        if chunk.get(place)?.revision != revision {
            return None;
        }
        let row = chunk.remove(place);
        if chunk.is_empty() {
            self.chunks.remove(index);
        } else if chunk.len() < chunk.capacity() / 2 {
            chunk.shrink_to_fit();
        }
        self.length -= 1;
        Some(row)
    }

    /// The rows at and behind `revision`, in order.
    pub(super) fn from(&self, revision: Revision) -> impl Iterator<Item = &Row> {
        let (chunk, place) = self.find(revision);
        self.chunks.range(chunk.min(self.chunks.len())..).flatten().skip(place)
    }
}

/// What one key went through, oldest first. Nearly every key has one row, which then needs no list.
#[derive(Debug)]
pub(super) enum KeyHistory {
    One(Row),
    Many(Vec<Row>),
}

impl KeyHistory {
    pub(super) fn rows(&self) -> &[Row] {
        match self {
            Self::One(row) => slice::from_ref(row),
            Self::Many(rows) => rows,
        }
    }

    pub(super) fn newest(&self) -> Option<&Row> {
        self.rows().last()
    }

    /// The last row, a tombstone or not, that was written up to and including `revision`.
    pub(super) fn at(&self, revision: i64) -> Option<&Row> {
        let rows = self.rows();
        // Nearly all reads are of the newest revision.
        match rows.last() {
            Some(last) if last.revision.main <= revision => Some(last),
            _ => rows.get(rows.partition_point(|row| row.revision.main <= revision).checked_sub(1)?),
        }
    }

    /// The pair as a reader at `revision` sees it.
    pub(super) fn live_at(&self, revision: i64) -> Option<&Row> {
        self.at(revision).filter(|row| !row.tombstone)
    }

    pub(super) fn push(&mut self, row: Row) {
        match self {
            Self::Many(rows) => rows.push(row),
            Self::One(_) => {
                if let Self::One(first) = mem::replace(self, Self::Many(Vec::with_capacity(2))) {
                    self.push(first);
                }
                self.push(row);
            }
        }
    }

    /// Takes a row out. True if none is left.
    pub(super) fn remove(&mut self, revision: Revision) -> bool {
        match self {
            Self::One(row) => row.revision == revision,
            Self::Many(rows) => {
                rows.retain(|row| row.revision != revision);
                if rows.len() == 1
                    && let Some(last) = rows.pop()
                {
                    *self = Self::One(last);
                    return false;
                }
                rows.is_empty()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(main: i64, version: i64) -> Row {
        let parts = Parts { key: b"k", mod_revision: main, version, ..Parts::default() };
        Row::new(Revision::first_of(main), KeyValue::encode(&parts))
    }

    #[test]
    fn log_finds_and_removes_rows_across_chunks() {
        let mut log = RowLog::default();
        let revisions: Vec<i64> = (1..2000).step_by(2).collect();
        for &main in &revisions {
            log.push(row(main, 1));
        }
        assert_eq!(log.len(), revisions.len());
        for &main in &revisions {
            assert_eq!(log.from(Revision::first_of(main - 1)).next().unwrap().revision.main, main);
        }
        assert_eq!(log.from(Revision::first_of(2000)).count(), 0);
        for &main in &revisions {
            if main % 3 != 0 {
                assert_eq!(log.remove(Revision::first_of(main)).unwrap().revision.main, main);
                assert!(log.remove(Revision::first_of(main)).is_none());
            }
        }
        let left: Vec<i64> = log.from(Revision::default()).map(|row| row.revision.main).collect();
        assert_eq!(left, revisions.iter().copied().filter(|main| main % 3 == 0).collect::<Vec<_>>());
        assert_eq!(log.len(), left.len());
        let middle: Vec<i64> = log.from(Revision::first_of(1000)).map(|row| row.revision.main).collect();
        assert_eq!(middle, left.iter().copied().filter(|main| *main >= 1000).collect::<Vec<_>>());
    }

    #[test]
    #[should_panic(expected = "out of order")]
    fn log_refuses_a_row_behind_its_end() {
        let mut log = RowLog::default();
        log.push(row(5, 1));
        log.push(row(5, 1));
    }

    #[test]
    fn history_answers_for_any_revision() {
        let mut history = KeyHistory::One(row(2, 1));
        history.push(row(5, 0));
        history.push(row(9, 1));
        let live = |main| history.live_at(main).map(|row| row.revision.main);
        assert_eq!([1, 2, 4, 5, 8, 9, 100].map(live), [None, Some(2), Some(2), None, None, Some(9), Some(9)]);
        assert!(!history.remove(Revision::first_of(2)));
        assert!(!history.remove(Revision::first_of(5)));
        assert!(matches!(history, KeyHistory::One(_)));
        assert!(!history.remove(Revision::first_of(5)));
        assert!(history.remove(Revision::first_of(9)));
    }
}
