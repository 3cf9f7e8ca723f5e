//! Machines that form a cluster: a segment between them, and a token for each that joins, the way users join theirs.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::kubectl::{array_at, text_at};
use crate::machine::{self, Machine, MachineError};
use crate::node::{Node, NodeError};
use crate::qemu::{Accelerator, Disk, Hardware, Network, Ports, QemuError, Segment, Speed};

/// The first machine's number on the segment.
pub const FIRST: u8 = 1;

pub const CONTROL_PLANE: &str = "control-plane";
pub const WORKER: &str = "worker";

/// In a machine's folder.
const DOCUMENT: &str = "document.yaml";

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("machine {name:?} was made alone and has no link to others")]
    Alone { name: String },
    #[error("cannot write {path}", path = path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("cannot read {path}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot list the machines in {path}", path = path.display())]
    List { path: PathBuf, source: std::io::Error },
    #[error("no other control plane of the cluster of machine {name:?} is running")]
    NobodyOn { name: String },
    #[error("keelctl store members printed no JSON")]
    Members(#[from] serde_json::Error),
    #[error(transparent)]
    Qemu(#[from] QemuError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// How fast the machines of a cluster are beside what Kubernetes' figures were chosen for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    Usual,
    /// Several control planes are emulated. An idle one takes most of a processor, and starts on what the others leave; a controller
    /// that cannot renew its lease within the usual ten seconds would end and start anew, which takes more than it had.
    Crowded,
}

impl Pace {
    pub fn of(control_planes: u8, speed: Speed) -> Self {
        if control_planes > 1 && speed.accelerator == Accelerator::Tcg { Self::Crowded } else { Self::Usual }
    }

    /// Of each machine. With more of them than the host has, they wait for each other while they hold locks.
    pub fn processors(self) -> u32 {
        match self {
            Self::Usual => 2,
            Self::Crowded => 1,
        }
    }

    /// What the document says: the other machines know this one by its address on the segment.
    fn document(self) -> String {
        let leases =
            "{leader-elect-lease-duration: 75s, leader-elect-renew-deadline: 60s, leader-elect-retry-period: 10s}";
        let cluster = match self {
            Self::Usual => String::new(),
            Self::Crowded => format!(
                "  cluster:\n    extraArguments:\n      kube-controller-manager: {leases}\n      kube-scheduler: {leases}\n"
            ),
        };
        format!(
            "apiVersion: keelson.dev/v1alpha1\nkind: NodeConfiguration\nspec:\n  network: {{nodeSubnets: [{}]}}\n{cluster}",
            Segment::NETWORK
        )
    }
}

/// How many control planes this host carries, of three: all where KVM works or there are more processors, else two. An emulated one takes
/// most of a processor when it is idle; with more of them than processors, none answers the others before they have given up.
pub fn control_planes_carried(speed: Speed) -> u8 {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    if speed.accelerator == Accelerator::Kvm || processors > 3 { 3 } else { 2 }
}

/// What is wrong with so many control planes on this host, if something is.
pub fn crowding(control_planes: u8, speed: Speed) -> Option<String> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let crowded = speed.accelerator == Accelerator::Tcg && control_planes > 2;
    (crowded && processors <= usize::from(control_planes)).then(|| {
        format!(
            "warning: {control_planes} emulated control planes want {} processors, and this host has {processors}: they starve \
             each other, and may never be Ready; {} of them are carried",
            control_planes + 1,
            control_planes_carried(speed)
        )
    })
}

/// Puts a machine that has not run yet on a new segment, as its first. `folder` is the machine's.
pub fn found(hardware: &mut Hardware, folder: &Path, pace: Pace) -> Result<(), ClusterError> {
    let Network::User(ports) = hardware.network else { return Ok(()) };
    let segment = Segment { port: Segment::free()?, number: FIRST };
    hardware.network = Network::Segment { ports, segment };
    place(hardware, segment, folder, &pace.document())
}

/// What a machine on a segment has to be told: its address there, and the cluster's document.
fn place(hardware: &mut Hardware, segment: Segment, folder: &Path, document: &str) -> Result<(), ClusterError> {
    let document = file(folder, DOCUMENT, document)?;
    hardware.fw_cfg.push(("opt/keelson/document".to_owned(), document));
    hardware.command_line = format!("{} {}", hardware.command_line, segment.words());
    Ok(())
}

