//! How often strangers may try.
//!
//! A proof cannot be guessed; the limit is there so that nobody makes the node verify signatures all day. It is kept for
//! each address, so that one who floods does not lock an operator out. An IPv6 address counts by its /64, which one host
//! commonly has to itself (RFC 4291, 2.5.4). The table is bounded: when it is full, the address that has been quiet for
//! longest is forgotten.

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

const ADDRESSES_MAX: usize = 1024;

/// For each address the moment at which its whole burst is there again (the generic cell rate algorithm).
#[derive(Debug, Default)]
pub struct Limiter {
    full_again: Mutex<HashMap<IpAddr, Instant>>,
}

impl Limiter {
    /// Counts an attempt, or says how long to wait.
    pub fn attempt(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let address = network(address);
        let mut full_again = self.full_again.lock().unwrap_or_else(PoisonError::into_inner);
        let full = full_again.get(&address).map_or(now, |full| (*full).max(now));
        let next = full + REFILL;
        let excess = (next - now).saturating_sub(REFILL * BURST);
        if !excess.is_zero() {
            return Err(excess);
        }
        if full_again.len() >= ADDRESSES_MAX && !full_again.contains_key(&address) {
            full_again.retain(|_, full| *full > now);
            let quietest = full_again.iter().min_by_key(|(_, full)| **full).map(|(address, _)| *address);
            if let Some(quietest) = quietest.filter(|_| full_again.len() >= ADDRESSES_MAX) {
                full_again.remove(&quietest);
            }
        }
        full_again.insert(address, next);
        Ok(())
    }

    /// Takes an address's attempts back, once one of them has succeeded.
    pub fn forgive(&self, address: IpAddr) {
        self.full_again.lock().unwrap_or_else(PoisonError::into_inner).remove(&network(address));
    }
}

/// What one host has: an IPv4 address, also in its IPv6 form, or a /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn exhaust(limiter: &Limiter, from: &str, now: Instant) {
        for _ in 0..BURST {
            limiter.attempt(address(from), now).expect("within the burst");
        }
        assert_eq!(limiter.attempt(address(from), now), Err(REFILL));
    }

    #[test]
    fn grants_a_burst_and_then_one_by_one() {
        let limiter = Limiter::default();
        let now = Instant::now();
        exhaust(&limiter, "192.0.2.1", now);
        limiter.attempt(address("192.0.2.1"), now + REFILL).expect("one more");
        assert!(limiter.attempt(address("192.0.2.1"), now + REFILL).is_err());
        exhaust(&limiter, "192.0.2.1", now + 2 * REFILL * BURST);
    }

    #[test]
    fn one_address_does_not_cost_another_its_attempts() {
        let limiter = Limiter::default();
        let now = Instant::now();
        exhaust(&limiter, "192.0.2.1", now);
        exhaust(&limiter, "192.0.2.2", now);
        exhaust(&limiter, "2001:db8::1", now);
        exhaust(&limiter, "2001:db8:0:1::1", now);
    }

    #[test]
    fn one_host_counts_once_whatever_address_it_takes() {
        let limiter = Limiter::default();
        let now = Instant::now();
        exhaust(&limiter, "192.0.2.1", now);
        assert!(limiter.attempt(address("::ffff:192.0.2.1"), now).is_err());
        exhaust(&limiter, "2001:db8::1", now);
        assert!(limiter.attempt(address("2001:db8::2"), now).is_err());
    }

    #[test]
    fn success_is_not_counted() {
        let limiter = Limiter::default();
        let now = Instant::now();
        exhaust(&limiter, "192.0.2.1", now);
        limiter.forgive(address("192.0.2.1"));
        exhaust(&limiter, "192.0.2.1", now);
    }

    #[test]
    fn the_table_is_bounded() {
        let limiter = Limiter::default();
        let now = Instant::now();
        exhaust(&limiter, "192.0.2.1", now);
        for number in 0..2 * u32::try_from(ADDRESSES_MAX).expect("a small number") {
            limiter.attempt(IpAddr::V4(number.into()), now).expect("a new address");
        }
        assert!(limiter.full_again.lock().expect("no panic").len() <= ADDRESSES_MAX);
        // The one that tried most is not the one that is forgotten.
        assert!(limiter.attempt(address("192.0.2.1"), now).is_err());
    }
}
