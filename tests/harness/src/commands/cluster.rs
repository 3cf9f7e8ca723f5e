//! The machines of a cluster beside its first: `cargo vm up --control-planes N --workers M`, `add` and `remove`.

use std::path::PathBuf;

use crate::build::Image;
use crate::cluster::{self, CONTROL_PLANE, ClusterError, FIRST, WORKER};
use crate::machine::{Machine, MachineError};
use crate::node::{Node, NodeError, Tools};
use crate::project::{self, Project, ProjectError};
use crate::qemu::Accelerator;
use crate::report::Report;

use super::up::{UpError, turn_on};
use super::{Add, Remove, Role, Up};

/// The numbers of workers on the segment begin behind all that control planes can have, so that either can be added later.
const FIRST_WORKER: u8 = FIRST + 10;
const LAST_NUMBER: u8 = 250;

#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    #[error(transparent)]
    Up(#[from] UpError),
    #[error("machine {name:?} is not running; `cargo vm up --name {name}` turns it on")]
    Off { name: String },
    #[error("all numbers for another {role} beside {name:?} are taken")]
    Full { name: String, role: &'static str },
    #[error("cannot delete {path}", path = path.display())]
    Delete { path: PathBuf, source: std::io::Error },
}

macro_rules! through_up {
    ($($error:ty),*) => { $(
        impl From<$error> for MemberError {
            fn from(error: $error) -> Self {
                Self::Up(error.into())
            }
        }
    )* };
}

through_up!(ProjectError, MachineError, NodeError, ClusterError);

pub(super) fn is_wanted(options: &Up) -> bool {
    options.control_planes > 1 || options.workers > 0
}

/// The ends of the names, and the numbers on the segment.
fn planes(options: &Up) -> impl Iterator<Item = (String, u8)> {
    (2..=options.control_planes).map(|plane| (format!("cp{plane}"), plane))
}

fn workers(options: &Up) -> impl Iterator<Item = (String, u8)> {
    (1..=options.workers).map(|worker| (format!("w{worker}"), FIRST_WORKER + worker - 1))
}

/// Turns on what is off of a cluster that was made earlier.
pub(super) fn turn_on_others(
    first: &Machine,
    image: &Image,
    project: &Project,
    report: &Report,
) -> Result<(), UpError> {
    for mut machine in cluster::others(first, &project.machines())? {
        if !machine.is_running() {
            turn_on(&mut machine, image, None, report)?;
        }
    }
    Ok(())
}

/// Makes the machines that are missing, and waits until all are Ready: first the control planes, then the workers. Those of one kind
/// start together, except where they would starve each other: emulated, one starts once the one before it is Ready.
pub(super) fn grow(
    options: &Up,
    first: &Node,
    image: &Image,
    project: &Project,
    report: &Report,
) -> Result<(), UpError> {
    let name = &options.machine.name;
    let together = first.machine.speed().accelerator == Accelerator::Kvm;
    let make = |role, members: Vec<(String, u8)>| -> Result<(), UpError> {
        let mut machines = Vec::new();
        for (suffix, number) in members {
            let folder = project.machine_folder(&format!("{name}-{suffix}"))?;
            let mut machine = match Machine::open(&folder) {
                Ok(machine) => machine,
                Err(MachineError::Unknown { .. }) => {
                    project::create_folder(&folder)?;
                    cluster::joiner(first, role, number, &folder, options.disk << 10)?
                }
                Err(error) => return Err(error.into()),
            };
            if !machine.is_running() {
                turn_on(&mut machine, image, None, report)?;
            }
            if together {
                machines.push(machine);
            } else {
                welcome(first, machine, role, report)?;
            }
        }
        machines.into_iter().try_for_each(|machine| welcome(first, machine, role, report))
    };
    make(CONTROL_PLANE, planes(options).collect())?;
    make(WORKER, workers(options).collect())
}

/// Waits until a machine that was turned on is a Ready node; one that is a control plane is then an operator's way in as well.
fn welcome(member: &Node, machine: Machine, role: &str, report: &Report) -> Result<(), UpError> {
    member.wait_member_ready(&machine)?;
    report.line(&format!("node {} is Ready, a {role}", machine.name()));
    if role == CONTROL_PLANE {
        let node = Node::new(machine, member.tools().clone());
        node.pin_api()?;
        node.fetch_kubeconfig()?;
    }
    Ok(())
}

/// Waits for a worker that was turned on again, by the word of a control plane that is on.
pub(super) fn welcome_worker(
    worker: Machine,
    tools: &Tools,
    project: &Project,
    report: &Report,
) -> Result<(), UpError> {
    let mut others = cluster::others(&worker, &project.machines())?.into_iter();
    let plane = others.find(|other| other.is_running() && cluster::is_control_plane(other));
    let plane = plane.ok_or_else(|| ClusterError::NobodyOn { name: worker.name().to_owned() })?;
    welcome(&Node::new(plane, tools.clone()), worker, WORKER, report)
}

pub(super) fn add(options: &Add) -> Result<(), MemberError> {
    let mut report = Report::default();
    let project = Project::of_this_build();
    let first = Machine::open(&project.machine_folder(&options.machine.name)?)?;
    if !first.is_running() {
        return Err(MemberError::Off { name: first.name().to_owned() });
    }
    let (role, letters, numbers) = match options.role {
        Role::ControlPlane => (CONTROL_PLANE, "cp", FIRST + 1..FIRST_WORKER),
        Role::Worker => (WORKER, "w", FIRST_WORKER..LAST_NUMBER + 1),
    };
    let others = cluster::others(&first, &project.machines())?;
    let taken = |number: u8| others.iter().any(|other| other.segment().is_some_and(|place| place.number == number));
    let full = || MemberError::Full { name: first.name().to_owned(), role };
    let number = numbers.clone().find(|number| !taken(*number)).ok_or_else(full)?;
    let image = project.image(&mut report).map_err(UpError::from)?;
    let tools = Tools::new(project.keelctl()?, &image);
    let shown = if role == WORKER { number - FIRST_WORKER + 1 } else { number };
    let folder = project.machine_folder(&format!("{}-{letters}{shown}", first.name()))?;
    let first = Node::new(first, tools);
    project::create_folder(&folder)?;
    let mut machine = cluster::joiner(&first, role, number, &folder, options.disk << 10)?;
    turn_on(&mut machine, &image, None, &report)?;
    Ok(welcome(&first, machine, role, &report)?)
}

pub(super) fn remove(options: &Remove) -> Result<(), MemberError> {
    let report = Report::default();
    let project = Project::of_this_build();
    let mut machine = Machine::open(&project.machine_folder(&options.name)?)?;
    let name = machine.name().to_owned();
    let mut others = cluster::others(&machine, &project.machines())?.into_iter();
    let answers = |other: &Machine| other.is_running() && cluster::is_control_plane(other);
    let other = others.find(answers).ok_or_else(|| ClusterError::NobodyOn { name: name.clone() })?;
    let image_kubectl = project.built_kubectl().unwrap_or_default();
    let other = Node::new(other, Tools { keelctl: project.keelctl()?, kubectl: image_kubectl });
    let force = if options.force { &["--force"][..] } else { &[] };
    other.keelctl(&[&["node", "remove", &name], force].concat())?;
    report.line(&format!("node {name} is removed from the cluster"));
    machine.cut_power()?;
    let folder = machine.folder();
    std::fs::remove_dir_all(folder).map_err(|source| MemberError::Delete { path: folder.to_owned(), source })?;
    report.line(&format!("machine {name} is deleted"));
    Ok(())
}
