//! `cargo vm bench`.

use std::path::PathBuf;

use clap::Args;

use crate::bench::{self, BenchError, BootFigures};
use crate::build::Image;
use crate::machine::{Machine, MachineError};
use crate::node::{Node, Tools};
use crate::project::{self, Project, ProjectError};
use crate::qemu::Speed;
use crate::report::Report;

use super::up::{UpError, new_hardware};

#[derive(Debug, Args)]
pub(super) struct BenchBoot {
    /// Boots to measure
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// File for the figures; a chart goes beside it
    #[arg(long, default_value = "boot.json", value_name = "FILE")]
    json: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum BenchCommandError {
    #[error(transparent)]
    Up(#[from] UpError),
    #[error(transparent)]
    Bench(#[from] BenchError),
    #[error("cannot empty {path}", path = path.display())]
    Folder { path: PathBuf, source: std::io::Error },
}

impl From<ProjectError> for BenchCommandError {
    fn from(error: ProjectError) -> Self {
        Self::Up(error.into())
    }
}

impl From<MachineError> for BenchCommandError {
    fn from(error: MachineError) -> Self {
        Self::Up(error.into())
    }
}

pub(super) fn boot(options: &BenchBoot) -> Result<(), BenchCommandError> {
    let mut report = Report::default();
    let project = Project::of_this_build();
    let image = project.image(&mut report).map_err(UpError::from)?;
    let tools = Tools::new(project.keelctl()?, &image);
    let folder = project.target().join("bench");
    project::create_folder(&folder)?;
    let speed = Speed::measure(&image.kernel, &image.initramfs, &folder).map_err(UpError::from)?;
    let mut figures = BootFigures {
        host: bench::host(&format!("{:?}", speed.accelerator), project.checkout()),
        sizes: bench::sizes(&image),
        runs: vec![],
    };
    for number in 1..=options.runs {
        let run = one_run(&folder.join("machine"), &image, &tools, speed)?;
        let [.., ready, dns] = run.milestones.values();
        report.line(&format!(
            "run {number}: Ready after {ready:.1} s, DNS after {dns:.1} s, idle {:.2} cores",
            run.idle_cores
        ));
        figures.runs.push(run);
        // What was measured is not lost when a later run fails.
        bench::write(&figures, &options.json)?;
    }
    report.line(&format!("the figures are in {}", options.json.display()));
    Ok(())
}

/// A new machine each time: its first boot makes disk, identity and keys.
fn one_run(
    folder: &std::path::Path,
    image: &Image,
    tools: &Tools,
    speed: Speed,
) -> Result<bench::Run, BenchCommandError> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)
            .map_err(|source| BenchCommandError::Folder { path: folder.to_owned(), source })?;
    }
    project::create_folder(folder)?;
    let hardware = new_hardware(&super::Up::defaults(), folder, image, tools)?;
    let mut node = Node::new(Machine::create(folder, hardware, speed)?, tools.clone());
    let run = bench::measure_boot(&mut node);
    node.machine.cut_power()?;
    Ok(run?)
}
