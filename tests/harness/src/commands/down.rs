//! `cargo vm down`.

use std::path::PathBuf;

use crate::machine::{self, Machine, MachineError, SHUTDOWN_DEADLINE};
use crate::project::{Project, ProjectError};
use crate::report::Report;

use super::Down;

#[derive(Debug, thiserror::Error)]
pub enum DownError {
    #[error(transparent)]
    Project(#[from] ProjectError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("cannot read the machines' folder")]
    List(#[source] std::io::Error),
    #[error("cannot delete {path}", path = path.display())]
    Delete { path: PathBuf, source: std::io::Error },
}

pub(super) fn down(options: &Down) -> Result<(), DownError> {
    let report = Report::default();
    let project = Project::of_this_build();
    let machines = if options.all {
        machine::all(&project.machines()).map_err(DownError::List)?
    } else {
        vec![Machine::open(&project.machine_folder(&options.machine.name)?)?]
    };
    // Those that joined first: what they serve is moved to those that are still there.
    for mut machine in machines.into_iter().rev() {
        turn_off(&mut machine, options, &report)?;
    }
    Ok(())
}

fn turn_off(machine: &mut Machine, options: &Down, report: &Report) -> Result<(), DownError> {
    if options.force {
        machine.cut_power()?;
    } else if machine.is_running() {
        machine.press_power_button()?;
        report.transient("the power button is pressed");
        machine.wait_until_off(SHUTDOWN_DEADLINE)?;
    }
    report.line(&format!("machine {} is off", machine.name()));
    if options.delete {
        let folder = machine.folder();
        std::fs::remove_dir_all(folder).map_err(|source| DownError::Delete { path: folder.to_owned(), source })?;
        report.line("it is deleted");
    }
    Ok(())
}
