//! `cargo vm`: builds Keelson and runs it in QEMU.
#![forbid(unsafe_code)]

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use keelson_vm::commands::{self, CommandLine};
use keelson_vm::report::Report;

fn main() -> ExitCode {
    match commands::run(CommandLine::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            Report::default().line(&chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, each on a line.
fn chain(error: &dyn Error) -> String {
    let mut text = format!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        let line = cause.to_string();
        // A transparent variant repeats what its cause says.
        if !text.ends_with(&line) {
            text = format!("{text}\n  caused by: {line}");
        }
        source = cause.source();
    }
    text
}
