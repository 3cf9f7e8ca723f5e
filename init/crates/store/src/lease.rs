//! Leases: keys that go when nobody asks for them to stay.
//!
//! Two halves, because only one of them may be replicated:
//! - [`Leases`] is part of the state: ids, TTLs and attached keys, changed by `apply` alone, the same on every member.
//! - [`deadlines::Deadlines`] is the leader's own: when each lease runs out on its monotonic clock. It is not replicated,
//!   since a keep-alive a second per lease would be a log entry a second per lease. [`keeper`] proposes a revocation when
//!   a deadline has passed, so keys still go by an entry of the log.
//!
//! What is promised: a lease never ends before any acknowledged keep-alive allows. Therefore the leader confirms that it
//! leads before it answers one, a new leader (or a restarted single member) gives every lease its full remaining time from
//! then on, and a lease whose remaining time was checkpointed has that cleared in the log before a renewal is answered.
//! A lease may live longer than its TTL by that; etcd does the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;

use crate::peer::{Answer, BoxFuture};
use crate::state::{Row, Table};

pub mod countdown;
pub mod deadlines;
pub mod keeper;

/// What the leader answers for other members, which know nothing of deadlines.
pub trait LeaseService: Send + Sync + fmt::Debug + 'static {
    fn renew_here(&self, id: i64) -> BoxFuture<'_, Answer>;
    fn time_to_live_here(&self, id: i64, keys: bool) -> BoxFuture<'_, Answer>;
}

/// etcd's bound: nine thousand million seconds.
pub const MAX_TTL_SECONDS: i64 = 9_000_000_000;

/// Never 0, which in requests means no lease, or that the server shall choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub ttl_seconds: i64,
    /// Checkpointed by a leader for its successors; 0 if it was not.
    pub remaining_seconds: i64,
    pub keys: BTreeSet<Bytes>,
}

impl Lease {
    /// What a leader that knows nothing newer gives the lease.
    pub fn time_to_live(&self) -> i64 {
        if self.remaining_seconds > 0 { self.remaining_seconds } else { self.ttl_seconds }
    }
}

/// The replicated half.
#[derive(Debug, Default)]
pub struct Leases {
    by_id: BTreeMap<LeaseId, Lease>,
    /// Changed since the last checkpoint. Attached keys are not counted: rows tell them.
    changed: BTreeSet<LeaseId>,
    /// Granted, or given all of its time again, and not yet given a deadline.
    granted: Vec<LeaseId>,
}

impl Leases {
    pub fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.by_id.get(&id)
    }

    pub fn ids(&self) -> impl ExactSizeIterator<Item = LeaseId> {
        self.by_id.keys().copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = (LeaseId, &Lease)> {
        self.by_id.iter().map(|(id, lease)| (*id, lease))
    }

    /// False if there is such a lease already.
    pub fn grant(&mut self, id: LeaseId, ttl_seconds: i64) -> bool {
        if self.by_id.contains_key(&id) {
            return false;
        }
        self.by_id.insert(id, Lease { ttl_seconds, remaining_seconds: 0, keys: BTreeSet::new() });
        self.changed.insert(id);
        self.granted.push(id);
        true
    }

    /// Takes the lease out; what becomes of its keys is the caller's to do.
    pub fn revoke(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.by_id.remove(&id)?;
        self.changed.insert(id);
        Some(lease)
    }

    pub fn checkpoint(&mut self, id: LeaseId, remaining_seconds: i64) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            // It was renewed, and a leader may have given it what was left before it came to know that.
            if remaining_seconds == 0 && lease.remaining_seconds > 0 {
                self.granted.push(id);
            }
            lease.remaining_seconds = remaining_seconds;
            self.changed.insert(id);
        }
    }

    pub fn attach(&mut self, id: LeaseId, key: &[u8]) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.keys.insert(Bytes::copy_from_slice(key));
        }
    }

    pub fn detach(&mut self, id: LeaseId, key: &[u8]) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    /// Leases that were granted, or given all of their time again, since the last call.
    pub fn take_granted(&mut self) -> Vec<LeaseId> {
        std::mem::take(&mut self.granted)
    }

    /// Ids whose record changed since the last call, each with the record if the lease still is.
    pub fn take_changed(&mut self) -> Vec<(LeaseId, Option<[u8; RECORD_LENGTH]>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|id| (id, self.by_id.get(&id).map(encode))).collect()
    }

    /// The records of all leases.
    pub fn records(&self) -> impl Iterator<Item = (LeaseId, [u8; RECORD_LENGTH])> {
        self.by_id.iter().map(|(id, lease)| (*id, encode(lease)))
    }

    /// Puts in a lease as a checkpoint had it.
    pub fn load(&mut self, key: &[u8], record: &[u8]) -> Option<()> {
        let id = LeaseId(i64::from_be_bytes(key.try_into().ok()?));
        self.by_id.insert(id, decode(record)?);
        Some(())
    }
}

