//! What `list` shows: each service's state, and why it is in it.

use serde::{Deserialize, Serialize};

use crate::ServiceName;
use crate::message::ShutdownKind;

/// The answer to `list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupervisorStatus {
    /// The version of the applied set; 0 while only the static services are there.
    pub set_version: u64,
    /// Set once a shutdown has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutting_down: Option<ShutdownKind>,
    pub services: Vec<ServiceStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceStatus {
    pub name: ServiceName,
    pub state: ServiceState,
    pub desired: Desired,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How long it has been in this state.
    pub in_state_milliseconds: u64,
    /// `CLOCK_BOOTTIME` when its present (or last) process was started, and when that became ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at_boottime_milliseconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at_boottime_milliseconds: Option<u64>,
    /// How often it was started again without being asked to.
    pub restarts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<LastExit>,
    /// What a waiting service waits for, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// Why a failed service was given up, or a stopped one stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `memory.current` and `cpu.stat` of its cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_microseconds: Option<u64>,
}

impl ServiceStatus {
    /// One that is wanted, and of which nothing more than its state is known.
    pub fn new(name: ServiceName, state: ServiceState) -> Self {
        Self {
            name,
            state,
            desired: Desired::Up,
            pid: None,
            in_state_milliseconds: 0,
            started_at_boottime_milliseconds: None,
            ready_at_boottime_milliseconds: None,
            restarts: 0,
            last_exit: None,
            waiting_for: None,
            reason: None,
            memory_bytes: None,
            cpu_microseconds: None,
        }
    }
}

/// The state a service is in. The supervisor's core has the table of transitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceState {
    /// Not wanted, nothing runs.
    Stopped,
    /// Wanted, its conditions do not hold yet.
    Waiting,
    /// Its process runs and is not ready yet.
    Starting,
    Ready,
    /// Being stopped: signalled, or killed and its cgroup not yet empty.
    Stopping,
    /// Its process ended; it is started again when its delay is over.
    Backoff,
    /// A one-shot that ended well.
    Done,
    /// Given up; `reason` says why. Only a request or a new specification starts it again.
    Failed,
}

/// What the supervisor was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Desired {
    Up,
    Down,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastExit {
    pub reason: ExitReason,
    pub milliseconds_ago: u64,
}

/// How a process ended. `Display` prints it as "exited with status 1" or "was killed by SIGKILL".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitReason {
    Exited(i32),
    Signaled(i32),
    /// It never ran: set-up or exec failed, with the step's name and error.
    NotExecuted(String),
}

impl ExitReason {
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Exited(0))
    }
}

impl std::fmt::Display for ExitReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exited with status {status}"),
            Self::Signaled(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "was killed by {name}"),
                None => write!(f, "was killed by signal {signal}"),
            },
            Self::NotExecuted(reason) => write!(f, "could not be executed: {reason}"),
        }
    }
}

/// The names of the signals that end processes (signal(7)).
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        31 => "SIGSYS",
        _ => return None,
    })
}

/// One boot, as the boot history remembers it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootRecord {
    /// From 1, one more each boot of this STATE.
    pub number: u64,
    /// `/proc/sys/kernel/random/boot_id`
    pub boot_id: String,
    /// Version of the image.
    pub version: String,
    /// By the clock as it was then.
    pub started_unix_seconds: u64,
    /// Whether `mark-boot-good` was received.
    pub good: bool,
    /// How it ended, as far as it is known. Absent for the present one, and if nothing tells more than that it ended
    /// without an ordered shutdown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// When it ended; of a boot that ended without a word, when it was last known to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_unix_seconds: Option<u64>,
    /// The last phase that was reached; `services` is the last there is.
    #[serde(default)]
    pub phase: String,
    /// How long it ran, as far as it is known.
    #[serde(default)]
    pub up_seconds: u64,
    /// How long it took from the kernel's start to the start of services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services_started_after_milliseconds: Option<u64>,
    /// What the kernel saved of its last messages when it died.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_messages: Vec<String>,
}

/// All that PID 1 knows of one boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootDetails {
    pub boot: BootRecord,
    /// The root hash by which the image was verified; empty where nothing was, and if it is not known.
    pub image: String,
    /// In the order in which they began.
    pub phases: Vec<BootPhase>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootPhase {
    pub name: String,
    /// Since the kernel's start.
    pub start_milliseconds: u64,
    /// How long it took; 0 for `services`, which last until the end.
    pub milliseconds: u64,
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    use super::*;
    use crate::{PACKET_MAX, Packet, Response, codec};

    #[test]
    fn what_is_not_known_of_a_service_is_not_sent() {
        let status = ServiceStatus::new(ServiceName::new("kubelet").unwrap(), ServiceState::Waiting);
        let sent = serde_json::to_string(&status).unwrap();
        let expected = r#"{"name":"kubelet","state":"waiting","desired":"up","in_state_milliseconds":0,"restarts":0}"#;
        assert_eq!(sent, expected);
        assert_eq!(serde_json::from_str::<ServiceStatus>(&sent).unwrap(), status);
    }

    /// More phases than a boot has, and texts as long as they are kept (keelson-init, `short`; keelson-exec,
    /// `evidence`).
    #[test]
    fn all_that_is_known_of_one_boot_fits_a_packet_and_arrives_as_it_was_sent() {
        let boot = BootRecord {
            number: u64::MAX,
            boot_id: "3ab2f1de-9d3d-4a8a-a1c5-7b1f9e3c5d21".to_owned(),
            version: "0.1.0".to_owned(),
            started_unix_seconds: u64::MAX,
            good: true,
            ended: Some("\"".repeat(600)),
            ended_unix_seconds: Some(u64::MAX),
            phase: "services".to_owned(),
            up_seconds: u64::MAX,
            services_started_after_milliseconds: Some(u64::MAX),
            last_messages: vec!["\"".repeat(160); 6],
        };
        let phase = BootPhase { name: "p".repeat(40), start_milliseconds: u64::MAX, milliseconds: u64::MAX };
        let details = BootDetails { boot, image: "ab".repeat(32), phases: vec![phase; 64] };
        let sent = Packet::Response(Response::Boot(details));
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (ours, theirs) = rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None).unwrap();
        codec::send(&ours, &sent, None).unwrap();
        let mut buffer = vec![0; PACKET_MAX];
        let received = codec::receive(&theirs, &mut buffer).unwrap().unwrap();
        assert_eq!(received.decode::<Packet>().unwrap(), sent);
    }

    #[test]
    fn exit_reasons_read_as_sentences() {
        assert_eq!(ExitReason::Exited(1).to_string(), "exited with status 1");
        assert_eq!(ExitReason::Signaled(9).to_string(), "was killed by SIGKILL");
        assert_eq!(ExitReason::Signaled(35).to_string(), "was killed by signal 35");
    }
}
