//! `cargo vm up` and `cargo vm build`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::build::{BuildError, Image};
use crate::cluster::{ClusterError, FIRST, Pace, is_control_plane};
use crate::machine::{self, Machine, MachineError};
use crate::node::{Node, NodeError, Tools};
use crate::project::{self, Project, ProjectError};
use crate::qemu::{Card, Disk, Hardware, Network, Ports, QemuError, Speed};
use crate::report::Report;

use super::{Up, cluster};

#[derive(Debug, thiserror::Error)]
pub enum UpError {
    #[error(transparent)]
    Project(#[from] ProjectError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Qemu(#[from] QemuError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("cannot put {path} on the image disk", path = path.display())]
    ImageDisk { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("mkfs.ext4 could not make the image disk: {output}")]
    Mkfs { output: String },
}

/// Builds everything and prints where it is.
pub(super) fn build() -> Result<(), UpError> {
    let mut report = Report::default();
    let image = Project::of_this_build().image(&mut report)?;
    for (name, path, size) in [
        ("kernel", &image.kernel, image.sizes.kernel),
        ("root", &image.root, image.sizes.root),
        ("initramfs", &image.initramfs, image.sizes.initramfs),
    ] {
        report.line(&format!("{name}: {} ({} kB)", path.display(), size / 1000));
    }
    Ok(())
}

pub(super) fn up(options: &Up) -> Result<(), UpError> {
    let mut report = Report::default();
    let project = Project::of_this_build();
    let folder = project.machine_folder(&options.machine.name)?;
    let image = project.image(&mut report)?;
    let tools = Tools::new(project.keelctl()?, &image);
    project::create_folder(&folder)?;

    let mut machine = match Machine::open(&folder) {
        Ok(machine) => machine,
        Err(MachineError::Unknown { .. }) => {
            let speed = Speed::measure(&image.kernel, &image.initramfs, &folder)?;
            report.line(&format!("{:?} works here; a new machine is made", speed.accelerator));
            let pace = Pace::of(options.control_planes, speed);
            let mut hardware = new_hardware(options, &folder, &image, &tools)?;
            hardware.processors = options.processors.unwrap_or_else(|| pace.processors());
            if cluster::is_wanted(options) {
                crate::cluster::found(&mut hardware, &folder, pace)?;
            }
            Machine::create(&folder, hardware, speed)?
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(warning) = crate::cluster::crowding(options.control_planes, machine.speed()) {
        report.line(&warning);
    }
    let images = image_disk(&folder, &options.images)?;
    turn_on(&mut machine, &image, images, &report)?;
    if machine.segment().is_some_and(|place| place.number == FIRST) {
        // It alone may be too few to decide anything.
        cluster::turn_on_others(&machine, &image, &project, &report)?;
    } else if machine.segment().is_some() && !is_control_plane(&machine) {
        return cluster::welcome_worker(machine, &tools, &project, &report);
    }
    let node = Node::new(machine, tools);
    wait_until_up(&node, &report)?;
    if cluster::is_wanted(options) {
        cluster::grow(options, &node, &image, &project, &report)?;
    }
    print_kubeconfig(&node.kubeconfig());
    Ok(())
}

/// Starts a machine that is off with what was just built.
pub(super) fn turn_on(
    machine: &mut Machine,
    image: &Image,
    images: Option<Disk>,
    report: &Report,
) -> Result<(), UpError> {
    if machine.is_running() {
        report.line("the machine is running already; what was just built takes effect when it is started again");
        return Ok(());
    }
    machine.change_hardware(|hardware| {
        hardware.kernel.clone_from(&image.kernel);
        hardware.initramfs.clone_from(&image.initramfs);
        hardware.disks.truncate(1);
        hardware.disks.extend(images);
    })?;
    machine.start()?;
    report.line(&format!("machine {} is on", machine.name()));
    Ok(())
}

/// A machine with an empty disk and an operator key of its own.
pub(super) fn new_hardware(options: &Up, folder: &Path, image: &Image, tools: &Tools) -> Result<Hardware, UpError> {
    let disk = folder.join("disk.raw");
    machine::create_disk(&disk, options.disk << 10)?;
    let operator_key = tools.generate_key(&Node::operator_key(folder))?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let mut command_line =
        format!("keelson.role=control-plane keelson.bootstrap keelson.peers=none keelson.name={name}");
    if !options.append.is_empty() {
        command_line = format!("{command_line} {}", options.append);
    }
    Ok(Hardware {
        processors: options.processors.unwrap_or_else(|| Pace::Usual.processors()),
        memory_mib: options.memory,
        kernel: image.kernel.clone(),
        initramfs: image.initramfs.clone(),
        command_line,
        smbios: vec![operator_key],
        fw_cfg: vec![],
        disks: vec![Disk::from_file(&disk, "keelson")],
        network: Network::User(Ports::free()?),
        card: Card::default(),
        firmware: None,
        days_ahead: None,
    })
}

pub(super) fn wait_until_up(node: &Node, report: &Report) -> Result<(), UpError> {
    node.pin_api()?;
    report.line("the cluster manager answers");
    // Its certificate is good for a day; that of an earlier run may not be any more.
    let _ = std::fs::remove_file(node.kubeconfig());
    let mut last = String::new();
    node.wait_ready(|seen| {
        if seen != last {
            seen.clone_into(&mut last);
            report.transient(seen);
        }
    })?;
    report.line("the node is Ready");
    node.wait_dns()?;
    report.line("cluster DNS answers");
    Ok(())
}

/// The one line on standard output, so that `KUBECONFIG=$(cargo vm up)` works.
#[expect(clippy::print_stdout, reason = "the command's result")]
fn print_kubeconfig(path: &Path) {
    println!("{}", path.display());
}

/// A file system labelled as a node looks for it, with the user's archives; none if there are no archives.
pub fn image_disk(folder: &Path, archives: &[PathBuf]) -> Result<Option<Disk>, UpError> {
    if archives.is_empty() {
        return Ok(None);
    }
    let tree = tempfile_in(folder)?;
    let mut bytes = 0;
    for archive in archives {
        let failed = |source| UpError::ImageDisk { path: archive.clone(), source };
        let name = archive.file_name().ok_or_else(|| failed(std::io::ErrorKind::InvalidInput.into()))?;
        bytes += std::fs::copy(archive, tree.path().join(name)).map_err(failed)?;
    }
    let disk = folder.join("images.raw");
    // ext4's own tables take a few per cent.
    machine::create_disk(&disk, (bytes >> 20) * 11 / 10 + 16)?;
    let output = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-L", "KEELSON-IMAGES", "-d"])
        .arg(tree.path())
        .arg(&disk)
        .output()
        .map_err(|source| UpError::ImageDisk { path: disk.clone(), source })?;
    if !output.status.success() {
        return Err(UpError::Mkfs { output: String::from_utf8_lossy(&output.stderr).into_owned() });
    }
    Ok(Some(Disk::read_only(&disk, "images")))
}

fn tempfile_in(folder: &Path) -> Result<tempfile::TempDir, UpError> {
    tempfile::tempdir_in(folder).map_err(|source| UpError::ImageDisk { path: folder.to_owned(), source })
}
