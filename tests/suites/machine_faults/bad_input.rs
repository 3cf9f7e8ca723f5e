//! What a node was told wrongly: it names the source and the field, and holds where one can see it. And what it finds that is
//! as it should be, on hardware of other makes. Each test boots a machine of its own, none of which comes far.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use keelson_vm::machine::{Machine, create_disk};
use keelson_vm::qemu::{Bus, Card, Disk, Hardware, Network, Ports};
use libtest_mimic::{Failed, Trial};

use crate::shared::{Outcome, build, ensure, trial};

/// From power-on to a message about the configuration. Emulated and idle it takes 6 s.
const MESSAGE_DEADLINE: Duration = Duration::from_secs(90);

/// From the power button to off, of a machine that holds.
const OFF_DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("unknown_role_is_refused_with_its_source", unknown_role),
        trial("malformed_ip_is_refused_with_its_source", malformed_ip),
        trial("unknown_document_field_is_refused_with_its_path", unknown_document_field),
        trial("a_machine_without_a_disk_says_so", no_disk),
        trial("a_disk_with_foreign_data_is_never_written_to", foreign_disk),
        trial("without_a_dhcp_answer_it_keeps_asking_and_says_so", no_dhcp_answer),
        trial("nvme_and_e1000e_are_found", || found(Bus::Nvme, Card::E1000e, "nvme0n1")),
        trial("sata_and_igb_are_found", sata_and_igb),
        trial("pvscsi_and_vmxnet3_are_found", || found(Bus::Pvscsi, Card::Vmxnet3, "sda")),
    ]
}

const GOOD: &str = "keelson.role=control-plane keelson.bootstrap keelson.peers=none";

/// In base64, a document that gives the node a label.
const DOCUMENT: &str = "YXBpVmVyc2lvbjoga2VlbHNvbi5kZXYvdjFhbHBoYTEKa2luZDogTm9kZUNvbmZpZ3VyYXRpb24Kc3BlYzoKICBub2RlOgogICAgbGFiZWxzOiB7cmFjazogcjd9Cg==";

/// Starts a machine of its own, waits until the console has a line with each of `patterns`, and ends it.
fn expect_on_console(
    name: &str,
    change: impl FnOnce(&mut Hardware, &Path) -> Outcome,
    patterns: &[&str],
) -> Result<Machine, Failed> {
    let mut machine = start_until(name, change, patterns)?;
    machine.cut_power()?;
    Ok(machine)
}

/// The same, and the machine goes on.
fn start_until(
    name: &str,
    change: impl FnOnce(&mut Hardware, &Path) -> Outcome,
    patterns: &[&str],
) -> Result<Machine, Failed> {
    let build = build()?;
    let folder = build.machine_folder(name)?;
    let disk = folder.join("disk.raw");
    create_disk(&disk, 8 << 10)?;
    let mut hardware = Hardware {
        processors: 2,
        memory_mib: 1024,
        kernel: build.image.kernel.clone(),
        initramfs: build.image.initramfs.clone(),
        command_line: GOOD.to_owned(),
        smbios: vec![],
        fw_cfg: vec![],
        disks: vec![Disk::from_file(&disk, "test")],
        network: Network::User(Ports::free()?),
        card: Card::default(),
        firmware: None,
        days_ahead: None,
    };
    change(&mut hardware, &folder)?;
    let mut machine = Machine::create(&folder, hardware, build.speed)?;
    machine.start()?;
    let found = patterns
        .iter()
        .try_for_each(|pattern| machine.console().wait_for(pattern, 0, build.speed.scale(MESSAGE_DEADLINE)).map(drop));
    let running = machine.is_running();
    if found.is_err() || !running {
        machine.cut_power()?;
    }
    found?;
    ensure(running, || "the machine did not hold; it ended".to_owned())?;
    Ok(machine)
}

fn unknown_role() -> Outcome {
    let change = |hardware: &mut Hardware, _: &Path| {
        "keelson.role=captain keelson.bootstrap keelson.peers=none".clone_into(&mut hardware.command_line);
        Ok(())
    };
    let patterns = ["keelson.role", "captain", "kernel command line", "this machine holds"];
    let mut machine = start_until("unknown-role", change, &patterns)?;
    // It still does what is asked of it at the machine, and what was asked before it held.
    let mut off = turn_off(&mut machine);
    if off.is_ok() {
        machine.start()?;
        let begun = machine.console().wait_for("all mounted", 0, machine.speed().scale(MESSAGE_DEADLINE));
        off = begun.map_err(Failed::from).and_then(|_| turn_off(&mut machine));
    }
    machine.cut_power()?;
    off
}

