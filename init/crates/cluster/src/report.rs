//! Lines on standard output, which PID 1 turns into this service's log. A failure is reported once, where it is handled.

use std::error::Error;
use std::fmt::Write as _;

/// Something that happened as it should.
#[expect(clippy::print_stdout, reason = "a service's log is its standard output")]
pub fn info(message: impl AsRef<str>) {
    println!("{}", message.as_ref());
}

/// An error with its causes.
#[expect(clippy::print_stdout, reason = "a service's log is its standard output")]
pub fn error(error: &dyn Error) {
    println!("error: {}", chain(error));
}

/// A failure that lasts is said once, until it has another reason or has passed.
#[derive(Debug, Default)]
pub struct Complaint(String);

impl Complaint {
    pub fn of(&mut self, reason: String) {
        if reason != self.0 {
            info(format!("error: {reason}"));
            self.0 = reason;
        }
    }

    pub fn passed(&mut self) {
        self.0.clear();
    }
}

/// The error and its causes in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a string does not fail.
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}
