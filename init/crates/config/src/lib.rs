//! What a node was told, and what is meant by it.
//!
//! Two types, because they answer two questions. [`RawConfig`] is what was written, value by value, each with the
//! [`Source`] that said it. [`NodeConfig`] is what is meant: valid by construction, immutable, no I/O left in it.
//! Between them lie the merge (first hit wins per field, in the order of [`Origin`]) and the validation, which reports
//! every fault and not only the first.
//!
//! The parsers take bytes and never touch the machine. They sit behind the feature `sources`: keelson-exec turns it on
//! for the sources of a machine, keelson-cluster for what operators say later ([`scopes`]). PID 1 links the types alone.
//!
//! Secrets never enter [`NodeConfig`]. They travel in [`Secrets`], which has no `Serialize` and prints nothing.
#![forbid(unsafe_code)]

pub mod command_line;
pub mod departed;
#[cfg(feature = "sources")]
pub mod document;
mod error;
#[cfg(feature = "sources")]
mod ip_argument;
pub mod kept;
#[cfg(feature = "sources")]
mod merge;
pub mod network_state;
mod node;
pub mod pod_routes;
mod raw;
#[cfg(feature = "sources")]
mod resolve;
mod resolved;
pub mod scopes;
mod secret;
#[cfg(feature = "sources")]
pub mod smbios;
mod source;
pub mod virtual_address;
mod wish;
#[cfg(feature = "sources")]
pub mod words;

pub use command_line::redact;
pub use error::{ConfigError, ConfigErrors};
pub use kept::{Kept, KeptError};
#[cfg(feature = "sources")]
pub use merge::merge;
pub use node::{
    AddressMethod, Bond, ClusterConfig, Component, Conflict, HttpProxy, LinkConfig, LinkSelector, MacAddress,
    NetworkConfig, NodeConfig, Oidc, OperatorKey, Peers, Ranges, RangesError, RegistryMirror, Role, StateSelection,
    StaticAddressing, StaticRoute, Taint, TaintEffect, Vlan,
};
pub use raw::{RawAddressing, RawBond, RawConfig, RawLink, RawOperatorKey, RawRoute, RawTaint, RawVlan, Said};
#[cfg(feature = "sources")]
pub use resolve::{Inputs, read, resolve, state_selection, validate};
pub use resolved::{Remembered, Resolved};
pub use scopes::Scopes;
pub use secret::{RegistryCredential, Secret, Secrets};
pub use source::{Origin, Scope, Source};

/// Where PID 1 writes the [`NodeConfig`] for every other process.
pub const NODE_CONFIG_PATH: &str = "/run/keelson/config/node.json";
/// Where PID 1 writes the join token, mode 0600, only if one was given. keelson-cluster unlinks it after the join.
pub const TOKEN_PATH: &str = "/run/keelson/config/token";
/// Where PID 1 writes credentials of registries, mode 0600, only if some were given: `{"HOST": ["user name", "password"]}`.
pub const REGISTRY_CREDENTIALS_PATH: &str = "/run/keelson/config/registries.json";
/// The directory of certificates that containerd believes besides the system's, as its Go library finds it (`SSL_CERT_DIR`).
pub const TRUSTED_CERTIFICATES_PATH: &str = "/run/keelson/containerd/authorities";
/// Where PID 1 writes the clock floor, the time the image was built: seconds since the epoch, decimal. Nothing sets the clock below it.
pub const CLOCK_FLOOR_PATH: &str = "/run/keelson/config/clock-floor";

/// There from a node's removal from its cluster until it has forgotten it: DATA is made anew before it is mounted.
pub const LEAVING_PATH: &str = "/state/cluster/leaving";
/// Where a node keeps what operators have said of it and of its cluster.
pub const SCOPES_PATH: &str = "/state/cluster/configuration.json";
