//! The second stage's boot: from an executed root to the moment services start.
//!
//! Boot is data: [`phases::PHASES`] lists the named steps in order, each with the rule for its failure. A phase takes what
//! earlier ones found out and adds to it; nothing is decided in two places. What the last phase leaves is [`Facts`], all that
//! the supervisor gets to know.
//!
//! Until services start PID 1 may wait for a child with a deadline; after that it waits for nothing but its event loop. Whoever asks for
//! the machine's end meanwhile is obeyed between two phases, and a child that is waited for is killed.

use std::io;
use std::time::Duration;

use keelson_config::NodeConfig;
use keelson_job::{BootRecord, Cause};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::console::Console;
use crate::recovery::{Failure, Rule};
use crate::root::handover;
use crate::signals::Request;
use crate::vitals::Vitals;

pub(crate) mod history;
pub(crate) mod job;
pub(crate) mod mounts;
pub(crate) mod phases;

/// The root of the cgroup v2 hierarchy. PID 1 itself is in `/init` below it; services go below `/keelson`.
pub(crate) const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Why a boot did not come to its services.
#[derive(Debug)]
pub(crate) enum Stop {
    Failed(Failure),
    /// Somebody wants the machine to end.
    Asked(Request),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

#[derive(Debug, Error)]
#[error("cannot start the threads that keep the deadline of the machine's end")]
struct NoEnforcer(#[source] io::Error);

/// What boot found out. Plain values.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) node: NodeConfig,
    /// What the node's cluster told it of its networks; see [`keelson_config::Remembered`].
    pub(crate) cluster_networks: Vec<String>,
    /// The name that the machine goes by: configured, remembered or derived.
    pub(crate) hostname: String,
    /// STATE and DATA are gone after this boot.
    pub(crate) in_memory: bool,
    /// The boots of this STATE before this one, the last one last.
    pub(crate) history: Vec<BootRecord>,
    /// This boot's record, as it was begun.
    pub(crate) present: BootRecord,
    /// Where the time went, in order.
    pub(crate) timeline: Vec<Span>,
}

/// A stretch of the boot, in time since kernel start (`CLOCK_BOOTTIME`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Span {
    pub(crate) name: String,
    pub(crate) start: Duration,
    pub(crate) length: Duration,
}

/// Why and how the machine is to end. The supervisor returns it once all services have stopped, or could not be; in the boot somebody asked
/// for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) action: Action,
    pub(crate) cause: Cause,
    /// Kept in STATE's boot history and shown after the next boot.
    pub(crate) reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Reboot,
    PowerOff,
}

impl Action {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Reboot => "reboot",
            Self::PowerOff => "power off",
        }
    }
}

impl From<Request> for Verdict {
    fn from(request: Request) -> Self {
        Self { action: request.action, cause: Cause::Asked, reason: request.by.to_owned() }
    }
}

/// Runs all phases.
pub(crate) fn run(console: &mut Console, vitals: &mut Vitals) -> Result<Facts, Stop> {
    vitals.requests.open();
    vitals.start_enforcer().map_err(|error| Failure::new("boot", Rule::Fatal, NoEnforcer(error)))?;
    let mut machine = phases::Machine::new(vitals, handover::receive(std::env::args().skip(1)));
    for phase in phases::PHASES {
        phases::run(phase, &mut machine, console)?;
    }
    machine.into_facts().ok_or_else(|| Failure::new("boot", Rule::Fatal, "a phase left nothing behind").into())
}
