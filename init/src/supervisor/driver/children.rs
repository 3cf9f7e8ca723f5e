//! Processes: starting them, hearing of their set-up, reaping them, and knowing when all of a service are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use keelson_control::child::{ChildJob, JOB_FD, PASSED_FD, STATUS_FD, STATUS_GO, STATUS_MAX};
use keelson_control::{ExitReason, Readiness, ServiceName, ServiceSpec};
use keelson_sys::poller::{Interest, Poller};
use keelson_sys::process::Exit;
use keelson_sys::{memfd, process, reaper};
use rustix::pipe::PipeFlags;
use rustix::process::Signal;
use thiserror::Error;

use super::cgroups::Containment;
use super::{Driver, Source};
use crate::supervisor::core::{Event, Run};
use crate::supervisor::{Paths, Severity};

/// Reaped in one go; then other events get their turn. Ten thousand orphans at once do not delay a stop.
const REAP_BATCH: usize = 64;

#[derive(Debug, Error)]
pub(super) enum SpawnError {
    #[error("cannot prepare {what}")]
    Prepare { what: &'static str, source: std::io::Error },
    #[error("cannot encode its job")]
    Encode(#[source] serde_json::Error),
    #[error("cannot clone")]
    Clone(#[source] std::io::Error),
}

#[derive(Debug)]
pub(super) struct Children {
    exec: PathBuf,
    notify: PathBuf,
    by_run: BTreeMap<Run, Child>,
    /// Killed; the end of their cgroups is awaited.
    awaits_empty: BTreeSet<Run>,
    unreaped: bool,
}

#[derive(Debug)]
struct Child {
    service: ServiceName,
    pid: i32,
    pidfd: OwnedFd,
    exited: bool,
    /// The status pipe, until it closes.
    status: Option<OwnedFd>,
    told: Vec<u8>,
}

impl Child {
    /// Why the program was not executed, if it was not.
    fn not_executed(&self) -> Option<String> {
        match self.told.split_first() {
            Some((&STATUS_GO, [])) => None,
            Some((&STATUS_GO, message)) => Some(String::from_utf8_lossy(message).into_owned()),
            Some(_) => Some(String::from_utf8_lossy(&self.told).into_owned()),
            None => Some("its set-up ended early".to_owned()),
        }
    }
}

impl Children {
    pub(super) fn new(paths: &Paths) -> Self {
        Self {
            exec: paths.exec.clone(),
            notify: paths.notify.clone(),
            by_run: BTreeMap::new(),
            awaits_empty: BTreeSet::new(),
            unreaped: false,
        }
    }

    pub(super) fn has_unreaped(&self) -> bool {
        self.unreaped
    }

    pub(super) fn awaits_empty(&self) -> bool {
        !self.awaits_empty.is_empty()
    }

    pub(super) fn terminate(&self, service: &ServiceName) {
        if let Some(child) = self.by_run.values().rev().find(|child| child.service == *service) {
            // ESRCH: it has ended, and the reaper is about to say so.
            let _ = rustix::process::pidfd_send_signal(&child.pidfd, Signal::TERM);
        }
    }

    /// The newest generation.
    pub(super) fn run_of(&self, service: &ServiceName) -> Option<Run> {
        self.by_run.iter().rev().find(|(_, child)| child.service == *service).map(|(run, _)| *run)
    }

    pub(super) fn service_of(&self, pid: i32, containment: &dyn Containment) -> Option<ServiceName> {
        let main = self.by_run.values().find(|child| child.pid == pid && !child.exited);
        main.map(|child| child.service.clone()).or_else(|| containment.owner(pid))
    }

    fn start(
        &self,
        spec: &ServiceSpec,
        log: BorrowedFd<'_>,
        passed: Option<&OwnedFd>,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<(process::Child, OwnedFd), SpawnError> {
        let prepare = |what| move |source: rustix::io::Errno| SpawnError::Prepare { what, source: source.into() };
        let job = self.job(spec, passed.is_some())?;
        let (status, told) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(prepare("its status pipe"))?;
        rustix::io::ioctl_fionbio(&status, true).map_err(prepare("its status pipe"))?;
        let null = rustix::fs::open(
            "/dev/null",
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map_err(prepare("/dev/null"))?;
        let mut descriptors =
            vec![(null.as_fd(), 0), (log, 1), (log, 2), (job.as_fd(), JOB_FD), (told.as_fd(), STATUS_FD)];
        descriptors.extend(passed.map(|passed| (passed.as_fd(), PASSED_FD)));
        let program = CString::new(self.exec.as_os_str().as_bytes())
            .map_err(|error| SpawnError::Prepare { what: "the path of keelson-exec", source: error.into() })?;
        let arguments = [program.clone(), c"service".to_owned()];
        let command = process::Command {
            program: &program,
            arguments: &arguments,
            environment: &[],
            descriptors: &descriptors,
            cgroup,
        };
        let child = process::spawn(&command).map_err(SpawnError::Clone)?;
        Ok((child, status))
    }

    fn job(&self, spec: &ServiceSpec, passes_descriptor: bool) -> Result<OwnedFd, SpawnError> {
        let mut spec = spec.clone();
        if spec.readiness == Readiness::Notify {
            spec.environment.insert("NOTIFY_SOCKET".to_owned(), self.notify.display().to_string());
        }
        if let Some(patience) = spec.watchdog() {
            spec.environment.insert("WATCHDOG_USEC".to_owned(), patience.as_micros().to_string());
        }
        let json = serde_json::to_vec(&ChildJob { spec, passes_descriptor }).map_err(SpawnError::Encode)?;
        memfd::sealed("keelson-child-job", &json).map_err(|source| SpawnError::Prepare { what: "its job", source })
    }

    fn adopt(&mut self, service: &ServiceName, run: Run, child: process::Child, status: OwnedFd, poller: &Poller) {
        // If epoll has no room, SIGCHLD still tells of the end, and the exit of the status.
        let _ = poller.add(&child.pidfd, Source::Child(run.0).token(), Interest::Read);
        let _ = poller.add(&status, Source::Status(run.0).token(), Interest::Read);
        self.by_run.insert(
            run,
            Child {
                service: service.clone(),
                pid: child.pid,
                pidfd: child.pidfd,
                exited: false,
                status: Some(status),
                told: Vec::new(),
            },
        );
    }
}

impl Driver<'_> {
    pub(super) fn spawn(&mut self, service: &ServiceName, run: Run) {
        match self.try_spawn(service, run) {
            Ok(pid) => self.events.push_back(Event::Spawned { service: service.clone(), run, pid }),
            Err(error) => {
                let reason = super::words::chain(&error);
                self.events.push_back(Event::SpawnFailed { service: service.clone(), run, reason });
            }
        }
    }

    fn try_spawn(&mut self, service: &ServiceName, run: Run) -> Result<u32, SpawnError> {
        let Some(spec) = self.core.spec(service).cloned() else {
            return Err(SpawnError::Prepare { what: "its specification", source: std::io::ErrorKind::NotFound.into() });
        };
        let prepare = |what| move |source| SpawnError::Prepare { what, source };
        for warning in self.containment.prepare(&spec, &self.poller).map_err(prepare("its cgroup"))? {
            self.host.say(Severity::Warning, service.as_str(), &warning);
        }
        let passed = if self.log_service.as_ref() == Some(service) {
            Some(self.logs.new_channel().map_err(prepare("the log channel"))?)
        } else {
            None
        };
        let log = self.logs.writer(service).map_err(prepare("its log pipe"))?;
        let cgroup = self.containment.directory(service);
        let (child, status) = self.children.start(&spec, log, passed.as_ref(), cgroup)?;
        let pid = child.pid;
        self.containment.started(service, pid);
        self.children.adopt(service, run, child, status, &self.poller);
        self.logs.send_pending();
        Ok(u32::try_from(pid).unwrap_or_default())
    }

    /// Reads what the set-up says. Its end means that the program runs, or that there is none.
    pub(super) fn read_status(&mut self, number: u64) {
        let run = Run(number);
        let Some(child) = self.children.by_run.get_mut(&run) else { return };
        if drain_status(child, &self.poller) && child.not_executed().is_none() {
            self.events.push_back(Event::Executed { service: child.service.clone(), run });
        }
    }

    /// Peeks, then reaps the one that was seen, until there is none or others have to get their turn.
    pub(super) fn reap(&mut self) {
        self.children.unreaped = false;
        for _ in 0..REAP_BATCH {
            match reaper::peek() {
                Ok(Some(pid)) => self.reap_one(pid),
                Ok(None) | Err(_) => return,
            }
        }
        self.children.unreaped = true;
    }

    fn reap_one(&mut self, pid: i32) {
        // An orphan's status interests nobody.
        let Ok(Some(exit)) = reaper::reap(pid) else { return };
        let mut children = self.children.by_run.iter_mut();
        let Some((run, child)) = children.find(|(_, child)| child.pid == pid && !child.exited) else { return };
        child.exited = true;
        let _ = self.poller.remove(&child.pidfd);
        // The pipe may be unread although the process is gone. Who executed anything said so before.
        if child.status.is_some() && drain_status(child, &self.poller) && child.not_executed().is_none() {
            self.events.push_back(Event::Executed { service: child.service.clone(), run: *run });
        }
        let reason = match (child.not_executed(), exit) {
            (Some(reason), _) => ExitReason::NotExecuted(reason),
            (None, Exit::Status(status)) => ExitReason::Exited(status),
            (None, Exit::Signal(signal)) => ExitReason::Signaled(signal),
        };
        self.events.push_back(Event::Exited { service: child.service.clone(), run: *run, reason });
    }

    pub(super) fn kill_all(&mut self, service: &ServiceName, run: Run) {
        if let Err(error) = self.containment.kill(service) {
            self.say(Severity::Error, service.as_str(), &format_args!("cannot kill its processes: {error}"));
        }
        self.children.awaits_empty.insert(run);
        self.check_empty();
    }

    /// Looks whether anything is left of those that were killed.
    pub(super) fn check_empty(&mut self) {
        let Children { by_run, awaits_empty, .. } = &mut self.children;
        let containment = &self.containment;
        let events = &mut self.events;
        awaits_empty.retain(|run| {
            let Some(child) = by_run.get(run) else { return false };
            // An error here is a cgroup that is not there: nothing can be in it.
            if !child.exited || !containment.is_empty(&child.service).unwrap_or(true) {
                return true;
            }
            events.push_back(Event::Emptied { service: child.service.clone(), run: *run });
            by_run.remove(run);
            false
        });
    }
}

/// Reads to the end. Returns whether it came, now and for the first time.
fn drain_status(child: &mut Child, poller: &Poller) -> bool {
    let Some(status) = &child.status else { return false };
    let mut buffer = [0; STATUS_MAX];
    loop {
        match rustix::io::read(status, &mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                let room = STATUS_MAX.saturating_sub(child.told.len());
                child.told.extend_from_slice(buffer.get(..count.min(room)).unwrap_or_default());
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) if !child.exited => return false,
            // After its exit nothing more can come, even if a descendant holds the other end.
            Err(_) => break,
        }
    }
    let _ = poller.remove(status);
    child.status = None;
    true
}
