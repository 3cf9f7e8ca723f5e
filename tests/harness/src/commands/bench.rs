//! `cargo vm bench`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::bench::baseline::Baseline;
use crate::bench::cluster::{ClusterBenchError, ClusterFigures, Ground};
use crate::bench::{self, BenchError, BootFigures, Pair};
use crate::build::{Image, packages};
use crate::machine::{Machine, MachineError};
use crate::node::{Node, Tools};
use crate::project::{self, Project, ProjectError};
use crate::qemu::{Hardware, Speed};
use crate::report::Report;

use super::up::{UpError, new_hardware};

#[derive(Debug, Args)]
pub(super) struct BenchBoot {
    /// Boots to measure, each beside one of the baseline
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// File for the figures; a chart goes beside it
    #[arg(long, default_value = "boot.json", value_name = "FILE")]
    json: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct BenchStore {
    /// File for the figures
    #[arg(long, default_value = "store.json", value_name = "FILE")]
    json: PathBuf,
    /// Part of the full size: 0.1 shortens windows, keys and repetitions to about a tenth
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Windows for each workload on each side
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Only workloads whose name contains one of these, separated by commas
    #[arg(long, value_name = "PARTS")]
    only: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct BenchCluster {
    /// File for the figures
    #[arg(long, default_value = "cluster.json", value_name = "FILE")]
    json: PathBuf,
    /// Only the proxy, which needs no machine
    #[arg(long)]
    proxy_only: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum BenchCommandError {
    #[error(transparent)]
    Up(#[from] UpError),
    #[error(transparent)]
    Bench(#[from] BenchError),
    #[error("cannot start {program}", program = program.display())]
    Start { program: PathBuf, source: std::io::Error },
    #[error("the load ended with {0}")]
    Load(std::process::ExitStatus),
    #[error(transparent)]
    Cluster(#[from] ClusterBenchError),
    #[error("the proxy's benchmark wrote no figures to {path}", path = path.display())]
    NoFigures { path: PathBuf },
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
    let baseline = Baseline::prepare(&project, &image, &folder)?;
    let host = bench::host(&format!("{:?}", speed.accelerator), project.checkout());
    let mut figures = BootFigures::new(host, bench::sizes(&image));
    for number in 1..=options.runs {
        let last = number == options.runs;
        let place = folder.join("machine");
        let (hardware, keelson) = one_run(&place, &image, &tools, speed, last)?;
        empty(&place)?;
        let baseline = baseline.measure(&place, &hardware, speed)?;
        let [.., ready, dns] = keelson.milestones.values();
        let script = baseline.ready;
        let pair = Pair { keelson, baseline };
        let ratio = pair.ready_ratio();
        report.line(&format!(
            "run {number}: Ready after {ready:.1} s, the baseline after {script:.1} s (ratio {ratio:.2}); DNS after {dns:.1} s"
        ));
        figures.add(pair);
        // What was measured is not lost when a later run fails.
        bench::write_boots(&figures, &options.json)?;
    }
    report.line(&format!("the figures are in {}", options.json.display()));
    Ok(())
}

/// The load is a program of its own, since this one is not optimised. What it says goes to the terminal as it is.
pub(super) fn store(options: &BenchStore) -> Result<(), BenchCommandError> {
    let mut report = Report::default();
    let project = Project::of_this_build();
    let etcd = project.etcd(&mut report).map_err(UpError::from)?;
    let (store, load) = project.store_and_load()?;
    let folder = project.target().join("bench");
    project::create_folder(&folder)?;
    let host = serde_json::to_string(&bench::host("none", project.checkout())).map_err(BenchError::Encode)?;
    let mut command = std::process::Command::new(&load);
    command.arg("--store").arg(store).arg("--etcd").arg(etcd).arg("--folder").arg(folder);
    command.arg("--json").arg(&options.json).args(["--host", &host]);
    command.arg("--scale").arg(options.scale.to_string()).arg("--rounds").arg(options.rounds.to_string());
    command.args(options.only.iter().flat_map(|only| ["--only", only]));
    let status = command.status().map_err(|source| BenchCommandError::Start { program: load, source })?;
    if !status.success() {
        return Err(BenchCommandError::Load(status));
    }
    report.line(&format!("the figures are in {}", options.json.display()));
    Ok(())
}

pub(super) fn cluster(options: &BenchCluster) -> Result<(), BenchCommandError> {
    let mut report = Report::default();
    let project = Project::of_this_build();
    project.packages(packages::PROXY_BENCH, &mut report).map_err(UpError::from)?;
    let folder = project.target().join("bench");
    project::create_folder(&folder)?;
    let host = bench::host("none", project.checkout());
    let mut figures = ClusterFigures { host, proxy: proxy(&project, &folder)?, machines: None };
    bench::write(&figures, &options.json)?;
    if !options.proxy_only {
        let image = project.image(&mut report).map_err(UpError::from)?;
        let tools = Tools::new(project.keelctl()?, &image);
        let speed = Speed::measure(&image.kernel, &image.initramfs, &folder).map_err(UpError::from)?;
        let folder = folder.join("cluster");
        empty(&folder)?;
        let first = folder.join("first");
        project::create_folder(&first)?;
        let founder = new_hardware(&super::Up::defaults(), &first, &image, &tools)?;
        let ground = Ground { folder: &folder, founder, tools, speed };
        figures.host = bench::host(&format!("{:?}", speed.accelerator), project.checkout());
        figures.machines = Some(bench::cluster::measure(&ground, |line| report.line(line))?);
        bench::write(&figures, &options.json)?;
    }
    report.line(&format!("the figures are in {}", options.json.display()));
    Ok(())
}

/// The proxy's own benchmark, optimised.
fn proxy(project: &Project, folder: &Path) -> Result<serde_json::Value, BenchCommandError> {
    let path = folder.join("proxy.json");
    let mut command = std::process::Command::new("cargo");
    command.current_dir(project.checkout()).args(["bench", "--quiet", "--package", "keelson-proxy"]);
    command.args(["--bench", "beside_haproxy", "--"]).arg(&path).env("CARGO_TARGET_DIR", project.target());
    let status = command.status().map_err(|source| BenchCommandError::Start { program: "cargo".into(), source })?;
    if !status.success() {
        return Err(BenchCommandError::Load(status));
    }
    let text = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
    text.ok_or(BenchCommandError::NoFigures { path })
}

/// A new machine each time: its first boot makes disk, identity and keys.
fn one_run(
    folder: &Path,
    image: &Image,
    tools: &Tools,
    speed: Speed,
    idle: bool,
) -> Result<(Hardware, bench::Run), BenchCommandError> {
    empty(folder)?;
    let hardware = new_hardware(&super::Up::defaults(), folder, image, tools)?;
    let mut node = Node::new(Machine::create(folder, hardware.clone(), speed)?, tools.clone());
    let run = bench::measure_boot(&mut node, idle);
    node.machine.cut_power()?;
    Ok((hardware, run?))
}

fn empty(folder: &Path) -> Result<(), BenchCommandError> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)
            .map_err(|source| BenchCommandError::Folder { path: folder.to_owned(), source })?;
    }
    Ok(project::create_folder(folder)?)
}
