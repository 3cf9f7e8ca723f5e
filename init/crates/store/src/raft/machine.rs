//! The replicated state as openraft's state machine, its checkpoint as openraft's snapshot.
//!
//! Applying is in memory. A checkpoint takes the delta between two batches and commits it elsewhere, so neither waits for the other.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use openraft::entry::EntryPayload;
use openraft::storage::{
    ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta,
};
use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::{OptionalSend, StoredMembership};

use super::{Proposal, TypeConfig, from_log_id, from_stored, to_log_id, to_membership};
use crate::checkpoint::writer::{Epoch, Writer};
use crate::checkpoint::{Applied, Rows};
use crate::log;
use crate::peer::spool::Spool;
use crate::state::{Committed, Delta, LoadError, Replicated, Response, Row};

/// Commands applied under one lock of the state: enough to share its cost, few enough that a read does not wait long.
const APPLY_BATCH: usize = 256;
/// Applying as many as that, or fewer, takes longer only where something is wrong. etcd's value for one.
const SLOW_APPLY: Duration = Duration::from_millis(100);

/// The rows of a snapshot: of the own checkpoint, or received from another member.
#[derive(Debug)]
pub enum SnapshotRows {
    Checkpoint(Box<Rows>),
    Received(Spool),
}

impl SnapshotRows {
    /// Bytes of all rows, where they are known.
    pub fn bytes(&self) -> Option<u64> {
        match self {
            Self::Checkpoint(rows) => Some(rows.bytes()),
            Self::Received(_) => None,
        }
    }
}

impl Iterator for SnapshotRows {
    type Item = Result<Row, LoadError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Checkpoint(rows) => rows.next(),
            Self::Received(spool) => spool.next(),
        }
    }
}

#[derive(Debug)]
pub struct Machine<S> {
    state: S,
    checkpoint: Arc<Writer>,
    last: Option<log::LogId>,
    membership: StoredMembershipOf<TypeConfig>,
    /// Of the rows that the state belongs to.
    epoch: Epoch,
    slow_applies: Arc<AtomicU64>,
}

impl<S: Replicated> Machine<S> {
    /// A machine over a state that was loaded from `applied`'s rows.
    pub fn new(state: S, checkpoint: Arc<Writer>, applied: &Applied) -> io::Result<Self> {
        let membership = from_stored(applied.membership_id, &applied.membership)?;
        Ok(Self {
            state,
            checkpoint,
            last: applied.last,
            membership,
            epoch: Epoch::default(),
            slow_applies: Arc::default(),
        })
    }

    /// Counts batches that took long to apply.
    pub fn slow_applies(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.slow_applies)
    }

    fn apply_batch(&self, batch: &mut Batch) {
        let began = Instant::now();
        batch.apply(&self.state);
        self.slow_applies.fetch_add(u64::from(began.elapsed() > SLOW_APPLY), Ordering::Relaxed);
    }

    fn applied(&self) -> Applied {
        Applied {
            last: self.last,
            membership: to_membership(self.membership.membership()),
            membership_id: self.membership.log_id().as_ref().map(to_log_id),
        }
    }

    fn meta(applied: &Applied) -> io::Result<SnapshotMetaOf<TypeConfig>> {
        Ok(SnapshotMeta {
            last_log_id: applied.last.map(from_log_id),
            last_membership: from_stored(applied.membership_id, &applied.membership)?,
        })
    }

    fn builder(&self) -> Builder {
        let job = Some((self.state.take_delta(), self.applied()));
        Builder { job, number: self.checkpoint.begin(), epoch: self.epoch, checkpoint: Arc::clone(&self.checkpoint) }
    }
}

/// Commands that are collected, and who waits for each.
#[derive(Default)]
struct Batch {
    commands: Vec<Committed>,
    waiting: Vec<Option<ApplyResponder<TypeConfig>>>,
}

