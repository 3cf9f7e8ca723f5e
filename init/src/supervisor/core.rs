//! The supervisor as a state machine: an event and the time go in, commands come out. No I/O, no clock.
//!
//! # States
//!
//! A service has a desired state ([`Desired::Up`] or [`Desired::Down`]) and a current one ([`State`]). *Idle* states
//! have no process, *running* ones have exactly one, and [`State::Stopping`] lasts from the first signal until the main
//! process is reaped **and** the cgroup is empty, so that no two generations of a service ever run side by side.
//!
//! | state | event | next | commands |
//! |---|---|---|---|
//! | `Stopped`, `Done`, `Failed`, `Backoff` | start, restart | `Waiting` | |
//! | `Waiting` | all conditions hold | `Starting` | `Spawn` |
//! | `Backoff`, `Failed` with a retry | its time has come | `Waiting` | |
//! | `Starting` | executed, notified, socket answers (by readiness) | `Ready` | |
//! | `Starting` | spawn failed | `Backoff`, or by the ladder `Failed` | |
//! | `Starting` | start timeout | `Stopping` | `Terminate` |
//! | `Starting`, `Ready` | no word that it lives, for too long | `Stopping` (killing) | `KillAll` |
//! | `Starting`, `Ready` | main process exited | `Stopping` (killing) | `KillAll` |
//! | `Starting`, `Ready` | stop, restart, removed, changed, shutdown; unhealthy if ready | `Stopping`, after all that need it and are to stop as well | `Terminate` |
//! | `Stopping` | stop timeout, or main process exited | `Stopping` (killing) | `KillAll` |
//! | `Stopping` | exited and empty | see below | |
//! | any idle | stop, removed, shutdown | `Stopped`, or forgotten | `Forget` |
//!
//! What follows `Stopping`: removed → forgotten; wanted down, or a shutdown → `Stopped`; restart or change → `Waiting`;
//! a one-shot that ended well, or an end that the policy does not mend → `Done` or `Failed`; all else is a failure:
//! `Backoff`, and by the [`ladder`](restart) `Failed` with a retry. No state is a dead end for a wanted service, except
//! `Failed` under the policy `Never`, which is what that policy says.
//!
//! # How it is kept right
//!
//! An event changes the state of the service it is about; [`Core::advance`] then does what has become possible anywhere
//! (starts, stops, watches, the end of a shutdown), always from the whole state. Nothing depends on having been there
//! when something changed. Events carry the [`Run`] that they are about, so one that was overtaken by a restart is
//! recognised and dropped.

use std::collections::BTreeMap;
use std::time::Duration;

use keelson_control::{
    Applied, Condition, Desired, ExitReason, ServiceName, ServiceSet, ServiceSpec, ServiceStatus, ShutdownKind,
};

mod apply;
mod command;
mod conditions;
mod restart;
mod service;
mod shutdown;
mod status;

pub use command::{Change, Command, Event, InhibitorId, Run, StopCause};
pub use shutdown::{INHIBIT_MAX, SHUTDOWN_MAX};
pub use status::short;

use restart::{Jitter, Rung, Verdict};
use service::{Service, State};
use shutdown::Shutdown;

/// Commands of one event, and when it happened.
#[derive(Debug)]
struct Step {
    now: Duration,
    commands: Vec<Command>,
}

impl Step {
    fn push(&mut self, command: Command) {
        self.commands.push(command);
    }

    fn changed(&mut self, service: &ServiceName, change: Change) {
        self.push(Command::Changed { service: service.clone(), change });
    }
}

#[derive(Debug)]
pub struct Core {
    services: BTreeMap<ServiceName, Service>,
    /// Conditions that the driver watches for us, and whether they hold.
    watches: BTreeMap<Condition, bool>,
    set_version: u64,
    jitter: Jitter,
    next_run: u64,
    shutdown: Shutdown,
    may_reboot: bool,
    /// The shutdown is the ladder's.
    escalated: bool,
}

impl Core {
    /// Begins with the static services, all wanted. `seed` makes the jitter differ from machine to machine.
    pub fn new(static_services: Vec<ServiceSpec>, seed: u64, now: Duration) -> Self {
        let services =
            static_services.into_iter().map(|spec| (spec.name.clone(), Service::new(spec, true, now))).collect();
        Self {
            services,
            watches: BTreeMap::new(),
            set_version: 0,
            jitter: Jitter::new(seed),
            next_run: 1,
            shutdown: Shutdown::default(),
            may_reboot: true,
            escalated: false,
        }
    }

