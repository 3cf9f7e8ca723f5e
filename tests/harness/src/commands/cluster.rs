//! `cargo vm up --workers N`: more machines beside the first.

use crate::build::Image;
use crate::cluster::{self, FIRST};
use crate::machine::{Machine, MachineError};
use crate::node::Node;
use crate::project::{self, Project};
use crate::report::Report;

use super::Up;
use super::up::{UpError, turn_on};

pub(super) fn is_wanted(options: &Up) -> bool {
    options.workers > 0
}

/// Makes the machines that are missing, one after the other, and turns on those that are off.
pub(super) fn grow(
    options: &Up,
    first: &Node,
    image: &Image,
    project: &Project,
    report: &Report,
) -> Result<(), UpError> {
    for worker in 1..=options.workers {
        let folder = project.machine_folder(&format!("{}-w{worker}", options.machine.name))?;
        let mut machine = match Machine::open(&folder) {
            Ok(machine) => machine,
            Err(MachineError::Unknown { .. }) => {
                project::create_folder(&folder)?;
                cluster::joiner(first, "worker", FIRST + worker, &folder, options.disk << 10)?
            }
            Err(error) => return Err(error.into()),
        };
        turn_on(&mut machine, image, None, report)?;
        first.wait_member_ready(&machine)?;
        report.line(&format!("node {} is Ready", machine.name()));
    }
    Ok(())
}
