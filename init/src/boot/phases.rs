//! The boot's table of contents.
//!
//! Each phase is a function in a file of its own. It returns a sentence for the console, or why it failed; what then happens
//! is said in [`PHASES`] and nowhere else.

use std::error::Error;

use keelson_config::{NodeConfig, Secrets};
use keelson_job::{CommandLine, Request, State};
use keelson_sys::clock;
use serde::de::DeserializeOwned;

use crate::boot::job::{self, JobError};
use crate::boot::{Facts, Span, Stop};
use crate::console::Console;
use crate::recovery::{self, Failure, Rule};
use crate::signals;
use crate::vitals::Vitals;

mod cgroups;
mod clock_floor;
mod configuration;
mod directories;
mod disks;
mod early_mounts;
mod identity;
mod memory;
mod read_ahead;
mod state;
mod sysctls;
mod user_images;
mod watchdog;

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
    // Saves time and nothing else.
    Phase { name: "read-ahead", rule: Rule::Degrade, run: read_ahead::run },
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
pub(crate) struct Machine<'a> {
    vitals: &'a mut Vitals,
    /// While a job was waited for.
    asked: Option<signals::Request>,
    timeline: Vec<Span>,
    node: Option<NodeConfig>,
    secrets: Secrets,
    in_memory: bool,
    state: Option<State>,
    hostname: Option<String>,
}

impl<'a> Machine<'a> {
    pub(crate) fn new(vitals: &'a mut Vitals, timeline: Vec<Span>) -> Self {
        Self {
            vitals,
            asked: None,
            timeline,
            node: None,
            secrets: Secrets::default(),
            in_memory: false,
            state: None,
            hostname: None,
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
        let answer = job::run_in_boot(console, request, self.vitals);
        if let Err(JobError::Asked(request)) = &answer {
            self.asked = Some(*request);
        }
        answer
    }

    pub(crate) fn into_facts(self) -> Option<Facts> {
        let state = self.state?;
        Some(Facts {
            node: self.node?,
            cluster_networks: state.remembered.cluster_networks,
            hostname: self.hostname?,
            in_memory: self.in_memory,
            history: state.history,
            present: state.present,
            timeline: self.timeline,
        })
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
pub(crate) fn run(phase: &Phase, machine: &mut Machine, console: &mut Console) -> Result<(), Stop> {
    machine.vitals.feed();
    if let Some(request) = machine.vitals.requests.pending() {
        return Err(Stop::Asked(request));
    }
    let start = clock::since_boot();
    let result = (phase.run)(machine, console);
    let length = clock::since_boot().saturating_sub(start);
    machine.timeline.push(Span { name: phase.name.to_owned(), start, length });
    machine.vitals.reached(&machine.timeline);
    // Whatever the phase made of it, and whatever its rule is: a phase that was cut short has not failed.
    if let Some(request) = machine.asked {
        return Err(Stop::Asked(request));
    }
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
        Err(error) => Err(Failure::new(phase.name, phase.rule, error).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::tests::{POWER_OFF, with_a_button};

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
            ("cgroups", "read-ahead"),
            // While disks are waited for.
            ("read-ahead", "disks"),
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
        let mut vitals = Vitals::default();
        let mut machine = Machine::new(&mut vitals, Vec::new());
        let degrade = Phase { name: "watchdog", rule: Rule::Degrade, run: failing };
        run(&degrade, &mut machine, &mut Console::default()).unwrap();
        assert_eq!(machine.timeline.len(), 1);
    }

    #[test]
    fn failed_phase_that_must_hold_stops_the_boot_with_its_name() {
        let hold = Phase { name: "disks", rule: Rule::Hold, run: failing };
        let mut vitals = Vitals::default();
        let stop = run(&hold, &mut Machine::new(&mut vitals, Vec::new()), &mut Console::default()).unwrap_err();
        let Stop::Failed(failure) = stop else { panic!("{stop:?}") };
        assert_eq!((failure.phase, failure.rule), ("disks", Rule::Hold));
    }

    /// As a job does that is waited for when somebody presses.
    fn cut_short(machine: &mut Machine, _: &mut Console) -> PhaseResult {
        machine.asked = Some(POWER_OFF);
        Err(JobError::Asked(POWER_OFF).into())
    }

    #[test]
    fn phase_that_was_cut_short_ends_the_boot_whatever_its_rule() {
        for rule in [Rule::Degrade, Rule::Hold, Rule::Fatal] {
            let mut vitals = Vitals::default();
            let phase = Phase { name: "user-images", rule, run: cut_short };
            let stop = run(&phase, &mut Machine::new(&mut vitals, Vec::new()), &mut Console::default()).unwrap_err();
            assert!(matches!(stop, Stop::Asked(POWER_OFF)), "{stop:?}");
        }
    }

    #[test]
    fn press_between_two_phases_ends_the_boot() {
        let (requests, button) = with_a_button();
        button.press();
        let mut vitals = Vitals { requests, ..Vitals::default() };
        let mut machine = Machine::new(&mut vitals, Vec::new());
        let phase = Phase { name: "watchdog", rule: Rule::Degrade, run: failing };
        let stop = run(&phase, &mut machine, &mut Console::default()).unwrap_err();
        assert!(matches!(stop, Stop::Asked(POWER_OFF)), "{stop:?}");
        assert!(machine.timeline.is_empty(), "no further phase is begun");
    }

    #[test]
    fn boot_without_a_configuration_is_none() {
        assert!(Machine::new(&mut Vitals::default(), Vec::new()).into_facts().is_none());
    }
}
