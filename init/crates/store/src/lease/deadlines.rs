//! When leases run out, on one member's monotonic clock. Pure: the time is an argument.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::LeaseId;

/// How long after a proposed revocation it is proposed again, if the lease still is. etcd's value.
const RETRY: Duration = Duration::from_secs(3);

/// Deadlines of the leases, as seen by the leader; empty on other members. Times are since any fixed point.
#[derive(Debug, Default)]
pub struct Deadlines {
    by_lease: HashMap<LeaseId, Entry>,
    queue: BTreeSet<(Duration, LeaseId)>,
}

#[derive(Debug)]
struct Entry {
    deadline: Duration,
    /// The place in the queue: the deadline, or later when a revocation is under way.
    wake: Duration,
}

impl Deadlines {
    /// Sets or moves a deadline.
    pub fn set(&mut self, id: LeaseId, deadline: Duration) {
        if let Some(old) = self.by_lease.insert(id, Entry { deadline, wake: deadline }) {
            self.queue.remove(&(old.wake, id));
        }
        self.queue.insert((deadline, id));
    }

    /// Sets a deadline unless there is a later one: a keep-alive may have come first. An earlier one is of a lease that had the same id.
    pub fn set_if_later(&mut self, id: LeaseId, deadline: Duration) {
        if self.get(id).is_none_or(|old| old < deadline) {
            self.set(id, deadline);
        }
    }

    pub fn remove(&mut self, id: LeaseId) {
        if let Some(entry) = self.by_lease.remove(&id) {
            self.queue.remove(&(entry.wake, id));
        }
    }

    pub fn clear(&mut self) {
        self.by_lease.clear();
        self.queue.clear();
    }

    pub fn get(&self, id: LeaseId) -> Option<Duration> {
        self.by_lease.get(&id).map(|entry| entry.deadline)
    }

    /// When to look again.
    pub fn next(&self) -> Option<Duration> {
        self.queue.first().map(|(wake, _)| *wake)
    }

    /// Leases that have longer than `longer_than` left, each with how long, by id.
    pub fn remaining(&self, now: Duration, longer_than: Duration) -> Vec<(LeaseId, Duration)> {
        let left = |(id, entry): (&LeaseId, &Entry)| {
            let left = entry.deadline.checked_sub(now).filter(|left| *left > longer_than)?;
            Some((*id, left))
        };
        let mut remaining: Vec<_> = self.by_lease.iter().filter_map(left).collect();
        remaining.sort_unstable();
        remaining
    }

    /// At most `limit` leases that have run out and are to be revoked. They are told again later unless they are removed.
    pub fn due(&mut self, now: Duration, limit: usize) -> Vec<LeaseId> {
        let mut due = Vec::new();
        while let Some(&(wake, id)) = self.queue.first()
            && wake <= now
            && due.len() < limit
        {
            self.queue.pop_first();
            if let Some(entry) = self.by_lease.get_mut(&id) {
                entry.wake = now + RETRY;
                self.queue.insert((entry.wake, id));
                due.push(id);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(value: u64) -> Duration {
        Duration::from_secs(value)
    }

    #[test]
    fn leases_are_due_in_order_and_again_until_removed() {
        let mut deadlines = Deadlines::default();
        deadlines.set(LeaseId(1), seconds(30));
        deadlines.set(LeaseId(2), seconds(10));
        deadlines.set(LeaseId(3), seconds(20));
        assert_eq!(deadlines.next(), Some(seconds(10)));
        assert!(deadlines.due(seconds(9), 10).is_empty());
        assert_eq!(deadlines.due(seconds(20), 10), [LeaseId(2), LeaseId(3)]);
        assert!(deadlines.due(seconds(20), 10).is_empty());
        deadlines.remove(LeaseId(3));
        assert_eq!(deadlines.due(seconds(23), 10), [LeaseId(2)]);
        assert_eq!(deadlines.get(LeaseId(2)), Some(seconds(10)));
        assert_eq!(deadlines.due(seconds(100), 1).len(), 1);
        assert_eq!(deadlines.due(seconds(100), 10).len(), 1);
    }

    #[test]
    fn what_is_left_is_told_of_leases_that_last() {
        let mut deadlines = Deadlines::default();
        for (id, deadline) in [(3, 400), (1, 900), (2, 310), (4, 5)] {
            deadlines.set(LeaseId(id), seconds(deadline));
        }
        let remaining = deadlines.remaining(seconds(10), seconds(300));
        assert_eq!(remaining, [(LeaseId(1), seconds(890)), (LeaseId(3), seconds(390))]);
    }

    #[test]
    fn a_keep_alive_moves_the_deadline_even_when_due() {
        let mut deadlines = Deadlines::default();
        deadlines.set(LeaseId(1), seconds(10));
        assert_eq!(deadlines.due(seconds(10), 10), [LeaseId(1)]);
        deadlines.set(LeaseId(1), seconds(40));
        assert_eq!(deadlines.next(), Some(seconds(40)));
        assert!(deadlines.due(seconds(39), 10).is_empty());
        deadlines.set_if_later(LeaseId(1), seconds(5));
        assert_eq!(deadlines.get(LeaseId(1)), Some(seconds(40)));
        deadlines.set_if_later(LeaseId(1), seconds(50));
        assert_eq!(deadlines.get(LeaseId(1)), Some(seconds(50)));
        deadlines.clear();
        assert_eq!(deadlines.next(), None);
    }
}
