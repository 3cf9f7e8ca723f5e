//! `cargo vm bench cluster`: what machines wait for when they join, lose a leader and leave, and how the node's proxy does beside
//! `HAProxy`.
//!
//! The machines are emulated where KVM does not work, several on the processors of one host, so that their seconds are long; the proxy runs
//! on the host itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::cluster::{self, CONTROL_PLANE, ClusterError, Pace, WORKER, store_members};
use crate::kubectl::text_at;
use crate::machine::{Machine, MachineError};
use crate::node::{Node, NodeError, Tools};
use crate::proxy::ProxyError;
use crate::qemu::{Hardware, Speed};
use crate::wait::{self, Timeout};
use crate::writer::Writer;
use crate::{killer, killer::KillError};

use super::Host;

/// For whatever takes a minute when one machine does it alone.
const DEADLINE: Duration = Duration::from_mins(10);
/// Writes before and behind the leader's end.
const WRITES: usize = 30;
/// A client's between two writes.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub enum ClusterBenchError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error(transparent)]
    Services(#[from] KillError),
    #[error(transparent)]
    Late(#[from] Timeout),
    #[error("cannot make {path}", path = path.display())]
    Folder { path: std::path::PathBuf, source: std::io::Error },
    #[error("no member of the store leads")]
    NoLeader,
}

/// All figures of one invocation; the JSON file has this shape.
#[derive(Debug, Serialize)]
pub struct ClusterFigures {
    pub host: Host,
    /// What the proxy's benchmark wrote.
    pub proxy: Value,
    pub machines: Option<MachineFigures>,
}

/// In seconds.
#[derive(Debug, Default, Serialize)]
pub struct MachineFigures {
    /// From power-on with a token to Ready, the first machine being there alone.
    pub control_plane_ready: f64,
    /// The same of a third one; none where the host carries two only.
    pub another_control_plane_ready: Option<f64>,
    pub worker_ready: f64,
    /// From the order to remove the worker until its identity is denied and its Node is gone.
    pub removal: f64,
    /// The longest wait of a client between two acknowledged writes while the store's leader loses power; none with two control planes.
    pub fail_over_gap: Option<f64>,
    /// Of the first node's services when one node was Ready.
    pub resident_bytes: BTreeMap<String, u64>,
}

/// Where the machines come from.
#[derive(Debug)]
pub struct Ground<'a> {
    /// Empty.
    pub folder: &'a Path,
    pub founder: Hardware,
    pub tools: Tools,
    pub speed: Speed,
}

/// Runs the machines' life. None of them outlives it.
pub fn measure(ground: &Ground<'_>, seen: impl Fn(&str)) -> Result<MachineFigures, ClusterBenchError> {
    let mut nodes = Vec::new();
    let outcome = live(ground, &mut nodes, seen);
    for node in &mut nodes {
        node.machine.cut_power()?;
    }
    outcome
}

fn live(ground: &Ground<'_>, nodes: &mut Vec<Node>, seen: impl Fn(&str)) -> Result<MachineFigures, ClusterBenchError> {
    let mut figures = MachineFigures::default();
    let mut hardware = ground.founder.clone();
    let folder = ground.folder.join("first");
    let planes = cluster::control_planes_carried(ground.speed);
    let pace = Pace::of(planes, ground.speed);
    hardware.processors = pace.processors();
    cluster::found(&mut hardware, &folder, pace)?;
    let mut first = Machine::create(&folder, hardware, ground.speed)?;
    first.start()?;
    nodes.push(Node::new(first, ground.tools.clone()));
    first_of(nodes)?.pin_api()?;
    first_of(nodes)?.wait_ready(|_| ())?;
    for service in killer::services(first_of(nodes)?)? {
        let bytes = service.get("memoryBytes").and_then(Value::as_u64).unwrap_or_default();
        figures.resident_bytes.insert(text_at(&service, "/name").to_owned(), bytes);
    }
    let mut join = |role, number, name: &str| -> Result<f64, ClusterBenchError> {
        let folder = ground.folder.join(name);
        std::fs::create_dir_all(&folder)
            .map_err(|source| ClusterBenchError::Folder { path: folder.clone(), source })?;
        let mut machine = cluster::joiner(first_of(nodes)?, role, number, &folder, 16 << 10)?;
        let started = Instant::now();
        machine.start()?;
        nodes.push(Node::new(machine, ground.tools.clone()));
        let (Some(first), Some(new)) = (nodes.first(), nodes.last()) else { return Err(ClusterBenchError::NoLeader) };
        first.wait_member_ready(&new.machine)?;
        let seconds = started.elapsed().as_secs_f64();
        seen(&format!("{name}, a {role}, is Ready {seconds:.1} s after power-on"));
        Ok(seconds)
    };
    figures.control_plane_ready = join(CONTROL_PLANE, 2, "second")?;
    if planes > 2 {
        figures.another_control_plane_ready = Some(join(CONTROL_PLANE, 3, "third")?);
    }
    figures.worker_ready = join(WORKER, 11, "worker")?;

    let ordered = Instant::now();
    first_of(nodes)?.keelctl(&["node", "remove", "worker"])?;
    figures.removal = ordered.elapsed().as_secs_f64();
    seen(&format!("the worker is removed after {:.1} s", figures.removal));

    if planes > 2 {
        let gap = fail_over(nodes)?.as_secs_f64();
        seen(&format!("the leader's loss held writes up for {gap:.1} s"));
        figures.fail_over_gap = Some(gap);
    }
    Ok(figures)
}

fn first_of(nodes: &[Node]) -> Result<&Node, ClusterBenchError> {
    nodes.first().ok_or(ClusterBenchError::NoLeader)
}

/// Through the API server of a control plane that does not lead.
fn fail_over(nodes: &mut [Node]) -> Result<Duration, ClusterBenchError> {
    let first = first_of(nodes)?;
    let leader = wait::until("three members to vote, and one to lead", first.machine.speed().scale(DEADLINE), || {
        let members = store_members(first).map_err(|error| error.to_string())?;
        let leader = members.iter().find(|member| member.leads).map(|member| member.node.clone());
        let voters = members.iter().filter(|member| member.votes).count();
        leader.filter(|_| voters == 3).ok_or_else(|| format!("{members:?}"))
    })?;
    let leads = |node: &&mut Node| node.machine.name() == leader;
    let other = nodes.iter().position(|node| node.machine.name() != leader).ok_or(ClusterBenchError::NoLeader)?;
    let through = nodes.get(other).ok_or(ClusterBenchError::NoLeader)?;
    through.pin_api()?;
    through.fetch_kubeconfig()?;
    let writer = Writer::start(&through.kubectl(), "failing-over", PAUSE)?;
    let deadline = through.machine.speed().scale(DEADLINE);
    let acknowledged = |count: usize| {
        wait::until(&format!("{count} acknowledged writes"), deadline, || match writer.acknowledged() {
            enough if enough >= count => Ok(()),
            fewer => Err(format!("{fewer} are acknowledged")),
        })
    };
    acknowledged(WRITES)?;
    nodes.iter_mut().find(leads).ok_or(ClusterBenchError::NoLeader)?.machine.cut_power()?;
    acknowledged(writer.acknowledged() + WRITES)?;
    Ok(writer.stop().longest_gap)
}
