//! A Raft key-value store that speaks etcd v3.
//!
//! Read the modules in this order: what a log entry says ([`command`]), what it is applied to ([`state`]).
#![forbid(unsafe_code)]

pub mod command;
pub mod state;
