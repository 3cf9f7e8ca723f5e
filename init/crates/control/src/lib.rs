//! What PID 1 and its clients say to each other: service specifications, requests, answers, events, and a client.
//!
//! A crate of its own because two processes share it: PID 1, which supervises, and keelson-cluster, which hands over
//! the Kubernetes services. It stays small, since PID 1 links it: serde and JSON, no runtime, no TLS.
//!
//! # On the wire
//!
//! `/run/keelson/init.sock` is a `SOCK_SEQPACKET` unix socket: one JSON object a packet, at most
//! [`PACKET_MAX`] bytes. The first packet of a client is [`Request::Hello`] with the range of protocol versions it
//! speaks; the server picks the highest one that both know, or refuses and closes. After that each request has exactly
//! one [`Response`], in order. After [`Request::Subscribe`] the connection carries [`Packet::Event`]s as well.
//! A [`ServiceSet`] does not fit a packet: it travels as a sealed memfd beside [`Request::ApplySet`].
//!
//! # Versions
//!
//! [`PROTOCOL_VERSION`] grows when a field or verb changes its meaning. Unknown fields are refused
//! (`deny_unknown_fields`), so an added field is a new version too; PID 1 and keelson-cluster come from one image, and
//! the range only has to bridge the moment when one of them is restarted from a newer one.
#![forbid(unsafe_code)]

use std::time::Duration;

pub mod child;
pub mod client;
pub mod codec;
pub mod message;
pub mod notify;
pub mod set;
pub mod spec;
pub mod status;

pub use client::{Client, ClientError, Events, Inhibitor};
pub use message::{Applied, ErrorKind, Event, Packet, Request, Response, ShutdownKind, VersionRange};
pub use set::{InvalidSet, ServiceSet, SetProblem};
pub use spec::{
    Account, Capabilities, Capability, Condition, InvalidServiceName, Limits, PersistentFailure, Readiness,
    RestartPolicy, ServiceKind, ServiceName, ServiceSpec,
};
pub use status::{
    BootDetails, BootPhase, BootRecord, Desired, ExitReason, LastExit, ServiceState, ServiceStatus, SupervisorStatus,
};

/// Where PID 1 listens.
pub const SOCKET_PATH: &str = "/run/keelson/init.sock";

/// The version that this crate speaks, and the only one so far.
pub const PROTOCOL_VERSION: u32 = 1;

/// The largest packet. Below the default `net.core.wmem_default` (212992), so that a packet always fits a buffer.
pub const PACKET_MAX: usize = 64 * 1024;

/// The largest service set as JSON: forty services of a few KiB each, with room.
pub const SET_MAX: usize = 1024 * 1024;

/// Within so long a service is reported unhealthy that is ready and does not answer: what PID 1 knows of its health then is older.
pub const UNHEALTHY_REPORT_MAX: Duration = Duration::from_secs(4 * 60 + 8 * 25);

/// The most services in one set. Their status has to fit one packet ([`PACKET_MAX`]) with 1 KiB for each.
pub const SERVICES_MAX: usize = 48;
