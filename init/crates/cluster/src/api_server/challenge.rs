//! Nonces that an operator's proof is made over.
//!
//! A nonce carries its own proof of origin, so nothing is stored when one is handed out and a flood of requests for nonces
//! cannot push out the one that an operator is about to use:
//!
//! ```text
//! base64( 16 random bytes | 8 bytes: milliseconds since this process started, big-endian | HMAC-SHA-256 of both )
//! ```
//!
//! The key of the HMAC lives in this process, so a restart makes all nonces void. A nonce is marked as used when a proof
//! over it holds, and never again accepted; only holders of an operator's key can fill that memory, and it is bounded too.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::{hmac, rand};
use base64::{Engine, prelude::BASE64_STANDARD};

/// How long a nonce lives: enough for a slow link, or for an operator who confirms on a hardware key.
pub const LIFE: Duration = Duration::from_mins(1);

/// Certificates issued within the life of a nonce. Operators are few, and each of theirs lasts for a day.
const USED_MAX: usize = 1024;

const RANDOM_BYTES: usize = 16;
const TIME_BYTES: usize = 8;
const SIGNED_BYTES: usize = RANDOM_BYTES + TIME_BYTES;

#[derive(Debug, thiserror::Error, Eq, PartialEq)]
pub enum ChallengeError {
    #[error("the system has no random bytes")]
    NoRandomness,
    #[error("this is not a nonce that this node has given since it started")]
    Unknown,
    #[error("the nonce is older than {} s; ask for a new one", LIFE.as_secs())]
    Expired,
    #[error("the nonce was used already; ask for a new one")]
    Used,
    #[error("too many certificates were asked for within a minute")]
    TooMany,
}

#[derive(Debug)]
pub struct Challenges {
    key: hmac::Key,
    start: Instant,
    /// The random part of each nonce that was used, with its time.
    used: Mutex<BTreeMap<[u8; RANDOM_BYTES], Duration>>,
}

/// A nonce that is genuine and not expired.
#[derive(Debug)]
pub struct Accepted {
    random: [u8; RANDOM_BYTES],
    made: Duration,
}

impl Challenges {
    pub fn new() -> Result<Self, ChallengeError> {
        let mut key = [0; 32];
        rand::fill(&mut key).map_err(|_| ChallengeError::NoRandomness)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        Ok(Self { key, start: Instant::now(), used: Mutex::default() })
    }

    /// A new nonce.
    pub fn issue(&self, now: Instant) -> Result<String, ChallengeError> {
        let mut random = [0; RANDOM_BYTES];
        rand::fill(&mut random).map_err(|_| ChallengeError::NoRandomness)?;
        let milliseconds = u64::try_from(self.since_start(now).as_millis()).unwrap_or(u64::MAX);
        let mut nonce = Vec::with_capacity(SIGNED_BYTES + 32);
        nonce.extend_from_slice(&random);
        nonce.extend_from_slice(&milliseconds.to_be_bytes());
        let tag = hmac::sign(&self.key, &nonce);
        nonce.extend_from_slice(tag.as_ref());
        Ok(BASE64_STANDARD.encode(nonce))
    }

    /// Whether a nonce is one of ours, in time and unused. The comparison takes the same time wherever they differ.
    pub fn check(&self, nonce: &str, now: Instant) -> Result<Accepted, ChallengeError> {
        let bytes = BASE64_STANDARD.decode(nonce).map_err(|_| ChallengeError::Unknown)?;
        let (signed, tag) = bytes.split_at_checked(SIGNED_BYTES).ok_or(ChallengeError::Unknown)?;
        hmac::verify(&self.key, signed, tag).map_err(|_| ChallengeError::Unknown)?;
        let (random, time) = signed.split_first_chunk::<RANDOM_BYTES>().ok_or(ChallengeError::Unknown)?;
        let time = time.first_chunk::<TIME_BYTES>().ok_or(ChallengeError::Unknown)?;
        let made = Duration::from_millis(u64::from_be_bytes(*time));
        if self.since_start(now) > made.saturating_add(LIFE) {
            return Err(ChallengeError::Expired);
        }
        if self.lock().contains_key(random) {
            return Err(ChallengeError::Used);
        }
        Ok(Accepted { random: *random, made })
    }

    /// Marks a nonce as used, once the proof over it holds. Of two proofs at the same time one succeeds.
    pub fn consume(&self, accepted: &Accepted, now: Instant) -> Result<(), ChallengeError> {
        let now = self.since_start(now);
        let mut used = self.lock();
        used.retain(|_, made| now <= made.saturating_add(LIFE));
        if used.contains_key(&accepted.random) {
            return Err(ChallengeError::Used);
        }
        if used.len() >= USED_MAX {
            return Err(ChallengeError::TooMany);
        }
        used.insert(accepted.random, accepted.made);
        Ok(())
    }

