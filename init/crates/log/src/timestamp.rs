//! The time at the head of each line: RFC 3339 in UTC with microseconds, always 27 bytes long.
//!
//! The fixed width keeps columns aligned, and lets lines of several services be merged by sorting them as text.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use time::OffsetDateTime;

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(Duration);

impl Timestamp {
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// The time `age` earlier; no earlier than the epoch.
    #[must_use]
    pub fn before(self, age: Duration) -> Self {
        Self(self.0.saturating_sub(age))
    }
}

impl From<SystemTime> for Timestamp {
    /// A clock before 1970 is no clock: it is shown as the epoch.
    fn from(time: SystemTime) -> Self {
        Self(time.duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.0.as_secs()).unwrap_or(i64::MAX);
        // Years above 9999 have no place in RFC 3339; such a clock is as wrong as one before 1970.
        let date = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (hour, minute, second) = date.to_hms();
        write!(
            formatter,
            "{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z",
            date.year(),
            u8::from(date.month()),
            date.day(),
            self.0.subsec_micros()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_rfc_3339_with_six_digits() {
        let at = |seconds, micros: u32| Timestamp(Duration::new(seconds, micros * 1000)).to_string();
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(at(951_782_400, 7), "2000-02-29T00:00:00.000007Z");
        assert_eq!(at(1_795_000_000, 999_999), "2026-11-18T11:06:40.999999Z");
        assert_eq!(at(u64::MAX, 0), "1970-01-01T00:00:00.000000Z");
    }
}
