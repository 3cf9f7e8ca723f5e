//! Power that goes amid what the boot does to a disk: it makes STATE and DATA, and it grows them.
//!
//! The disk counts what it is asked to write and to flush. A boot with power tells how often that is; then the power goes with one of these
//! requests, of what was not flushed a random part is lost, and the next boot has to be as if nothing had been. Where the partition
//! table is written the power goes with each request, and in the file systems, of which there are hundreds, with some of them.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use keelson_gpt::{DATA_TYPE, STATE_TYPE};
use keelson_vm::machine::SHUTDOWN_DEADLINE;
use keelson_vm::nbd::{Cut, PowerCutDisk};
use keelson_vm::node::Node;
use keelson_vm::wait;
use libtest_mimic::{Failed, Trial};

use crate::shared::{Outcome, ensure, trial, with_own};
use crate::support::{self, DEADLINE, console, ensure_up, present};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("power_that_goes_while_disks_are_made_and_grow_costs_nothing", power_cuts)]
}

const DISK: u64 = 4 << 30;
/// By so much the disk is larger each time: two groups of ext4's blocks.
const GROWTH: u64 = 256 << 20;
/// Each request at the beginning and at the end: there the table is written.
const TABLE: u64 = 10;

/// A machine on a disk that counts.
struct World<'a> {
    node: &'a mut Node,
    file: PathBuf,
    disk: PowerCutDisk,
}

fn power_cuts() -> Outcome {
    with_own(support::new_node("power-cuts")?, |node| {
        let file = node.machine.folder().join("disk.raw");
        let disk = support::serve_disk(node)?;
        let mut world = World { node, file, disk };
        making(&mut world)?;
        growing(&mut world)?;
        sound(&mut world)
    })
}

/// How many cuts there are between those of the tables; `KEELSON_POWER_CUTS` says otherwise.
fn cuts_between() -> Result<u64, Failed> {
    match std::env::var("KEELSON_POWER_CUTS") {
        Ok(number) => Ok(number.parse().map_err(|_| format!("KEELSON_POWER_CUTS={number:?} is no number"))?),
        Err(_) => Ok(4),
    }
}

/// All of the first and of the last of `total` requests, and some between them.
fn moments(total: u64) -> Result<BTreeSet<u64>, Failed> {
    let between = cuts_between()?;
    let spread = (1..=between).map(|step| total * step / (between + 1));
    Ok((1..=TABLE).chain(spread).chain(total.saturating_sub(TABLE)..=total).filter(|moment| *moment > 0).collect())
}

impl World<'_> {
    /// Turns the machine on and takes its power with request `moment`.
    fn cut_at(&mut self, moment: u64) -> Result<Cut, Failed> {
        self.disk.cut_at_request(moment, moment);
        self.node.machine.start()?;
        let deadline = self.node.machine.speed().scale(DEADLINE);
        let cut = wait::until(&format!("the disk's request {moment}"), deadline, || {
            self.disk.cut().ok_or_else(|| format!("there were {}", self.disk.requests()))
        });
        self.node.machine.cut_power()?;
        self.disk.restore_power();
        Ok(cut?)
    }

    /// What the boot says of the disks.
    fn summary(&self) -> Result<String, Failed> {
        Ok(console(self.node, "STATE and DATA", 0)?.trim().to_owned())
    }

    fn off(&mut self) -> Outcome {
        self.node.machine.cut_power()?;
        Ok(self.disk.flush()?)
    }

    /// The disk's requests until the console has said `pattern`.
    fn requests_until(&mut self, pattern: &str) -> Result<u64, Failed> {
        // None comes.
        self.disk.cut_at_request(u64::MAX, 0);
        self.node.machine.start()?;
        console(self.node, pattern, 0)?;
        Ok(self.disk.requests())
    }
}

fn making(world: &mut World<'_>) -> Outcome {
    blank(&world.file)?;
    let total = world.requests_until("STATE and DATA made")?;
    for moment in moments(total)? {
        world.off()?;
        blank(&world.file)?;
        let cut = world.cut_at(moment)?;
        ensure_up(world.node)?;
        println!("made: power gone with request {moment} of {total}, {}: {}", told(cut), world.summary()?);
    }
    Ok(())
}

fn growing(world: &mut World<'_>) -> Outcome {
    let mut number = present(world.node)?;
    let enlarge = |world: &mut World<'_>| -> Outcome {
        world.off()?;
        let bytes = world.file.metadata()?.len() + GROWTH;
        Ok(File::options().write(true).open(&world.file)?.set_len(bytes)?)
    };
    enlarge(world)?;
    let total = world.requests_until("has grown")? + TABLE;
    for moment in moments(total)? {
        enlarge(world)?;
        let cut = world.cut_at(moment)?;
        ensure_up(world.node)?;
        println!("grown: power gone with request {moment} of {total}, {}: {}", told(cut), world.summary()?);
        let now = present(world.node)?;
        ensure(now > number, || format!("boot {number} was followed by boot {now}: its history is lost"))?;
        number = now;
        world.off()?;
        support::ensure_grown(&world.file)?;
    }
    Ok(())
}

/// After an orderly end nobody finds a fault in what the cuts have left.
fn sound(world: &mut World<'_>) -> Outcome {
    ensure_up(world.node)?;
    world.node.machine.press_power_button()?;
    world.node.machine.wait_until_off(SHUTDOWN_DEADLINE)?;
    world.disk.flush()?;
    let found = support::partition_table(&File::open(&world.file)?)?;
    for kind in [STATE_TYPE, DATA_TYPE] {
        let (_, partition) = found.table.find(kind).ok_or("a partition is missing")?;
        let place = format!("{}?offset={}", world.file.display(), partition.first * 512);
        let checked = Command::new("e2fsck").args(["-f", "-n", &place]).output()?;
        let said = String::from_utf8_lossy(&checked.stdout);
        ensure(checked.status.success(), || format!("e2fsck of {place}: {said}"))?;
    }
    Ok(())
}

fn blank(file: &Path) -> Outcome {
    let file = File::options().write(true).open(file)?;
    file.set_len(0)?;
    Ok(file.set_len(DISK)?)
}

fn told(cut: Cut) -> String {
    format!("{} sectors kept and {} lost", cut.sectors_kept, cut.sectors_lost)
}
