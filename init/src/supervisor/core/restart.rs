//! How often, how fast and for how long a failing service is started again.
//!
//! The ladder is data ([`LADDER`]): restart, restart with what depends on it, leave it alone for a while. Its last rung
//! is a pause, not an end: what is wrong with a service may be cured elsewhere (a disk that comes back, a peer), and a
//! node that has given its last service up for good needs a person. A service whose specification asks for it
//! ([`PersistentFailure::Reboot`]) reboots the machine when it arrives at the end for the second time without a stable run
//! in between, unless the boots before this one ended in failure already: then the machine stays up with the reason shown.

use std::time::Duration;

use keelson_control::PersistentFailure;

/// Ready and well for so long, a service counts as stable and its failures are forgotten.
pub(super) const STABLE: Duration = Duration::from_mins(1);

/// So much of the same forgives one failure: a service that is killed twice a minute, and does its work in between, is none that fails
/// in a row. Not of one that hung, whose end comes late: it would be forgiven for what it did before each of its hangs.
pub(super) const ONE_FORGIVEN: Duration = Duration::from_secs(10);

/// The first delay is short, so that a single crash costs nobody a timeout.
const DELAY_FIRST: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(30);

/// What the judge of an end may say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Start again, nothing was wrong.
    Again,
    Done,
    GiveUp {
        reason: String,
    },
    Failure {
        reason: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rung {
    Restart {
        delay: Duration,
    },
    /// What waits for it to be ready is restarted too.
    RestartDependants {
        delay: Duration,
    },
    GiveUp {
        retry: Duration,
    },
    Reboot {
        retry: Duration,
    },
    /// It would be a reboot, had that not been tried often enough.
    NotAgain {
        retry: Duration,
    },
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Up to this many failures in a row: restart, each time after twice the delay.
    RestartUpTo(u32),
    /// At this one: restart what depends on it as well.
    DependantsAt(u32),
    /// Beyond: leave it alone for so long.
    PauseFor(Duration),
}

const LADDER: &[Step] =
    &[Step::RestartUpTo(6), Step::DependantsAt(7), Step::RestartUpTo(12), Step::PauseFor(Duration::from_mins(3))];

/// Arriving at the ladder's end for this time may reboot the machine: some eight minutes without a minute of readiness, and longer where
/// each hang has to be noticed.
const ROUNDS_BEFORE_REBOOT: u32 = 2;

/// How a service stands with the ladder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    /// Failures in a row, the present one included.
    pub(super) failures: u32,
    /// How often it has been at the end of the ladder since its last stable run.
    pub(super) rounds: u32,
    pub(super) at_the_end: PersistentFailure,
    pub(super) may_reboot: bool,
}

pub(super) fn rung(standing: Standing) -> Rung {
    let Standing { failures, .. } = standing;
    let doublings = failures.saturating_sub(1).min(16);
    let delay = (DELAY_FIRST * (1 << doublings)).min(DELAY_MAX);
    for step in LADDER {
        match step {
            Step::RestartUpTo(count) if failures <= *count => return Rung::Restart { delay },
            Step::DependantsAt(count) if failures == *count => return Rung::RestartDependants { delay },
            Step::RestartUpTo(_) | Step::DependantsAt(_) => {}
            Step::PauseFor(retry) => return end(standing, *retry),
        }
    }
    end(standing, DELAY_MAX)
}

fn end(standing: Standing, retry: Duration) -> Rung {
    let asks = standing.at_the_end == PersistentFailure::Reboot && standing.rounds + 1 >= ROUNDS_BEFORE_REBOOT;
    match (asks, standing.may_reboot) {
        (false, _) => Rung::GiveUp { retry },
        (true, true) => Rung::Reboot { retry },
        (true, false) => Rung::NotAgain { retry },
    }
}

/// Spreads delays, so that services (and nodes) that failed together do not come back together. A seeded splitmix64
/// (<https://prng.di.unimi.it/splitmix64.c>): the core stays a function of its input.
#[derive(Debug)]
pub(super) struct Jitter {
    state: u64,
}

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Between 80 % and 120 % of `delay`.
    pub(super) fn spread(&mut self, delay: Duration) -> Duration {
        delay.mul_f64(0.8) + delay.mul_f64(0.4).mul_f64(self.fraction())
    }

    /// At least 0, below 1.
    fn fraction(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let high = u32::try_from(mixed >> 32).unwrap_or_default();
        f64::from(high) / (f64::from(u32::MAX) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_mins(3);

    fn standing(failures: u32, rounds: u32, at_the_end: PersistentFailure) -> Standing {
        Standing { failures, rounds, at_the_end, may_reboot: true }
    }

    #[test]
    fn delays_double_up_to_a_limit_then_comes_a_pause() {
        let rung = |failures| rung(standing(failures, 0, PersistentFailure::Retry));
        assert_eq!(rung(1), Rung::Restart { delay: Duration::from_millis(100) });
        assert_eq!(rung(2), Rung::Restart { delay: Duration::from_millis(200) });
        assert_eq!(rung(7), Rung::RestartDependants { delay: Duration::from_millis(6400) });
        assert_eq!(rung(9), Rung::Restart { delay: Duration::from_millis(25_600) });
        assert_eq!(rung(12), Rung::Restart { delay: DELAY_MAX });
        assert_eq!(rung(13), Rung::GiveUp { retry: PAUSE });
        assert_eq!(rung(u32::MAX), Rung::GiveUp { retry: PAUSE });
    }

    #[test]
    fn second_end_of_the_ladder_reboots_for_those_who_ask_for_it() {
        assert_eq!(rung(standing(13, 0, PersistentFailure::Reboot)), Rung::GiveUp { retry: PAUSE });
        assert_eq!(rung(standing(13, 1, PersistentFailure::Reboot)), Rung::Reboot { retry: PAUSE });
        assert_eq!(rung(standing(13, u32::MAX - 1, PersistentFailure::Retry)), Rung::GiveUp { retry: PAUSE });
        let tried = Standing { may_reboot: false, ..standing(13, 1, PersistentFailure::Reboot) };
        assert_eq!(rung(tried), Rung::NotAgain { retry: PAUSE });
    }

    #[test]
    fn jitter_stays_near_the_delay_and_differs_by_seed() {
        let delay = Duration::from_secs(10);
        let mut jitter = Jitter::new(1);
        let spread: Vec<_> = (0..1000).map(|_| jitter.spread(delay)).collect();
        assert!(spread.iter().all(|d| *d >= Duration::from_secs(8) && *d <= Duration::from_secs(12)));
        assert!(spread.iter().min() < Some(&Duration::from_millis(8100)));
        assert!(spread.iter().max() > Some(&Duration::from_millis(11_900)));
        assert_ne!(Jitter::new(2).spread(delay), Jitter::new(3).spread(delay));
    }
}