/// Makes a machine that joins the cluster of `member` with a token of its own, and is called like its folder. It has the
/// hardware of `member`, and a blank disk. `member` is a control plane, and so it may be asked for the operator by another.
pub fn joiner(member: &Node, role: &str, number: u8, folder: &Path, disk_mib: u64) -> Result<Machine, ClusterError> {
    let like = member.machine.hardware();
    let segment = segment(&member.machine)?;
    let token = token(member, role)?;
    let segment = Segment { number, ..segment };
    let disk = folder.join("disk.raw");
    machine::create_disk(&disk, disk_mib)?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let mut hardware = Hardware {
        command_line: format!("keelson.role={role} keelson.name={name}"),
        smbios: vec![],
        // By a file: QEMU's arguments can be read by everybody on the host.
        fw_cfg: vec![("opt/keelson/token".to_owned(), file(folder, "token", &token)?)],
        disks: vec![Disk::from_file(&disk, "keelson")],
        network: Network::Segment { ports: Ports::free()?, segment },
        ..like.clone()
    };
    let document = member.machine.folder().join(DOCUMENT);
    let document =
        std::fs::read_to_string(&document).map_err(|source| ClusterError::Read { path: document, source })?;
    place(&mut hardware, segment, folder, &document)?;
    let key = std::fs::read_to_string(Node::operator_key(member.machine.folder()));
    if let (CONTROL_PLANE, Ok(key)) = (role, key) {
        file(folder, "operator.key", &key)?;
    }
    Ok(Machine::create(folder, hardware, member.machine.speed())?)
}

/// A machine that was removed, or whose disk is new, is given another token, and joins with it when it is turned on.
pub fn join_again(machine: &mut Machine, member: &Node, role: &str) -> Result<(), ClusterError> {
    let token = file(machine.folder(), "token", &token(member, role)?)?;
    let name = machine.name().to_owned();
    Ok(machine.change_hardware(|hardware| {
        let Network::Segment { segment, .. } = hardware.network else { return };
        hardware.command_line = format!("keelson.role={role} keelson.name={name} {}", segment.words());
        hardware.fw_cfg.retain(|(item, _)| item != "opt/keelson/token");
        hardware.fw_cfg.push(("opt/keelson/token".to_owned(), token));
    })?)
}

fn token(member: &Node, role: &str) -> Result<String, ClusterError> {
    let endpoint = format!("{}:6400", segment(&member.machine)?.address());
    let token = member.keelctl(&["token", "create", "--role", role, "--endpoint", &endpoint])?;
    Ok(token.trim().to_owned())
}

fn segment(machine: &Machine) -> Result<Segment, ClusterError> {
    machine.segment().ok_or_else(|| ClusterError::Alone { name: machine.name().to_owned() })
}

/// A member of the store, as keelctl tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreMember {
    /// The node's name.
    pub node: String,
    pub votes: bool,
    pub leads: bool,
}

/// The store's members as a control plane knows them, by their nodes' names.
pub fn store_members(through: &Node) -> Result<Vec<StoreMember>, ClusterError> {
    let list: Value = serde_json::from_str(&through.keelctl(&["store", "members", "-o", "json"])?)?;
    let flag = |member: &Value, name: &str| member.get(name).and_then(Value::as_bool).unwrap_or_default();
    let members = array_at(&list, "/members").iter();
    let mut all: Vec<_> = members
        .map(|member| StoreMember {
            node: text_at(member, "/node").to_owned(),
            votes: flag(member, "votes"),
            leads: flag(member, "leads"),
        })
        .collect();
    all.sort_by(|a, b| a.node.cmp(&b.node));
    Ok(all)
}

/// Whether the machine was told to be a control plane.
pub fn is_control_plane(machine: &Machine) -> bool {
    machine.hardware().command_line.split_whitespace().any(|word| word == "keelson.role=control-plane")
}

/// The machines below `machines` that share a segment with `machine`, itself left out, by name.
pub fn others(machine: &Machine, machines: &Path) -> Result<Vec<Machine>, ClusterError> {
    let port = segment(machine)?.port;
    let mut all = machine::all(machines).map_err(|source| ClusterError::List { path: machines.to_owned(), source })?;
    all.retain(|other| other.name() != machine.name() && other.segment().is_some_and(|segment| segment.port == port));
    Ok(all)
}

fn file(folder: &Path, name: &str, text: &str) -> Result<PathBuf, ClusterError> {
    let path = folder.join(name);
    let write = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes())
    };
    write().map_err(|source| ClusterError::Write { path: path.clone(), source })?;
    Ok(path)
}