fn turn_off(machine: &mut Machine) -> Outcome {
    machine.press_power_button()?;
    Ok(machine.wait_until_off(machine.speed().scale(OFF_DEADLINE))?)
}

fn malformed_ip() -> Outcome {
    let change = |hardware: &mut Hardware, _: &Path| {
        hardware.command_line =
            format!("{GOOD} keelson.document={DOCUMENT} ip=10.0.2.300::10.0.2.2:255.255.255.0::eth0:off");
        Ok(())
    };
    let machine = expect_on_console("malformed-ip", change, &["10.0.2.300", "kernel command line"])?;
    // A document may hold a token: neither the kernel nor PID 1 repeats it.
    let console = machine.console().text();
    ensure(console.contains("keelson.document=****"), || "the console does not show the command line".to_owned())?;
    ensure(!console.contains(DOCUMENT), || "the document is on the console".to_owned())
}

fn unknown_document_field() -> Outcome {
    let change = |hardware: &mut Hardware, folder: &Path| {
        let document = folder.join("document.yaml");
        std::fs::write(
            &document,
            "apiVersion: keelson.dev/v1alpha1\nkind: NodeConfiguration\nspec:\n  flavour: mint\n",
        )?;
        hardware.fw_cfg.push(("opt/keelson/document".to_owned(), document));
        Ok(())
    };
    expect_on_console("unknown-field", change, &["flavour", "fw_cfg"]).map(drop)
}

fn no_disk() -> Outcome {
    let change = |hardware: &mut Hardware, _: &Path| {
        hardware.disks.clear();
        Ok(())
    };
    expect_on_console("no-disk", change, &["no disk"]).map(drop)
}

fn foreign_disk() -> Outcome {
    let secret = b"somebody's only copy of something";
    let change = |hardware: &mut Hardware, folder: &Path| {
        let disk = folder.join("foreign.raw");
        create_disk(&disk, 8 << 10)?;
        // No partition table, no file system, only bytes: still not ours.
        std::fs::File::options().write(true).open(&disk)?.write_all_at(secret, 4096)?;
        hardware.disks = vec![Disk::from_file(&disk, "foreign")];
        Ok(())
    };
    let machine = expect_on_console("foreign-disk", change, &["vda"])?;
    let disk = std::fs::File::open(machine.folder().join("foreign.raw"))?;
    let mut found = vec![0; secret.len()];
    disk.read_exact_at(&mut found, 4096)?;
    ensure(found == secret, || "the foreign data was overwritten".to_owned())?;
    // The file is sparse: a write anywhere else would have taken room (st_blocks is in units of 512 bytes, stat(2)).
    let taken = disk.metadata()?.blocks() * 512;
    ensure(taken <= 8192, || format!("the foreign disk takes {taken} bytes: it was written to"))
}

fn no_dhcp_answer() -> Outcome {
    let change = |hardware: &mut Hardware, _: &Path| {
        hardware.network = Network::Silent;
        Ok(())
    };
    expect_on_console("no-dhcp", change, &["no DHCP answer"]).map(drop)
}

/// Debian 12's own QEMU has no such card; CI's has.
fn sata_and_igb() -> Outcome {
    if Card::Igb.is_offered()? {
        return found(Bus::Ahci, Card::Igb, "sda");
    }
    println!("this QEMU has no igb: the disk is looked for beside another card");
    found(Bus::Ahci, Card::Virtio, "sda")
}

/// STATE and DATA are made on the disk, and the link has an address.
fn found(bus: Bus, card: Card, disk: &str) -> Outcome {
    let change = |hardware: &mut Hardware, _: &Path| {
        hardware.card = card;
        hardware.disks.iter_mut().for_each(|disk| disk.bus = bus);
        Ok(())
    };
    let made = format!("made on the blank disk {disk}");
    let name = format!("{bus:?}-{card:?}").to_lowercase();
    expect_on_console(&name, change, &[made.as_str(), "node address 10.0.2.15"]).map(drop)
}
