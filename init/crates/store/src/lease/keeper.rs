//! The leader's care for leases: it knows when each runs out, renews, and proposes the revocation of those that did.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keelson_etcd_api::etcdserverpb as pb;

use super::LeaseId;
use crate::command::Command;
use crate::node::{Node, ProposeError, ReadError};
use crate::state::{Rejection, Response, State};

/// Revocations proposed at once. Each is a log entry; a thousand leases that end together are a few batches.
const REVOKE_BATCH: usize = 128;
/// How often leadership is looked at when no lease is due.
const POLL: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    #[error("leadership is not certain")]
    Read(#[from] ReadError),
    #[error("a change of the lease was not accepted")]
    Propose(#[from] ProposeError),
}

/// What a lease has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeToLive {
    pub remaining_seconds: i64,
    pub granted_seconds: i64,
    pub keys: Vec<bytes::Bytes>,
}

#[derive(Debug)]
pub struct Keeper {
    node: Arc<Node<State>>,
    /// Where this member's deadlines count from.
    origin: Instant,
    /// What a new leader adds to every lease: an old one may have answered keep-alives until it was replaced.
    grace: Duration,
}

impl Keeper {
    pub fn new(node: Arc<Node<State>>, election_timeout: Duration) -> Self {
        Self { node, origin: Instant::now(), grace: election_timeout }
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Watches deadlines, for ever.
    pub async fn run(&self) {
        let mut leads = false;
        loop {
            let status = self.node.status();
            if status.is_leader != leads {
                leads = status.is_leader;
                self.take_over(leads);
            }
            if leads {
                self.begin_granted();
                self.revoke_due().await;
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

    async fn revoke_due(&self) {
        let due = {
            let mut deadlines = self.node.state().deadlines();
            deadlines.due(self.now(), REVOKE_BATCH)
        };
        futures::future::join_all(due.into_iter().map(|id| self.revoke(id))).await;
    }

    async fn revoke(&self, id: LeaseId) {
        match self.node.propose(Command::LeaseRevoke(pb::LeaseRevokeRequest { id: id.0 })).await {
            Ok(Response::Rejected(Rejection::LeaseNotFound)) => self.node.state().deadlines().remove(id),
            Ok(_) => tracing::debug!(lease = %id, "lease has run out"),
            // It is due again later.
            Err(error) => tracing::warn!(lease = %id, %error, "a lease that has run out cannot be revoked yet"),
        }
    }

    /// Renews a lease and returns its TTL; none if there is no such lease (any more).
    pub async fn renew(&self, id: LeaseId) -> Result<Option<i64>, KeepError> {
        // This member leads, and knows every lease that was granted before the keep-alive came.
        self.node.read_index().await?;
        let state = self.node.state();
        let Some((ttl, checkpointed)) =
            state.read(|mvcc, _| mvcc.leases.get(id).map(|lease| (lease.ttl_seconds, lease.remaining_seconds > 0)))
        else {
            return Ok(None);
        };
        if checkpointed {
            let checkpoint = pb::LeaseCheckpoint { id: id.0, remaining_ttl: 0 };
            let request = pb::LeaseCheckpointRequest { checkpoints: vec![checkpoint] };
            self.node.propose(Command::LeaseCheckpoint(request)).await?;
        }
        if self.extend(id, ttl) {
            // Revoked meanwhile: the deadline just set goes when it is due.
            let exists = state.read(|mvcc, _| mvcc.leases.get(id).is_some());
            return Ok(exists.then_some(ttl));
        }
        // It has run out, and its end may be on its way through the log: see it through before saying so.
        self.node.propose(Command::LeaseRevoke(pb::LeaseRevokeRequest { id: id.0 })).await?;
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
        self.node.read_index().await?;
        let state = self.node.state();
        let lease = state.read(|mvcc, _| mvcc.leases.get(id).cloned());
        let Some(lease) = lease else { return Ok(None) };
        let deadline = state.deadlines().get(id);
        let remaining = deadline.map_or(lease.time_to_live(), |deadline| whole_seconds(deadline, self.now()));
        Ok(Some(TimeToLive {
            remaining_seconds: remaining,
            granted_seconds: lease.ttl_seconds,
            keys: if keys { lease.keys.into_iter().collect() } else { Vec::new() },
        }))
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
