//! Lines for the log: the process's standard output, which the supervisor collects.

use std::error::Error;
use std::fmt::Display;
use std::io::Write as _;

/// A line that nobody can take is not worth failing for.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// About what fails again and again: said once for each new reason.
#[derive(Debug, Default)]
pub struct Complaint(String);

impl Complaint {
    pub fn of(&mut self, error: &dyn Error) {
        let text = format!("{error:?}");
        if text != self.0 {
            failed(error);
            self.0 = text;
        }
    }

    pub fn passed(&mut self) {
        self.0.clear();
    }
}

/// An error with its causes, once, where it is handled.
pub fn failed(error: &dyn Error) {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    say(line);
}
