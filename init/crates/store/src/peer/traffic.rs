//! What is exchanged with each of the other members, counted for whoever watches a cluster.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::{Lane, Request};
use crate::histogram::Histogram;
use crate::member::MemberId;

/// etcd's buckets of round trips: from a tenth of a millisecond, doubling.
const SHORTEST_ROUND_TRIP: Duration = Duration::from_micros(100);
const ROUND_TRIP_BUCKETS: u32 = 16;

/// Of one member, on all connections with it, whoever made them.
#[derive(Debug)]
pub struct Counters {
    pub sent_bytes: AtomicU64,
    pub received_bytes: AtomicU64,
    /// Requests to it that were not sent, or not answered.
    pub failures: AtomicU64,
    /// Heartbeats among them.
    pub heartbeat_failures: AtomicU64,
    /// Connections to it.
    pub connections: AtomicU64,
    /// Those of them that have ended.
    pub disconnects: AtomicU64,
    /// From a heartbeat to its answer.
    pub round_trips: Histogram,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            heartbeat_failures: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            disconnects: AtomicU64::new(0),
            round_trips: Histogram::doubling(SHORTEST_ROUND_TRIP, ROUND_TRIP_BUCKETS),
        }
    }
}

impl Counters {
    pub(super) fn sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn disconnected(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
        self.disconnects.fetch_add(1, Ordering::Relaxed);
    }
}

/// By member. There is an entry for each one that the cluster has, and for nobody else.
#[derive(Debug, Default)]
pub struct Traffic(RwLock<BTreeMap<MemberId, Arc<Counters>>>);

impl Traffic {
    pub fn of(&self, member: MemberId) -> Option<Arc<Counters>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&member).cloned()
    }

    pub fn all(&self) -> BTreeMap<MemberId, Arc<Counters>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_members(&self, members: impl Iterator<Item = MemberId>) {
        let mut counters = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut old = std::mem::take(&mut *counters);
        *counters = members.map(|id| (id, old.remove(&id).unwrap_or_default())).collect();
    }
}

/// A request on its way. What consensus must not wait for it gives up itself, so that such a one which is dropped has failed too; a client
/// that went away is no failure.
#[derive(Debug)]
pub(super) struct Attempt {
    counters: Option<Arc<Counters>>,
    began: Instant,
    is_heartbeat: bool,
    counts_if_dropped: bool,
}

impl Attempt {
    pub(super) fn new(counters: Option<Arc<Counters>>, lane: Lane, request: &Request) -> Self {
        let is_control = lane == Lane::Control;
        let is_heartbeat = is_control && matches!(request, Request::Append(_));
        Self { counters, began: Instant::now(), is_heartbeat, counts_if_dropped: is_control }
    }

    pub(super) fn answered(mut self) {
        if let Some(counters) = self.counters.take().filter(|_| self.is_heartbeat) {
            counters.round_trips.observe(self.began.elapsed());
        }
    }

    pub(super) fn failed(mut self) {
        self.counts_if_dropped = true;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let Some(counters) = self.counters.as_ref().filter(|_| self.counts_if_dropped) else { return };
        counters.failures.fetch_add(1, Ordering::Relaxed);
        counters.heartbeat_failures.fetch_add(u64::from(self.is_heartbeat), Ordering::Relaxed);
    }
}
