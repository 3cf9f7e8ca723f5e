//! The end of the ladder: a service that cannot run reboots the machine, and after some such boots it is left as it is.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use keelson_gpt::{Geometry, STATE_TYPE};
use keelson_vm::machine::SHUTDOWN_DEADLINE;
use keelson_vm::node::Node;
use libtest_mimic::{Failed, Trial};

use crate::shared::{Outcome, ensure, trial};
use crate::support::{self, ensure_up, present};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("a_service_that_never_runs_reboots_twice_with_its_reason_and_then_is_only_tried", ladder)]
}

/// Twelve failures and a pause of three minutes, twice, and the boots between.
const LADDER_DEADLINE: Duration = Duration::from_mins(20);

fn ladder() -> Outcome {
    let mut node = support::new_node("ladder")?;
    let outcome = climb(&mut node);
    let tail = node.machine.console().tail();
    node.machine.cut_power()?;
    outcome.map_err(|failed| format!("{}\n{tail}", failed.message().unwrap_or_default()).into())
}

fn climb(node: &mut Node) -> Outcome {
    ensure_up(node)?;
    let first = present(node)?;
    node.machine.press_power_button()?;
    node.machine.wait_until_off(SHUTDOWN_DEADLINE)?;
    spoil_the_store(&node.machine.folder().join("disk.raw"))?;
    let started = Instant::now();
    node.machine.start()?;
    let console = node.machine.console();
    let deadline = node.machine.speed().scale(LADDER_DEADLINE);
    for reboot in 1..=2 {
        let mark = console.mark();
        let line = console.wait_for("reboot: store", mark, deadline)?;
        println!("reboot {reboot} after {:.0} s: {}", started.elapsed().as_secs_f64(), line.trim());
        console.wait_for("Linux version", mark, deadline)?;
    }
    let line = console.wait_for("not rebooted", console.mark(), deadline)?;
    println!("tried on after {:.0} s: {}", started.elapsed().as_secs_f64(), line.trim());
    node.pin_api()?;
    for number in [first + 1, first + 2] {
        let boot = support::ended_boot(node, number)?;
        let end = boot["ended"].as_str().unwrap_or_default();
        ensure(end.starts_with("reboot by the supervisor: "), || format!("boots says {boot}"))?;
    }
    Ok(())
}

/// Puts a file where the store keeps its log.
fn spoil_the_store(disk: &Path) -> Result<(), Failed> {
    let file = std::fs::File::open(disk)?;
    let geometry = Geometry { sector: 512, sectors: file.metadata()?.len() / 512 };
    let found = keelson_gpt::read(&file, geometry)?.ok_or("no partition table")?;
    let (_, state) = found.table.find(STATE_TYPE).ok_or("no STATE")?;
    // e2fsprogs' own name for a file system inside an image.
    let image = format!("{}?offset={}", disk.display(), state.first * 512);
    for request in ["unlink /store", "write /proc/version store"] {
        let output = Command::new("debugfs").args(["-w", "-R", request, &image]).output()?;
        println!("debugfs {request}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
