//! The clock that is moved: the kernel's, or a test's.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::packet::{Nanoseconds, SECOND};

/// The wall clock, in nanoseconds since the epoch.
pub trait Clock {
    fn now(&self) -> Nanoseconds;
    fn step(&mut self, to: Nanoseconds) -> Result<(), ClockError>;
    /// Works the offset off slowly. `poll` is the time to the next answer, `error` what the answer may be wrong by.
    fn slew(&mut self, offset: Nanoseconds, poll: Duration, error: Nanoseconds) -> Result<(), ClockError>;
}

#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    #[error("cannot set the clock")]
    Step(#[source] io::Error),
    #[error("cannot slew the clock")]
    Slew(#[source] io::Error),
}

#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Nanoseconds {
        Nanoseconds::try_from(keelson_sys::clock::wall().as_nanos()).unwrap_or(Nanoseconds::MAX)
    }

    fn step(&mut self, to: Nanoseconds) -> Result<(), ClockError> {
        let since_epoch = Duration::from_nanos(u64::try_from(to).unwrap_or_default());
        keelson_sys::clock::set_wall(since_epoch).map_err(ClockError::Step)
    }

    fn slew(&mut self, offset: Nanoseconds, poll: Duration, error: Nanoseconds) -> Result<(), ClockError> {
        let error = Duration::from_nanos(error.unsigned_abs());
        keelson_sys::clock::slew_wall(offset, time_constant(poll), error).map_err(ClockError::Slew)
    }
}

/// The loop's stiffness for a polling interval: its base-2 logarithm less four, which is RFC 5905's own scale.
fn time_constant(poll: Duration) -> u8 {
    u8::try_from(poll.as_secs().max(16).ilog2().saturating_sub(4)).unwrap_or(u8::MAX).min(10)
}

/// The time below which the clock is never set, as PID 1 wrote it. Without the file there is none.
pub fn read_floor(path: &Path) -> Nanoseconds {
    let seconds = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<Nanoseconds>().ok());
    seconds.unwrap_or(0).saturating_mul(SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stiffness_follows_the_interval() {
        assert_eq!(
            [1, 16, 64, 1024, 1 << 20].map(|seconds| time_constant(Duration::from_secs(seconds))),
            [0, 0, 2, 6, 10]
        );
    }

    #[test]
    fn reads_the_floor() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("clock-floor");
        assert_eq!(read_floor(&path), 0);
        std::fs::write(&path, "1700000000\n").unwrap();
        assert_eq!(read_floor(&path), 1_700_000_000 * SECOND);
        std::fs::write(&path, "soon").unwrap();
        assert_eq!(read_floor(&path), 0);
    }
}
