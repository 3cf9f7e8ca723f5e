//! This state, this event, exactly these commands.

use std::path::PathBuf;

use keelson_control::{PersistentFailure, Readiness, RestartPolicy, ServiceKind, ServiceState};

use super::*;

mod restarts;
mod sets;
mod shutdowns;
mod starts;
mod stops;
mod watchdogs;

pub(super) fn name(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

pub(super) fn daemon(service: &str) -> ServiceSpec {
    ServiceSpec { timeout_start_seconds: 30, timeout_stop_seconds: 10, ..ServiceSpec::daemon(name(service), "/bin/x") }
}

pub(super) fn file(path: &str) -> Condition {
    Condition::FileExists(PathBuf::from(path))
}

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn changed(service: &str, change: Change) -> Command {
    Command::Changed { service: name(service), change }
}

pub(super) fn spawn(service: &str, run: u64) -> Command {
    Command::Spawn { service: name(service), run: Run(run) }
}

pub(super) fn terminate(service: &str) -> Command {
    Command::Terminate { service: name(service) }
}

pub(super) fn kill_all(service: &str, run: u64) -> Command {
    Command::KillAll { service: name(service), run: Run(run) }
}

pub(super) fn executed(service: &str, run: u64) -> Event {
    Event::Executed { service: name(service), run: Run(run) }
}

pub(super) fn exited(service: &str, run: u64, status: i32) -> Event {
    Event::Exited { service: name(service), run: Run(run), reason: ExitReason::Exited(status) }
}

pub(super) fn emptied(service: &str, run: u64) -> Event {
    Event::Emptied { service: name(service), run: Run(run) }
}

/// A core and its clock.
pub(super) struct Machine {
    pub(super) core: Core,
    pub(super) now: Duration,
}

impl Machine {
    /// Its services have not been started yet.
    pub(super) fn new(services: impl IntoIterator<Item = ServiceSpec>) -> Self {
        Self { core: Core::new(services.into_iter().collect(), 7, seconds(1)), now: seconds(1) }
    }

    /// One service, ready as run 1.
    pub(super) fn ready(spec: ServiceSpec) -> Self {
        let service = spec.name.to_string();
        let mut machine = Self::new([spec]);
        machine.handle(Event::Tick);
        machine.handle(executed(&service, 1));
        assert_eq!(machine.state(&service), ServiceState::Ready);
        machine
    }

    pub(super) fn handle(&mut self, event: Event) -> Vec<Command> {
        self.core.handle(event, self.now)
    }

    /// Lets so much time pass, without a tick in between.
    pub(super) fn pass(&mut self, duration: Duration) -> Vec<Command> {
        self.now += duration;
        self.handle(Event::Tick)
    }

    pub(super) fn status(&self, service: &str) -> ServiceStatus {
        self.core.status(self.now).into_iter().find(|status| status.name.as_str() == service).unwrap()
    }

    pub(super) fn state(&self, service: &str) -> ServiceState {
        self.status(service).state
    }

    pub(super) fn apply(&mut self, version: u64, services: impl IntoIterator<Item = ServiceSpec>) -> Vec<Command> {
        self.handle(Event::Apply { set: ServiceSet { version, services: services.into_iter().collect() } })
    }
}
