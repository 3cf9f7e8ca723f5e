//! The boot's table of contents.
//!
//! Each phase is a function in a file of its own. It returns a sentence for the console, or why it failed; what then happens
//! is said in [`PHASES`] and nowhere else.

use std::error::Error;

use keelson_config::{NodeConfig, Secrets};
use keelson_init::buttons::Buttons;
use keelson_job::{CommandLine, Progress, Request, State};
use keelson_sys::clock;
use keelson_sys::watchdog::Watchdog;
use serde::de::DeserializeOwned;

use crate::boot::job::{self, JobError};
use crate::boot::{Boot, Facts, Span, history};
use crate::console::Console;
use crate::recovery::{self, Failure, Rule};

mod cgroups;
mod clock_floor;
mod configuration;
mod directories;
mod disks;
mod early_mounts;
mod identity;
mod memory;
mod state;
mod sysctls;
mod user_images;
pub(crate) mod watchdog;

/// One step of the boot.
#[derive(Debug)]
pub(crate) struct Phase {
    name: &'static str,
    /// What a failure means.
    rule: Rule,
    run: fn(&mut Machine, &mut Console) -> PhaseResult,
}

/// A sentence for the console; empty if there is nothing to say.
type PhaseResult = Result<String, Box<dyn Error + Send + Sync>>;

/// In this order, once.
pub(crate) const PHASES: &[Phase] = &[
    // Without /proc, /sys, /dev and /run nothing below can work.
    Phase { name: "mounts", rule: Rule::Fatal, run: early_mounts::run },
    // Guards all that follows against a PID 1 that hangs: its own text comes from a disk. It guards against what may never happen.
    Phase { name: "watchdog", rule: Rule::Degrade, run: watchdog::run },
    // A wrong clock makes certificates wrong; a clock that cannot be set is one that the time servers correct.
    Phase { name: "clock", rule: Rule::Degrade, run: clock_floor::run },
    // Services are not started outside a cgroup.
    Phase { name: "cgroups", rule: Rule::Fatal, run: cgroups::run },
    // Never guess about a disk.
    Phase { name: "disks", rule: Rule::Hold, run: disks::run },
    // STATE that cannot be read may be another release's, or damaged.
    Phase { name: "state", rule: Rule::Hold, run: state::run },
    // What was said wrongly must be corrected where it was said; a node must not come up as another than STATE remembers.
    Phase { name: "configuration", rule: Rule::Hold, run: configuration::run },
    // A kernel that lacks one is still a node; each deviation is named.
    Phase { name: "sysctls", rule: Rule::Degrade, run: sysctls::run },
    // Kubernetes knows a node by its name.
    Phase { name: "identity", rule: Rule::Fatal, run: identity::run },
    // Services look for these.
    Phase { name: "directories", rule: Rule::Fatal, run: directories::run },
    // Images can be pulled, or come later.
    Phase { name: "user-images", rule: Rule::Degrade, run: user_images::run },
    // The same guard for the time after the boot.
    Phase { name: "memory", rule: Rule::Degrade, run: memory::run },
];

/// What the phases know so far. Each fills in its part.
#[derive(Debug)]
pub(crate) struct Machine {
    timeline: Vec<Span>,
    node: Option<NodeConfig>,
    secrets: Secrets,
    in_memory: bool,
    state: Option<State>,
    hostname: Option<String>,
    watchdog: Option<Watchdog>,
    /// What the watchdog says of the boot before this one.
    watchdog_verdict: Option<String>,
}

impl Machine {
    pub(crate) fn new(timeline: Vec<Span>) -> Self {
        Self {
            timeline,
            node: None,
            secrets: Secrets::default(),
            in_memory: false,
            state: None,
            hostname: None,
            watchdog: None,
            watchdog_verdict: None,
        }
    }

    /// The configuration, for phases after the one that reads it.
    fn node(&self) -> Result<&NodeConfig, MissingFact> {
        self.node.as_ref().ok_or(MissingFact("configuration"))
    }

    fn state(&self) -> Result<&State, MissingFact> {
        self.state.as_ref().ok_or(MissingFact("state"))
    }

    /// Has keelson-exec do a job.
    fn job<T: DeserializeOwned>(&mut self, console: &mut Console, request: &Request) -> Result<T, JobError> {
        job::run_in_boot(console, request, self.watchdog.as_mut())
    }

