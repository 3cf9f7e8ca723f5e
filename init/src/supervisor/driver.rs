//! Runs the core: one loop that waits, turns what happened into events, and carries the commands out.
//!
//! Everything that can happen is a [`Source`]; everything that is done about it goes through the core. The loop waits
//! in one place only (epoll with a timeout, which does a timerfd's work without one), every descriptor is non-blocking,
//! and every path it looks at lies in memory (/run, /sys, /proc), so no disk and no client can hold it up.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use keelson_control::{BootDetails, ServiceName};
use keelson_sys::clock;
use keelson_sys::poller::{Happened, Interest, Poller};
use keelson_sys::signals::{self, Signals};

use super::core::{Command, Core, Event, InhibitorId};
use super::{Host, Overview, Paths, Setup, Severity, SupervisorError, Verdict};
use crate::buttons::Buttons;
use crate::shutdown::Enforcer;

mod cgroups;
mod children;
mod clients;
mod conditions;
mod console_file;
mod control;
mod logs;
mod notify;
mod presses;
mod statuses;
mod words;

pub use cgroups::{Cgroups, Containment, Usage};

use children::Children;
use clients::Clients;
use conditions::Conditions;
use console_file::ConsoleFile;
use logs::Logs;
use notify::NotifySocket;
use presses::{Press, Presses};
use statuses::Statuses;

/// How often what has no event of its own is looked at: full pipes, watchdog, the terminals' backlog.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Read in one go; then other events get their turn. Any process of the node may send, and as fast as it can.
const NOTIFICATIONS_MAX: usize = 64;

/// A deadline of the core that is missed by so much, although the loop turns, means that the core does not do its work:
/// nothing then vouches for the services. Far longer than a busy emulated machine ever takes for a turn.
const LATE_MAX: Duration = Duration::from_secs(30);

/// While processes are awaited that were killed, how often their cgroup is looked at, should an event be missing.
const EMPTY_CHECK: Duration = Duration::from_millis(50);

/// Where an event comes from, as the number that epoll gives back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Signals,
    Listener,
    Notify,
    Inotify,
    Button,
    Client(u64),
    /// A child's pidfd.
    Child(u64),
    /// A child's status pipe.
    Status(u64),
    /// A child's cgroup.events.
    Group(u64),
    /// A connection in the making.
    Probe(u64),
}

const KIND_SHIFT: u32 = 56;

impl Source {
    pub(super) fn token(self) -> u64 {
        let (kind, number) = match self {
            Self::Signals => (0, 0),
            Self::Listener => (1, 0),
            Self::Notify => (2, 0),
            Self::Inotify => (3, 0),
            Self::Button => (4, 0),
            Self::Client(number) => (5, number),
            Self::Child(number) => (6, number),
            Self::Status(number) => (7, number),
            Self::Group(number) => (8, number),
            Self::Probe(number) => (9, number),
        };
        (kind << KIND_SHIFT) | number
    }

    fn from_token(token: u64) -> Option<Self> {
        let number = token & ((1 << KIND_SHIFT) - 1);
        Some(match token >> KIND_SHIFT {
            0 => Self::Signals,
            1 => Self::Listener,
            2 => Self::Notify,
            3 => Self::Inotify,
            4 => Self::Button,
            5 => Self::Client(number),
            6 => Self::Child(number),
            7 => Self::Status(number),
            8 => Self::Group(number),
            9 => Self::Probe(number),
            _ => return None,
        })
    }
}

pub(super) struct Driver<'h> {
    host: &'h mut dyn Host,
    core: Core,
    events: VecDeque<Event>,
    poller: Poller,
    signals: Signals,
    containment: Box<dyn Containment>,
    children: Children,
    conditions: Conditions,
    clients: Clients,
    notify: NotifySocket,
    statuses: Statuses,
    logs: Logs,
    buttons: Buttons,
    presses: Presses,
    console_file: ConsoleFile,
    paths: Paths,
    boots: Vec<BootDetails>,
    log_service: Option<ServiceName>,
    enforcer: Option<Enforcer>,
    next_housekeeping: Duration,
    verdict: Option<Verdict>,
}

