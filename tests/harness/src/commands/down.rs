//! `cargo vm down`.

use std::path::PathBuf;
use std::time::Duration;

use crate::machine::{Machine, MachineError};
use crate::project::{Project, ProjectError};
use crate::report::Report;

use super::Down;

/// A node gives its pods 30 s, and all of its shutdown 90 s; emulated, with room.
const SHUTDOWN_DEADLINE: Duration = Duration::from_mins(3);

#[derive(Debug, thiserror::Error)]
pub enum DownError {
    #[error(transparent)]
    Project(#[from] ProjectError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("cannot delete {path}", path = path.display())]
    Delete { path: PathBuf, source: std::io::Error },
}

pub(super) fn down(options: &Down) -> Result<(), DownError> {
    let report = Report::default();
    let folder = Project::of_this_build().machine_folder(&options.machine.name)?;
    let mut machine = Machine::open(&folder)?;
    if options.force {
        machine.cut_power()?;
    } else if machine.is_running() {
        machine.press_power_button()?;
        report.transient("the power button is pressed");
        let deadline = machine.speed().scale(SHUTDOWN_DEADLINE);
        machine.wait_until_off(deadline)?;
    }
    report.line("the machine is off");
    if options.delete {
        std::fs::remove_dir_all(&folder).map_err(|source| DownError::Delete { path: folder, source })?;
        report.line("the machine is deleted");
    }
    Ok(())
}
