//! Several members as processes on this host, with mutual TLS between them: killed, stopped, added, removed, left behind.
#![forbid(unsafe_code)]
#![cfg(test)]

mod faults;
mod harness;
mod leases;
mod membership;
#[path = "../support/ports.rs"]
mod ports;
mod snapshots;
mod succession;