/// The row that a checkpoint and a snapshot hold of a lease.
pub fn row(id: LeaseId, lease: &Lease) -> Row {
    Row {
        table: Table::Leases,
        key: Bytes::copy_from_slice(&id.0.to_be_bytes()),
        value: Bytes::copy_from_slice(&encode(lease)),
    }
}

/// A record on disk: a version byte (1), TTL and checkpointed remaining time in seconds, big endian.
pub const RECORD_LENGTH: usize = 17;
const RECORD_VERSION: u8 = 1;

fn encode(lease: &Lease) -> [u8; RECORD_LENGTH] {
    let mut record = [RECORD_VERSION; RECORD_LENGTH];
    let (ttl, remaining) = record.split_at_mut(9);
    if let Some(ttl) = ttl.get_mut(1..) {
        ttl.copy_from_slice(&lease.ttl_seconds.to_be_bytes());
    }
    remaining.copy_from_slice(&lease.remaining_seconds.to_be_bytes());
    record
}

fn decode(record: &[u8]) -> Option<Lease> {
    let (&RECORD_VERSION, rest) = record.split_first()? else { return None };
    let (ttl, remaining) = rest.split_at_checked(8)?;
    Some(Lease {
        ttl_seconds: i64::from_be_bytes(ttl.try_into().ok()?),
        remaining_seconds: i64::from_be_bytes(remaining.try_into().ok()?),
        keys: BTreeSet::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_granted_once_and_again_after_revocation() {
        let mut leases = Leases::default();
        assert!(leases.grant(LeaseId(7), 60));
        assert!(!leases.grant(LeaseId(7), 5));
        assert_eq!(leases.get(LeaseId(7)).unwrap().ttl_seconds, 60);
        leases.attach(LeaseId(7), b"a");
        assert_eq!(leases.revoke(LeaseId(7)).unwrap().keys.len(), 1);
        assert!(leases.revoke(LeaseId(7)).is_none());
        assert!(leases.grant(LeaseId(7), 5));
        assert!(leases.get(LeaseId(7)).unwrap().keys.is_empty());
    }

    #[test]
    fn changed_records_are_told_once_and_read_back() {
        let mut leases = Leases::default();
        leases.grant(LeaseId(1), 60);
        leases.grant(LeaseId(-2), MAX_TTL_SECONDS);
        leases.checkpoint(LeaseId(1), 30);
        leases.revoke(LeaseId(-2));
        let changed = leases.take_changed();
        assert_eq!(
            changed.iter().map(|(id, record)| (id.0, record.is_some())).collect::<Vec<_>>(),
            [(-2, false), (1, true)]
        );
        assert!(leases.take_changed().is_empty());

        let mut loaded = Leases::default();
        loaded.load(&1_i64.to_be_bytes(), &changed[1].1.unwrap()).unwrap();
        assert_eq!(loaded.get(LeaseId(1)), leases.get(LeaseId(1)));
        assert_eq!(loaded.get(LeaseId(1)).unwrap().time_to_live(), 30);
        assert!(loaded.take_changed().is_empty());
        assert!(loaded.load(&[1], &changed[1].1.unwrap()).is_none());
        assert!(loaded.load(&1_i64.to_be_bytes(), &[2; RECORD_LENGTH]).is_none());
        assert!(loaded.load(&1_i64.to_be_bytes(), &[]).is_none());
    }
}
