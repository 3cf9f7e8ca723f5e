//! `cargo vm bench boot`: how long a boot takes, where the time goes, and what runs then.
//!
//! Each run is a new machine with an empty disk. Milestones are what the operator can see, from outside: lines on the
//! console, answers of the API server. They are looked at every [`LOOK_INTERVAL`], so that is their precision.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::build::{Image, Sizes};
use crate::kubectl::{array_at, text_at};
use crate::machine::MachineError;
use crate::node::{Node, NodeError};
use crate::proxy::ProxyError;
use crate::wait;

mod chart;
mod milestones;

pub use chart::boot_chart;
pub use milestones::{MILESTONES, Milestones};

/// Fine enough for a boot of tens of seconds, coarse enough not to slow it.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(50);

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
}

/// All figures of one invocation; the JSON file has this shape.
#[derive(Debug, Serialize)]
pub struct BootFigures {
    pub host: Host,
    pub sizes: SizeFigures,
    pub runs: Vec<Run>,
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
    pub processes: Vec<Process>,
    /// Processor seconds that QEMU itself used until Ready.
    pub qemu_cpu_seconds: f64,
    /// Cores that QEMU used on average over the idle minute after DNS answered.
    pub idle_cores: f64,
}

/// A supervised process at Ready.
#[derive(Debug, Serialize)]
pub struct Process {
    pub name: String,
    pub resident_bytes: Option<u64>,
    pub anonymous_bytes: Option<u64>,
    pub cpu_seconds: Option<f64>,
}

/// Boots `node`, which has not run yet, to its last milestone and measures it.
pub fn measure_boot(node: &mut Node) -> Result<Run, BenchError> {
    let started = Instant::now();
    node.machine.start()?;
    let milestones = milestones::observe(node, started)?;
    let qemu_cpu_seconds = qemu_cpu(node).as_secs_f64();
    let processes = processes(node)?;
    let before = qemu_cpu(node);
    wait::pause(IDLE_WINDOW);
    let idle = qemu_cpu(node).saturating_sub(before);
    let idle_cores = idle.as_secs_f64() / IDLE_WINDOW.as_secs_f64();
    Ok(Run { milestones, processes, qemu_cpu_seconds, idle_cores })
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
fn qemu_cpu(node: &Node) -> Duration {
    const TICK: Duration = Duration::from_millis(10);
    let stat = node.machine.process().and_then(|id| std::fs::read_to_string(format!("/proc/{id}/stat")).ok());
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

/// Writes the figures, and a chart of the median run beside them with the extension `svg`.
pub fn write(figures: &BootFigures, json: &Path) -> Result<(), BenchError> {
    let file = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| BenchError::File { operation, path, source }
    };
    let text = serde_json::to_vec_pretty(figures).map_err(BenchError::Encode)?;
    std::fs::write(json, text).map_err(file("write", json))?;
    let Some(run) = median_run(&figures.runs) else { return Ok(()) };
    let svg = json.with_extension("svg");
    std::fs::write(&svg, boot_chart(run)).map_err(file("write", &svg))
}

/// The run whose time to Ready is the median one.
pub fn median_run(runs: &[Run]) -> Option<&Run> {
    let mut order: Vec<&Run> = runs.iter().collect();
    order.sort_by(|a, b| a.milestones.ready.total_cmp(&b.milestones.ready));
    order.get(order.len() / 2).copied()
}
