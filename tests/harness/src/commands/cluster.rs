//! `cargo vm up --control-planes N --workers M`: more machines beside the first.

use crate::build::Image;
use crate::cluster::{self, FIRST};
use crate::machine::{Machine, MachineError};
use crate::node::Node;
use crate::project::{self, Project};
use crate::report::Report;

use super::Up;
use super::up::{UpError, turn_on};

pub(super) fn is_wanted(options: &Up) -> bool {
    options.control_planes > 1 || options.workers > 0
}

/// A machine's part in the cluster, the end of its name, and its number on the segment. The numbers of workers begin behind
/// all that control planes can have, so that either can be added later.
fn others(options: &Up) -> impl Iterator<Item = (&'static str, String, u8)> {
    let planes = (2..=options.control_planes).map(|plane| ("control-plane", format!("cp{plane}"), plane));
    let workers = (1..=options.workers).map(|worker| ("worker", format!("w{worker}"), FIRST_WORKER + worker - 1));
    planes.chain(workers)
}

const FIRST_WORKER: u8 = FIRST + 10;

/// Makes the machines that are missing, one after the other, and turns on those that are off.
pub(super) fn grow(
    options: &Up,
    first: &Node,
    image: &Image,
    project: &Project,
    report: &Report,
) -> Result<(), UpError> {
    for (role, suffix, number) in others(options) {
        let folder = project.machine_folder(&format!("{}-{suffix}", options.machine.name))?;
        let mut machine = match Machine::open(&folder) {
            Ok(machine) => machine,
            Err(MachineError::Unknown { .. }) => {
                project::create_folder(&folder)?;
                cluster::joiner(first, role, number, &folder, options.disk << 10)?
            }
            Err(error) => return Err(error.into()),
        };
        turn_on(&mut machine, image, None, report)?;
        first.wait_member_ready(&machine)?;
        report.line(&format!("node {} is Ready, a {role}", machine.name()));
    }
    Ok(())
}
