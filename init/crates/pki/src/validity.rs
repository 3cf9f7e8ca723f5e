//! How long a certificate lives, and from when.
//!
//! Before the first time synchronisation the clock may be wrong in either direction, but never below the floor that
//! PID 1 wrote: the image's build time. So every certificate begins at the floor, a moment that is in the past for all
//! honest clocks, also for one that is set back from a time that had run ahead; and it ends a life after the latest moment known. A clock
//! that turns out to have run ahead leaves a certificate whose end lies too far away; [`Validity::is_due`] treats that
//! as due for renewal, so no leaf outlives its life for long.

use time::{Duration, OffsetDateTime};

/// Authorities are replaced in phases, long before this.
pub const AUTHORITY_LIFE: Duration = Duration::days(3650);
/// Leaves live for days: a removed node's identity dies by itself soon, and renewal is exercised all the time.
pub const LEAF_LIFE: Duration = Duration::days(7);
/// What an operator's proof of identity is good for.
pub const OPERATOR_LIFE: Duration = Duration::hours(24);
/// A certificate whose end is further away than its life by this much was made by a clock that ran ahead.
const CLOCK_SLACK: Duration = Duration::hours(1);

/// The present moment as far as this node knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    pub now: OffsetDateTime,
    /// No honest clock is before this.
    pub floor: OffsetDateTime,
}

impl Clock {
    /// Reads the wall clock; the floor is what PID 1 wrote.
    pub fn system(floor: OffsetDateTime) -> Self {
        Self { now: OffsetDateTime::now_utc(), floor }
    }

    pub fn validity(&self, life: Duration) -> Validity {
        Validity { not_before: self.floor.min(self.now), not_after: self.now.max(self.floor) + life }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
}

impl Validity {
    /// When two thirds of its life are over.
    pub fn renewal(&self, life: Duration) -> OffsetDateTime {
        self.not_after - life / 3
    }

    /// True from two thirds of the life on, counted back from the end because the beginning is the clock floor.
    pub fn is_due(&self, life: Duration, now: OffsetDateTime) -> bool {
        now >= self.renewal(life) || now < self.not_before || self.not_after > now + life + CLOCK_SLACK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn begins_at_the_floor_and_ends_a_life_after_now() {
        let validity = Clock { now: at(5000), floor: at(0) }.validity(LEAF_LIFE);
        assert_eq!(validity.not_before, at(0));
        assert_eq!(validity.not_after, at(5000) + LEAF_LIFE);
    }

    #[test]
    fn a_clock_below_the_floor_is_not_believed_for_the_end() {
        let validity = Clock { now: at(-5000), floor: at(0) }.validity(LEAF_LIFE);
        assert_eq!(validity.not_before, at(-5000));
        assert_eq!(validity.not_after, at(0) + LEAF_LIFE);
    }

    #[test]
    fn is_due_at_two_thirds_of_its_life_and_not_before() {
        let life = Duration::seconds(300);
        let validity = Clock { now: at(0), floor: at(-1_000_000) }.validity(life);
        assert!(!validity.is_due(life, at(199)));
        assert!(validity.is_due(life, at(200)));
        assert!(validity.is_due(life, at(400)));
    }

    #[test]
    fn is_due_when_the_clock_that_made_it_ran_ahead() {
        let life = Duration::seconds(300);
        let validity = Clock { now: at(1_000_000), floor: at(0) }.validity(life);
        assert!(validity.is_due(life, at(0)));
    }
}
