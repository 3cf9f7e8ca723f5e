//! The log as openraft's log storage.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::type_config::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use super::{TypeConfig, from_entry, from_log_id, from_vote, to_entry, to_log_id, to_vote};
use crate::log::{Completion, Log};

/// One `AppendEntries` holds about this much, and always at least one entry.
pub(crate) const REPLICATION_BYTES: usize = 1 << 20;

/// Cheap to clone; each clone can read.
#[derive(Clone, Debug)]
pub struct LogStorage {
    log: Log,
}

impl LogStorage {
    pub fn new(log: Log) -> Self {
        Self { log }
    }
}

/// A completion, and the future that it fulfils.
fn awaited() -> (Completion, impl Future<Output = io::Result<()>>) {
    let (sender, receiver) = oneshot::channel();
    let done: Completion = Box::new(move |result| drop(sender.send(result)));
    (done, async move { receiver.await.unwrap_or_else(|_| Err(io::Error::other("the log has stopped"))) })
}

impl RaftLogStorage<TypeConfig> for LogStorage {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let marks = self.log.marks();
        Ok(LogState { last_purged_log_id: marks.purged.map(from_log_id), last_log_id: marks.last.map(from_log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<TypeConfig>) -> io::Result<()> {
        let (done, durable) = awaited();
        self.log.save_vote(to_vote(vote), done);
        durable.await
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<TypeConfig>>) -> io::Result<()> {
        self.log.save_committed(committed.as_ref().map(to_log_id));
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogIdOf<TypeConfig>>> {
        Ok(self.log.marks().committed.map(from_log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = EntryOf<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(to_entry).collect();
        self.log.append(entries, Box::new(move |result| callback.io_completed(result)))
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<TypeConfig>>) -> io::Result<()> {
        let (done, durable) = awaited();
        self.log.truncate(last.map_or(0, |last| last.index + 1), done);
        durable.await
    }

    async fn purge(&mut self, last: LogIdOf<TypeConfig>) -> io::Result<()> {
        let (done, durable) = awaited();
        self.log.purge(to_log_id(&last), done);
        durable.await
    }
}

impl RaftLogReader<TypeConfig> for LogStorage {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<EntryOf<TypeConfig>>> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.log.read(start, end, usize::MAX)?.into_iter().map(from_entry).collect()
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<TypeConfig>>> {
        Ok(self.log.vote().map(from_vote))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<EntryOf<TypeConfig>>> {
        self.log.read(start, end, REPLICATION_BYTES)?.into_iter().map(from_entry).collect()
    }
}
