//! The services' output: rings, files, queries.
//!
//! keelson-log is a process of its own so that neither a flood of lines nor a stalled disk touches PID 1 or a service. It
//! has no privileges: PID 1 makes the pipes and hands it their reading ends.
//!
//! ```text
//! PID 1 --(SCM_RIGHTS)--> reader --> rings --> writer --> /var/log/keelson/<service>.log
//! services --(pipes)----^              |
//! /dev/kmsg ------------^              +-----> queries on /run/keelson/log/log.sock
//! ```
//!
//! Three kinds of threads share nothing but [`rings`]: [`reader`] touches no disk, [`writer`] alone waits for one, and
//! [`serve`] has a thread a query. What is deliberately absent: an async runtime, a database or index (files are text),
//! forwarding to elsewhere, and any way to slow a service down.
//!
//! Others use [`query`], the client's side, which drags in nothing but serde.
#![forbid(unsafe_code)]

pub mod query;
pub mod service;

pub mod kmsg;
pub mod line;
pub mod timestamp;

pub mod files;
pub mod reader;
pub mod rings;
pub mod serve;
pub mod writer;

pub mod error_chain;

#[cfg(test)]
mod tests;
