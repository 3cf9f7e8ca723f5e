//! A service as data: what to run, when, as whom, within which limits.
//!
//! A specification is complete: PID 1 adds nothing to it but the cgroup, the log pipe and the notify socket. Two equal
//! specifications are the same service, so a change that is not visible in the arguments (a rewritten configuration
//! file) is made visible through [`ServiceSpec::revision`].

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod capability;
mod name;

pub use capability::{Capabilities, Capability};
pub use name::{InvalidServiceName, ServiceName};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    pub name: ServiceName,
    #[serde(default)]
    pub kind: ServiceKind,
    pub program: PathBuf,
    #[serde(default)]
    pub arguments: Vec<String>,
    /// The whole environment: nothing is inherited. PID 1 adds `NOTIFY_SOCKET` where readiness asks for it, and `WATCHDOG_USEC` where the
    /// service is to say that it lives.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// All must hold before each start, restarts included.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    #[serde(default)]
    pub readiness: Readiness,
    #[serde(default)]
    pub restart: RestartPolicy,
    /// What is done when restarting it again and again does not help.
    #[serde(default)]
    pub on_persistent_failure: PersistentFailure,
    /// From start to readiness (or, for a one-shot, to its end); past it the process is stopped and counts as failed.
    /// 0 is no limit, for a service whose readiness depends on the world around the node.
    #[serde(default = "default_timeout_start_seconds")]
    pub timeout_start_seconds: u32,
    /// A service that has not said for so long that it lives (`WATCHDOG=1`, `sd_notify(3)`), although it is ready or has said so before, is
    /// killed, and that counts as a failure. 0 is no such judgement; anything else needs [`Readiness::Notify`].
    #[serde(default)]
    pub watchdog_seconds: u32,
    /// From SIGTERM to `cgroup.kill`.
    #[serde(default = "default_timeout_stop_seconds")]
    pub timeout_stop_seconds: u32,
    /// Services that this one needs until its own end: an ordered stop stops them only after this one. What
    /// [`Condition::ServiceReady`] names is implied; names that are not there are ignored.
    #[serde(default)]
    pub stop_before: Vec<ServiceName>,
    #[serde(default)]
    pub account: Account,
    #[serde(default)]
    pub capabilities: Capabilities,
    /// Off only for those whose children need set-id or file capabilities: containerd and kubelet, for their pods. Where it is on, system
    /// calls are filtered too (`keelson_sys::seccomp`).
    #[serde(default = "default_true")]
    pub no_new_privs: bool,
    #[serde(default)]
    pub limits: Limits,
    /// Any string; when it changes, the service counts as changed. For instance a digest of its configuration files.
    #[serde(default)]
    pub revision: String,
}

impl ServiceSpec {
    /// A daemon with defaults for all else.
    pub fn daemon(name: ServiceName, program: impl Into<PathBuf>) -> Self {
        Self {
            name,
            kind: ServiceKind::Daemon,
            program: program.into(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            conditions: Vec::new(),
            readiness: Readiness::Started,
            restart: RestartPolicy::Always,
            on_persistent_failure: PersistentFailure::Retry,
            timeout_start_seconds: default_timeout_start_seconds(),
            watchdog_seconds: 0,
            timeout_stop_seconds: default_timeout_stop_seconds(),
            stop_before: Vec::new(),
            account: Account::default(),
            capabilities: Capabilities::none(),
            no_new_privs: true,
            limits: Limits::default(),
            revision: String::new(),
        }
    }

    /// A program that runs to its end; started again only if it fails.
    pub fn one_shot(name: ServiceName, program: impl Into<PathBuf>) -> Self {
        Self { kind: ServiceKind::OneShot, restart: RestartPolicy::OnFailure, ..Self::daemon(name, program) }
    }

    /// `None` is no limit.
    pub fn timeout_start(&self) -> Option<Duration> {
        limit(self.timeout_start_seconds)
    }

    /// `None` is no judgement.
    pub fn watchdog(&self) -> Option<Duration> {
        limit(self.watchdog_seconds)
    }

    pub fn timeout_stop(&self) -> Duration {
        Duration::from_secs(u64::from(self.timeout_stop_seconds))
    }

    /// The services that must not stop before this one: `stop_before` and the targets of `ServiceReady`.
    pub fn needs(&self) -> impl Iterator<Item = &ServiceName> {
        let ready = self.conditions.iter().filter_map(|condition| match condition {
            Condition::ServiceReady(name) => Some(name),
            _ => None,
        });
        self.stop_before.iter().chain(ready)
    }
}

/// 0 is none.
fn limit(seconds: u32) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceKind {
    /// Runs until it is stopped.
    #[default]
    Daemon,
    /// Runs to its end; ready once it has ended with status 0.
    OneShot,
}

/// Something that has to hold before a start. `Display` prints it as the reason for waiting.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    FileExists(PathBuf),
    /// A stream socket accepts a connection.
    SocketAnswers(PathBuf),
    TcpAnswers(SocketAddr),
    ServiceReady(ServiceName),
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FileExists(path) => write!(f, "file {}", path.display()),
            Self::SocketAnswers(path) => write!(f, "socket {}", path.display()),
            Self::TcpAnswers(address) => write!(f, "tcp {address}"),
            Self::ServiceReady(name) => write!(f, "service {name}"),
        }
    }
}

/// How a started process becomes a ready service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Readiness {
    /// With its execution.
    #[default]
    Started,
    /// With `READY=1` on `NOTIFY_SOCKET` (`sd_notify(3)`).
    Notify,
    /// When this unix stream socket accepts a connection.
    Socket(PathBuf),
    /// When this address accepts a connection.
    Tcp(SocketAddr),
}

/// What happens when the process ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    #[default]
    Always,
    /// Unless it ended with status 0.
    OnFailure,
    Never,
}

/// The end of the ladder, for a service that never ran stably through several rounds of restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PersistentFailure {
    /// Another round after a pause, for ever: its cause may lie outside the node.
    #[default]
    Retry,
    /// The machine is rebooted in order, with the reason kept; not again if the boots before ended so too. For what the
    /// node is nothing without, and whose causes a reboot may cure.
    Reboot,
}

/// The default is root, without supplementary groups.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
    #[serde(default)]
    pub groups: Vec<u32>,
}

impl Account {
    /// A user and the group of the same number.
    pub fn id(id: u32) -> Self {
        Self { uid: id, gid: id, groups: Vec::new() }
    }
}

/// What is not given keeps the kernel's default. The `memory_*`, `cpu_weight` and `pids_max` fields are the cgroup v2
/// files of that name (Documentation/admin-guide/cgroup-v2.rst); the others are set by the child itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_min_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_low_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_max_bytes: Option<u64>,
    /// 1 to 10000, 100 being the kernel's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<u32>,
    /// Both the soft and the hard limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nofile: Option<u64>,
    /// -1000 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i16>,
    /// -20 to 19.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nice: Option<i8>,
}

/// Long enough for an API server under emulation, short enough to notice.
fn default_timeout_start_seconds() -> u32 {
    300
}

fn default_timeout_stop_seconds() -> u32 {
    10
}

fn default_true() -> bool {
    true
}
