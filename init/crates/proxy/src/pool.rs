//! The API servers that there are, and what is known of each.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keelson_pki::TrustAnchors;
use tokio::sync::watch;

use crate::balance::{self, Candidate};
use crate::feed::{EndpointStatus, Set, SetError, Status};
use crate::health::{Finding, Health, State, Verdict};
use crate::{kept, probe, server};

/// One API server.
#[derive(Debug)]
pub struct Target {
    pub address: SocketAddr,
    pub local: bool,
    known: Mutex<Known>,
    /// Grows each time its connections are to be reset.
    resets: watch::Sender<u64>,
    /// Its connections are to be reset as soon as there is a better server for them.
    reset_due: AtomicBool,
    pub connections: AtomicU64,
    pub connections_total: AtomicU64,
    pub bytes_up: AtomicU64,
    pub bytes_down: AtomicU64,
    evictions: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    health: Health,
    reason: String,
    round_trip: Option<Duration>,
}

/// The last answers' weight in the smoothed round trip: one in so many.
const SMOOTHING: u32 = 4;

impl Target {
    fn new(address: SocketAddr, local: bool) -> Self {
        Self {
            address,
            local,
            known: Mutex::default(),
            resets: watch::Sender::new(0),
            reset_due: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            connections_total: AtomicU64::new(0),
            bytes_up: AtomicU64::new(0),
            bytes_down: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
        }
    }

    /// Changes when the present connections are to be reset.
    pub fn resets(&self) -> watch::Receiver<u64> {
        self.resets.subscribe()
    }

    pub fn state(&self) -> State {
        lock(&self.known).health.state()
    }

    pub fn round_trip(&self) -> Option<Duration> {
        lock(&self.known).round_trip
    }

    pub(crate) fn answered_after(&self, round_trip: Duration) {
        let mut known = lock(&self.known);
        known.round_trip = Some(match known.round_trip {
            Some(smoothed) => (smoothed * (SMOOTHING - 1) + round_trip) / SMOOTHING,
            None => round_trip,
        });
    }

    /// Takes in what a probe found.
    fn take(&self, finding: Finding, reason: String, elapsed: Duration) {
        let mut known = lock(&self.known);
        let verdict = known.health.take(finding, elapsed);
        known.reason = reason;
        let words = match verdict {
            Verdict::Nothing => return,
            Verdict::Restored => format!("{} is ready", self.address),
            Verdict::Avoid => format!("{} is avoided: {}", self.address, known.reason),
            Verdict::Reset => format!("{} is given up: {}", self.address, known.reason),
        };
        drop(known);
        server::say(&words);
        if matches!(verdict, Verdict::Avoid | Verdict::Reset) {
            self.evictions.fetch_add(1, Ordering::Relaxed);
        }
        match verdict {
            Verdict::Reset => self.reset_due.store(true, Ordering::Relaxed),
            Verdict::Restored => self.reset_due.store(false, Ordering::Relaxed),
            Verdict::Avoid | Verdict::Nothing => {}
        }
    }

    fn reset(&self) {
        self.resets.send_modify(|count| *count += 1);
    }

    fn status(&self) -> EndpointStatus {
        let known = lock(&self.known);
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EndpointStatus {
            address: self.address,
            local: self.local,
            state: known.health.state(),
            reason: known.reason.clone(),
            round_trip_milliseconds: known
                .round_trip
                .map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
            connections: load(&self.connections),
            connections_total: load(&self.connections_total),
            bytes_up: load(&self.bytes_up),
            bytes_down: load(&self.bytes_down),
            evictions: load(&self.evictions),
        }
    }
}

#[derive(Debug)]
pub struct Pool {
    targets: watch::Sender<Vec<Arc<Target>>>,
    authority: watch::Sender<Option<TrustAnchors>>,
    version: Mutex<u64>,
    turn: AtomicUsize,
    pub waiting: AtomicU64,
    kept: PathBuf,
    drain: Duration,
}

impl Pool {
    pub fn new(kept: PathBuf, drain: Duration) -> Self {
        Self {
            targets: watch::Sender::new(Vec::new()),
            authority: watch::Sender::new(None),
            version: Mutex::new(0),
            turn: AtomicUsize::new(0),
            waiting: AtomicU64::new(0),
            kept,
            drain,
        }
    }

    /// Begins with what was kept. A file that is not there or damaged is no fault: the feed will tell.
    pub fn remember(self: &Arc<Self>) {
        match kept::read(&self.kept) {
            Ok(Some(set)) => match set.authority() {
                Ok(authority) => drop(self.take_over(&set, authority)),
                Err(error) => server::say_error(&error),
            },
            Ok(None) => {}
            Err(error) => server::say_error(&error),
        }
    }

    /// Replaces the set. Servers that stay keep their connections and what is known of them.
    pub fn apply(self: &Arc<Self>, set: &Set) -> Result<(), SetError> {
        set.check()?;
        let authority = set.authority()?;
        {
            let mut applied = lock(&self.version);
            if set.version < *applied {
                return Err(SetError::Old { version: set.version, applied: *applied });
            }
            *applied = set.version;
        }
        if self.take_over(set, authority)
            && let Err(error) = kept::write(&self.kept, set)
        {
            server::say_error(&error);
        }
        Ok(())
    }

