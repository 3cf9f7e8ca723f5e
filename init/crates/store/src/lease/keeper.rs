//! The leader's care for leases: it knows when each runs out, renews, and proposes the revocation of those that did. Other members
//! ask it.
//!
//! Deadlines belong to a term of leadership. A member that lost it and found it again starts them anew, since another leader may have renewed
//! leases meanwhile, and what it proposes because a lease has run out is only good for the term in which it saw that.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keelson_etcd_api::etcdserverpb as pb;
use tokio::time::Instant;

use super::{LeaseId, LeaseService};
use crate::command::Command;
use crate::node::{Node, ProposeError, ReadError};
use crate::peer::{Answer, BoxFuture, Failure, Request};
use crate::state::{Rejection, Response, State};

pub use crate::peer::TimeToLive;

/// Revocations proposed at once. Each is a log entry; a thousand leases that end together are a few batches.
const REVOKE_BATCH: usize = 128;
/// How often leadership is looked at when no lease is due.
const POLL: Duration = Duration::from_millis(500);

/// How often remaining times are written down, if that is asked for, and of how many leases at once. etcd's values.
const CHECKPOINT_INTERVAL: Duration = Duration::from_mins(5);
const CHECKPOINT_BATCH: usize = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    #[error("leadership is not certain")]
    Read(#[from] ReadError),
    #[error("a change of the lease was not accepted")]
    Propose(#[from] ProposeError),
}

#[derive(Debug)]
pub struct Keeper {
    node: Arc<Node<State>>,
    /// Where this member's deadlines count from.
    origin: Instant,
    /// What a new leader adds to every lease: an old one may have answered keep-alives until it was replaced.
    grace: Duration,
    /// The term that the deadlines are of.
    armed: Mutex<Option<u64>>,
    checkpoints: bool,
    /// Renewals share it, a checkpoint has it alone: one that was overtaken by a renewal would take back what that promised.
    renewing: tokio::sync::RwLock<()>,
}

impl Keeper {
    pub fn new(node: Arc<Node<State>>, election_timeout: Duration, checkpoints: bool) -> Self {
        let renewing = tokio::sync::RwLock::default();
        let armed = Mutex::default();
        Self { node, origin: Instant::now(), grace: election_timeout, armed, checkpoints, renewing }
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Watches deadlines, for ever.
    pub async fn run(&self) {
        let mut checkpointed = self.now();
        loop {
            if let Some(term) = self.arm() {
                self.begin_granted();
                self.revoke_due(term).await;
                if self.checkpoints && self.now().saturating_sub(checkpointed) >= CHECKPOINT_INTERVAL {
                    self.checkpoint(term).await;
                    checkpointed = self.now();
                }
            } else {
                // Whoever takes over gives every lease a deadline.
                drop(self.node.state().take_granted_leases());
            }
            let next = self.node.state().deadlines().next().unwrap_or(Duration::MAX);
            let wait = next.saturating_sub(self.now()).min(POLL);
            // Either reason to look again is as good as the other.
            let _ = tokio::time::timeout(wait, self.node.state().lease_granted()).await;
        }
    }

    /// The term in which this member leads, with deadlines of that term; none if it does not.
    fn arm(&self) -> Option<u64> {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let term = self.node.leads_in();
        if *armed != term {
            *armed = term;
            self.take_over(term.is_some());
        }
        term
    }

    fn take_over(&self, leads: bool) {
        let state = self.node.state();
        let leases: Vec<(LeaseId, i64)> =
            state.read(|mvcc, _| mvcc.leases.iter().map(|(id, lease)| (id, lease.time_to_live())).collect());
        let mut deadlines = state.deadlines();
        deadlines.clear();
        if leads {
            let now = self.now();
            for (id, seconds) in leases {
                deadlines.set(id, now + self.grace + duration(seconds));
            }
        }
    }

    fn begin_granted(&self) {
        let state = self.node.state();
        for id in state.take_granted_leases() {
            let ttl = state.read(|mvcc, _| mvcc.leases.get(id).map(|lease| lease.ttl_seconds));
            if let Some(ttl) = ttl {
                let mut deadlines = state.deadlines();
                deadlines.set_if_absent(id, self.now() + duration(ttl));
            }
        }
    }

    /// Writes down what leases have left, for whoever leads next. A short one is not worth it.
    async fn checkpoint(&self, term: u64) {
        let _alone = self.renewing.write().await;
        let remaining = self.node.state().deadlines().remaining(self.now(), CHECKPOINT_INTERVAL);
        for leases in remaining.chunks(CHECKPOINT_BATCH) {
            let checkpoint = |(id, left): &(LeaseId, Duration)| pb::LeaseCheckpoint {
                id: id.0,
                // Never zero, which would mean that nothing was written down.
                remaining_ttl: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            };
            let checkpoints = leases.iter().map(checkpoint).collect();
            let command = Command::LeaseCheckpoint(pb::LeaseCheckpointRequest { checkpoints });
            if let Err(error) = self.node.propose_in_term(command, term).await {
                tracing::warn!(%error, "remaining times of leases are not written down");
                return;
            }
        }
    }

    async fn revoke_due(&self, term: u64) {
        let due = {
            let mut deadlines = self.node.state().deadlines();
            deadlines.due(self.now(), REVOKE_BATCH)
        };
        futures::future::join_all(due.into_iter().map(|id| self.revoke(id, term))).await;
    }

    async fn revoke(&self, id: LeaseId, term: u64) {
        let revoke = Command::LeaseRevoke(pb::LeaseRevokeRequest { id: id.0 });
        match self.node.propose_in_term(revoke, term).await {
            Ok(Response::Rejected(Rejection::LeaseNotFound)) => self.node.state().deadlines().remove(id),
            Ok(_) => tracing::debug!(lease = %id, "lease has run out"),
            // It is due again later.
            Err(error) => tracing::warn!(lease = %id, %error, "a lease that has run out cannot be revoked yet"),
        }
    }

    /// Renews a lease and returns its TTL; none if there is no such lease (any more).
    pub async fn renew(&self, id: LeaseId) -> Result<Option<i64>, KeepError> {
        loop {
            if let Some(term) = self.arm() {
                match self.renew_in(id, term).await {
                    // It led when it began.
                    Err(KeepError::Propose(ProposeError::NoLeader)) => {}
                    result => return result,
                }
            }
            match self.node.ask_leader(Request::Renew(id.0)).await {
                Some(Answer::Renewed { ttl }) => return Ok(ttl),
                // This member has come to lead.
                Some(Answer::Failed(Failure::NotLeader(_))) => {}
                Some(Answer::Failed(failure)) => return Err(KeepError::Propose(failure.into())),
                _ => return Err(KeepError::Read(ReadError::Timeout)),
            }
        }
    }

    async fn renew_in(&self, id: LeaseId, term: u64) -> Result<Option<i64>, KeepError> {
        let _shared = self.renewing.read().await;
        // This member leads, and knows every lease that was granted before the keep-alive came.
        self.node.read_index().await?;
        if self.arm() != Some(term) {
            return Err(KeepError::Propose(ProposeError::NoLeader));
        }
        let state = self.node.state();
        let Some((ttl, checkpointed)) =
            state.read(|mvcc, _| mvcc.leases.get(id).map(|lease| (lease.ttl_seconds, lease.remaining_seconds > 0)))
        else {
            return Ok(None);
        };
        if checkpointed {
            let checkpoint = pb::LeaseCheckpoint { id: id.0, remaining_ttl: 0 };
            let request = pb::LeaseCheckpointRequest { checkpoints: vec![checkpoint] };
            self.node.propose_in_term(Command::LeaseCheckpoint(request), term).await?;
        }
        if self.extend(id, ttl) {
            // Revoked meanwhile: the deadline just set goes when it is due.
            let exists = state.read(|mvcc, _| mvcc.leases.get(id).is_some());
            return Ok(exists.then_some(ttl));
        }
        // It has run out, and its end may be on its way through the log: see it through before saying so.
        self.node.propose_in_term(Command::LeaseRevoke(pb::LeaseRevokeRequest { id: id.0 }), term).await?;
        Ok(None)
    }

    /// Moves the deadline, unless it has passed. The clock is read under the lock, so a renewal is either before the keeper
    /// finds the lease due or refused.
    fn extend(&self, id: LeaseId, ttl: i64) -> bool {
        let mut deadlines = self.node.state().deadlines();
        let now = self.now();
        if deadlines.get(id).is_some_and(|deadline| deadline <= now) {
            return false;
        }
        deadlines.set(id, now + duration(ttl));
        true
    }

    /// What a lease has left; none if there is no such lease.
    pub async fn time_to_live(&self, id: LeaseId, keys: bool) -> Result<Option<TimeToLive>, KeepError> {
        loop {
            if self.arm().is_some() {
                self.node.read_index().await?;
                return Ok(self.time_left(id, keys));
            }
            match self.node.ask_leader(Request::TimeToLive { id: id.0, keys }).await {
                Some(Answer::TimeToLive(left)) => return Ok(left),
                Some(Answer::Failed(Failure::NotLeader(_))) => {}
                _ => return Err(KeepError::Read(ReadError::Timeout)),
            }
        }
    }

    fn time_left(&self, id: LeaseId, keys: bool) -> Option<TimeToLive> {
        let state = self.node.state();
        let lease = state.read(|mvcc, _| mvcc.leases.get(id).cloned())?;
        let deadline = state.deadlines().get(id);
        let remaining = deadline.map_or(lease.time_to_live(), |deadline| whole_seconds(deadline, self.now()));
        Some(TimeToLive {
            remaining_seconds: remaining,
            granted_seconds: lease.ttl_seconds,
            keys: if keys { lease.keys.into_iter().collect() } else { Vec::new() },
        })
    }
}

impl LeaseService for Keeper {
    fn renew_here(&self, id: i64) -> BoxFuture<'_, Answer> {
        Box::pin(async move {
            let Some(term) = self.arm() else { return Answer::Failed(Failure::NotLeader(None)) };
            match self.renew_in(LeaseId(id), term).await {
                Ok(ttl) => Answer::Renewed { ttl },
                Err(error) => Answer::Failed(error.into()),
            }
        })
    }

    fn time_to_live_here(&self, id: i64, keys: bool) -> BoxFuture<'_, Answer> {
        Box::pin(async move {
            match self.node.read_index().await {
                Ok(()) => Answer::TimeToLive(self.time_left(LeaseId(id), keys)),
                Err(error) => Answer::Failed(error.into()),
            }
        })
    }
}

impl From<KeepError> for Failure {
    fn from(error: KeepError) -> Self {
        match error {
            KeepError::Read(error) => error.into(),
            KeepError::Propose(error) => error.into(),
        }
    }
}

/// Negative only where a lease never is: TTLs are bounded when they are granted.
fn duration(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Towards zero, as etcd rounds; below zero while a revocation is on its way.
fn whole_seconds(deadline: Duration, now: Duration) -> i64 {
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    seconds(deadline.saturating_sub(now)) - seconds(now.saturating_sub(deadline))
}
