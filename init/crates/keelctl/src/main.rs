//! keelctl, the operator's command line.
//!
//! ```text
//! commands   one file a command: asks, and prints
//! session    the operator's certificate: from the cache, or by proving the operator's key
//! client     one request over TLS, to a node whose authority is pinned
//! ```
//!
//! Nothing is trusted before the node's authority has been compared with the fingerprint in the configuration, and the
//! operator's key never leaves the file it is in. Exit codes are those of [`error::ExitStatus`].
#![forbid(unsafe_code)]

mod cli;
mod commands;
mod error;

mod config;
mod credential;
mod key;
mod private_file;
mod session;

mod client;

mod age;
mod output;
mod progress;
mod spec;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match commands::run(cli::Arguments::parse()) {
        Ok(status) => status.into(),
        Err(error) => {
            output::error(&error);
            error.exit_status().into()
        }
    }
}