    /// Whether the ladder's last rung may be a reboot.
    #[must_use]
    pub fn may_reboot(self, may_reboot: bool) -> Self {
        Self { may_reboot, ..self }
    }

    /// The one entry: every transition happens in here.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Command> {
        let mut step = Step { now, commands: Vec::new() };
        match event {
            Event::Tick => self.tick(&mut step),
            Event::Start { service } => self.start(&service, &mut step),
            Event::Stop { service } => self.stop(&service, &mut step),
            Event::Restart { service, reason } => self.restart(&service, reason, &mut step),
            Event::Unhealthy { service, reason } => self.unhealthy(&service, reason),
            Event::Apply { set } => self.apply(set, &mut step),
            Event::Condition { condition, holds } => self.condition(&condition, holds),
            Event::Spawned { service, run, pid } => self.spawned(&service, run, pid),
            Event::SpawnFailed { service, run, reason } => self.spawn_failed(&service, run, reason, &mut step),
            Event::Executed { service, run } => self.executed(&service, run, &mut step),
            Event::Notified { service, run } => self.notified(&service, run, &mut step),
            Event::Alive { service, run } => self.alive(&service, run, &step),
            Event::Exited { service, run, reason } => self.exited(&service, run, reason, &mut step),
            Event::Emptied { service, run } => self.emptied(&service, run, &mut step),
            Event::Inhibit { id, who, delay_max } => self.shutdown.inhibit(id, who, delay_max),
            Event::Uninhibit { id } => self.shutdown.uninhibit(id),
            Event::Shutdown { kind, reason } => self.shut_down(kind, reason, &mut step),
            Event::ForceShutdown => self.force_shutdown(&mut step),
        }
        self.advance(&mut step);
        step.commands
    }

    /// When [`Event::Tick`] is due next.
    pub fn next_deadline(&self) -> Option<Duration> {
        let services = self.services.values().filter_map(Service::next_deadline);
        services.chain(self.shutdown.next_deadline()).min()
    }

    pub fn spec(&self, service: &ServiceName) -> Option<&ServiceSpec> {
        self.services.get(service).map(|service| &service.spec)
    }

    /// The process of its present run.
    pub fn pid(&self, service: &ServiceName) -> Option<u32> {
        self.services.get(service)?.pid
    }

    pub fn contains(&self, service: &ServiceName) -> bool {
        self.services.get(service).is_some_and(|service| !service.removed)
    }

    pub fn static_specs(&self) -> Vec<ServiceSpec> {
        self.services.values().filter(|service| service.is_static).map(|service| service.spec.clone()).collect()
    }

    pub fn set_version(&self) -> u64 {
        self.set_version
    }

    /// What applying `set` would do.
    pub fn difference(&self, set: &ServiceSet) -> Applied {
        apply::difference(&self.services, set)
    }

    /// Whether the shutdown that is under way is the ladder's own.
    pub fn has_escalated(&self) -> bool {
        self.escalated
    }

    pub fn shutting_down(&self) -> Option<ShutdownKind> {
        self.shutdown.kind()
    }

    pub fn status(&self, now: Duration) -> Vec<ServiceStatus> {
        self.services.values().map(|service| status::of(service, self, now)).collect()
    }

    fn start(&mut self, name: &ServiceName, step: &mut Step) {
        let shutting_down = self.shutdown.has_begun();
        let Some(service) = self.services.get_mut(name) else { return };
        if shutting_down || service.removed {
            return;
        }
        service.desired = Desired::Up;
        match service.state {
            State::Starting { .. } | State::Ready { .. } => {
                // A stop that has not begun is taken back.
                service.stop_cause.take_if(|cause| *cause == StopCause::Requested);
            }
            State::Stopping { .. } | State::Waiting { .. } => {}
            State::Stopped | State::Backoff { .. } | State::Done | State::Failed { .. } => {
                service.forgive();
                service.wait(step.now);
            }
        }
    }

    fn stop(&mut self, name: &ServiceName, step: &mut Step) {
        let Some(service) = self.services.get_mut(name) else { return };
        service.desired = Desired::Down;
        service.want_stop(StopCause::Requested, step);
    }

    fn restart(&mut self, name: &ServiceName, reason: String, step: &mut Step) {
        let shutting_down = self.shutdown.has_begun();
        let Some(service) = self.services.get_mut(name) else { return };
        if shutting_down || service.removed {
            return;
        }
        service.desired = Desired::Up;
        match service.state {
            State::Starting { .. } | State::Ready { .. } | State::Stopping { .. } => {
                service.stop_cause = Some(StopCause::Restart { reason });
            }
            State::Waiting { .. } => {}
            State::Stopped | State::Backoff { .. } | State::Done | State::Failed { .. } => {
                service.forgive();
                service.wait(step.now);
            }
        }
    }

    /// Only a ready service can be unhealthy: before that the start timeout judges it, afterwards nothing is there.
    fn unhealthy(&mut self, name: &ServiceName, reason: String) {
        let Some(service) = self.services.get_mut(name) else { return };
        if matches!(service.state, State::Ready { .. }) && service.stop_cause.is_none() {
            service.stop_cause = Some(StopCause::Unhealthy { reason });
        }
    }

    fn spawned(&mut self, name: &ServiceName, run: Run, pid: u32) {
        if let Some(service) = self.running(name, run) {
            service.pid = Some(pid);
        }
    }

    fn spawn_failed(&mut self, name: &ServiceName, run: Run, reason: String, step: &mut Step) {
        let Some(service) = self.running(name, run) else { return };
        service.last_exit = Some((ExitReason::NotExecuted(reason), step.now));
        self.settle(name, step);
    }

    fn executed(&mut self, name: &ServiceName, run: Run, step: &mut Step) {
        if let Some(service) = self.running(name, run)
            && service.is_ready_once_executed()
        {
            service.become_ready(step);
        }
    }

    fn notified(&mut self, name: &ServiceName, run: Run, step: &mut Step) {
        if let Some(service) = self.running(name, run)
            && service.is_ready_once_notified()
        {
            service.become_ready(step);
        }
    }

    fn alive(&mut self, name: &ServiceName, run: Run, step: &Step) {
        let runs = |service: &&mut Service| matches!(service.state, State::Starting { .. } | State::Ready { .. });
        if let Some(service) = self.running(name, run).filter(runs) {
            service.speaks(step.now);
        }
    }

    fn exited(&mut self, name: &ServiceName, run: Run, reason: ExitReason, step: &mut Step) {
        if let Some(service) = self.running(name, run) {
            service.main_exited(reason, step);
        }
    }

    fn emptied(&mut self, name: &ServiceName, run: Run, step: &mut Step) {
        let Some(service) = self.running(name, run) else { return };
        if matches!(service.state, State::Stopping { main_exited: true, .. }) {
            self.settle(name, step);
        }
    }

    /// The service, if `run` is the generation that it has a process of.
    fn running(&mut self, name: &ServiceName, run: Run) -> Option<&mut Service> {
        self.services.get_mut(name).filter(|service| service.state.run() == Some(run))
    }

    fn tick(&mut self, step: &mut Step) {
        for service in self.services.values_mut() {
            service.tick(step);
        }
        self.remind_of_waiting(step);
        self.tick_shutdown(step);
    }

    /// No process of this service is left: decides what it becomes.
    fn settle(&mut self, name: &ServiceName, step: &mut Step) {
        let shutting_down = self.shutdown.has_begun();
        let Some(service) = self.services.get_mut(name) else { return };
        service.pid = None;
        let cause = service.stop_cause.take();
        if service.removed {
            self.services.remove(name);
            step.push(Command::Forget { service: name.clone() });
            return;
        }
        if let Some(spec) = service.replacement.take() {
            service.spec = spec;
        }
        if shutting_down || service.desired == Desired::Down {
            service.state = State::Stopped;
            service.since = step.now;
            step.changed(name, Change::Stopped);
            return;
        }
        match service.judge(cause, step.now) {
            Verdict::Again => service.wait(step.now),
            Verdict::Done => {
                service.enter(State::Done, step.now);
                step.changed(name, Change::Done);
            }
            Verdict::GiveUp { reason } => service.give_up(reason, None, step),
            Verdict::Failure { reason } => {
                let rung = service.fail(reason.clone(), self.may_reboot, &mut self.jitter, step);
                self.climb(name, rung, &reason, step);
            }
        }
    }

    /// What a rung means for others than the service itself.
    fn climb(&mut self, name: &ServiceName, rung: Rung, reason: &str, step: &mut Step) {
        match rung {
            Rung::RestartDependants { .. } => self.restart_dependants(name),
            Rung::Reboot { .. } if self.shutdown.kind().is_none() => {
                self.escalated = true;
                self.shut_down(ShutdownKind::Reboot, format!("{name} keeps failing: it {reason}"), step);
            }
            Rung::Restart { .. } | Rung::GiveUp { .. } | Rung::Reboot { .. } | Rung::NotAgain { .. } => {}
        }
    }

    /// Those that wait for it to be ready, and run on from its last life. Stopping them restarts them: they are wanted.
    fn restart_dependants(&mut self, name: &ServiceName) {
        for service in self.services.values_mut() {
            let depends =
                service.spec.conditions.iter().any(|it| matches!(it, Condition::ServiceReady(on) if on == name));
            let runs = matches!(service.state, State::Starting { .. } | State::Ready { .. });
            if depends && runs && service.stop_cause.is_none() {
                let reason = format!("{name}, on which it depends, keeps failing");
                service.stop_cause = Some(StopCause::Restart { reason });
            }
        }
    }

    /// Does all that has become possible, until nothing more is.
    fn advance(&mut self, step: &mut Step) {
        // Each round starts or stops at least one service, and no service can do both without an event in between.
        while self.begin_shutdown_stops(step) | self.begin_stops(step) | self.begin_starts(step) | self.readiness(step)
        {
        }
        self.sync_watches(step);
        self.finish_shutdown(step);
    }

    /// Stops what is to stop, unless something that needs it is to stop too and has not yet.
    fn begin_stops(&mut self, step: &mut Step) -> bool {
        let due: Vec<ServiceName> =
            self.services.values().filter(|s| s.stop_is_due()).map(|s| s.spec.name.clone()).collect();
        if due.is_empty() {
            return false;
        }
        let mut free: Vec<&ServiceName> = due.iter().filter(|name| !self.is_needed_by_stopping(name)).collect();
        let any_stopping = self.services.values().any(|service| matches!(service.state, State::Stopping { .. }));
        if free.is_empty() && !any_stopping {
            // Old and new specifications can need each other in a circle. Order is then impossible; stopping is not.
            free = due.iter().collect();
        }
        let kill_at_most = self.shutdown.kill_all_at();
        for name in &free {
            if let Some(service) = self.services.get_mut(*name) {
                service.terminate(kill_at_most, step);
            }
        }
        !free.is_empty()
    }

    fn is_needed_by_stopping(&self, name: &ServiceName) -> bool {
        let Some(needed) = self.services.get(name) else { return false };
        self.services.values().any(|other| {
            other.spec.name != *name
                && (other.stop_is_due() || (other.stop_cause.is_some() && other.state.run().is_some()))
                && other.needs(needed)
        })
    }

    fn begin_starts(&mut self, step: &mut Step) -> bool {
        if self.shutdown.has_begun() {
            return false;
        }
        let able: Vec<ServiceName> = self
            .services
            .values()
            .filter(|service| matches!(service.state, State::Waiting { .. }) && self.unmet(service).next().is_none())
            .map(|service| service.spec.name.clone())
            .collect();
        for name in &able {
            let run = Run(self.next_run);
            self.next_run += 1;
            if let Some(service) = self.services.get_mut(name) {
                service.begin_run(run, step);
                // An answer to an earlier generation says nothing about this one.
                if let Some(condition) = service.readiness_condition() {
                    self.watches.remove(&condition);
                }
            }
        }
        !able.is_empty()
    }

    /// Services whose readiness is an answering socket.
    fn readiness(&mut self, step: &mut Step) -> bool {
        let mut any = false;
        for service in self.services.values_mut() {
            if matches!(service.state, State::Starting { .. })
                && let Some(condition) = service.readiness_condition()
                && self.watches.get(&condition) == Some(&true)
            {
                service.become_ready(step);
                any = true;
            }
        }
        any
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
