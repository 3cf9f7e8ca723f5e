//! A Raft key-value store that speaks etcd v3.
//!
//! Read the modules in this order: what a log entry says ([`command`]) and what it is applied to ([`state`]); where both are kept
//! ([`log`], [`checkpoint`], on [`disk`]); how members agree ([`raft`]);
//! and what all of it is together ([`node`]).
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod command;
pub mod disk;
pub mod identity;
pub mod log;
pub mod member;
pub mod node;
pub mod raft;
pub mod random;
pub mod state;
