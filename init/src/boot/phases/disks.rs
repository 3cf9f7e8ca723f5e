//! STATE and DATA, found or made, checked and mounted: all of it in keelson-exec, which may hang in PID 1's stead. One of its processes reads
//! what the sources say of it and has no rights left when it parses that; another one, which handles the disks, hears the answer, and
//! takes the root's hash alone from the command line.

use keelson_job::{Disks, Request, Selection};

use super::{Machine, PhaseResult, command_line};
use crate::console::Console;

pub(super) fn run(machine: &mut Machine, console: &mut Console) -> PhaseResult {
    let selection: Selection = machine.job(console, &Request::Selection { command_line: command_line()? })?;
    let disks: Disks = machine.job(console, &Request::Disks { command_line: command_line()?, selection })?;
    for note in &disks.notes {
        console.info("disks", note);
    }
    machine.in_memory = disks.in_memory;
    Ok(disks.summary)
}
