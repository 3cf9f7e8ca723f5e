//! Several members as processes on this host, with mutual TLS between them: killed, stopped, added, removed, left behind.
#![forbid(unsafe_code)]
#![cfg(test)]

mod faults;
mod harness;
mod leases;
mod membership;
mod snapshots;
mod succession;
