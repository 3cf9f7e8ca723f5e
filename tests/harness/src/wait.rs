//! Waiting for conditions.
//!
//! Nothing in the harness sleeps: it waits for something that has a name, with a deadline, and says on failure what was
//! awaited and what was seen last.

use std::time::{Duration, Instant};

/// How often a condition is looked at. Emulated guests use both cores, so looking more often slows what is awaited.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
const PATIENT_INTERVAL: Duration = Duration::from_secs(3);

/// A condition did not come true in time.
#[derive(Debug, thiserror::Error)]
#[error("waited {} s for {awaited}; last seen: {last_seen}", waited.as_secs())]
pub struct Timeout {
    pub awaited: String,
    pub waited: Duration,
    pub last_seen: String,
}

/// Calls `look` until it returns `Ok`, or until `deadline` has passed since the call.
///
/// # Errors
/// `Timeout` with the last `Err` of `look`, which says what was seen instead.
pub fn until<T>(awaited: &str, deadline: Duration, look: impl FnMut() -> Result<T, String>) -> Result<T, Timeout> {
    look_every(POLL_INTERVAL, awaited, deadline, look)
}

/// The same for what takes a minute or more, or is looked at by a program that takes its time: several emulated machines leave none.
///
/// # Errors
/// As [`until`].
pub fn patiently<T>(awaited: &str, deadline: Duration, look: impl FnMut() -> Result<T, String>) -> Result<T, Timeout> {
    look_every(PATIENT_INTERVAL, awaited, deadline, look)
}

fn look_every<T>(
    interval: Duration,
    awaited: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> Result<T, Timeout> {
    let start = Instant::now();
    loop {
        let last_seen = match look() {
            Ok(value) => return Ok(value),
            Err(seen) => seen,
        };
        let waited = start.elapsed();
        if waited >= deadline {
            return Err(Timeout { awaited: awaited.to_owned(), waited, last_seen });
        }
        pause(interval.min(deadline.saturating_sub(waited)));
    }
}

/// Gives the processor away between two looks at a condition.
pub(crate) fn pause(duration: Duration) {
    let end = Instant::now() + duration;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        if left.is_zero() {
            return;
        }
        std::thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_the_value_once_the_condition_holds() {
        let mut looks = 0;
        let value = until("three looks", Duration::from_secs(5), || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(format!("{looks} looks")) }
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn says_what_was_awaited_and_what_was_seen() {
        let timeout = until::<()>("a miracle", Duration::ZERO, || Err("nothing".to_owned())).unwrap_err();
        assert_eq!(timeout.to_string(), "waited 0 s for a miracle; last seen: nothing");
    }
}
