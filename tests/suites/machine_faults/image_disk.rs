//! The disk image under UEFI firmware.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use keelson_vm::build::disk_image::{self, DiskImage};
use keelson_vm::build::secure_boot::Keys;
use keelson_vm::firmware::Firmware;
use keelson_vm::node::Node;
use keelson_vm::project::Project;
use keelson_vm::report::Report;
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::shared::{Outcome, build, ensure, trial, with_own};
use crate::support::{self, boots, console, ensure_up, flip};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("the_disk_image_boots_grows_and_refuses_a_flipped_byte", life),
        trial("what_the_esp_says_is_what_the_image_is", told_by_the_esp),
        trial("secure_boot_takes_the_signed_image_and_refuses_a_changed_one", secure_boot),
    ]
}

/// Where the root and its hash tree lie in the image (`build::disk_image` has the table).
const MIB: u64 = 1 << 20;
const ROOT: u64 = 513 * MIB;
const HASHES: u64 = ROOT + 1008 * MIB;
/// Of erofs: read by the mount.
const SUPERBLOCK: u64 = 1024;
const CHANGED_ROOT: &str = "data block 0 is corrupted";

fn image(keys: Option<&Keys>) -> Result<DiskImage, Failed> {
    let build = build()?;
    Ok(disk_image::build(&Project::of_this_build().request()?, &build.image, keys, &mut Report::default())?)
}

fn life() -> Outcome {
    let build = build()?;
    let image = image(None)?;
    let folder = build.machine_folder("image-disk")?;
    let disk = folder.join("disk.raw");
    disk_image::enlarge(&image, &disk, 8)?;
    let mut hardware = support::hardware(build, &folder, &disk)?;
    hardware.firmware = Some(Firmware::plain(&folder)?);
    with_own(build.node(&folder, hardware)?, |node| live(node, &disk))
}

fn live(node: &mut Node, disk: &Path) -> Outcome {
    let started = Instant::now();
    ensure_up(node)?;
    println!("the image's first boot answers after {:.1} s", started.elapsed().as_secs_f64());
    node.machine.cut_power()?;
    File::options().write(true).open(disk)?.set_len(10 << 30)?;
    node.machine.start()?;
    println!("{}", console(node, "has grown", 0)?.trim());
    ensure_up(node)?;
    let count = support::present(node)?;
    for (what, place) in [(CHANGED_ROOT, ROOT + SUPERBLOCK), ("metadata block", HASHES + 4096 + 7)] {
        refuses_changed(node, disk, what, place)?;
    }
    node.machine.start()?;
    node.pin_api()?;
    // None of the refused boots came as far as STATE; what the kernel saved of them is told of the last one that did.
    let boot = support::ended_boot(node, count)?;
    ensure(boot["lastMessages"].to_string().contains("Kernel panic"), || format!("boots says {boot}"))?;
    let whole: Value = serde_json::from_str(&node.keelctl(&["boots", &count.to_string(), "-o", "json"])?)?;
    ensure(whole["image"].as_str().is_some_and(|hash| hash.len() == 64), || format!("of this boot it says {whole}"))
}

/// A byte of the disk is changed while the machine is off: it runs none of what it is in, and is as it was once that is changed back.
fn refuses_changed(node: &mut Node, disk: &Path, what: &str, place: u64) -> Outcome {
    node.machine.cut_power()?;
    flip(disk, place)?;
    node.machine.start()?;
    let refused = console(node, what, 0).and_then(|_| {
        console(node, "Kernel panic", 0)?;
        let mark = node.machine.console().mark();
        console(node, "Linux version", mark)
    });
    node.machine.cut_power()?;
    flip(disk, place)?;
    refused.map(drop)
}

