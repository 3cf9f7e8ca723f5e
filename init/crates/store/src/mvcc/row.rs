//! Rows: in the order of their revisions, and per key.
//!
//! With a million keys each byte here is a megabyte, so a row is one pointer to one piece of memory, which has the revision, the key and
//! all else in it, and neither log nor index repeats any of that.

use std::collections::VecDeque;
use std::fmt;

use keelson_etcd_api::encoded::{KeyValue, Label, Malformed, Parts};

use super::revision::Revision;

/// One change of one key. A tombstone carries the key alone; a live pair's version is at least 1, which tells the two
/// apart wherever only the pair is at hand.
///
/// The pair's label is the row's main revision, of which the highest bit marks a tombstone, and its sub revision, little endian.
#[derive(Clone)]
pub struct Row(KeyValue);

/// Revisions are positive, so it is free.
const TOMBSTONE: u64 = 1 << 63;

impl Row {
    pub fn new(revision: Revision, parts: &Parts<'_>) -> Self {
        Self(KeyValue::labelled(label(revision, parts), parts))
    }

    /// A row of which the pair was encoded before.
    pub fn from_bytes(revision: Revision, encoded: &[u8]) -> Result<Self, Malformed> {
        KeyValue::from_bytes(encoded, |parts| label(revision, parts)).map(Self)
    }

    pub fn revision(&self) -> Revision {
        let (main, sub) = self.place();
        Revision { main: (main & !TOMBSTONE).cast_signed(), sub }
    }

    pub fn is_tombstone(&self) -> bool {
        self.place().0 & TOMBSTONE != 0
    }

    pub fn kv(&self) -> &KeyValue {
        &self.0
    }

    pub fn key(&self) -> &[u8] {
        self.0.key()
    }

    pub fn parts(&self) -> Parts<'_> {
        self.0.parts()
    }

    fn place(&self) -> (u64, u32) {
        let label = self.0.label();
        let main = label.first_chunk().map_or(0, |main| u64::from_le_bytes(*main));
        let sub = label.last_chunk().map_or(0, |sub| u32::from_le_bytes(*sub));
        (main, sub)
    }
}

fn label(revision: Revision, parts: &Parts<'_>) -> Label {
    let mark = if parts.version == 0 { TOMBSTONE } else { 0 };
    let mut label = Label::default();
    let (main, sub) = label.split_at_mut(size_of::<u64>());
    main.copy_from_slice(&(revision.main.cast_unsigned() | mark).to_le_bytes());
    sub.copy_from_slice(&revision.sub.to_le_bytes());
    label
}

impl fmt::Debug for Row {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Row").field(&self.revision()).field(&self.0).finish()
    }
}

/// Rows per piece of the log: a removal moves at most this many, a look-up searches this many in one cache-friendly run.
const CHUNK_ROWS: usize = 256;

/// All rows by revision. Appended at one end; compaction takes rows out of the middle.
#[derive(Debug, Default)]
pub(super) struct RowLog {
    /// Never holds an empty chunk.
    chunks: VecDeque<Chunk>,
    last: Option<Revision>,
    length: usize,
}

#[derive(Debug)]
struct Chunk {
    /// Not above that of its first row, and above all of the chunk before: finding a chunk looks at no row.
    start: Revision,
    rows: Vec<Row>,
}

impl RowLog {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Appends a row, whose revision must be the highest.
    pub(super) fn push(&mut self, row: Row) {
        let revision = row.revision();
        assert!(self.last.is_none_or(|last| last < revision), "row {revision} is appended out of order");
        self.last = Some(revision);
        self.length += 1;
        match self.chunks.back_mut() {
            Some(chunk) if chunk.rows.len() < CHUNK_ROWS => chunk.rows.push(row),
            _ => {
                let mut rows = Vec::with_capacity(CHUNK_ROWS);
                rows.push(row);
                self.chunks.push_back(Chunk { start: revision, rows });
            }
        }
    }

    /// That of the last row that was appended, which compaction may have taken out since.
    pub(super) fn last(&self) -> Option<Revision> {
        self.last
    }

    /// The chunk in which the first row at or behind `revision` is, and its place there; at the chunk's end, it is the next chunk's first.
    fn find(&self, revision: Revision) -> (usize, usize) {
        let chunk = self.chunks.partition_point(|chunk| chunk.start <= revision).saturating_sub(1);
        let rows = self.chunks.get(chunk).map_or(&[][..], |chunk| &chunk.rows);
        (chunk, rows.partition_point(|row| row.revision() < revision))
    }

    pub(super) fn remove(&mut self, revision: Revision) -> Option<Row> {
        let (index, place) = self.find(revision);
        let chunk = self.chunks.get_mut(index)?;
        if chunk.rows.get(place)?.revision() != revision {
            return None;
        }
        let row = chunk.rows.remove(place);
        if chunk.rows.is_empty() {
            self.chunks.remove(index);
        } else if chunk.rows.len() < chunk.rows.capacity() / 2 {
            chunk.rows.shrink_to_fit();
        }
        self.length -= 1;
        Some(row)
    }

