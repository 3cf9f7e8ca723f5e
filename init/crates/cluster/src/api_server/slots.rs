//! How many connections are held, and which one goes when there are too many.
//!
//! Anybody can open connections and keep them, and so can a node that is not what it was. So only whoever has shown an operator's
//! certificate has a lasting claim: when all slots are taken, the address with the most other connections gives up its oldest one to the
//! newcomer, and if all are operators', newcomers wait. An address counts by its network: what one host commonly has.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::limiter::network;

#[derive(Debug)]
pub(super) struct Slots {
    most: usize,
    held: Mutex<Held>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    /// Numbers that were given so far.
    given: u64,
    /// In the order in which they came.
    connections: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    number: u64,
    network: IpAddr,
    is_known: bool,
    recalled: Arc<Notify>,
}

/// A connection's right to be there; it ends with the value.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    number: u64,
    recalled: Arc<Notify>,
}

impl Slots {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default(), freed: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot for a connection from an address, which somebody else may have to give up for it.
    pub(super) async fn take(self: &Arc<Self>, address: IpAddr) -> Slot {
        loop {
            let freed = self.freed.notified();
            if let Some(slot) = self.try_take(address) {
                return slot;
            }
            freed.await;
        }
    }

    fn try_take(self: &Arc<Self>, address: IpAddr) -> Option<Slot> {
        let mut held = self.lock();
        if held.connections.len() >= self.most {
            let place = held.dispensable()?;
            held.connections.remove(place).recalled.notify_one();
        }
        held.given += 1;
        let (number, recalled) = (held.given, Arc::new(Notify::new()));
        let connection =
            Connection { number, network: network(address), is_known: false, recalled: Arc::clone(&recalled) };
        held.connections.push(connection);
        Some(Slot { slots: Arc::clone(self), number, recalled })
    }
}

impl Held {
    /// The place of the oldest unknown connection of the address that has the most of them.
    fn dispensable(&self) -> Option<usize> {
        let unknown = || self.connections.iter().filter(|connection| !connection.is_known);
        let of_the_same = |one: &Connection| unknown().filter(|other| other.network == one.network).count();
        let most = unknown().max_by_key(|one| (of_the_same(one), Reverse(one.number)))?.number;
        self.connections.iter().position(|connection| connection.number == most)
    }
}

impl Slot {
    /// The peer has shown an operator's certificate.
    pub(super) fn keep(&self) {
        let mut held = self.slots.lock();
        if let Some(own) = held.connections.iter_mut().find(|connection| connection.number == self.number) {
            own.is_known = true;
        }
    }

    /// Returns once somebody else has the slot.
    pub(super) async fn is_recalled(&self) {
        self.recalled.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.lock().connections.retain(|connection| connection.number != self.number);
        self.slots.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    async fn is_recalled(slot: &Slot) -> bool {
        timeout(Duration::from_millis(10), slot.is_recalled()).await.is_ok()
    }

    #[tokio::test]
    async fn who_has_most_and_has_shown_nothing_gives_up_its_oldest_one() {
        let slots = Slots::new(4);
        let member = slots.take(address(1)).await;
        member.keep();
        let (other, first, second) =
            (slots.take(address(2)).await, slots.take(address(3)).await, slots.take(address(3)).await);
        let newcomer = slots.take(address(4)).await;
        assert!(is_recalled(&first).await);
        for (slot, whose) in
            [(&member, "a member"), (&other, "another"), (&second, "the later one"), (&newcomer, "the new")]
        {
            assert!(!is_recalled(slot).await, "{whose}");
        }
        assert_eq!(slots.lock().connections.len(), 4);
        // Its end frees nothing that is another's by now.
        drop(first);
        assert_eq!(slots.lock().connections.len(), 4);
    }

    #[tokio::test]
    async fn one_address_cannot_keep_another_out() {
        let slots = Slots::new(8);
        let mut flood = Vec::new();
        for _ in 0..100 {
            flood.push(slots.take(address(9)).await);
        }
        let operator = slots.take(address(1)).await;
        for _ in 0..100 {
            flood.push(slots.take(address(9)).await);
        }
        assert!(!is_recalled(&operator).await);
    }

    #[tokio::test]
    async fn whoever_is_known_stays_and_newcomers_wait() {
        let slots = Slots::new(2);
        let (one, other) = (slots.take(address(1)).await, slots.take(address(1)).await);
        one.keep();
        other.keep();
        let waiting = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.take(address(2)).await }
        });
        assert!(!is_recalled(&one).await && !waiting.is_finished());
        drop(other);
        let slot = timeout(Duration::from_secs(5), waiting).await.expect("a slot").unwrap();
        assert!(!is_recalled(&slot).await);
    }
}