/// Role and name come from files of the image's EFI system partition, one of them a credential, as on a machine that has no other way.
fn told_by_the_esp() -> Outcome {
    let build = build()?;
    let image = image(None)?;
    let folder = build.machine_folder("image-esp")?;
    let disk = folder.join("disk.raw");
    disk_image::enlarge(&image, &disk, 8)?;
    let mut hardware = support::hardware(build, &folder, &disk)?;
    hardware.firmware = Some(Firmware::plain(&folder)?);
    let words = std::mem::take(&mut hardware.smbios);
    let (own, words): (Vec<_>, Vec<_>) =
        words.into_iter().partition(|word| word.starts_with("keelson.role=") || word.starts_with("keelson.name="));
    ensure(own.len() == 2, || format!("{own:?} is told by SMBIOS elsewhere"))?;
    for (name, content) in [
        ("keelson/role", "control-plane"),
        ("keelson/words", &words.join(" ")),
        ("loader/credentials/keelson.name.cred", "from-the-esp"),
    ] {
        put_on_esp(&folder, &disk, name, content)?;
    }
    with_own(build.node(&folder, hardware)?, |node| {
        ensure_up(node)?;
        let status: Value = serde_json::from_str(&node.keelctl(&["status", "-o", "json"])?)?;
        let said = (status["name"].as_str(), status["role"].as_str());
        ensure(said == (Some("from-the-esp"), Some("control-plane")), || format!("status says {status}"))
    })
}

/// Puts a file on the image's EFI system partition, as an operator does.
fn put_on_esp(folder: &Path, disk: &Path, name: &str, content: &str) -> Outcome {
    let file = folder.join("content");
    fs::write(&file, content)?;
    let place = format!("{}@@{MIB}", disk.display());
    let mut parent = String::from("::");
    for part in Path::new(name).parent().into_iter().flatten() {
        parent = format!("{parent}/{}", part.display());
        // It may be there.
        Command::new("mmd").args(["-D", "s", "-i", &place, &parent]).output()?;
    }
    let copied = Command::new("mcopy").args(["-i", &place]).arg(&file).arg(format!("::/{name}")).output()?;
    ensure(copied.status.success(), || format!("mcopy {name}: {}", String::from_utf8_lossy(&copied.stderr)))
}

/// The firmware is given the keys by the first boot, resets, and takes nothing else from then on.
fn secure_boot() -> Outcome {
    let build = build()?;
    let folder = build.machine_folder("secure-boot")?;
    let place = folder.join("keys");
    let keys = Keys::make(&place, true, folder.join("logs"), &mut Report::default())?;
    let image = image(Some(&keys))?;
    let disk = folder.join("disk.raw");
    disk_image::enlarge(&image, &disk, 8)?;
    let mut hardware = support::hardware(build, &folder, &disk)?;
    hardware.firmware = Some(Firmware::secure(&folder)?);
    with_own(build.node(&folder, hardware)?, |node| signed_and_changed(node, &image, &disk))
}

fn signed_and_changed(node: &mut Node, image: &DiskImage, disk: &Path) -> Outcome {
    let started = Instant::now();
    ensure_up(node)?;
    println!("enrolled, reset and answering after {:.1} s", started.elapsed().as_secs_f64());
    node.machine.cut_power()?;
    // A byte in the middle of the kernel image.
    let kernel = place_in(disk, &image.uki)?;
    flip(disk, kernel)?;
    node.machine.start()?;
    let refused = console(node, "ccess", 0);
    let text = node.machine.console().text();
    node.machine.cut_power()?;
    flip(disk, kernel)?;
    println!("a changed kernel image: {}", refused?.trim());
    ensure(!text.contains("Linux version"), || "a changed kernel image was booted".to_owned())?;
    refuses_changed(node, disk, CHANGED_ROOT, ROOT + SUPERBLOCK)?;
    node.machine.start()?;
    node.pin_api()?;
    boots(node, 2).map(drop)
}

/// Where the middle of a file lies on the ESP: its files are in one piece.
fn place_in(disk: &Path, file: &Path) -> Result<u64, Failed> {
    use std::os::unix::fs::FileExt;
    let length = File::open(file)?.metadata()?.len();
    let mut wanted = [0; 512];
    File::open(file)?.read_exact_at(&mut wanted, length / 2 / 512 * 512)?;
    let mut sector = [0; 512];
    let disk = File::open(disk)?;
    for number in (MIB / 512)..(ROOT / 512) {
        disk.read_exact_at(&mut sector, number * 512)?;
        if sector == wanted {
            return Ok(number * 512);
        }
    }
    Err("the kernel image is not on the ESP".into())
}