    /// In whole milliseconds, as a nonce carries it: both sides of a comparison are rounded alike.
    fn since_start(&self, now: Instant) -> Duration {
        let exact = now.saturating_duration_since(self.start);
        Duration::from_millis(u64::try_from(exact.as_millis()).unwrap_or(u64::MAX))
    }

    /// Each change of the map is complete in itself, so a panic elsewhere leaves it whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<[u8; RANDOM_BYTES], Duration>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn use_up(challenges: &Challenges, nonce: &str, now: Instant) -> Result<(), ChallengeError> {
        challenges.consume(&challenges.check(nonce, now)?, now)
    }

    #[test]
    fn a_nonce_can_be_used_once() {
        let challenges = Challenges::new().expect("random bytes");
        let now = Instant::now();
        let nonce = challenges.issue(now).expect("a nonce");
        // Checking alone uses nothing up: a proof that does not hold must not cost the operator the nonce.
        challenges.check(&nonce, now).expect("genuine");
        assert_eq!(use_up(&challenges, &nonce, now), Ok(()));
        assert_eq!(use_up(&challenges, &nonce, now), Err(ChallengeError::Used));
    }

    #[test]
    fn of_two_that_were_checked_together_one_is_used() {
        let challenges = Challenges::new().expect("random bytes");
        let now = Instant::now();
        let nonce = challenges.issue(now).expect("a nonce");
        let (first, second) = (challenges.check(&nonce, now), challenges.check(&nonce, now));
        assert_eq!(challenges.consume(&first.expect("genuine"), now), Ok(()));
        assert_eq!(challenges.consume(&second.expect("genuine"), now), Err(ChallengeError::Used));
    }

    #[test]
    fn a_nonce_expires() {
        let challenges = Challenges::new().expect("random bytes");
        let now = Instant::now();
        let nonce = challenges.issue(now).expect("a nonce");
        challenges.check(&nonce, now + LIFE).expect("still good");
        let late = now + LIFE + Duration::from_millis(2);
        assert_eq!(use_up(&challenges, &nonce, late), Err(ChallengeError::Expired));
    }

    #[test]
    fn a_used_nonce_stays_used_until_it_has_expired() {
        let challenges = Challenges::new().expect("random bytes");
        let now = Instant::now();
        let nonce = challenges.issue(now).expect("a nonce");
        assert_eq!(use_up(&challenges, &nonce, now), Ok(()));
        let other = challenges.issue(now + LIFE).expect("a nonce");
        assert_eq!(use_up(&challenges, &other, now + LIFE), Ok(()));
        assert_eq!(use_up(&challenges, &nonce, now + LIFE), Err(ChallengeError::Used));
    }

    #[test]
    fn what_this_process_did_not_make_is_refused() {
        let challenges = Challenges::new().expect("random bytes");
        let other = Challenges::new().expect("random bytes");
        let now = Instant::now();
        let genuine = BASE64_STANDARD.decode(challenges.issue(now).expect("a nonce")).expect("base64");
        let mut refused = vec![String::new(), "not base64!".to_owned(), other.issue(now).expect("a nonce")];
        for position in 0..genuine.len() {
            let mut changed = genuine.clone();
            changed[position] ^= 1;
            refused.push(BASE64_STANDARD.encode(changed));
        }
        for length in 0..genuine.len() {
            refused.push(BASE64_STANDARD.encode(&genuine[..length]));
        }
        for nonce in refused {
            assert!(matches!(challenges.check(&nonce, now), Err(ChallengeError::Unknown)), "{nonce:?} was taken");
        }
    }

    #[test]
    fn the_memory_of_used_nonces_is_bounded_and_empties_itself() {
        let challenges = Challenges::new().expect("random bytes");
        let now = Instant::now();
        for _ in 0..USED_MAX {
            let nonce = challenges.issue(now).expect("a nonce");
            assert_eq!(use_up(&challenges, &nonce, now), Ok(()));
        }
        let nonce = challenges.issue(now).expect("a nonce");
        assert_eq!(use_up(&challenges, &nonce, now), Err(ChallengeError::TooMany));
        let later = now + LIFE + Duration::from_secs(1);
        let nonce = challenges.issue(later).expect("a nonce");
        assert_eq!(use_up(&challenges, &nonce, later), Ok(()));
    }
}