impl<'h> Driver<'h> {
    pub(super) fn new(host: &'h mut dyn Host, setup: Setup) -> Result<Self, SupervisorError> {
        let failed = |what| move |source: io::Error| SupervisorError::SetUp { what, source };
        let now = clock::since_boot();
        let poller = Poller::new().map_err(failed("the poller"))?;
        let signals = Signals::block().map_err(failed("signals"))?;
        poller.add(&signals, Source::Signals.token(), Interest::Read).map_err(failed("signals"))?;
        let clients =
            Clients::listen(&setup.paths.socket, setup.owner, &poller).map_err(failed("the control socket"))?;
        let notify = NotifySocket::bind(&setup.paths.notify, &poller).map_err(failed("the notify socket"))?;
        let conditions = Conditions::new(&poller).map_err(failed("inotify"))?;
        for button in setup.buttons.descriptors() {
            poller.add(button, Source::Button.token(), Interest::Read).map_err(failed("a power button"))?;
        }
        Ok(Self {
            host,
            core: Core::new(setup.services, setup.seed, now).may_reboot(setup.may_reboot),
            events: VecDeque::from([Event::Tick]),
            children: Children::new(&setup.paths),
            console_file: ConsoleFile::new(setup.paths.console.clone()),
            logs: Logs::new(setup.kernel_log),
            poller,
            signals,
            containment: setup.containment,
            conditions,
            clients,
            notify,
            statuses: Statuses::default(),
            buttons: setup.buttons,
            presses: Presses::default(),
            paths: setup.paths,
            boots: setup.boots,
            log_service: setup.log_service,
            enforcer: setup.enforcer,
            next_housekeeping: now,
            verdict: None,
        })
    }

    /// Supervises until a shutdown is complete.
    pub(super) fn live(mut self) -> Result<Verdict, SupervisorError> {
        let mut happened = Vec::new();
        loop {
            self.run_core();
            if let Some(verdict) = self.verdict.take() {
                self.clients.flush_all(&self.poller);
                return Ok(verdict);
            }
            let timeout = self.timeout();
            self.poller.wait(Some(timeout), &mut happened).map_err(SupervisorError::Wait)?;
            for event in &happened {
                self.dispatch(*event);
            }
            self.keep_time();
        }
    }

    /// Feeds all events to the core. Carrying a command out can make an event, so this goes on until there is none.
    fn run_core(&mut self) {
        while let Some(event) = self.next_event() {
            for command in self.core.handle(event, clock::since_boot()) {
                self.perform(command);
            }
        }
    }

    /// A connection that held an inhibitor lets go of it by ending, however it ends.
    fn next_event(&mut self) -> Option<Event> {
        let gone = self.clients.take_gone().map(|number| Event::Uninhibit { id: InhibitorId(number) });
        self.events.extend(gone);
        self.events.pop_front()
    }

    fn timeout(&self) -> Duration {
        let now = clock::since_boot();
        if self.children.has_unreaped() {
            return Duration::ZERO;
        }
        let mut next = self.next_housekeeping;
        for deadline in [self.core.next_deadline(), self.conditions.next_deadline()].into_iter().flatten() {
            next = next.min(deadline);
        }
        let wait = next.saturating_sub(now);
        if self.children.awaits_empty() { wait.min(EMPTY_CHECK) } else { wait }
    }

    fn dispatch(&mut self, happened: Happened) {
        let Some(source) = Source::from_token(happened.token) else { return };
        match source {
            Source::Signals => self.read_signals(),
            Source::Listener => self.clients.accept(&self.poller),
            Source::Notify => self.read_notifications(),
            Source::Inotify => {
                self.conditions.changed(&mut self.events);
                self.show_console_file();
            }
            Source::Button => self.read_buttons(),
            Source::Client(number) => self.serve_client(number, happened),
            Source::Child(_) => self.reap(),
            Source::Status(number) => self.read_status(number),
            Source::Group(_) => self.check_empty(),
            Source::Probe(number) => self.conditions.connected(number, &self.poller, &mut self.events),
        }
    }

    fn keep_time(&mut self) {
        let now = clock::since_boot();
        if self.children.has_unreaped() {
            self.reap();
        }
        if self.children.awaits_empty() {
            self.check_empty();
        }
        self.conditions.probe(now, &self.poller, &mut self.events);
        if self.core.next_deadline().is_some_and(|deadline| now >= deadline) {
            self.events.push_back(Event::Tick);
        }
        if now >= self.next_housekeeping {
            self.next_housekeeping = now + HOUSEKEEPING;
            self.conditions.changed(&mut self.events);
            self.logs.send_pending();
            self.relieve_pipes(now);
            self.show_console_file();
            let keeps_time = self.core.next_deadline().is_none_or(|deadline| now < deadline + LATE_MAX);
            self.host.beat(keeps_time);
            if self.host.is_watched() {
                self.host.show(&Overview {
                    services: self.core.status(now),
                    words: self.statuses.last(),
                    cluster: self.console_file.shown(),
                    ending: self.core.shutting_down(),
                });
            }
        }
    }

