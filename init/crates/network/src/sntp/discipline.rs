//! What an answer means for the clock, and when to ask again. Pure.
//!
//! Small offsets are worked off, large ones are set at once. Before the first answer "large" needs no proof: the clock
//! came from a floor or an RTC. Afterwards a large offset is either a lying server or a machine that was stopped and
//! resumed, so a second answer has to say the same before the clock jumps.

use std::time::Duration;

use super::packet::{Nanoseconds, SECOND, Sample};

/// The kernel's loop takes no more, and working more off would take hours.
const STEP: Nanoseconds = SECOND / 2;
const POLL_MIN: Duration = Duration::from_secs(64);
const POLL_MAX: Duration = Duration::from_secs(1024);
/// While nobody answers: soon at first, for the network may just be coming up.
const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_mins(5);
/// To the second answer that proves a large offset.
const CONFIRM: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Step,
    Slew,
    /// Not before another answer says the same.
    AskAgain,
}

#[derive(Debug)]
pub struct Discipline {
    synchronised: bool,
    /// A large offset that waits for its proof.
    suspected: Option<Nanoseconds>,
    next: Duration,
    poll: Duration,
    retry: Duration,
}

impl Default for Discipline {
    fn default() -> Self {
        Self { synchronised: false, suspected: None, next: RETRY_MIN, poll: POLL_MIN, retry: RETRY_MIN }
    }
}

impl Discipline {
    pub fn judge(&mut self, sample: Sample) -> Action {
        self.retry = RETRY_MIN;
        if sample.offset.abs() < STEP {
            self.suspected = None;
            // The first good answer after a change is followed up soon, later ones ever more rarely.
            self.next = self.poll;
            self.poll = (self.poll * 2).min(POLL_MAX);
            self.synchronised = true;
            return Action::Slew;
        }
        let proven = self.suspected.is_some_and(|before| before.abs_diff(sample.offset) < STEP.unsigned_abs());
        if self.synchronised && !proven {
            self.suspected = Some(sample.offset);
            self.next = CONFIRM;
            return Action::AskAgain;
        }
        self.suspected = None;
        self.synchronised = true;
        self.poll = POLL_MIN;
        self.next = POLL_MIN;
        Action::Step
    }

    /// Nobody gave an answer that could be used.
    pub fn unanswered(&mut self) {
        self.next = self.retry;
        self.retry = (self.retry * 2).min(RETRY_MAX);
    }

    /// RFC 5905, 7.4: a server that says RATE or DENY is not to be asked at the same rate again.
    pub fn asked_to_slow_down(&mut self) {
        self.poll = POLL_MAX;
        self.retry = RETRY_MAX;
    }

    pub fn network_changed(&mut self) {
        self.poll = POLL_MIN;
        self.retry = RETRY_MIN;
    }

    pub fn next_poll(&self) -> Duration {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: i64) -> Sample {
        Sample { offset: seconds * SECOND, delay: 0 }
    }

    #[test]
    fn the_first_answer_sets_the_clock() {
        let mut discipline = Discipline::default();
        assert_eq!(discipline.judge(sample(-400)), Action::Step);
        assert_eq!(discipline.judge(sample(0)), Action::Slew);
    }

    #[test]
    fn a_later_jump_needs_a_second_answer() {
        let mut discipline = Discipline::default();
        discipline.judge(sample(0));
        assert_eq!(discipline.judge(sample(3600)), Action::AskAgain);
        assert_eq!(discipline.next_poll(), CONFIRM);
        assert_eq!(discipline.judge(sample(-70)), Action::AskAgain, "another large offset proves nothing");
        assert_eq!(discipline.judge(sample(-70)), Action::Step);
    }

    #[test]
    fn one_liar_among_honest_answers_changes_nothing() {
        let mut discipline = Discipline::default();
        discipline.judge(sample(0));
        assert_eq!(discipline.judge(sample(3600)), Action::AskAgain);
        assert_eq!(discipline.judge(sample(0)), Action::Slew);
        assert_eq!(discipline.judge(sample(3600)), Action::AskAgain);
    }

    #[test]
    fn asks_ever_more_rarely_and_soon_again_after_a_change() {
        let mut discipline = Discipline::default();
        let polls: Vec<u64> = (0..7)
            .map(|_| {
                discipline.judge(sample(0));
                discipline.next_poll().as_secs()
            })
            .collect();
        assert_eq!(polls, [64, 128, 256, 512, 1024, 1024, 1024]);
        discipline.network_changed();
        discipline.judge(sample(0));
        assert_eq!(discipline.next_poll(), POLL_MIN);
    }

    #[test]
    fn retries_with_backoff() {
        let mut discipline = Discipline::default();
        let waits: Vec<u64> = (0..10)
            .map(|_| {
                discipline.unanswered();
                discipline.next_poll().as_secs()
            })
            .collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }
}
