//! The second stage's boot: from an executed root to the moment services start.
//!
//! Boot is data: [`PHASES`](phases::PHASES) lists the named steps in order, each with the rule for its failure. A phase
//! takes what earlier ones found out and adds to it; nothing is decided in two places. What the last phase leaves is
//! [`Boot`], all that the supervisor gets to know.
//!
//! Until services start PID 1 may wait for a child with a deadline; after that it waits for nothing but its event loop.

use std::path::PathBuf;
use std::time::Duration;

use crate::console::Console;

/// What boot hands to the supervisor. `main` keeps it, so that the end of the machine can still use the console and the
/// watchdog whatever becomes of the supervisor.
#[derive(Debug)]
pub(crate) struct Boot {
    pub(crate) console: Console,
    pub(crate) facts: Facts,
}

/// What boot found out. Plain values.
#[derive(Debug)]
pub(crate) struct Facts {
    /// Where the time went: each phase with its start since the kernel's and how long it took.
    pub(crate) timeline: Vec<Span>,
    /// The root of the cgroup v2 hierarchy; `/init` and `/keelson` exist below it, and their controllers are enabled.
    pub(crate) cgroups: PathBuf,
}

/// A stretch of the boot, in time since kernel start (`CLOCK_BOOTTIME`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) name: String,
    pub(crate) start: Duration,
    pub(crate) length: Duration,
}

/// Why and how the machine is to end. The supervisor returns it once all services have stopped, or could not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) action: Action,
    /// Kept in STATE's boot history and shown after the next boot.
    pub(crate) reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Reboot,
    PowerOff,
    Halt,
}
