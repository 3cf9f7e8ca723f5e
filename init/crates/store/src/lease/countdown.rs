//! The deadlines of one term of leadership.
//!
//! While this member leads, every lease that was granted has a deadline; while it does not, none has. Two things move that: leadership comes
//! and goes, and leases are granted. They are put in order by one lock, or a lease that is granted while leadership comes has no end.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::LeaseId;
use crate::state::State;

#[derive(Debug)]
pub struct Countdown {
    state: State,
    /// Where this member's deadlines count from.
    origin: Instant,
    /// What a new leader adds to every lease: an old one may have answered keep-alives until it was replaced.
    grace: Duration,
    /// The term that the deadlines are of.
    term: Mutex<Option<u64>>,
}

impl Countdown {
    pub fn new(state: State, grace: Duration) -> Self {
        Self { state, origin: Instant::now(), grace, term: Mutex::default() }
    }

    pub fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Whole seconds until `deadline`, towards zero, as etcd rounds; below zero while a revocation is on its way.
    pub fn seconds_until(&self, deadline: Duration) -> i64 {
        let now = self.now();
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        seconds(deadline.saturating_sub(now)) - seconds(now.saturating_sub(deadline))
    }

    /// Starts deadlines anew if the term in which this member leads, told by `leads_in`, is another than theirs. Returns that term.
    pub fn arm(&self, leads_in: impl FnOnce() -> Option<u64>) -> Option<u64> {
        let mut term = self.lock();
        // Not before the lock is held: what was true earlier must not replace what another caller has seen since.
        let leads_in = leads_in();
        if *term != leads_in {
            *term = leads_in;
            self.start_anew(leads_in.is_some());
        }
        leads_in
    }

    fn start_anew(&self, leads: bool) {
        let leases = self.state.lease_times();
        let mut deadlines = self.state.deadlines();
        deadlines.clear();
        if leads {
            let now = self.now();
            for (id, seconds) in leases {
                deadlines.set(id, now + self.grace + duration(seconds));
            }
        }
    }

    /// Gives leases that were granted since the last call a deadline, if this member leads. Whoever comes to lead gives one to all.
    pub fn begin_granted(&self) {
        let term = self.lock();
        let granted = self.state.take_granted_leases();
        if term.is_none() {
            return;
        }
        for id in granted {
            if let Some((_, ttl)) = self.state.lease(id, |lease| lease.ttl_seconds) {
                self.state.deadlines().set_if_later(id, self.now() + duration(ttl));
            }
        }
    }

    /// Moves the deadline to `ttl` seconds from now, unless it has passed. The clock is read under the lock, so a renewal is either before
    /// the lease is found due or refused.
    pub fn extend(&self, id: LeaseId, ttl: i64) -> bool {
        let mut deadlines = self.state.deadlines();
        let now = self.now();
        if deadlines.get(id).is_some_and(|deadline| deadline <= now) {
            return false;
        }
        deadlines.set(id, now + duration(ttl));
        true
    }

    fn lock(&self) -> MutexGuard<'_, Option<u64>> {
        self.term.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Negative only where a lease never is: TTLs are bounded when they are granted.
fn duration(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use keelson_etcd_api::etcdserverpb as pb;

    use super::*;
    use crate::command::Command;
    use crate::state::{Committed, Replicated};

    const GRACE: Duration = Duration::from_secs(1);

    fn grant(state: &State, index: u64, id: i64) {
        let command = Arc::new(Command::LeaseGrant(pb::LeaseGrantRequest { id, ttl: 60 }));
        state.apply(&[Committed { index, term: 1, command }]);
    }

    fn deadline(countdown: &Countdown, id: i64) -> Option<Duration> {
        countdown.state.deadlines().get(LeaseId(id))
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_granted_while_leadership_comes_has_a_deadline() {
        let countdown = Countdown::new(State::default(), GRACE);
        grant(&countdown.state, 1, 1);
        // The keeper has looked, and found that this member does not lead. Then a keep-alive finds that it does, and a lease is granted.
        assert_eq!(countdown.arm(|| None), None);
        assert_eq!(countdown.arm(|| Some(5)), Some(5));
        grant(&countdown.state, 2, 2);
        // Now the keeper goes on.
        countdown.begin_granted();
        assert_eq!(deadline(&countdown, 1), Some(GRACE + Duration::from_mins(1)));
        assert_eq!(deadline(&countdown, 2), Some(Duration::from_mins(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn deadlines_end_with_the_term_and_start_anew_with_the_next() {
        let countdown = Countdown::new(State::default(), GRACE);
        countdown.arm(|| Some(5));
        grant(&countdown.state, 1, 1);
        countdown.begin_granted();
        assert!(countdown.extend(LeaseId(1), 60));
        countdown.arm(|| None);
        assert_eq!(deadline(&countdown, 1), None);
        grant(&countdown.state, 2, 2);
        countdown.begin_granted();
        assert_eq!(deadline(&countdown, 2), None, "only a leader knows one");
        tokio::time::advance(Duration::from_secs(30)).await;
        countdown.arm(|| Some(6));
        for id in [1, 2] {
            assert_eq!(deadline(&countdown, id), Some(Duration::from_secs(90) + GRACE));
        }
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(!countdown.extend(LeaseId(1), 60), "it has run out");
        assert_eq!(countdown.seconds_until(Duration::from_secs(89)), -2);
    }
}
