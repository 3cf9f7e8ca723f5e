//! The cluster manager: identity, certificates, settings and services of a node.
//!
//! A process of its own, because it speaks TLS and HTTP and may therefore fail in ways that PID 1 must not. It may be
//! restarted at any moment: everything it makes is either on STATE, each file whole, or can be made again; PID 1 goes on
//! with the last set of services meanwhile.
#![forbid(unsafe_code)]

pub mod accounts;
pub mod admission;
pub mod api_server;
pub mod authorities;
pub mod boot_mark;
pub mod client;
pub mod configuration;
pub mod container_runtime;
pub mod credentials;
pub mod departed;
pub mod discovery;
pub mod events;
pub mod features;
pub mod founding;
pub mod identity;
pub mod images;
pub mod join;
pub mod kubernetes;
pub mod kubernetes_api;
pub mod login;
pub mod manager;
pub mod membership;
pub mod network;
pub mod node;
pub mod operators;
pub mod paths;
pub mod place;
pub mod probes;
pub mod proto;
pub mod proxy_feed;
pub mod registry;
pub mod registry_credentials;
pub mod report;
pub mod rotation;
pub mod secrets;
pub mod shared_secrets;
pub mod signer;
pub mod status;
pub mod store;
pub mod supervision;
pub mod trust;
pub mod unix_socket;
pub mod virtual_address;
pub mod watch_file;
pub mod worker;

pub use node::{ControlError, Member, Node};
pub use paths::Paths;
pub use status::{ConditionKind, StatusBoard};
