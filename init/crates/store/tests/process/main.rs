//! The real process: started, killed, filled up and stopped, as its users and their supervisors do it.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails its test")]

mod connections;
mod crash;
mod harness;
mod lifecycle;
#[path = "../support/ports.rs"]
mod ports;
mod space;
