//! STATE and DATA, found or made, checked and mounted: all of it in keelson-exec, which may hang in PID 1's stead.

use keelson_job::{Disks, Request};

use super::{Machine, PhaseResult, command_line};
use crate::boot::job;
use crate::console::Console;

pub(super) fn run(machine: &mut Machine, console: &mut Console) -> PhaseResult {
    let disks: Disks = job::run(console, &Request::Disks { command_line: command_line()? })?;
    for note in &disks.notes {
        console.info("disks", note);
    }
    machine.in_memory = disks.in_memory;
    Ok(disks.summary)
}
