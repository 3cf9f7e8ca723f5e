//! What each request does.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use keelson_control::{
    ErrorKind, Event as Told, Request, Response, ServiceName, ServiceSet, ShutdownKind, SupervisorStatus, VersionRange,
    codec,
};
use keelson_sys::clock;
use keelson_sys::poller::Happened;

use super::Driver;
use super::clients::Asked;
use super::words;
use crate::supervisor::core::{Change, Event, InhibitorId, short};
use crate::supervisor::{Note, Severity};

type Answer = Result<Response, (ErrorKind, String)>;

impl Driver<'_> {
    pub(super) fn serve_client(&mut self, number: u64, happened: Happened) {
        if happened.readable || happened.closed {
            for asked in self.clients.read(number) {
                self.serve(number, asked);
            }
        }
        self.clients.flush(number, &self.poller);
    }

    fn serve(&mut self, number: u64, asked: Asked) {
        let answer = match asked.request {
            Request::Hello { versions, client } => self.greet(number, versions, client),
            _ if self.clients.name(number).is_none() => Err((ErrorKind::Version, "say hello first".to_owned())),
            request => self.obey(number, request, asked.descriptor),
        };
        let response = answer.unwrap_or_else(|(kind, message)| Response::Error { kind, message });
        self.clients.answer(number, response);
        // A later request on this connection sees what this one has done.
        self.run_core();
    }

    fn greet(&mut self, number: u64, versions: VersionRange, client: String) -> Answer {
        let ours = VersionRange::OURS;
        let Some(version) = ours.agree(versions) else {
            let message = format!("versions {} to {} are spoken here", ours.min, ours.max);
            return Err((ErrorKind::Version, message));
        };
        self.clients.set_name(number, client);
        Ok(Response::Hello { version })
    }

    fn obey(&mut self, number: u64, request: Request, descriptor: Option<OwnedFd>) -> Answer {
        match request {
            Request::Hello { versions, client } => self.greet(number, versions, client),
            Request::List {} => Ok(Response::Status(self.status())),
            Request::Subscribe {} => {
                self.clients.set_subscribed(number);
                Ok(Response::Done {})
            }
            Request::ApplySet {} => self.apply_set(descriptor),
            Request::Start { service } => self.order(service, true, |service| Event::Start { service }),
            Request::Stop { service } => self.order(service, false, |service| Event::Stop { service }),
            // A reason is told to all subscribers, and kept: one as long as a packet would fit neither.
            Request::Restart { service, reason } => {
                self.order(service, true, |service| Event::Restart { service, reason: short(reason) })
            }
            Request::ReportUnhealthy { service, reason } => {
                self.order(service, false, |service| Event::Unhealthy { service, reason: short(reason) })
            }
            Request::Inhibit { who, delay_max_seconds, .. } => {
                self.refuse_in_shutdown()?;
                let delay_max = Duration::from_secs(u64::from(delay_max_seconds));
                self.events.push_back(Event::Inhibit { id: InhibitorId(number), who, delay_max });
                Ok(Response::Done {})
            }
            Request::MarkBootGood {} => {
                self.mark_boot_good();
                Ok(Response::Done {})
            }
            Request::Boots {} => {
                Ok(Response::Boots { boots: self.boots.iter().map(|known| known.boot.clone()).collect() })
            }
            Request::Boot { number } => self.boot(number),
            Request::Reboot { reason } => self.end(number, ShutdownKind::Reboot, short(reason)),
            Request::PowerOff { reason } => self.end(number, ShutdownKind::PowerOff, short(reason)),
        }
    }

    fn order(&mut self, service: ServiceName, starts: bool, event: impl FnOnce(ServiceName) -> Event) -> Answer {
        if !self.core.contains(&service) {
            return Err((ErrorKind::UnknownService, format!("there is no service {service}")));
        }
        if starts {
            self.refuse_in_shutdown()?;
        }
        self.events.push_back(event(service));
        Ok(Response::Done {})
    }

    fn refuse_in_shutdown(&self) -> Result<(), (ErrorKind, String)> {
        match self.core.shutting_down() {
            Some(kind) => Err((ErrorKind::ShuttingDown, format!("a {kind} is under way"))),
            None => Ok(()),
        }
    }

    fn end(&mut self, number: u64, kind: ShutdownKind, reason: String) -> Answer {
        self.refuse_in_shutdown()?;
        let client = self.clients.name(number).unwrap_or_default().to_owned();
        self.say(Severity::Info, "shutdown", &format_args!("{client} asks for a {kind}"));
        self.events.push_back(Event::Shutdown { kind, reason });
        Ok(Response::Done {})
    }

    fn boot(&self, number: u64) -> Answer {
        let known = self.boots.iter().find(|known| known.boot.number == number).cloned();
        known.map(Response::Boot).ok_or_else(|| (ErrorKind::UnknownBoot, format!("there is no boot {number}")))
    }

    fn mark_boot_good(&mut self) {
        if let Some(present) = self.boots.last_mut().filter(|present| !present.boot.good) {
            present.boot.good = true;
            self.host.note(Note::MarkedGood);
            self.say(Severity::Info, "boot", &"marked good");
            self.clients.broadcast(&Told::BootMarkedGood {}, &self.poller);
        }
    }

    fn apply_set(&mut self, descriptor: Option<OwnedFd>) -> Answer {
        self.refuse_in_shutdown()?;
        let memfd = descriptor.ok_or_else(|| (ErrorKind::Malformed, "no set came with the request".to_owned()))?;
        let set = codec::read_set(&memfd).map_err(|error| (ErrorKind::Malformed, words::chain(&error)))?;
        set.validate(&self.core.static_specs()).map_err(|invalid| (ErrorKind::InvalidSet, invalid.to_string()))?;
        let applied_version = self.core.set_version();
        if set.version < applied_version {
            let message = format!("set {} is older than set {applied_version}, which is applied", set.version);
            return Err((ErrorKind::StaleSet, message));
        }
        let applied = self.core.difference(&set);
        if let Err(error) = keep_set(&self.paths.set, &set) {
            // It is a copy for those who look; supervision goes on from memory.
            self.say(Severity::Warning, "services", &format_args!("the set could not be kept in /run: {error}"));
        }
        self.say(Severity::Info, "services", &words::applied(&applied));
        self.events.push_back(Event::Apply { set });
        self.clients.broadcast(&Told::SetApplied { version: applied.version }, &self.poller);
        Ok(Response::Applied(applied))
    }

    fn status(&self) -> SupervisorStatus {
        let mut services = self.core.status(clock::since_boot());
        for service in &mut services {
            let usage = self.containment.usage(&service.name);
            service.memory_bytes = usage.memory_bytes;
            service.cpu_microseconds = usage.cpu_microseconds;
        }
        let shutting_down = self.core.shutting_down();
        SupervisorStatus { set_version: self.core.set_version(), shutting_down, services }
    }

    pub(super) fn announce(&mut self, service: &ServiceName, change: &Change) {
        if let Some((severity, text)) = words::change(change) {
            self.say(severity, service.as_str(), &text);
        }
        if let Some((state, reason)) = words::event(change) {
            let pid = self.core.pid(service);
            let event = Told::Service { service: service.clone(), state, pid, reason };
            self.clients.broadcast(&event, &self.poller);
        }
        if *change == Change::Lingers {
            let processes = self.containment.processes(service).join("; ");
            self.say(Severity::Error, service.as_str(), &format_args!("killed, but still there: {processes}"));
        }
    }

    pub(super) fn begin_shutdown(
        &mut self,
        kind: ShutdownKind,
        reason: String,
        inhibitors: &[String],
        inhibitors_deadline: Duration,
    ) {
        if let Some(enforcer) = &self.enforcer {
            enforcer.arm(kind, clock::since_boot());
        }
        self.host.note(Note::Ending { kind, reason: reason.clone() });
        self.say(Severity::Info, "shutdown", &format_args!("{kind} asked for: {reason}"));
        if !inhibitors.is_empty() {
            let who = inhibitors.join(", ");
            let seconds = inhibitors_deadline.as_secs();
            self.say(Severity::Info, "shutdown", &format_args!("waiting up to {seconds} s for {who}"));
        }
        let inhibitors_deadline_milliseconds = u64::try_from(inhibitors_deadline.as_millis()).unwrap_or(u64::MAX);
        self.clients.broadcast(&Told::ShuttingDown { kind, reason, inhibitors_deadline_milliseconds }, &self.poller);
    }
}

/// Replaces the kept set as a whole.
fn keep_set(path: &Path, set: &ServiceSet) -> io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(set)?)?;
    std::fs::rename(&new, path)
}
