//! What was applied: the one history that all members share, as they tell it while they apply it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::process::Process;
use crate::command::Command;
use crate::state::{Committed, Response};

/// An entry of the log that was applied.
#[derive(Clone, Debug)]
pub(crate) struct Applied {
    pub term: u64,
    pub command: Arc<Command>,
    pub response: Response,
    /// When the first member applied it.
    pub at: Duration,
}

#[derive(Debug)]
struct Record {
    began: Instant,
    clock: u64,
    applied: BTreeMap<u64, Applied>,
    /// What two members do not agree on.
    disagreement: Option<String>,
}

thread_local! {
    static RECORD: RefCell<Option<Record>> = const { RefCell::new(None) };
}

pub(crate) fn begin() {
    let record = Record { began: Instant::now(), clock: 0, applied: BTreeMap::new(), disagreement: None };
    RECORD.set(Some(record));
}

pub(crate) fn end() {
    RECORD.set(None);
}

fn with<R>(f: impl FnOnce(&mut Record) -> R) -> R {
    RECORD.with_borrow_mut(|record| f(record.as_mut().unwrap()))
}

/// The next moment of a clock that only orders.
pub(crate) fn tick() -> u64 {
    with(|record| {
        record.clock += 1;
        record.clock
    })
}

/// Simulated time.
pub(crate) fn now() -> Duration {
    with(|record| record.began.elapsed())
}

/// Notes what a member applied, and how it answered.
pub(crate) fn applied(batch: &[Committed], responses: &[Response]) {
    if !super::is_active() {
        return;
    }
    let at = now();
    let member = Process::current().map(|process| process.member());
    with(|record| {
        for (committed, response) in batch.iter().zip(responses) {
            super::trace(&(committed.index, committed.term, member.map(|id| id.0), at));
            let new = Applied {
                term: committed.term,
                command: Arc::clone(&committed.command),
                response: response.clone(),
                at,
            };
            let first = record.applied.entry(committed.index).or_insert_with(|| new.clone());
            let same = (first.term, &first.command) == (new.term, &new.command)
                && format!("{:?}", first.response) == format!("{:?}", new.response);
            if !same && record.disagreement.is_none() {
                let text = format!("entry {} is {new:?} to member {member:?} and was {first:?}", committed.index);
                record.disagreement = Some(text);
            }
        }
    });
}

/// All that was applied, by place in the log; an error if two members applied something else, or answered otherwise.
pub(crate) fn history() -> Result<BTreeMap<u64, Applied>, String> {
    with(|record| match &record.disagreement {
        Some(text) => Err(text.clone()),
        None => Ok(record.applied.clone()),
    })
}
