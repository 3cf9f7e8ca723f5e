//! The supervisor's side: what `init` does after its boot, without being PID 1.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use keelson_control::{BootDetails, BootPhase, BootRecord, ServiceName, ServiceSpec};
use keelson_init::buttons::Buttons;
use keelson_init::supervisor::{self, Cgroups, Containment, Host, Note, Overview, Paths, Setup, Severity};

use crate::sessions::Sessions;

pub(crate) const COMMAND: &str = "--supervise";

/// The static services, as JSON.
pub(crate) const SERVICES_FILE: &str = "services.json";

/// keelson-exec is a program of another package: built beside this one, by whoever runs all tests, or on demand.
pub(crate) const EXEC_FILE: &str = "exec";

struct Terminal;

impl Host for Terminal {
    fn say(&mut self, severity: Severity, subject: &str, message: &dyn Display) {
        println!("{severity:?} {subject}: {message}");
    }

    fn beat(&mut self, _: bool) {}

    fn note(&mut self, note: Note) {
        println!("note: {note:?}");
    }

    fn is_watched(&mut self) -> bool {
        false
    }

    fn show(&mut self, _: &Overview<'_>) {}
}

pub(crate) fn main(kind: &str, directory: &Path) -> ExitCode {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let services: Vec<ServiceSpec> = serde_json::from_slice(&fs::read(directory.join(SERVICES_FILE)).unwrap()).unwrap();
    let log = ServiceName::new("log").unwrap();
    let setup = Setup {
        log_service: services.iter().any(|spec| spec.name == log).then_some(log),
        services,
        containment: containment(kind, directory),
        paths: Paths {
            exec: fs::read_link(directory.join(EXEC_FILE)).unwrap(),
            socket: directory.join("init.sock"),
            notify: directory.join("notify"),
            set: directory.join("set"),
            console: directory.join("console"),
        },
        kernel_log: None,
        owner: rustix::process::geteuid().as_raw(),
        may_reboot: true,
        seed: 1,
        boots: vec![boot(7), boot(8)],
        enforcer: None,
        buttons: Buttons::default(),
    };
    let verdict = supervisor::run(&mut Terminal, setup).unwrap();
    println!("verdict: {} {} {:?}", verdict.kind, verdict.reason, verdict.left);
    ExitCode::SUCCESS
}

fn boot(number: u64) -> BootDetails {
    let phase = BootPhase { name: "disks".to_owned(), start_milliseconds: 100, milliseconds: number };
    let boot = BootRecord { number, version: "0.1.0".to_owned(), ..BootRecord::default() };
    BootDetails { boot, image: "ab".repeat(32), phases: vec![phase] }
}

/// What holds a service's processes together: cgroups if this machine lets us, or sessions.
pub(crate) const BEST: &str = "best";
pub(crate) const SESSIONS: &str = "sessions";

fn containment(kind: &str, directory: &Path) -> Box<dyn Containment> {
    match cgroup_base(directory).filter(|_| kind == BEST) {
        Some(base) => Box::new(Cgroups::new(base).unwrap()),
        None => Box::new(Sessions::default()),
    }
}

/// A cgroup v2 directory for this supervisor, if one can be made.
pub(crate) fn cgroup_base(directory: &Path) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let root = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let point = fields.next()?;
        (fields.next()? == "cgroup2").then_some(point)
    })?;
    let base =
        Path::new(root).join(format!("keelson-test-{}", directory.file_name()?.to_str()?.trim_start_matches('.')));
    fs::create_dir_all(&base).ok()?;
    Some(base)
}