impl Batch {
    fn apply(&mut self, state: &impl Replicated) {
        if self.commands.is_empty() {
            return;
        }
        let responses = state.apply(&self.commands);
        // Fewer answers than commands would leave clients waiting for ever, and mean that members may differ.
        assert_eq!(responses.len(), self.commands.len(), "apply answers each command");
        for (waiting, response) in self.waiting.drain(..).zip(responses) {
            if let Some(waiting) = waiting {
                waiting.send(response);
            }
        }
        self.commands.clear();
    }
}

impl<S: Replicated> RaftStateMachine<TypeConfig> for Machine<S> {
    type SnapshotData = SnapshotRows;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogIdOf<TypeConfig>>, StoredMembershipOf<TypeConfig>)> {
        Ok((self.last.map(from_log_id), self.membership.clone()))
    }

    async fn apply<E>(&mut self, mut entries: E) -> io::Result<()>
    where
        E: futures_core::Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batch = Batch::default();
        while let Some(item) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut entries).poll_next(cx)).await {
            let (entry, waiting) = item?;
            let id = to_log_id(&entry.log_id);
            match entry.payload {
                EntryPayload::Normal(Proposal(command)) => {
                    batch.commands.push(Committed { index: id.index, term: id.term, command: command.into_command() });
                    batch.waiting.push(waiting);
                    if batch.commands.len() >= APPLY_BATCH {
                        self.apply_batch(&mut batch);
                    }
                }
                EntryPayload::Blank => {
                    self.apply_batch(&mut batch);
                    if let Some(waiting) = waiting {
                        waiting.send(Response::Empty);
                    }
                }
                EntryPayload::Membership(membership) => {
                    self.apply_batch(&mut batch);
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    if let Some(waiting) = waiting {
                        waiting.send(Response::Empty);
                    }
                }
            }
            self.last = Some(id);
        }
        self.apply_batch(&mut batch);
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        Some(self.builder())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.builder()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<TypeConfig>, snapshot: SnapshotRows) -> io::Result<()> {
        let applied = Applied {
            last: meta.last_log_id.as_ref().map(to_log_id),
            membership: to_membership(meta.last_membership.membership()),
            membership_id: meta.last_membership.log_id().as_ref().map(to_log_id),
        };
        // A checkpoint of the old state that is still on its way is dropped, whichever of the two comes first.
        self.epoch = self.epoch.next();
        let replaced = self.checkpoint.replace(Box::new(snapshot), applied.clone(), self.epoch);
        replaced.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        let checkpoint = Arc::clone(self.checkpoint.checkpoint());
        let state = self.state.clone();
        crate::blocking::run(move || {
            let rows = checkpoint.rows().and_then(Rows::ahead);
            state.load(&mut rows.map_err(io::Error::other)?).map_err(io::Error::other)
        })
        .await??;
        self.last = applied.last;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotRows>>> {
        let rows = self.checkpoint.checkpoint().rows().map_err(io::Error::other)?;
        if rows.applied().last.is_none() {
            return Ok(None);
        }
        Ok(Some(Snapshot { meta: Self::meta(rows.applied())?, snapshot: SnapshotRows::Checkpoint(Box::new(rows)) }))
    }
}

/// A checkpoint that was taken and is not yet committed.
#[derive(Debug)]
pub struct Builder {
    job: Option<(Delta, Applied)>,
    number: u64,
    epoch: Epoch,
    checkpoint: Arc<Writer>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotRows;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, SnapshotRows>> {
        // A delta is taken once: were it lost here, the state on disk would have a hole. openraft calls this once.
        let (delta, applied) = self.job.take().ok_or_else(|| io::Error::other("this checkpoint was built before"))?;
        let committed = self.checkpoint.commit(delta, applied, self.epoch);
        committed.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        self.checkpoint.finish(self.number);
        let rows = self.checkpoint.checkpoint().rows().map_err(io::Error::other)?;
        // The meta is of the rows that go with it.
        let meta = SnapshotMeta {
            last_log_id: rows.applied().last.map(from_log_id),
            last_membership: from_stored(rows.applied().membership_id, &rows.applied().membership)?,
        };
        Ok(Snapshot { meta, snapshot: SnapshotRows::Checkpoint(Box::new(rows)) })
    }
}
