//! How often strangers may try.
//!
//! A proof cannot be guessed; the limit is there so that nobody makes the node verify signatures all day. It is kept for
//! each address, so that one who floods does not lock an operator out. A /64 of IPv6, which one host commonly has to itself (RFC 4291,
//! 2.5.4) and a whole network may share, has a wider one besides. A node that shows its certificate counts by its UID, since its pods have its
//! address. The table is bounded: when it is full, whoever has been quiet for longest is forgotten.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Attempts in a row.
pub const BURST: u32 = 20;

/// The time after which one more attempt is granted.
pub const REFILL: Duration = Duration::from_secs(1);

/// In a /64 so many hosts can do what each of them may.
const HOSTS: u32 = 16;

const KEYS_MAX: usize = 1024;

/// Who tries.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Trying {
    Address(IpAddr),
    /// By its UID.
    Node(String),
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Key {
    One(Trying),
    Network(IpAddr),
}

/// For each the moment at which its whole burst is there again (the generic cell rate algorithm).
#[derive(Debug, Default)]
pub struct Limiter {
    full_again: Mutex<HashMap<Key, Instant>>,
}

impl Limiter {
    /// Counts an attempt, or says how long to wait.
    pub fn attempt(&self, who: &Trying, now: Instant) -> Result<(), Duration> {
        let mut full_again = self.full_again.lock().unwrap_or_else(PoisonError::into_inner);
        let mut granted = Vec::new();
        for (key, refill) in limits(who) {
            let full = full_again.get(&key).map_or(now, |full| (*full).max(now));
            let next = full + refill;
            let excess = (next - now).saturating_sub(REFILL * BURST);
            if !excess.is_zero() {
                return Err(excess);
            }
            granted.push((key, next));
        }
        for (key, next) in granted {
            make_room(&mut full_again, &key, now);
            full_again.insert(key, next);
        }
        Ok(())
    }

    /// Takes somebody's attempts back, once one of them has succeeded.
    pub fn forgive(&self, who: &Trying) {
        self.full_again.lock().unwrap_or_else(PoisonError::into_inner).remove(&Key::one(who));
    }
}

impl Key {
    fn one(who: &Trying) -> Self {
        Self::One(match who {
            Trying::Address(address) => Trying::Address(address.to_canonical()),
            Trying::Node(_) => who.clone(),
        })
    }
}

/// What an attempt counts for, and the time after which one more is granted there.
fn limits(who: &Trying) -> Vec<(Key, Duration)> {
    let mut limits = vec![(Key::one(who), REFILL)];
    if let Trying::Address(address) = who
        && address.to_canonical().is_ipv6()
    {
        limits.push((Key::Network(network(*address)), REFILL / HOSTS));
    }
    limits
}

fn make_room(full_again: &mut HashMap<Key, Instant>, key: &Key, now: Instant) {
    if full_again.len() < KEYS_MAX || full_again.contains_key(key) {
        return;
    }
    full_again.retain(|_, full| *full > now);
    let quietest = full_again.iter().min_by_key(|(_, full)| **full).map(|(key, _)| key.clone());
    if let Some(quietest) = quietest.filter(|_| full_again.len() >= KEYS_MAX) {
        full_again.remove(&quietest);
    }
}

/// What one host commonly has: an IPv4 address, also in its IPv6 form, or a /64.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Trying {
        Trying::Address(text.parse().expect("an address"))
    }

    fn exhaust(limiter: &Limiter, who: &Trying, now: Instant) {
        for _ in 0..BURST {
            limiter.attempt(who, now).expect("within the burst");
        }
        assert_eq!(limiter.attempt(who, now), Err(REFILL));
    }

    #[test]
    fn grants_a_burst_and_then_one_by_one() {
        let limiter = Limiter::default();
        let now = Instant::now();
        let one = at("192.0.2.1");
        exhaust(&limiter, &one, now);
        limiter.attempt(&one, now + REFILL).expect("one more");
        assert!(limiter.attempt(&one, now + REFILL).is_err());
        exhaust(&limiter, &one, now + 2 * REFILL * BURST);
    }

    #[test]
    fn one_does_not_cost_another_its_attempts() {
        let limiter = Limiter::default();
        let now = Instant::now();
        let node = |uid: &str| Trying::Node(uid.to_owned());
        for who in [at("192.0.2.1"), at("192.0.2.2"), at("2001:db8::1"), at("2001:db8::2"), node("a"), node("b")] {
            exhaust(&limiter, &who, now);
        }
        assert!(limiter.attempt(&at("::ffff:192.0.2.1"), now).is_err(), "the same address");
    }

    #[test]
    fn a_host_that_takes_many_addresses_of_its_network_comes_to_an_end() {
        let limiter = Limiter::default();
        let now = Instant::now();
        for host in 1..=HOSTS {
            exhaust(&limiter, &at(&format!("2001:db8::{host:x}")), now);
        }
        assert!(limiter.attempt(&at("2001:db8::ffff"), now).is_err());
        limiter.attempt(&at("2001:db8:0:1::1"), now).expect("another network");
    }

    #[test]
    fn success_is_not_counted() {
        let limiter = Limiter::default();
        let now = Instant::now();
        let one = at("192.0.2.1");
        exhaust(&limiter, &one, now);
        limiter.forgive(&one);
        exhaust(&limiter, &one, now);
    }

    #[test]
    fn the_table_is_bounded() {
        let limiter = Limiter::default();
        let now = Instant::now();
        exhaust(&limiter, &at("192.0.2.1"), now);
        for number in 0..2 * u32::try_from(KEYS_MAX).expect("a small number") {
            limiter.attempt(&Trying::Address(IpAddr::V4(number.into())), now).expect("a new address");
        }
        assert!(limiter.full_again.lock().expect("no panic").len() <= KEYS_MAX);
        // The one that tried most is not the one that is forgotten.
        assert!(limiter.attempt(&at("192.0.2.1"), now).is_err());
    }
}