    pub(crate) fn into_boot(self, buttons: Buttons) -> Option<Boot> {
        let progress = self.progress();
        let state = self.state?;
        let facts = Facts {
            node: self.node?,
            cluster_networks: state.remembered.cluster_networks,
            hostname: self.hostname?,
            in_memory: self.in_memory,
            history: state.history,
            present: state.present,
            timeline: self.timeline,
        };
        Some(Boot { facts, progress, watchdog: self.watchdog, buttons, enforcer: None })
    }

    /// For the boot's record.
    pub(crate) fn progress(&self) -> Progress {
        Progress { watchdog: self.watchdog_verdict.clone(), ..history::progress(&self.timeline) }
    }
}

/// Read here and parsed elsewhere: the kernel shows only PID 1 all of it.
fn command_line() -> Result<CommandLine, NoCommandLine> {
    std::fs::read("/proc/cmdline").map(CommandLine).map_err(NoCommandLine)
}

#[derive(Debug, thiserror::Error)]
#[error("cannot read /proc/cmdline")]
struct NoCommandLine(#[source] std::io::Error);

/// A phase was listed before the one that it builds on.
#[derive(Debug, thiserror::Error)]
#[error("the phase \"{0}\" has not run")]
struct MissingFact(&'static str);

/// Runs one phase, says how it went, and applies its rule.
pub(crate) fn run(phase: &Phase, machine: &mut Machine, console: &mut Console) -> Result<(), Failure> {
    if let Some(watchdog) = &mut machine.watchdog {
        let _ = watchdog.feed();
    }
    let start = clock::since_boot();
    let result = (phase.run)(machine, console);
    let length = clock::since_boot().saturating_sub(start);
    machine.timeline.push(Span { name: phase.name.to_owned(), start, length });
    match result {
        Ok(sentence) if sentence.is_empty() => Ok(()),
        Ok(sentence) => {
            console.info(phase.name, format_args!("{sentence} ({} ms)", length.as_millis()));
            Ok(())
        }
        Err(error) if phase.rule == Rule::Degrade => {
            console.warn(phase.name, format_args!("{}; going on without", recovery::chain(&*error)));
            Ok(())
        }
        Err(error) => Err(Failure::new(phase.name, phase.rule, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(name: &str) -> usize {
        PHASES.iter().position(|phase| phase.name == name).unwrap()
    }

    #[test]
    fn phases_come_after_what_they_build_on() {
        for (earlier, later) in [
            ("mounts", "clock"),
            ("mounts", "cgroups"),
            // What may hang is guarded.
            ("watchdog", "disks"),
            ("cgroups", "disks"),
            ("disks", "state"),
            ("state", "configuration"),
            ("configuration", "sysctls"),
            ("configuration", "identity"),
            ("identity", "directories"),
            ("directories", "user-images"),
        ] {
            assert!(position(earlier) < position(later), "{earlier} before {later}");
        }
        // Whatever is mapped by then is locked: it comes last.
        assert_eq!(position("memory"), PHASES.len() - 1);
    }

    #[test]
    fn what_concerns_a_persons_input_or_disks_holds() {
        for name in ["disks", "state", "configuration"] {
            assert_eq!(PHASES[position(name)].rule, Rule::Hold, "{name}");
        }
    }

    fn failing(_: &mut Machine, _: &mut Console) -> PhaseResult {
        Err("no".into())
    }

    #[test]
    fn failed_phase_that_may_fail_lets_the_boot_go_on() {
        let mut machine = Machine::new(Vec::new());
        let degrade = Phase { name: "watchdog", rule: Rule::Degrade, run: failing };
        run(&degrade, &mut machine, &mut Console::default()).unwrap();
        assert_eq!(machine.timeline.len(), 1);
    }

    #[test]
    fn failed_phase_that_must_hold_stops_the_boot_with_its_name() {
        let hold = Phase { name: "disks", rule: Rule::Hold, run: failing };
        let failure = run(&hold, &mut Machine::new(Vec::new()), &mut Console::default()).unwrap_err();
        assert_eq!((failure.phase, failure.rule), ("disks", Rule::Hold));
    }

    #[test]
    fn boot_without_a_configuration_is_none() {
        assert!(Machine::new(Vec::new()).into_boot(Buttons::default()).is_none());
    }
}
