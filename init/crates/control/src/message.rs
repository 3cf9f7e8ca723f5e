//! The verbs of the control socket.

use serde::{Deserialize, Serialize};

use crate::{BootDetails, BootRecord, PROTOCOL_VERSION, ServiceName, ServiceState, SupervisorStatus};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The first packet of a connection.
    Hello {
        versions: VersionRange,
        /// Who is asking, for the console's line about a shutdown.
        client: String,
    },
    List {},
    /// From now on events are sent on this connection too. A subscriber that does not read them is disconnected.
    Subscribe {},
    /// Replaces the services that were handed over before. The [`crate::ServiceSet`] comes as a sealed memfd.
    ApplySet {},
    /// Accepted at once; events and `list` show when it is done. The same for `stop` and `restart`.
    Start {
        service: ServiceName,
    },
    /// Stays down until `start` or `restart`, whatever `apply-set` brings.
    Stop {
        service: ServiceName,
    },
    Restart {
        service: ServiceName,
        reason: String,
    },
    /// A liveness probe failed for good: PID 1 decides, today by a restart.
    ReportUnhealthy {
        service: ServiceName,
        reason: String,
    },
    /// Delays a shutdown until this connection is closed, but never longer than asked for here or than PID 1's own
    /// bound, whichever is shorter (the delay lock of
    /// <https://systemd.io/INHIBITOR_LOCKS/>).
    Inhibit {
        who: String,
        why: String,
        delay_max_seconds: u32,
    },
    MarkBootGood {},
    Boots {},
    /// All that is known of one boot. For all boots at once it would not fit a packet.
    Boot {
        number: u64,
    },
    Reboot {
        reason: String,
    },
    PowerOff {
        reason: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionRange {
    pub min: u32,
    pub max: u32,
}

impl VersionRange {
    pub const OURS: Self = Self { min: PROTOCOL_VERSION, max: PROTOCOL_VERSION };

    /// The highest version that both sides speak.
    pub fn agree(self, other: Self) -> Option<u32> {
        let highest = self.max.min(other.max);
        (highest >= self.min && highest >= other.min).then_some(highest)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Response {
    Hello { version: u32 },
    Done {},
    Status(SupervisorStatus),
    Applied(Applied),
    Boots { boots: Vec<BootRecord> },
    Boot(BootDetails),
    Error { kind: ErrorKind, message: String },
}

/// What `apply-set` did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Applied {
    pub version: u64,
    pub added: Vec<ServiceName>,
    pub removed: Vec<ServiceName>,
    /// Restarted with their new specification.
    pub changed: Vec<ServiceName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// No common protocol version, or no hello.
    Version,
    /// Not a packet of this protocol.
    Malformed,
    UnknownService,
    UnknownBoot,
    /// The message lists every problem, one a line.
    InvalidSet,
    /// A set older than the applied one.
    StaleSet,
    /// A shutdown is under way, nothing is started any more.
    ShuttingDown,
    /// Too many clients or inhibitors.
    Busy,
    /// The answer does not fit a packet.
    TooLong,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Event {
    Service {
        service: ServiceName,
        state: ServiceState,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        /// What is waited for, how the process ended, why it was given up.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A shutdown was asked for. Holders of inhibitors finish and close their connections; services are stopped when
    /// all have, or at the deadline.
    ShuttingDown {
        kind: ShutdownKind,
        reason: String,
        inhibitors_deadline_milliseconds: u64,
    },
    SetApplied {
        version: u64,
    },
    BootMarkedGood {},
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShutdownKind {
    Reboot,
    PowerOff,
}

impl std::fmt::Display for ShutdownKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Reboot => "reboot",
            Self::PowerOff => "power-off",
        })
    }
}

/// What PID 1 sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Packet {
    Response(Response),
    Event(Event),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_is_chosen() {
        let range = |min, max| VersionRange { min, max };
        assert_eq!(range(1, 3).agree(range(2, 5)), Some(3));
        assert_eq!(range(1, 1).agree(range(1, 1)), Some(1));
        assert_eq!(range(1, 1).agree(range(2, 3)), None);
        assert_eq!(range(4, 5).agree(range(2, 3)), None);
    }

    #[test]
    fn requests_have_the_verbs_of_the_contract() {
        let json = |request: &Request| serde_json::to_string(request).unwrap();
        assert_eq!(json(&Request::List {}), r#"{"list":{}}"#);
        assert_eq!(json(&Request::MarkBootGood {}), r#"{"mark-boot-good":{}}"#);
        let stop = Request::Stop { service: ServiceName::new("kubelet").unwrap() };
        assert_eq!(json(&stop), r#"{"stop":{"service":"kubelet"}}"#);
        assert_eq!(json(&Request::Boot { number: 7 }), r#"{"boot":{"number":7}}"#);
    }

    #[test]
    fn unknown_fields_are_refused() {
        assert!(serde_json::from_str::<Request>(r#"{"list":{"verbose":true}}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"halt":{}}"#).is_err());
    }
}
