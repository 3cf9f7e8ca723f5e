//! How well one API server is: a state machine without I/O or clock.
//!
//! | state | what is known | picked | its connections |
//! |---|---|---|---|
//! | unknown | nothing yet | after those that are ready | stay |
//! | ready | `/readyz` answers ok | yes | stay |
//! | not ready | it answers, and says that it is not ready | last | stay, and are reset after [`NOT_READY_MAX`] |
//! | dead | it does not answer | last | are reset |
//!
//! One failure is no news: [`FAILURES`] in a row are. Whoever was given up comes back after [`SUCCESSES`] in a row, so
//! that a server that comes and goes does not take clients with it each time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub const FAILURES: u32 = 2;
pub const SUCCESSES: u32 = 3;
/// A server that stops in order says so for some seconds and then closes its connections itself.
pub const NOT_READY_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Unknown,
    Ready,
    NotReady,
    Dead,
}

/// What one probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    Ready,
    /// It answered something else.
    NotReady,
    /// Refused, silent or broken.
    Unreachable,
}

/// What has to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Nothing,
    /// New connections go elsewhere.
    Avoid,
    /// New connections go elsewhere, and the present ones are reset if there is an elsewhere.
    Reset,
    /// It may be used again.
    Restored,
}

#[derive(Debug, Clone)]
pub struct Health {
    state: State,
    failures: u32,
    successes: u32,
    /// For how long it has said that it is not ready; `None` once its connections were reset for that.
    not_ready_for: Option<Duration>,
}

impl Default for Health {
    fn default() -> Self {
        Self { state: State::Unknown, failures: 0, successes: 0, not_ready_for: None }
    }
}

impl Health {
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes in what a probe found, `elapsed` after the one before.
    pub fn take(&mut self, finding: Finding, elapsed: Duration) -> Verdict {
        match finding {
            Finding::Ready => self.succeeded(),
            Finding::NotReady => self.refused(elapsed),
            Finding::Unreachable => self.failed(),
        }
    }

    fn succeeded(&mut self) -> Verdict {
        self.failures = 0;
        self.successes += 1;
        self.not_ready_for = None;
        let enough = if self.state == State::Unknown { 1 } else { SUCCESSES };
        if self.state == State::Ready || self.successes < enough {
            return Verdict::Nothing;
        }
        self.state = State::Ready;
        Verdict::Restored
    }

    fn refused(&mut self, elapsed: Duration) -> Verdict {
        self.successes = 0;
        self.failures += 1;
        if self.state != State::NotReady {
            if self.failures < FAILURES {
                return Verdict::Nothing;
            }
            self.state = State::NotReady;
            self.not_ready_for = Some(Duration::ZERO);
            return Verdict::Avoid;
        }
        match &mut self.not_ready_for {
            Some(duration) => {
                *duration += elapsed;
                if *duration < NOT_READY_MAX {
                    return Verdict::Nothing;
                }
                self.not_ready_for = None;
                Verdict::Reset
            }
            None => Verdict::Nothing,
        }
    }

    fn failed(&mut self) -> Verdict {
        self.successes = 0;
        self.failures += 1;
        if self.state == State::Dead || self.failures < FAILURES {
            return Verdict::Nothing;
        }
        self.state = State::Dead;
        Verdict::Reset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(500);

    fn after(findings: &[Finding]) -> (State, Vec<Verdict>) {
        let mut health = Health::default();
        let verdicts = findings.iter().map(|finding| health.take(*finding, TICK)).collect();
        (health.state(), verdicts)
    }

    #[test]
    fn the_first_success_is_enough_for_one_of_whom_nothing_is_known() {
        assert_eq!(after(&[Finding::Ready]), (State::Ready, vec![Verdict::Restored]));
    }

    #[test]
    fn one_failure_is_no_news_and_two_reset_the_connections_once() {
        use Finding::{Ready, Unreachable};
        assert_eq!(after(&[Ready, Unreachable, Ready, Unreachable]).0, State::Ready);
        let (state, verdicts) = after(&[Ready, Unreachable, Unreachable, Unreachable]);
        assert_eq!(state, State::Dead);
        assert_eq!(verdicts, [Verdict::Restored, Verdict::Nothing, Verdict::Reset, Verdict::Nothing]);
    }

    #[test]
    fn who_was_given_up_comes_back_after_three_successes_in_a_row() {
        use Finding::{Ready, Unreachable};
        let (state, _) = after(&[Ready, Unreachable, Unreachable, Ready, Ready, Unreachable, Ready, Ready]);
        assert_eq!(state, State::Dead);
        let (state, verdicts) = after(&[Ready, Unreachable, Unreachable, Ready, Ready, Ready]);
        assert_eq!((state, verdicts.last()), (State::Ready, Some(&Verdict::Restored)));
    }

    #[test]
    fn one_that_says_it_is_not_ready_is_avoided_and_its_connections_are_reset_in_the_end() {
        let mut health = Health::default();
        health.take(Finding::Ready, TICK);
        assert_eq!(health.take(Finding::NotReady, TICK), Verdict::Nothing);
        assert_eq!(health.take(Finding::NotReady, TICK), Verdict::Avoid);
        let resets: Vec<_> = (0..40).filter(|_| health.take(Finding::NotReady, TICK) == Verdict::Reset).collect();
        assert_eq!(resets, [19], "once, after ten seconds");
        assert_eq!(health.state(), State::NotReady);
        assert_eq!(health.take(Finding::Unreachable, TICK), Verdict::Reset, "and again when it dies");
    }
}
