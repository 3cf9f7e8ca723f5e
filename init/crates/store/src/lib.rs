//! A Raft key-value store that speaks etcd v3.
//!
//! Read the modules in this order: what a log entry says ([`command`]) and what it is applied to ([`state`]); where both are kept
//! ([`log`], [`checkpoint`], on [`disk`]); how members agree ([`raft`]);
//! and what all of it is together ([`node`]). The state consists of the key space ([`mvcc`]) and leases ([`lease`]); [`watch`] tells
//! of its changes; [`server`] speaks etcd's API over all of it.
#![forbid(unsafe_code)]

/// The naive model is shared with the tests that see this crate from outside.
#[cfg(test)]
extern crate self as keelson_store;

mod blocking;
pub mod checkpoint;
pub mod cluster_keys;
pub mod command;
mod consensus;
pub mod data_dir;
pub mod disk;
pub mod flags;
pub mod histogram;
pub mod identity;
pub mod lease;
pub mod listener;
pub mod log;
pub mod logging;
pub mod member;
pub mod mvcc;
pub mod node;
mod open_files;
pub mod peer;
pub mod process;
mod process_usage;
pub mod raft;
pub mod random;
pub mod server;
#[cfg(test)]
pub mod simulation;
pub mod state;
pub mod tls;
pub mod tools;
pub mod watch;
