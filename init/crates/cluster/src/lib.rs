//! The cluster manager: identity, certificates, settings and services of a node.
//!
//! A process of its own, because it speaks TLS and HTTP and may therefore fail in ways that PID 1 must not. It may be
//! restarted at any moment: everything it makes is either on STATE, each file whole, or can be made again; PID 1 goes on
//! with the last set of services meanwhile.
#![forbid(unsafe_code)]

pub mod authorities;
pub mod identity;
pub mod node;
pub mod paths;
pub mod status;

pub use node::{ControlError, Member, Node};
pub use paths::Paths;
pub use status::{ConditionKind, StatusBoard};