    /// Says whether anything changed.
    fn take_over(self: &Arc<Self>, set: &Set, authority: TrustAnchors) -> bool {
        let news = self.authority.send_if_modified(|present| {
            let changed = present.as_ref() != Some(&authority);
            *present = Some(authority);
            changed
        });
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        self.targets.send_if_modified(|targets| {
            let mut next = Vec::with_capacity(set.endpoints.len());
            for endpoint in &set.endpoints {
                if next.iter().any(|target: &Arc<Target>| target.address == endpoint.address) {
                    continue;
                }
                let same = |target: &&Arc<Target>| target.address == endpoint.address && target.local == endpoint.local;
                next.push(targets.iter().find(same).cloned().unwrap_or_else(|| {
                    let target = Arc::new(Target::new(endpoint.address, endpoint.local));
                    added.push(Arc::clone(&target));
                    target
                }));
            }
            let stays = |target: &Arc<Target>| next.iter().any(|other| Arc::ptr_eq(other, target));
            removed.extend(targets.iter().filter(|target| !stays(target)).cloned());
            *targets = next;
            !added.is_empty() || !removed.is_empty()
        });
        let changed = news || !added.is_empty() || !removed.is_empty();
        for target in added {
            server::say(&format!("{} is an API server of the cluster", target.address));
            tokio::spawn(probe::run(Arc::clone(self), target));
        }
        for target in removed {
            server::say(&format!("{} is no API server of the cluster any more", target.address));
            let drain = self.drain;
            tokio::spawn(async move {
                tokio::time::sleep(drain).await;
                target.reset();
            });
        }
        changed
    }

    pub fn targets(&self) -> watch::Receiver<Vec<Arc<Target>>> {
        self.targets.subscribe()
    }

    pub fn authority(&self) -> watch::Receiver<Option<TrustAnchors>> {
        self.authority.subscribe()
    }

    /// Takes in what a probe of `target` found, and does what follows from it for all.
    ///
    /// Connections are reset only while a ready server is there to take them: a server that is merely slow would otherwise be
    /// buried under all the connections and lists that come back to it. One that is really gone is noticed by the kernel
    /// ([`crate::sockets`]).
    pub(crate) fn take(&self, target: &Target, finding: Finding, reason: String, elapsed: Duration) {
        target.take(finding, reason, elapsed);
        let targets = self.targets.borrow().clone();
        if targets.iter().any(|target| target.state() == State::Ready) {
            for target in targets.iter().filter(|target| target.reset_due.swap(false, Ordering::Relaxed)) {
                target.reset();
            }
        }
    }

    /// The servers in the order to try for the next connection.
    pub fn order(&self) -> Vec<Arc<Target>> {
        let targets = self.targets.borrow().clone();
        let candidate = |target: &Arc<Target>| Candidate {
            state: target.state(),
            local: target.local,
            connections: target.connections.load(Ordering::Relaxed),
        };
        let candidates: Vec<_> = targets.iter().map(candidate).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        balance::order(&candidates, turn).into_iter().filter_map(|index| targets.get(index).cloned()).collect()
    }

    pub fn status(&self) -> Status {
        Status {
            version: *lock(&self.version),
            waiting: self.waiting.load(Ordering::Relaxed),
            endpoints: self.targets.borrow().iter().map(|target| target.status()).collect(),
        }
    }
}

/// Each change under these locks is complete in itself, so a panic elsewhere leaves them whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(addresses: [&str; 2]) -> (Pool, Vec<Arc<Target>>) {
        let pool = Pool::new(PathBuf::new(), Duration::ZERO);
        let targets: Vec<_> =
            addresses.iter().map(|address| Arc::new(Target::new(address.parse().unwrap(), false))).collect();
        pool.targets.send_replace(targets.clone());
        (pool, targets)
    }

    fn take(pool: &Pool, target: &Target, findings: &[Finding]) {
        for finding in findings {
            pool.take(target, *finding, String::new(), Duration::from_millis(500));
        }
    }

    #[test]
    fn a_dead_servers_connections_are_reset_once_another_is_ready_to_take_them() {
        let (pool, targets) = pool(["10.0.0.1:6443", "10.0.0.2:6443"]);
        let resets = targets[0].resets();
        take(&pool, &targets[0], &[Finding::Ready, Finding::Unreachable, Finding::Unreachable]);
        assert_eq!((targets[0].state(), *resets.borrow()), (State::Dead, 0), "nobody is better");
        take(&pool, &targets[1], &[Finding::Ready]);
        assert_eq!(*resets.borrow(), 1);
        take(&pool, &targets[1], &[Finding::Ready, Finding::Ready]);
        assert_eq!(*resets.borrow(), 1, "once");
    }

    #[test]
    fn a_server_that_came_back_keeps_its_connections() {
        let (pool, targets) = pool(["10.0.0.1:6443", "10.0.0.2:6443"]);
        let resets = targets[0].resets();
        take(&pool, &targets[0], &[Finding::Ready, Finding::Unreachable, Finding::Unreachable]);
        take(&pool, &targets[0], &[Finding::Ready; 3]);
        take(&pool, &targets[1], &[Finding::Ready]);
        assert_eq!(*resets.borrow(), 0);
    }
}