    /// The rows at and behind `revision`, in order.
    pub(super) fn from(&self, revision: Revision) -> impl Iterator<Item = &Row> {
        let (chunk, place) = self.find(revision);
        self.chunks.range(chunk.min(self.chunks.len())..).flat_map(|chunk| &chunk.rows).skip(place)
    }
}

/// What one key went through. Nearly every key has one row, and nearly every read wants the newest: that one is at hand, the others behind a
/// pointer that is mostly none.
#[derive(Debug)]
pub(super) struct KeyHistory {
    newest: Row,
    older: Option<Older>,
}

/// Rows before the newest, oldest first; at least one. In a box, since most keys have none, and then it takes 8 bytes and not 24.
type Older = Box<Vec<Row>>;

impl KeyHistory {
    pub(super) fn new(row: Row) -> Self {
        Self { newest: row, older: None }
    }

    pub(super) fn key(&self) -> &[u8] {
        self.newest.key()
    }

    pub(super) fn newest(&self) -> &Row {
        &self.newest
    }

    /// The last row, a tombstone or not, that was written up to and including `revision`.
    pub(super) fn at(&self, revision: i64) -> Option<&Row> {
        if self.newest.revision().main <= revision {
            return Some(&self.newest);
        }
        let older = self.older.as_ref()?;
        older.get(older.partition_point(|row| row.revision().main <= revision).checked_sub(1)?)
    }

    /// The pair as a reader at `revision` sees it.
    pub(super) fn live_at(&self, revision: i64) -> Option<&Row> {
        self.at(revision).filter(|row| !row.is_tombstone())
    }

    pub(super) fn push(&mut self, row: Row) {
        let superseded = std::mem::replace(&mut self.newest, row);
        self.older.get_or_insert_with(|| Box::new(Vec::with_capacity(1))).push(superseded);
    }

    /// Takes a row out. True if it is the only one, which stays.
    pub(super) fn remove(&mut self, revision: Revision) -> bool {
        let is_newest = self.newest.revision() == revision;
        let Some(older) = &mut self.older else { return is_newest };
        if !is_newest {
            older.retain(|row| row.revision() != revision);
        } else if let Some(before) = older.pop() {
            self.newest = before;
        }
        if older.is_empty() {
            self.older = None;
        }
        false
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        1 + self.older.as_ref().map_or(0, |older| older.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(main: i64, version: i64) -> Row {
        let parts = Parts { key: b"k", mod_revision: main, version, ..Parts::default() };
        Row::new(Revision::first_of(main), &parts)
    }

    #[test]
    fn a_row_is_one_pointer_that_knows_its_revision() {
        assert_eq!(size_of::<Row>(), 2 * size_of::<usize>());
        assert_eq!(size_of::<KeyHistory>(), 3 * size_of::<usize>());
        for (revision, version) in [(Revision { main: i64::MAX, sub: u32::MAX }, 1), (Revision { main: 1, sub: 7 }, 0)]
        {
            let parts = Parts { key: b"k", version, ..Parts::default() };
            let row = Row::new(revision, &parts);
            assert_eq!((row.revision(), row.is_tombstone(), row.key()), (revision, version == 0, &b"k"[..]));
            let read = Row::from_bytes(revision, row.kv().as_bytes()).unwrap();
            assert_eq!((read.revision(), read.is_tombstone(), read.parts()), (revision, version == 0, parts));
        }
        assert!(Row::from_bytes(Revision::first_of(1), &[1]).is_err());
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
            assert_eq!(log.from(Revision::first_of(main - 1)).next().unwrap().revision().main, main);
        }
        assert_eq!(log.from(Revision::first_of(2000)).count(), 0);
        for &main in &revisions {
            if main % 3 != 0 {
                assert_eq!(log.remove(Revision::first_of(main)).unwrap().revision().main, main);
                assert!(log.remove(Revision::first_of(main)).is_none());
            }
        }
        let left: Vec<i64> = log.from(Revision::default()).map(|row| row.revision().main).collect();
        assert_eq!(left, revisions.iter().copied().filter(|main| main % 3 == 0).collect::<Vec<_>>());
        assert_eq!(log.len(), left.len());
        let middle: Vec<i64> = log.from(Revision::first_of(1000)).map(|row| row.revision().main).collect();
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
        let mut history = KeyHistory::new(row(2, 1));
        history.push(row(5, 0));
        history.push(row(9, 1));
        let live = |main| history.live_at(main).map(|row| row.revision().main);
        assert_eq!([1, 2, 4, 5, 8, 9, 100].map(live), [None, Some(2), Some(2), None, None, Some(9), Some(9)]);
        assert!(!history.remove(Revision::first_of(2)));
        assert!(!history.remove(Revision::first_of(5)));
        assert!(history.older.is_none());
        assert!(!history.remove(Revision::first_of(5)));
        assert!(history.remove(Revision::first_of(9)));
    }
}
