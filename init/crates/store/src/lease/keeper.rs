//! The leader's care for leases: it knows when each runs out, renews, and proposes the revocation of those that did. Other members
//! ask it.
//!
//! Deadlines belong to a term of leadership. A member that lost it and found it again starts them anew, since another leader may have renewed
//! leases meanwhile, and what it proposes because a lease has run out is only good for the term in which it saw that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keelson_etcd_api::etcdserverpb as pb;

use super::countdown::Countdown;
use super::{Lease, LeaseId, LeaseService};
use crate::command::Command;
use crate::node::{Node, ProposeError, ReadError};
use crate::peer::{Answer, BoxFuture, Failure, Request};
use crate::state::{Keys, Rejection, Response, State};

pub use crate::peer::TimeToLive;

/// Revocations proposed at once. Each is a log entry; a thousand leases that end together are a few batches.
const REVOKE_BATCH: usize = 128;
/// How soon leadership is looked at again while it changes.
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
    countdown: Countdown,
    checkpoints: bool,
    /// Renewals share it, a checkpoint has it alone: one that was overtaken by a renewal would take back what that promised.
    renewing: tokio::sync::RwLock<()>,
    expired: AtomicU64,
    renewed: AtomicU64,
}

impl Keeper {
    pub fn new(node: Arc<Node<State>>, election_timeout: Duration, checkpoints: bool) -> Self {
        let countdown = Countdown::new(node.state().clone(), election_timeout);
        Self {
            node,
            countdown,
            checkpoints,
            renewing: tokio::sync::RwLock::default(),
            expired: AtomicU64::new(0),
            renewed: AtomicU64::new(0),
        }
    }

    /// Leases that have run out and been renewed under this member's care, since the start.
    pub fn expired_and_renewed(&self) -> (u64, u64) {
        (self.expired.load(Ordering::Relaxed), self.renewed.load(Ordering::Relaxed))
    }

    /// Watches deadlines, for ever.
    pub async fn run(&self) {
        let mut checkpointed = self.countdown.now();
        let mut leadership = self.node.leadership();
        loop {
            let leads_in = self.arm();
            self.countdown.begin_granted();
            if let Some(term) = leads_in {
                self.revoke_due(term).await;
                if self.checkpoints && self.countdown.now().saturating_sub(checkpointed) >= CHECKPOINT_INTERVAL {
                    self.checkpoint(term).await;
                    checkpointed = self.countdown.now();
                }
            }
            let next = self.node.state().deadlines().next().unwrap_or(Duration::MAX);
            let mut wait = next.saturating_sub(self.countdown.now());
            if leads_in != leadership.leads_in() {
                wait = wait.min(POLL);
            } else if self.checkpoints && leads_in.is_some() {
                wait = wait.min((checkpointed + CHECKPOINT_INTERVAL).saturating_sub(self.countdown.now()));
            }
            // Each reason to look again is as good as the others.
            tokio::select! {
                () = leadership.changed() => {}
                _ = tokio::time::timeout(wait, self.node.state().lease_granted()) => {}
            }
        }
    }

    /// The term in which this member leads, with deadlines of that term; none if it does not.
    fn arm(&self) -> Option<u64> {
        self.countdown.arm(|| self.node.leads_in())
    }

    /// Writes down what leases have left, for whoever leads next. A short one is not worth it.
    async fn checkpoint(&self, term: u64) {
        let _alone = self.renewing.write().await;
        let remaining = self.node.state().deadlines().remaining(self.countdown.now(), CHECKPOINT_INTERVAL);
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
            deadlines.due(self.countdown.now(), REVOKE_BATCH)
        };
        futures::future::join_all(due.into_iter().map(|id| self.revoke(id, term))).await;
    }

    async fn revoke(&self, id: LeaseId, term: u64) {
        let Some(keys) = self.node.state().lease_keys(id) else {
            // Somebody else has revoked it.
            return self.node.state().deadlines().remove(id);
        };
        match self.node.propose_in_term(revocation(id, keys), term).await {
            Ok(Response::Rejected(Rejection::LeaseNotFound)) => self.node.state().deadlines().remove(id),
            Ok(_) => {
                self.expired.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(lease = %id, "lease has run out");
            }
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
            match self.node.ask_leader(Request::Renew(id.0)).await? {
                Answer::Renewed { ttl } => return Ok(ttl),
                // This member has come to lead.
                Answer::Failed(Failure::NotLeader(_)) => {}
                Answer::Failed(failure) => return Err(KeepError::Propose(failure.into())),
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
        let facts = |lease: &Lease| (lease.ttl_seconds, lease.remaining_seconds > 0);
        let Some((keys, (ttl, checkpointed))) = state.lease(id, facts) else {
            return Ok(None);
        };
        if checkpointed {
            let checkpoint = pb::LeaseCheckpoint { id: id.0, remaining_ttl: 0 };
            let request = pb::LeaseCheckpointRequest { checkpoints: vec![checkpoint] };
            self.node.propose_in_term(Command::LeaseCheckpoint(request), term).await?;
        }
        if self.countdown.extend(id, ttl) {
            self.renewed.fetch_add(1, Ordering::Relaxed);
            // Revoked meanwhile: the deadline just set goes when it is due.
            return Ok(state.lease_keys(id).map(|_| ttl));
        }
        // It has run out, and its end may be on its way through the log: see it through before saying so.
        self.node.propose_in_term(revocation(id, keys), term).await?;
        Ok(None)
    }

    /// What a lease has left; none if there is no such lease.
    pub async fn time_to_live(&self, id: LeaseId, keys: bool) -> Result<Option<TimeToLive>, KeepError> {
        loop {
            if self.arm().is_some() {
                self.node.read_index().await?;
                return Ok(self.time_left(id, keys));
            }
            match self.node.ask_leader(Request::TimeToLive { id: id.0, keys }).await? {
                Answer::TimeToLive(left) => return Ok(left),
                Answer::Failed(Failure::NotLeader(_)) => {}
                _ => return Err(KeepError::Read(ReadError::Timeout)),
            }
        }
    }

    fn time_left(&self, id: LeaseId, keys: bool) -> Option<TimeToLive> {
        let state = self.node.state();
        let (_, lease) = state.lease(id, Lease::clone)?;
        let deadline = state.deadlines().get(id);
        let remaining = deadline.map_or(lease.time_to_live(), |deadline| self.countdown.seconds_until(deadline));
        Some(TimeToLive {
            remaining_seconds: remaining,
            granted_seconds: lease.ttl_seconds,
            keys: if keys { lease.keys.into_iter().collect() } else { Vec::new() },
        })
    }
}

fn revocation(id: LeaseId, keys: Keys) -> Command {
    Command::LeaseRevoke(pb::LeaseRevokeRequest { id: id.0 }).on(keys)
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
