//! How a build tells what it does.

use std::time::Duration;

/// Receives what a build does, as it happens.
pub trait Progress {
    /// A step begins.
    fn started(&mut self, step: &str);

    /// A step goes on: sent every few seconds while a command runs, with the last line of its log.
    fn running(&mut self, step: &str, elapsed: Duration, last_line: &str);

    /// A step is over and has succeeded.
    fn finished(&mut self, step: &str, elapsed: Duration, outcome: Outcome);
}

/// Whether a step had to do its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The work was done now.
    Built,
    /// An earlier build left the result.
    Cached,
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn started(&mut self, _step: &str) {}
    fn running(&mut self, _step: &str, _elapsed: Duration, _last_line: &str) {}
    fn finished(&mut self, _step: &str, _elapsed: Duration, _outcome: Outcome) {}
}
