//! The test's side: starts a supervisor, asks it, waits for what it says, and cleans up after it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use keelson_control::{Client, ServiceName, ServiceSpec, ServiceState, ServiceStatus};
use tempfile::TempDir;

use crate::supervisor::{self, EXEC_FILE, SERVICES_FILE};

/// How long anything may take. Far more than it does: the machine may be busy.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

pub(crate) struct Supervised {
    directory: TempDir,
    process: Child,
}

pub(crate) fn name(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

/// A service that runs a line of shell.
pub(crate) fn shell(service: &str, script: &str) -> ServiceSpec {
    ServiceSpec {
        arguments: vec!["-c".to_owned(), script.to_owned()],
        environment: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
        timeout_stop_seconds: 30,
        account: keelson_control::Account {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: Vec::new(),
        },
        capabilities: keelson_control::Capabilities::All,
        ..ServiceSpec::daemon(name(service), "/bin/sh")
    }
}

/// Waits for `probe` to find something.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {} s: {what}", DEADLINE.as_secs());
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

impl Supervised {
    /// Starts a supervisor with what `services` makes of its directory.
    pub(crate) fn start(services: impl FnOnce(&Path) -> Vec<ServiceSpec>) -> Self {
        Self::start_with(supervisor::BEST, services)
    }

    pub(crate) fn start_without_cgroups(services: impl FnOnce(&Path) -> Vec<ServiceSpec>) -> Self {
        Self::start_with(supervisor::SESSIONS, services)
    }

    fn start_with(containment: &str, services: impl FnOnce(&Path) -> Vec<ServiceSpec>) -> Self {
        // In memory, as /run is in the image.
        let base = if Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
        let directory = tempfile::Builder::new().prefix("keelson").tempdir_in(base).unwrap();
        let services = services(directory.path());
        fs::write(directory.path().join(SERVICES_FILE), serde_json::to_vec(&services).unwrap()).unwrap();
        std::os::unix::fs::symlink(exec_program(), directory.path().join(EXEC_FILE)).unwrap();
        let output = fs::File::create(directory.path().join("output")).unwrap();
        let process = Command::new(std::env::current_exe().unwrap())
            .args([supervisor::COMMAND.as_ref(), containment.as_ref(), directory.path().as_os_str()])
            .stdin(Stdio::null())
            .stderr(output.try_clone().unwrap())
            .stdout(output)
            .process_group(0)
            .spawn()
            .unwrap();
        let mut supervised = Self { directory, process };
        eventually("the supervisor listens", || {
            assert!(supervised.process.try_wait().unwrap().is_none(), "it ended:\n{}", supervised.output());
            Client::connect(supervised.path("init.sock"), "test").ok()
        });
        supervised
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.path("init.sock"), "test").unwrap()
    }

    /// What it said on its console.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(self.path("output")).unwrap()
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).unwrap()
    }

    pub(crate) fn status(&self, service: &str) -> ServiceStatus {
        let status = self.client().list().unwrap();
        status.services.into_iter().find(|status| status.name.as_str() == service).unwrap()
    }

    pub(crate) fn until(&self, service: &str, what: &str, holds: impl Fn(&ServiceStatus) -> bool) -> ServiceStatus {
        let started = Instant::now();
        loop {
            let status = self.status(service);
            if holds(&status) {
                return status;
            }
            assert!(started.elapsed() < DEADLINE, "{service} is not {what}: {status:?}\n{}", self.output());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    pub(crate) fn until_state(&self, service: &str, state: ServiceState) -> ServiceStatus {
        self.until(service, &format!("{state:?}"), |status| status.state == state)
    }

    pub(crate) fn until_said(&self, text: &str) {
        let started = Instant::now();
        while !self.output().contains(text) {
            assert!(started.elapsed() < DEADLINE, "{text:?} was not said:\n{}", self.output());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Waits for its end, and returns all it said.
    pub(crate) fn ended(&mut self) -> String {
        let started = Instant::now();
        while self.process.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < DEADLINE, "it does not end:\n{}", self.output());
            std::thread::park_timeout(Duration::from_millis(20));
        }
        self.output()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // Its services outlive a supervisor that is killed: kill them by their cgroups first.
        let base = supervisor::cgroup_base(self.directory.path());
        for group in base.iter().flat_map(|base| fs::read_dir(base).into_iter().flatten().flatten()) {
            let _ = fs::write(group.path().join("cgroup.kill"), "1");
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(base) = base {
            remove_groups(&base);
        }
    }
}

/// Groups become removable a moment after their last process.
fn remove_groups(base: &Path) {
    eventually("its cgroups are empty", || {
        for group in fs::read_dir(base).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
            let _ = fs::remove_dir(group.path());
        }
        fs::remove_dir(base).is_ok().then_some(())
    });
}

/// keelson-exec from the same build. Built here if it is not there yet: a test of one package does not build another's
/// programs.
fn exec_program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM
        .get_or_init(|| {
            // target/TRIPLE/debug/deps/supervision-HASH
            let test = std::env::current_exe().unwrap();
            let [profile, target] = [2, 4].map(|level| test.ancestors().nth(level).unwrap());
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--quiet", "--package", "keelson-exec", "--target-dir"]).arg(target);
            if !cfg!(debug_assertions) {
                build.arg("--release");
            }
            assert!(build.status().unwrap().success(), "keelson-exec does not build");
            let program = profile.join("keelson-exec");
            assert!(program.exists(), "{} is missing", program.display());
            program
        })
        .clone()
}
