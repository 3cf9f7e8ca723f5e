//! What STATE remembers: machine-id, clock, seed, boot history, identity. Read and written by keelson-exec.

use std::time::Duration;

use keelson_job::{BootRecord, Request, State};
use keelson_sys::clock;

use super::{Machine, PhaseResult, clock_floor};
use crate::boot::job;
use crate::console::Console;

pub(super) fn run(machine: &mut Machine, console: &mut Console) -> PhaseResult {
    let state: State = job::run(console, &Request::OpenState { booted_at: clock::wall().as_secs() })?;
    for note in &state.notes {
        console.info("state", note);
    }
    if let Some(saved) = state.clock {
        match clock_floor::raise_to_saved(Duration::from_secs(saved)) {
            Ok(None) => {}
            Ok(Some(sentence)) => console.info("clock", sentence),
            Err(error) => console.warn("clock", crate::recovery::chain(&error)),
        }
    }
    let sentence = match state.history.last() {
        None => "first boot of this STATE".to_owned(),
        Some(previous) => format!("boot {}; the last one {}", state.boot, describe(previous)),
    };
    machine.state = Some(state);
    Ok(sentence)
}

fn describe(previous: &BootRecord) -> String {
    match &previous.end {
        Some(end) => format!("ended by {} ({})", end.action, end.reason),
        None => "ended without a shutdown: a crash, a reset or a power cut".to_owned(),
    }
}
