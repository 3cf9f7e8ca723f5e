//! Machines that form a cluster: a segment between them, and a token for each that joins, the way users join theirs.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::machine::{self, Machine, MachineError};
use crate::node::{Node, NodeError};
use crate::qemu::{Disk, Hardware, Network, Ports, QemuError, Segment};

/// The first machine's number on the segment.
pub const FIRST: u8 = 1;

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("machine {name:?} was made alone and has no link to others")]
    Alone { name: String },
    #[error("cannot write {path}", path = path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Qemu(#[from] QemuError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Puts a machine that has not run yet on a new segment, as its first. `folder` is the machine's.
pub fn found(hardware: &mut Hardware, folder: &Path) -> Result<(), ClusterError> {
    let Network::User(ports) = hardware.network else { return Ok(()) };
    let segment = Segment { port: Segment::free()?, number: FIRST };
    hardware.network = Network::Segment { ports, segment };
    place(hardware, segment, folder)
}

/// What a machine on a segment has to be told: its address there, and that others know it by that one.
fn place(hardware: &mut Hardware, segment: Segment, folder: &Path) -> Result<(), ClusterError> {
    let document = file(folder, "document.yaml", Segment::DOCUMENT)?;
    hardware.fw_cfg.push(("opt/keelson/document".to_owned(), document));
    hardware.command_line = format!("{} {}", hardware.command_line, segment.words());
    Ok(())
}

/// Makes a machine that joins the cluster of `first` with a token of its own, and is called like its folder. It has the
/// hardware of `first`, and a blank disk.
pub fn joiner(first: &Node, role: &str, number: u8, folder: &Path, disk_mib: u64) -> Result<Machine, ClusterError> {
    let like = first.machine.hardware();
    let Network::Segment { segment, .. } = like.network else {
        return Err(ClusterError::Alone { name: first.machine.name().to_owned() });
    };
    let endpoint = format!("{}:6400", Segment { number: FIRST, ..segment }.address());
    let token = first.keelctl(&["token", "create", "--role", role, "--endpoint", &endpoint])?;
    let segment = Segment { number, ..segment };
    let disk = folder.join("disk.raw");
    machine::create_disk(&disk, disk_mib)?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let mut hardware = Hardware {
        command_line: format!("keelson.role={role} keelson.name={name}"),
        smbios: vec![],
        // By a file: QEMU's arguments can be read by everybody on the host.
        fw_cfg: vec![("opt/keelson/token".to_owned(), file(folder, "token", token.trim())?)],
        disks: vec![Disk::from_file(&disk, "keelson")],
        network: Network::Segment { ports: Ports::free()?, segment },
        ..like.clone()
    };
    place(&mut hardware, segment, folder)?;
    Ok(Machine::create(folder, hardware, first.machine.speed())?)
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
