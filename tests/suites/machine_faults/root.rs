//! The root in the initramfs, with a bit flipped: the machine runs none of it.

use std::fs;
use std::time::Instant;

use keelson_vm::build::Image;
use keelson_vm::machine::Machine;
use libtest_mimic::{Failed, Trial};

use crate::shared::{Outcome, build, trial};
use crate::support::{self, DEADLINE};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_flipped_byte_in_the_root_ends_in_a_panic_and_a_reboot", root),
        trial("a_flipped_byte_in_the_hash_tree_ends_in_a_panic_and_a_reboot", hash_tree),
    ]
}

/// Where a file's content begins in an uncompressed cpio archive whose entry begins at `entry`.
fn content(entry: u64, name: &str) -> u64 {
    (entry + 110 + name.len() as u64 + 1).next_multiple_of(4)
}

/// The erofs superblock, 1024 bytes into the first block: read by the mount.
fn root() -> Outcome {
    corrupted("flipped-root", |_| Ok(content(0, "root.erofs") + 1024), "data block 0 is corrupted")
}

/// The topmost block of the tree, behind its superblock: read before any other.
fn hash_tree() -> Outcome {
    let place = |image: &Image| {
        let end = content(0, "root.erofs") + fs::metadata(&image.root)?.len();
        Ok(content(end.next_multiple_of(4), "root.hashes") + 4096 + 7)
    };
    corrupted("flipped-tree", place, "metadata block")
}

fn corrupted(name: &str, place: impl FnOnce(&Image) -> Result<u64, Failed>, said: &str) -> Outcome {
    let build = build()?;
    let folder = build.machine_folder(name)?;
    let initramfs = folder.join("initramfs");
    fs::copy(&build.image.initramfs, &initramfs)?;
    support::flip(&initramfs, place(&build.image)?)?;
    let disk = folder.join("disk.raw");
    keelson_vm::machine::create_disk(&disk, 1 << 10)?;
    let mut hardware = support::hardware(build, &folder, &disk)?;
    hardware.initramfs.clone_from(&initramfs);
    let mut machine = Machine::create(&folder, hardware, build.speed)?;
    machine.start()?;
    let deadline = build.speed.scale(DEADLINE);
    let outcome = (|| -> Outcome {
        machine.console().wait_for(said, 0, deadline)?;
        let panicked = Instant::now();
        machine.console().wait_for("Kernel panic", 0, deadline)?;
        let mark = machine.console().mark();
        machine.console().wait_for("Linux version", mark, deadline)?;
        println!("refused, and booted again after {:.1} s", panicked.elapsed().as_secs_f64());
        Ok(())
    })();
    machine.cut_power()?;
    fs::remove_file(&initramfs)?;
    outcome
}
