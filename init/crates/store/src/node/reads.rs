//! Linearizable reads: one round with the quorum for all who wait.
//!
//! A read may only join a round that starts after the read arrived, or it could miss a write that was acknowledged in between. So
//! those who arrive while a round is under way wait for the next. On a member that does not lead, a round is a question to the leader, which
//! takes it into a round of its own; then the member waits until it has itself applied what the answer names.
//!
//! A member that is the only voter needs no round: nobody else can have acknowledged anything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::RaftError;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::{Node, RETRY_PAUSE};
use crate::log::LogId;
use crate::peer::{Answer, CallError, Failure, Lane, Request};
use crate::raft::{from_log_id, to_log_id};
use crate::state::Replicated;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("no leader")]
    NoLeader,
    #[error("request timed out")]
    Timeout,
    #[error("server stopped")]
    Stopped,
}

type Waiting = oneshot::Sender<Result<LogId, ReadError>>;

/// A round that takes longer is counted as slow. etcd's value.
const SLOW_ROUND: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(super) struct Rounds {
    waiting: Mutex<Vec<Waiting>>,
    arrived: Notify,
    slow: AtomicU64,
    failed: AtomicU64,
}

/// Rounds since the start that took long, and that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRounds {
    pub slow: u64,
    pub failed: u64,
}

impl Rounds {
    /// Waits for the next round to end: the entry up to which a read must see.
    async fn join(&self) -> Result<LogId, ReadError> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        self.arrived.notify_one();
        receiver.await.unwrap_or(Err(ReadError::Stopped))
    }

    fn take_waiting(&self) -> Vec<Waiting> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The defect: those too who came while the round was under way.
    #[cfg(test)]
    fn with_late(&self, mut waiting: Vec<Waiting>) -> Vec<Waiting> {
        if crate::simulation::has(crate::simulation::Bug::JoinedRound) {
            waiting.extend(self.take_waiting());
        }
        waiting
    }

    /// Holds rounds as long as the node lives.
    pub(super) async fn run<S: Replicated>(self: Arc<Self>, node: Weak<Node<S>>) {
        loop {
            self.arrived.notified().await;
            let waiting = self.take_waiting();
            if waiting.is_empty() {
                continue;
            }
            let Some(node) = node.upgrade() else { return };
            let began = Instant::now();
            let result = node.hold_round().await;
            #[cfg(test)]
            let waiting = self.with_late(waiting);
            self.slow.fetch_add(u64::from(began.elapsed() > SLOW_ROUND), Ordering::Relaxed);
            self.failed.fetch_add(u64::from(result.is_err()), Ordering::Relaxed);
            for reader in waiting {
                // A reader that gave up is not there any more.
                _ = reader.send(result);
            }
        }
    }
}

impl<S: Replicated> Node<S> {
    pub fn read_rounds(&self) -> ReadRounds {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ReadRounds { slow: load(&self.reads.slow), failed: load(&self.reads.failed) }
    }

    /// Returns once this member's state holds all that was acknowledged before the call.
    pub async fn read_index(&self) -> Result<(), ReadError> {
        if self.leads_alone() {
            return Ok(());
        }
        let read = async {
            let mark = self.reads.join().await?;
            self.applied(mark).await
        };
        tokio::time::timeout(self.request_timeout, read).await.unwrap_or(Err(ReadError::Timeout))
    }

    /// The entry up to which a read that arrives now must see. For a leader, on behalf of others.
    pub(super) async fn read_mark(&self) -> Result<LogId, ReadError> {
        let leads = self.leader() == Some(self.identity.member_id);
        if !leads {
            return Err(ReadError::NoLeader);
        }
        tokio::time::timeout(self.request_timeout, self.reads.join()).await.unwrap_or(Err(ReadError::Timeout))
    }

    /// Waits until this member has applied an entry.
    pub(super) async fn applied(&self, mark: LogId) -> Result<(), ReadError> {
        let mark = Some(from_log_id(mark));
        let mut progress = self.raft.watch_apply_progress();
        progress.wait_until_ge(&mark).await.map(|_| ()).map_err(|_| ReadError::Stopped)
    }

    /// Leadership may be lost, or be found again, before the readers' time is over: so a round tries for as long.
    async fn hold_round(&self) -> Result<LogId, ReadError> {
        let deadline = Instant::now() + self.request_timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let error = match self.leader() {
                Some(leader) if leader == self.identity.member_id => match self.confirm().await {
                    Err(ReadError::NoLeader) => ReadError::NoLeader,
                    result => return result,
                },
                Some(leader) => match self.transport.call(leader, Lane::Forward, Request::ReadIndex, left).await {
                    Ok(Answer::ReadIndex(mark)) => return Ok(mark),
                    Ok(Answer::Failed(Failure::Timeout)) | Err(CallError::Lost { .. }) => ReadError::Timeout,
                    Ok(_) | Err(CallError::NotSent { .. } | CallError::Refused { .. }) => ReadError::NoLeader,
                },
                None => ReadError::NoLeader,
            };
            if left.is_zero() {
                return Err(error);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Whether this member leads and is the only voter, so that all that was acknowledged was acknowledged here, and is applied here: in this term because
    /// the answer comes after it, before this term because the term's own first entry is applied.
    ///
    /// What consensus publishes may be a moment old. That does no harm: another voter comes with a joint list, which is published before the
    /// list that follows it can be proposed, and only under that one could another member lead.
    fn leads_alone(&self) -> bool {
        let own = self.identity.member_id;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let [voters] = &metrics.membership_config.membership().get_joint_config()[..] else { return false };
        metrics.running_state.is_ok()
            && metrics.state == openraft::ServerState::Leader
            && voters.len() == 1
            && voters.contains(&own)
            && metrics.last_applied.as_ref().is_some_and(|id| id.leader_id.term == metrics.current_term)
    }

    /// Confirms with a quorum that this member leads.
    async fn confirm(&self) -> Result<LogId, ReadError> {
        match self.raft.get_read_log_id(ReadPolicy::ReadIndex).await {
            Ok((mark, _)) => Ok(to_log_id(mark.log_id())),
            Err(RaftError::APIError(_)) => Err(ReadError::NoLeader),
            Err(RaftError::Fatal(_)) => Err(ReadError::Stopped),
        }
    }
}
