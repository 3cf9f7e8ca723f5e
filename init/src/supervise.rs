//! From a finished boot to supervision and back: gives the supervisor what it needs and turns its verdict into PID 1's.

use std::fmt;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::Duration;

use keelson_control::{InvalidServiceName, ServiceName, ShutdownKind};
use keelson_init::services;
use keelson_init::supervisor::{self, Cgroups, Host, Note, Overview, Paths, Setup, Severity, SupervisorError};
use keelson_job::Cause;
use keelson_sys::clock;
use rustix::fs::{Mode, OFlags};
use thiserror::Error;

use crate::boot::history::{self, FAILED_BOOTS_MAX, Keeper};
use crate::boot::{Action, CGROUP_ROOT, Facts, Verdict};
use crate::console::{self, Console};
use crate::recovery;
use crate::screen::{self, Identity};
use crate::vitals::Vitals;

#[derive(Debug, Error)]
pub(crate) enum SuperviseError {
    #[error("a service of PID 1's own is named wrongly")]
    Services(#[source] InvalidServiceName),
    #[error("cannot make the services' cgroups")]
    Cgroups(#[source] std::io::Error),
    #[error("supervision ended")]
    Supervisor(#[source] SupervisorError),
}

/// Supervises until the machine is to end.
pub(crate) fn run(console: &mut Console, facts: &mut Facts, vitals: &mut Vitals) -> Result<Verdict, SuperviseError> {
    history::reached_services(facts, vitals);
    let setup = setup(facts, vitals)?;
    console.info("services", greeting(facts));
    let identity = identity(facts);
    let mut machine = Machine { console, vitals, identity, fed_at: Duration::ZERO, keeper: Keeper::default() };
    let verdict = supervisor::run(&mut machine, setup).map_err(SuperviseError::Supervisor)?;
    if !verdict.left.is_empty() {
        let left: Vec<&str> = verdict.left.iter().map(ServiceName::as_str).collect();
        console.warn("shutdown", format_args!("could not be stopped: {}", left.join(", ")));
    }
    let action = match verdict.kind {
        ShutdownKind::Reboot => Action::Reboot,
        ShutdownKind::PowerOff => Action::PowerOff,
    };
    let cause = if verdict.escalated { Cause::Ladder } else { Cause::Asked };
    Ok(Verdict { action, cause, reason: verdict.reason })
}

fn greeting(facts: &Facts) -> String {
    let memory = if facts.in_memory { ", nothing outlives it" } else { "" };
    format!("{}, boot {}{memory}: starting services", facts.hostname, facts.present.number)
}

fn identity(facts: &Facts) -> Identity {
    Identity {
        name: facts.hostname.clone(),
        role: facts.node.role,
        version: facts.present.version.clone(),
        boot: facts.present.number,
        in_memory: facts.in_memory,
    }
}

fn setup(facts: &Facts, vitals: &mut Vitals) -> Result<Setup, SuperviseError> {
    let root = Path::new(CGROUP_ROOT);
    let containment = Cgroups::new(root.join("keelson")).map_err(SuperviseError::Cgroups)?;
    make_shims_group(root).map_err(SuperviseError::Cgroups)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(Setup {
        services: services::all(&facts.node, &facts.cluster_networks).map_err(SuperviseError::Services)?,
        log_service: Some(ServiceName::new(services::LOG).map_err(SuperviseError::Services)?),
        containment: Box::new(containment),
        paths: Paths {
            exec: PathBuf::from(keelson_job::PROGRAM),
            socket: PathBuf::from(keelson_control::SOCKET_PATH),
            notify: PathBuf::from("/run/keelson/init/notify"),
            set: PathBuf::from("/run/keelson/init/set"),
            console: PathBuf::from("/run/keelson/cluster/console"),
        },
        kernel_log: rustix::fs::open("/dev/kmsg", flags, Mode::empty()).ok(),
        owner: 0,
        may_reboot: recovery::failed_before() + 1 < FAILED_BOOTS_MAX,
        seed: seed(),
        boots: history::shown(facts, &vitals.progress),
        enforcer: vitals.enforcer.clone(),
        buttons: vitals.requests.give_buttons(),
    })
}

/// containerd puts its shims here (`ShimCgroup`), and expects to find it.
fn make_shims_group(root: &Path) -> std::io::Result<()> {
    match fs::create_dir(root.join("shims")) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Differs from boot to boot and from machine to machine; spreading restarts needs no more.
fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// What the supervisor may use of the rest of PID 1.
struct Machine<'a> {
    console: &'a mut Console,
    vitals: &'a mut Vitals,
    identity: Identity,
    fed_at: Duration,
    keeper: Keeper,
}

impl Host for Machine<'_> {
    fn say(&mut self, severity: Severity, subject: &str, message: &dyn fmt::Display) {
        let severity = match severity {
            Severity::Error => console::Severity::Error,
            Severity::Warning => console::Severity::Warning,
            Severity::Info => console::Severity::Info,
        };
        self.console.say(severity, subject, message);
    }

    fn beat(&mut self, keeps_time: bool) {
        self.console.flush();
        let now = clock::since_boot();
        if let Err(error) = self.keeper.beat(self.vitals, now) {
            self.console.warn("state", format_args!("the boot's record was not kept: {}", recovery::chain(&error)));
        }
        // A dead man's switch: who does not do what is due is not alive, whatever else still turns.
        if keeps_time && now.saturating_sub(self.fed_at) >= self.vitals.feeding_interval() {
            self.fed_at = now;
            self.vitals.feed();
        }
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::MarkedGood => self.vitals.progress.good = true,
            Note::Ending { kind, reason } => {
                self.vitals.progress.ending = Some(format!("{kind}: {reason}"));
                // Now the lines matter: what stops, and what does not.
                self.console.leave_screen();
            }
        }
        self.keeper.news();
    }

    fn is_watched(&mut self) -> bool {
        self.console.is_watched()
    }

    fn show(&mut self, overview: &Overview<'_>) {
        let (up, identity) = (clock::since_boot(), &self.identity);
        self.console.show(|size, troubles| screen::compose(identity, overview, troubles, up, size));
    }
}
