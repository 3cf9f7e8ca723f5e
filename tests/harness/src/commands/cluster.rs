//! `cargo vm up --control-planes N --workers M`: more machines beside the first, joined by tokens, the way users join theirs.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::build::Image;
use crate::machine::{self, Machine, MachineError};
use crate::node::Node;
use crate::project::{self, Project};
use crate::qemu::{Disk, Hardware, Network, Ports, Segment};
use crate::report::Report;

use super::Up;
use super::up::{UpError, turn_on};

/// The first machine's number on the segment.
const FIRST: u8 = 1;
/// Where the segment keeps the file that the document comes from.
const DOCUMENT_FILE: &str = "document.yaml";

pub(super) fn is_wanted(options: &Up) -> bool {
    options.control_planes > 1 || options.workers > 0
}

/// Puts the first machine on a segment of its own.
pub(super) fn found(hardware: &mut Hardware, folder: &Path) -> Result<(), UpError> {
    let Network::User(ports) = hardware.network else { return Ok(()) };
    let segment = Segment { port: Segment::free()?, number: FIRST };
    hardware.network = Network::Segment { ports, segment };
    place(hardware, segment, folder)
}

/// What a machine on a segment has to be told.
fn place(hardware: &mut Hardware, segment: Segment, folder: &Path) -> Result<(), UpError> {
    let path = folder.join(DOCUMENT_FILE);
    std::fs::write(&path, Segment::DOCUMENT).map_err(|source| UpError::Write { path: path.clone(), source })?;
    hardware.fw_cfg.push(("opt/keelson/document".to_owned(), path));
    hardware.command_line = format!("{} {}", hardware.command_line, segment.words());
    Ok(())
}

/// Makes the machines that are missing, one after the other, and turns on those that are off.
pub(super) fn grow(
    options: &Up,
    first: &Node,
    image: &Image,
    project: &Project,
    report: &Report,
) -> Result<(), UpError> {
    let alone = || UpError::Alone { name: first.machine.name().to_owned() };
    let Network::Segment { segment, .. } = first.machine.hardware().network else { return Err(alone()) };
    let control_planes = (2..=options.control_planes).map(|number| ("control-plane", format!("cp{number}")));
    let workers = (1..=options.workers).map(|number| ("worker", format!("w{number}")));
    for (index, (role, suffix)) in (FIRST + 1..).zip(control_planes.chain(workers)) {
        let folder = project.machine_folder(&format!("{}-{suffix}", options.machine.name))?;
        let mut machine = match Machine::open(&folder) {
            Ok(machine) => machine,
            Err(MachineError::Unknown { .. }) => {
                project::create_folder(&folder)?;
                let segment = Segment { number: index, ..segment };
                joiner(options, first, role, segment, &folder)?
            }
            Err(error) => return Err(error.into()),
        };
        turn_on(&mut machine, image, None, report)?;
        first.wait_member_ready(&machine)?;
        report.line(&format!("node {} is Ready", machine.name()));
    }
    Ok(())
}

/// A machine that joins the first one's cluster with a token of its own.
fn joiner(options: &Up, first: &Node, role: &str, segment: Segment, folder: &Path) -> Result<Machine, UpError> {
    let endpoint = format!("{}:6400", Segment { number: FIRST, ..segment }.address());
    let token = first.keelctl(&["token", "create", "--role", role, "--endpoint", &endpoint])?;
    let disk = folder.join("disk.raw");
    machine::create_disk(&disk, options.disk << 10)?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let mut hardware = Hardware {
        command_line: format!("keelson.role={role} keelson.name={name}"),
        smbios: vec![],
        // By a file: QEMU's arguments can be read by everybody on the host.
        fw_cfg: vec![("opt/keelson/token".to_owned(), secret_file(folder, token.trim())?)],
        disks: vec![Disk::from_file(&disk, "keelson")],
        network: Network::Segment { ports: Ports::free()?, segment },
        ..first.machine.hardware().clone()
    };
    place(&mut hardware, segment, folder)?;
    Ok(Machine::create(folder, hardware, first.machine.speed())?)
}

fn secret_file(folder: &Path, text: &str) -> Result<PathBuf, UpError> {
    let path = folder.join("token");
    let write = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes())
    };
    write().map_err(|source| UpError::Write { path: path.clone(), source })?;
    Ok(path)
}
