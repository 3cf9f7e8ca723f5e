//! What STATE remembers: machine-id, clock, seed, boot history, identity. Read and written by keelson-exec.

use std::time::Duration;

use keelson_job::{Request, State};
use keelson_sys::clock;

use super::{Machine, PhaseResult, clock_floor};
use crate::boot::history;
use crate::console::Console;
use crate::recovery;

pub(super) fn run(machine: &mut Machine, console: &mut Console) -> PhaseResult {
    let request = Request::OpenState { booted_at: clock::wall().as_secs(), progress: machine.vitals.progress_now() };
    let state: State = machine.job(console, &request)?;
    for note in &state.notes {
        console.info("state", note);
    }
    if let Some(saved) = state.clock {
        match clock_floor::raise_to_saved(Duration::from_secs(saved)) {
            Ok(None) => {}
            Ok(Some(sentence)) => console.info("clock", sentence),
            Err(error) => console.warn("clock", recovery::chain(&error)),
        }
    }
    recovery::state_is_open(history::failed(&state.history));
    let previous = state.history.last().map(|previous| history::describe(previous, &state.present));
    let sentence = match previous {
        None => "first boot of this STATE".to_owned(),
        Some(previous) => format!("boot {}; the last one {previous}", state.present.number),
    };
    machine.state = Some(state);
    Ok(sentence)
}
