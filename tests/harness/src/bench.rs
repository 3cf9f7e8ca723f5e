//! `cargo vm bench`; here its boots: how long a boot takes, where the time goes, and what runs then.
//!
//! Each run is a new machine with an empty disk. Milestones are what the operator can see, from outside: lines on the
//! console, answers of the API server. They are looked at every [`LOOK_INTERVAL`], so that is their precision.
//!
//! Beside each run stands one of the baseline ([`baseline`]), on the same machine and right after it, because a host's speed
//! changes by the minute; what counts is the ratio within such a pair.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::build::{Image, Sizes};
use crate::kubectl::{array_at, text_at};
use crate::machine::{Machine, MachineError};
use crate::node::{Node, NodeError};
use crate::proxy::ProxyError;
use crate::wait;

pub mod baseline;
mod chart;
pub mod cluster;
mod milestones;

use baseline::BaselineRun;
pub use chart::boot_chart;
pub use milestones::{MILESTONES, Milestones};

/// Fine enough for a boot of tens of seconds, coarse enough not to slow it.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// For how long the idle node is watched.
const IDLE_WINDOW: Duration = Duration::from_mins(1);

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error("milestone {milestone:?} was not reached in {} s", deadline.as_secs())]
    Missed { milestone: &'static str, deadline: Duration },
    #[error("keelctl services printed no JSON")]
    Services(#[source] serde_json::Error),
    #[error("cannot {operation} {path}", path = path.display())]
    File { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot encode the figures")]
    Encode(#[source] serde_json::Error),
    #[error("the baseline's files could not be made:\n{output}")]
    Baseline { output: String },
}

/// All figures of one invocation; the JSON file has this shape.
#[derive(Debug, Serialize)]
pub struct BootFigures {
    pub host: Host,
    pub sizes: SizeFigures,
    pub pairs: Vec<Pair>,
    /// Keelson's time to Ready by the baseline's.
    pub ready_ratio: Spread,
    /// The same of the processor seconds that QEMU used until then.
    pub cpu_ratio: Spread,
}

impl BootFigures {
    pub fn new(host: Host, sizes: SizeFigures) -> Self {
        Self { host, sizes, pairs: vec![], ready_ratio: Spread::default(), cpu_ratio: Spread::default() }
    }

    pub fn add(&mut self, pair: Pair) {
        self.pairs.push(pair);
        self.ready_ratio = Spread::of(self.pairs.iter().map(Pair::ready_ratio).collect());
        self.cpu_ratio = Spread::of(self.pairs.iter().map(Pair::cpu_ratio).collect());
    }
}

/// A boot of Keelson and one of the baseline, one after the other.
#[derive(Debug, Serialize)]
pub struct Pair {
    pub keelson: Run,
    pub baseline: BaselineRun,
}

impl Pair {
    pub fn ready_ratio(&self) -> f64 {
        self.keelson.milestones.ready / self.baseline.ready
    }

    fn cpu_ratio(&self) -> f64 {
        self.keelson.qemu_cpu_seconds / self.baseline.qemu_cpu_seconds
    }
}

/// What repeated measurements say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub lowest: f64,
    pub highest: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or_default();
        Self { median: at(values.len() / 2), lowest: at(0), highest: at(values.len().saturating_sub(1)) }
    }
}

/// The machine that measured.
#[derive(Debug, Serialize)]
pub struct Host {
    pub processor: String,
    pub cores: usize,
    pub kernel: String,
    pub accelerator: String,
    pub commit: String,
}

/// Bytes.
#[derive(Debug, Serialize)]
pub struct SizeFigures {
    pub kernel: u64,
    pub root: u64,
    pub initramfs: u64,
}

impl From<Sizes> for SizeFigures {
    fn from(sizes: Sizes) -> Self {
        Self { kernel: sizes.kernel, root: sizes.root, initramfs: sizes.initramfs }
    }
}

#[derive(Debug, Serialize)]
pub struct Run {
    /// Seconds from QEMU's start.
    pub milestones: Milestones,
    /// Seconds from PID 1's first line to the start of kube-apiserver, by the node's own clock.
    pub init_to_api_server: Option<f64>,
    pub processes: Vec<Process>,
    /// Processor seconds that QEMU itself used until Ready.
    pub qemu_cpu_seconds: f64,
    /// Cores that QEMU used on average over an idle minute after DNS answered; the last run measures it.
    pub idle_cores: Option<f64>,
}

/// A supervised process at Ready.
#[derive(Debug, Serialize)]
pub struct Process {
    pub name: String,
    pub resident_bytes: Option<u64>,
    pub anonymous_bytes: Option<u64>,
    pub cpu_seconds: Option<f64>,
}

/// Boots `node`, which has not run yet, to its last milestone and measures it; and then, if asked for, its idleness.
pub fn measure_boot(node: &mut Node, idle: bool) -> Result<Run, BenchError> {
    let started = Instant::now();
    node.machine.start()?;
    let mut milestones = milestones::observe(node, started)?;
    let qemu_cpu_seconds = qemu_cpu(&node.machine).as_secs_f64();
    let processes = processes(node)?;
    milestones.dns = milestones::observe_dns(node, started)?;
    let idle_cores = idle.then(|| idle_cores(&node.machine));
    let init_to_api_server = milestones::init_to_api_server(&node.machine.console().text());
    Ok(Run { milestones, init_to_api_server, processes, qemu_cpu_seconds, idle_cores })
}

fn idle_cores(machine: &Machine) -> f64 {
    let before = qemu_cpu(machine);
    wait::pause(IDLE_WINDOW);
    qemu_cpu(machine).saturating_sub(before).as_secs_f64() / IDLE_WINDOW.as_secs_f64()
}

fn processes(node: &Node) -> Result<Vec<Process>, BenchError> {
    let list: Value =
        serde_json::from_str(&node.keelctl(&["services", "-o", "json"])?).map_err(BenchError::Services)?;
    let own = list.get("init").map(|init| process("init", init));
    let supervised = array_at(&list, "/services").iter().map(|service| process(text_at(service, "/name"), service));
    Ok(own.into_iter().chain(supervised).collect())
}

fn process(name: &str, usage: &Value) -> Process {
    let number = |field: &str| usage.get(field).and_then(Value::as_u64);
    Process {
        name: name.to_owned(),
        resident_bytes: number("residentBytes"),
        anonymous_bytes: number("anonymousBytes"),
        cpu_seconds: usage.get("cpuSeconds").and_then(Value::as_f64),
    }
}

/// User and system time of QEMU with all its threads (proc(5), fields 14 and 15 of stat, in ticks of 10 ms).
fn qemu_cpu(machine: &Machine) -> Duration {
    const TICK: Duration = Duration::from_millis(10);
    let stat = machine.process().and_then(|id| std::fs::read_to_string(format!("/proc/{id}/stat")).ok());
    let ticks = stat.as_deref().and_then(|text| text.rsplit_once(") ")).map_or(0, |(_, fields)| {
        fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum()
    });
    TICK * ticks
}

pub fn host(accelerator: &str, checkout: &Path) -> Host {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processor = text("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
        .unwrap_or_default();
    let commit = std::process::Command::new("git")
        .current_dir(checkout)
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default();
    Host {
        processor,
        cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
        accelerator: accelerator.to_owned(),
        commit,
    }
}

/// Sizes of `image`, for the JSON file.
pub fn sizes(image: &Image) -> SizeFigures {
    image.sizes.into()
}

/// Writes the figures.
pub fn write<T: Serialize>(figures: &T, json: &Path) -> Result<(), BenchError> {
    write_file(json, &serde_json::to_vec_pretty(figures).map_err(BenchError::Encode)?)
}

/// Writes the figures, and a chart of the median run beside them with the extension `svg`.
pub fn write_boots(figures: &BootFigures, json: &Path) -> Result<(), BenchError> {
    write(figures, json)?;
    let runs: Vec<&Run> = figures.pairs.iter().map(|pair| &pair.keelson).collect();
    let Some(run) = median_run(runs) else { return Ok(()) };
    write_file(&json.with_extension("svg"), boot_chart(run).as_bytes())
}

fn write_file(path: &Path, content: &[u8]) -> Result<(), BenchError> {
    let failed = |source| BenchError::File { operation: "write", path: path.to_owned(), source };
    std::fs::write(path, content).map_err(failed)
}

/// The run whose time to Ready is the median one.
fn median_run(mut runs: Vec<&Run>) -> Option<&Run> {
    runs.sort_by(|a, b| a.milestones.ready.total_cmp(&b.milestones.ready));
    runs.get(runs.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_names_the_middle_and_both_ends() {
        let spread = Spread::of(vec![1.3, 0.9, 1.0]);
        assert_eq!(spread, Spread { median: 1.0, lowest: 0.9, highest: 1.3 });
        assert_eq!(Spread::of(vec![]), Spread::default());
    }
}
