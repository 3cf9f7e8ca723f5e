//! What `cargo vm` tells the person in front of it: each step with the time it took, on a line of its own, and on a
//! terminal the step that is running, with the last thing it said.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use crate::build::{Outcome, Progress};

/// Without a terminal, a running step says this often that it is still there.
const REMINDER: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub struct Report {
    start: Instant,
    terminal: bool,
    reminded: Instant,
}

impl Default for Report {
    fn default() -> Self {
        Self { start: Instant::now(), terminal: stderr().is_terminal(), reminded: Instant::now() }
    }
}

impl Report {
    /// A line that stays.
    pub fn line(&self, text: &str) {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        // Nobody is left to be told that standard error is closed.
        let _ = writeln!(stderr(), "{clear}[{:7.1} s] {text}", self.start.elapsed().as_secs_f64());
    }

    /// A line that the next one replaces.
    pub fn transient(&self, text: &str) {
        if self.terminal {
            let short: String = text.chars().take(100).collect();
            let _ = write!(stderr(), "\r\x1b[K[{:7.1} s] {short}", self.start.elapsed().as_secs_f64());
            let _ = stderr().flush();
        }
    }
}

impl Progress for Report {
    fn started(&mut self, step: &str) {
        self.reminded = Instant::now();
        self.transient(step);
    }

    fn running(&mut self, step: &str, elapsed: Duration, last_line: &str) {
        self.transient(&format!("{step}: {last_line}"));
        if !self.terminal && self.reminded.elapsed() >= REMINDER {
            self.reminded = Instant::now();
            self.line(&format!("{step}: running for {}: {last_line}", human(elapsed)));
        }
    }

    fn finished(&mut self, step: &str, elapsed: Duration, outcome: Outcome) {
        match outcome {
            Outcome::Built => self.line(&format!("{step}: done in {}", human(elapsed))),
            Outcome::Cached => self.transient(&format!("{step}: as before")),
        }
    }
}

/// A duration for people: `0.4 s`, `83 s`, `12 min`.
pub fn human(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 10.0 {
        format!("{seconds:.1} s")
    } else if seconds < 120.0 {
        format!("{seconds:.0} s")
    } else {
        format!("{:.0} min", seconds / 60.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(human(Duration::from_millis(449)), "0.4 s");
        assert_eq!(human(Duration::from_secs(83)), "83 s");
        assert_eq!(human(Duration::from_mins(12)), "12 min");
    }
}