    fn perform(&mut self, command: Command) {
        match command {
            Command::Spawn { service, run } => self.spawn(&service, run),
            Command::Terminate { service } => self.children.terminate(&service),
            Command::KillAll { service, run } => self.kill_all(&service, run),
            Command::Watch { condition } => self.conditions.watch(condition, &self.poller, &mut self.events),
            Command::Unwatch { condition } => self.conditions.unwatch(&condition),
            Command::Forget { service } => {
                self.containment.forget(&service);
                self.logs.forget(&service);
                self.statuses.forget(&service);
            }
            Command::Changed { service, change } => self.announce(&service, &change),
            Command::ShutdownBegun { kind, reason, inhibitors, inhibitors_deadline } => {
                self.begin_shutdown(kind, reason, &inhibitors, inhibitors_deadline);
            }
            Command::ShutdownComplete { kind, reason, left } => {
                self.verdict = Some(Verdict { kind, reason, escalated: self.core.has_escalated(), left });
            }
        }
    }

    fn read_signals(&mut self) {
        // An error means that there is nothing to read: the descriptor is ours and open.
        while let Ok(Some(signal)) = self.signals.read() {
            match signal {
                signals::CHILD => {}
                signals::INTERRUPT => self.press("ctrl-alt-del", keelson_control::ShutdownKind::Reboot),
                signals::POWER => self.press("power failure signal", keelson_control::ShutdownKind::PowerOff),
                // Nobody is meant to signal PID 1: the control socket is the way.
                other => self.say(Severity::Warning, "init", &format_args!("signal {other} is not obeyed")),
            }
        }
        self.reap();
    }

    fn read_buttons(&mut self) {
        if self.buttons.pressed() {
            self.press("power button", keelson_control::ShutdownKind::PowerOff);
        }
    }

    /// A person at the machine asks for its end.
    fn press(&mut self, what: &str, kind: keelson_control::ShutdownKind) {
        match self.presses.press(clock::since_boot(), self.core.shutting_down()) {
            Press::Same => {}
            Press::AsksForTheEnd => self.events.push_back(Event::Shutdown { kind, reason: what.to_owned() }),
            Press::FindsUnderWay(kind) => {
                let text = format_args!("{what}: a {kind} is under way; pressed again it is forced");
                self.say(Severity::Warning, "shutdown", &text);
            }
            Press::Forces => {
                self.say(Severity::Warning, "shutdown", &format_args!("{what} again: forced"));
                self.events.push_back(Event::ForceShutdown);
            }
        }
        self.run_core();
    }

    fn read_notifications(&mut self) {
        for notification in self.notify.receive(NOTIFICATIONS_MAX) {
            let Some(service) = self.children.service_of(notification.pid, &*self.containment) else { continue };
            if let Some(status) = notification.status
                && self.statuses.is_news(&service, &status, clock::since_boot())
            {
                self.say(Severity::Info, service.as_str(), &status);
            }
            let Some(run) = self.children.run_of(&service) else { continue };
            if notification.ready {
                self.events.push_back(Event::Notified { service: service.clone(), run });
            }
            if notification.alive {
                self.events.push_back(Event::Alive { service, run });
            }
        }
    }

    fn show_console_file(&mut self) {
        for line in self.console_file.new_lines() {
            self.say(Severity::Info, "cluster", &line);
        }
    }

    fn relieve_pipes(&mut self, now: Duration) {
        for (service, bytes) in self.logs.relieve(now) {
            let text = format!("{bytes} bytes of output were dropped: nobody reads its log");
            self.say(Severity::Warning, service.as_str(), &text);
        }
    }

    fn say(&mut self, severity: Severity, subject: &str, message: &dyn std::fmt::Display) {
        self.host.say(severity, subject, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_is_found_again_by_its_token() {
        let sources = [
            Source::Signals,
            Source::Listener,
            Source::Notify,
            Source::Inotify,
            Source::Button,
            Source::Client(2),
            Source::Child(3),
            Source::Status(4),
            Source::Group(5),
            Source::Probe((1 << KIND_SHIFT) - 1),
        ];
        for source in sources {
            assert_eq!(Source::from_token(source.token()), Some(source));
        }
        assert_eq!(Source::from_token(u64::MAX), None);
    }
}
