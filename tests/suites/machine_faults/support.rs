//! Machines that are up as soon as their operator gets an answer.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use keelson_gpt::{DATA_TYPE, Found, Geometry};
use keelson_vm::machine::create_disk;
use keelson_vm::nbd::PowerCutDisk;
use keelson_vm::node::Node;
use keelson_vm::qemu::{Card, Disk, Hardware, Network, Ports};
use keelson_vm::wait;
use libtest_mimic::Failed;
use serde_json::Value;

use crate::shared::{Build, Outcome, build, ensure};

/// From power-on, or a reset, to an answer of the operator's API; and all else that takes seconds on an idle machine.
pub(crate) const DEADLINE: Duration = Duration::from_mins(3);

/// Where the kernel keeps its last messages across a reset: a stretch of memory that it finds again by its name. Lockdown refuses one
/// that is named by its address; and the kernel itself must not lie elsewhere at each boot, or the stretch does.
const RAMOOPS: &str =
    "nokaslr reserve_mem=1M:4096:oops ramoops.mem_name=oops ramoops.record_size=0x10000 ramoops.ecc=1";

/// A control plane on a blank disk of 4 GiB. It has not run yet.
pub(crate) fn new_node(name: &str) -> Result<Node, Failed> {
    let build = build()?;
    let folder = build.machine_folder(name)?;
    let disk = folder.join("disk.raw");
    create_disk(&disk, 4 << 10)?;
    let hardware = hardware(build, &folder, &disk)?;
    build.node(&folder, hardware)
}

pub(crate) fn hardware(build: &Build, folder: &Path, disk: &Path) -> Result<Hardware, Failed> {
    let operator_key = build.tools.generate_key(&Node::operator_key(folder))?;
    Ok(Hardware {
        processors: 2,
        memory_mib: 2048,
        kernel: build.image.kernel.clone(),
        initramfs: build.image.initramfs.clone(),
        command_line: format!("unknown_nmi_panic {RAMOOPS}"),
        smbios: vec![
            "keelson.role=control-plane".to_owned(),
            "keelson.bootstrap".to_owned(),
            "keelson.peers=none".to_owned(),
            "keelson.name=faults".to_owned(),
            operator_key,
        ],
        fw_cfg: vec![],
        disks: vec![Disk::from_file(disk, "keelson")],
        network: Network::User(Ports::free()?),
        card: Card::default(),
        firmware: None,
        days_ahead: None,
    })
}

/// Turns the machine on if it is off, and waits until its operator gets an answer.
pub(crate) fn ensure_up(node: &mut Node) -> Result<(), Failed> {
    if !node.machine.is_running() {
        node.machine.start()?;
        node.pin_api()?;
    }
    boots(node, 1).map(drop)
}

/// The boots as `keelctl boots` tells them, newest first, once there are as many.
pub(crate) fn boots(node: &Node, count: u64) -> Result<Vec<Value>, Failed> {
    let deadline = node.machine.speed().scale(DEADLINE);
    let list = wait::until(&format!("keelctl boots to tell of boot {count}"), deadline, || {
        if !node.machine.is_running() {
            return Err("the machine has ended".to_owned());
        }
        let text = node.keelctl(&["boots", "-o", "json"]).map_err(|error| error.to_string())?;
        let list: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let boots = list["boots"].as_array().cloned().unwrap_or_default();
        let newest = boots.first().map_or(0, number);
        if newest >= count { Ok(boots) } else { Err(format!("the newest boot is {newest}")) }
    })
    .map_err(|timeout| node.machine.console().explain(timeout))?;
    Ok(list)
}

pub(crate) fn number(boot: &Value) -> u64 {
    boot["number"].as_u64().unwrap_or_default()
}

/// What `keelctl boots` tells of an earlier boot, once the present one has found out how that ended.
pub(crate) fn ended_boot(node: &Node, wanted: u64) -> Result<Value, Failed> {
    let deadline = node.machine.speed().scale(DEADLINE);
    let told = wait::until(&format!("keelctl boots to tell how boot {wanted} ended"), deadline, || {
        let boots = boots(node, wanted + 1).map_err(|failed| format!("{failed:?}"))?;
        let boot = boots.into_iter().find(|boot| number(boot) == wanted).unwrap_or_default();
        if boot["ended"].is_string() { Ok(boot) } else { Err(boot.to_string()) }
    });
    Ok(told.map_err(|timeout| node.machine.console().explain(timeout))?)
}

/// The number of the boot that runs.
pub(crate) fn present(node: &Node) -> Result<u64, Failed> {
    Ok(boots(node, 1)?.first().map_or(0, number))
}

/// Waits for a line of the console that was printed behind `mark`.
pub(crate) fn console(node: &Node, pattern: &str, mark: usize) -> Result<String, Failed> {
    Ok(node.machine.console().wait_for(pattern, mark, node.machine.speed().scale(DEADLINE))?)
}

/// Inverts one byte of a file and returns what it was.
pub(crate) fn flip(path: &Path, offset: u64) -> Result<(), Failed> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    file.write_all_at(&[!byte[0]], offset)?;
    Ok(())
}

/// The partition table of a disk, which is to have one.
pub(crate) fn partition_table(disk: &File) -> Result<Found, Failed> {
    let geometry = Geometry { sector: 512, sectors: disk.metadata()?.len() / 512 };
    Ok(keelson_gpt::read(disk, geometry)?.ok_or("the disk has no partition table")?)
}

/// Has the machine's disk served by the harness, from when it is turned on the next time.
pub(crate) fn serve_disk(node: &mut Node) -> Result<PowerCutDisk, Failed> {
    let folder = node.machine.folder();
    let served = PowerCutDisk::serve(&folder.join("disk.raw"), &folder.join("disk.sock"))?;
    node.machine.change_hardware(|hardware| {
        hardware.disks.iter_mut().for_each(|disk| disk.file = served.qemu_file());
    })?;
    Ok(served)
}

/// DATA reaches to the end of the disk, its file system too.
pub(crate) fn ensure_grown(disk: &Path) -> Outcome {
    let file = File::open(disk)?;
    let bytes = file.metadata()?.len();
    let found = partition_table(&file)?;
    let (_, data) = found.table.find(DATA_TYPE).ok_or("the disk has no DATA")?;
    let end = (data.last + 1) * 512;
    ensure(bytes - end < 4 << 20, || format!("DATA ends at {end} of {bytes} bytes"))?;
    ensure(!found.needs_repair, || "the two copies of the table differ".to_owned())?;
    // The file system too, by its superblock: blocks at byte 4, their size at byte 24.
    let mut superblock = [0; 32];
    file.read_exact_at(&mut superblock, data.first * 512 + 1024)?;
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| superblock[at + byte]));
    let held = u64::from(word(4)) * (1024 << word(24));
    let room = (data.last + 1 - data.first) * 512;
    ensure(room - held < 64 << 20, || format!("the file system has {held} of {room} bytes"))
}
