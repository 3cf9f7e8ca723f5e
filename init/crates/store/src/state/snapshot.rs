//! All rows of the state as of one moment.

use std::collections::VecDeque;

use super::key_space::{Frozen, FrozenKeys};
use super::{LoadError, Rejection, Row};
use crate::mvcc::Revision;

/// Rows by table and key, ascending. Those of keys stay in the state, which keeps them for whoever goes on reading.
#[derive(Debug, Default)]
pub struct Snapshot {
    parts: VecDeque<Part>,
    rows: usize,
    bytes: u64,
}

#[derive(Debug)]
enum Part {
    Keys(FrozenKeys),
    Others(Vec<Row>),
}

impl Snapshot {
    /// Adds what comes behind.
    pub(super) fn push(&mut self, range: Frozen) {
        let Frozen { keys, rows, bytes, others } = range;
        let size = |row: &Row| (row.key.len() + row.value.len()) as u64;
        self.rows += rows + others.len();
        self.bytes += bytes + (rows * Revision::KEY_LENGTH) as u64 + others.iter().map(size).sum::<u64>();
        self.parts.extend([Part::Keys(keys), Part::Others(others)]);
    }

    /// How many rows there are, and how many bytes their keys and values have. There may be a little less.
    pub fn size(&self) -> (usize, u64) {
        (self.rows, self.bytes)
    }

    /// All of them, so many of keys at a time.
    pub fn rows(mut self, limit: usize) -> impl Iterator<Item = Result<Row, LoadError>> {
        std::iter::from_fn(move || self.slice(limit)).flat_map(|slice| match slice {
            Ok(rows) => rows.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(_) => vec![Err(LoadError::Compacted)],
        })
    }

    /// The next rows, at most `limit` of keys; none if there are no more. It holds the state's lock for that long. An error means that rows are gone
    /// that were still to come.
    pub fn slice(&mut self, limit: usize) -> Option<Result<Vec<Row>, Rejection>> {
        match self.parts.pop_front()? {
            Part::Keys(mut keys) => Some(keys.slice(limit).map(|(rows, more)| {
                if more {
                    self.parts.push_front(Part::Keys(keys));
                }
                rows
            })),
            Part::Others(rows) => Some(Ok(rows)),
        }
    }
}
