//! All rows of the state as of one moment.

use std::collections::VecDeque;

use super::{KeySpace, Pin, Row};
use crate::mvcc::Revision;

/// Rows by table and key, ascending. Those of keys stay in the state, which keeps them as long as this lives.
#[derive(Debug)]
pub struct Snapshot(pub(super) VecDeque<Part>);

#[derive(Debug)]
pub(super) enum Part {
    /// The rows of keys from a revision on, up to another.
    Keys {
        space: KeySpace,
        from: Revision,
        last: i64,
        _pin: Pin,
    },
    Others(Vec<Row>),
}

impl Snapshot {
    /// All of them, so many of keys at a time.
    pub fn rows(mut self, limit: usize) -> impl Iterator<Item = Row> {
        std::iter::from_fn(move || self.slice(limit)).flatten()
    }

    /// The next rows, at most `limit` of keys; none if there are no more. It holds the state's lock for that long.
    pub fn slice(&mut self, limit: usize) -> Option<Vec<Row>> {
        match self.0.front_mut()? {
            Part::Keys { space, from, last, .. } => {
                let (rows, next) = space.rows(*from, *last, limit);
                match next {
                    Some(next) => *from = next,
                    None => drop(self.0.pop_front()),
                }
                Some(rows)
            }
            Part::Others(rows) => {
                let rows = std::mem::take(rows);
                self.0.pop_front();
                Some(rows)
            }
        }
    }
}
