//! Child set-up before each service, and the bounded place where foreign bytes are parsed.
//!
//! The first argument says what to do. `service` becomes a service ([`service`]); all else is a job that PID 1 waits for.
#![forbid(unsafe_code)]

mod config;
mod disk;
mod durable;
mod jobs;
mod read_ahead;
mod root;
mod service;
mod state;

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("service") => service::run(),
        _ => jobs::run(),
    }
}
