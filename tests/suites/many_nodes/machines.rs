//! The machines of this suite, by name.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use keelson_vm::cluster::{self, CONTROL_PLANE, Pace};
use keelson_vm::commands::image_disk;
use keelson_vm::kubectl::{self, condition_holds};
use keelson_vm::machine::create_disk;
use keelson_vm::node::Node;
use keelson_vm::qemu::{Card, Disk, Hardware, Network, Ports};
use keelson_vm::wait;
use libtest_mimic::Failed;

use crate::shared::{Outcome, build};

/// The control planes, as many as the host carries.
pub(crate) fn planes() -> Result<&'static [&'static str], Failed> {
    let three = cluster::control_planes_carried(build()?.speed) == 3;
    Ok(if three { &["first", "second", "third"] } else { &["first", "second"] })
}

/// All nodes of the suite, in the order of their names.
pub(crate) fn everybody() -> Result<Vec<&'static str>, Failed> {
    Ok(planes()?.iter().copied().chain(["worker"]).collect())
}

/// For things that take seconds on an idle emulated node; there are four on two processors.
pub(crate) const MINUTES: Duration = Duration::from_mins(8);

pub(crate) type Nodes = BTreeMap<&'static str, Node>;

static NODES: Mutex<Nodes> = Mutex::new(Nodes::new());

/// Runs `test` with all machines that were made so far.
pub(crate) fn with_nodes(test: impl FnOnce(&mut Nodes) -> Outcome) -> Outcome {
    let mut nodes = NODES.lock().unwrap_or_else(PoisonError::into_inner);
    test(&mut nodes).map_err(|failed| {
        let message = failed.message().unwrap_or_default().to_owned();
        let tails = nodes.values().map(|node| {
            let machine = &node.machine;
            format!("{}'s console's last lines:\n{}", machine.name(), machine.console().tail())
        });
        let message = std::iter::once(message).chain(tails).collect::<Vec<_>>().join("\n");
        Failed::from(message)
    })
}

/// Whatever was run and whatever failed, no machine outlives the suite.
pub(crate) fn cut_power() {
    for node in NODES.lock().unwrap_or_else(PoisonError::into_inner).values_mut() {
        let _ = node.machine.cut_power();
    }
}

pub(crate) fn node<'a>(nodes: &'a Nodes, name: &str) -> Result<&'a Node, Failed> {
    nodes.get(name).ok_or_else(|| format!("machine {name} was not made").into())
}

pub(crate) fn node_mut<'a>(nodes: &'a mut Nodes, name: &str) -> Result<&'a mut Node, Failed> {
    nodes.get_mut(name).ok_or_else(|| format!("machine {name} was not made").into())
}

/// A machine that founds the cluster.
pub(crate) fn founder(name: &'static str) -> Result<Node, Failed> {
    let build = build()?;
    let folder = build.machine_folder(name)?;
    let disk = folder.join("disk.raw");
    create_disk(&disk, 16 << 10)?;
    let mut disks = vec![Disk::from_file(&disk, "keelson")];
    disks.extend(image_disk(&folder, std::slice::from_ref(&build.image.workload))?);
    let pace = Pace::of(2, build.speed);
    let mut hardware = Hardware {
        processors: pace.processors(),
        memory_mib: 3072,
        kernel: build.image.kernel.clone(),
        initramfs: build.image.initramfs.clone(),
        command_line: format!("keelson.role=control-plane keelson.bootstrap keelson.peers=none keelson.name={name}"),
        smbios: vec![build.tools.generate_key(&Node::operator_key(&folder))?],
        fw_cfg: vec![],
        disks,
        network: Network::User(Ports::free()?),
        card: Card::default(),
        firmware: None,
        days_ahead: None,
    };
    cluster::found(&mut hardware, &folder, pace)?;
    build.node(&folder, hardware)
}

/// A machine that joins, with the tests' images on a second disk.
pub(crate) fn joiner(member: &Node, role: &str, number: u8, name: &'static str) -> Result<Node, Failed> {
    let build = build()?;
    let folder = build.machine_folder(name)?;
    let mut machine = cluster::joiner(member, role, number, &folder, 16 << 10)?;
    machine.change_hardware(|hardware| {
        hardware.processors = 1;
        hardware.memory_mib = if role == CONTROL_PLANE { 2560 } else { 1536 };
        hardware.disks.extend(member.machine.hardware().disks.get(1).cloned());
    })?;
    Ok(Node::new(machine, build.tools.clone()))
}

/// Lets keelctl and kubectl reach a control plane by itself.
pub(crate) fn open(node: &Node) -> Outcome {
    node.pin_api()?;
    Ok(node.fetch_kubeconfig()?)
}

/// Waits until all control planes are in the store, one of them leads, and as many vote as should: of two, one. Returns who leads.
pub(crate) fn wait_members(through: &Node) -> Result<String, Failed> {
    let wanted = planes()?;
    let voters = if wanted.len() < 3 { 1 } else { 3 };
    let awaited =
        format!("{} to be the store's members, {voters} of them to vote and one to lead", wanted.join(" and "));
    Ok(wait::patiently(&awaited, through.machine.speed().scale(MINUTES), || {
        let members = cluster::store_members(through).map_err(|error| error.to_string())?;
        let names: Vec<_> = members.iter().map(|member| member.node.as_str()).collect();
        let voting = members.iter().filter(|member| member.votes).count();
        let leader = members.iter().find(|member| member.leads).map(|member| member.node.clone());
        match leader {
            Some(leader) if names == wanted && voting == voters => Ok(leader),
            _ => Err(format!("{members:?}")),
        }
    })?)
}

/// Whether Kubernetes calls the node Ready.
pub(crate) fn is_ready(through: &Node, name: &str) -> Result<bool, Failed> {
    Ok(condition_holds(&through.kubectl().json(&["get", "node", name])?, "Ready"))
}

/// Waits until exactly these nodes are there, named in order, and all are Ready.
pub(crate) fn wait_all_ready(through: &Node, wanted: &[&str]) -> Outcome {
    let awaited = format!("{} to be Ready", wanted.join(", "));
    wait::patiently(&awaited, through.machine.speed().scale(MINUTES), || {
        let list = through.kubectl().json(&["get", "nodes"]).map_err(|error| error.to_string())?;
        let mut states: Vec<_> = kubectl::array_at(&list, "/items")
            .iter()
            .map(|node| (kubectl::text_at(node, "/metadata/name"), condition_holds(node, "Ready")))
            .collect();
        states.sort_unstable();
        let names: Vec<_> = states.iter().map(|state| state.0).collect();
        if names == wanted && states.iter().all(|state| state.1) { Ok(()) } else { Err(format!("{states:?}")) }
    })?;
    Ok(())
}
