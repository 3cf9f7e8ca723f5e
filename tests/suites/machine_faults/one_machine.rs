//! One machine through its faults. Each test finds it running or turns it on, and leaves it as it can be used again.

use std::fs::File;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use keelson_gpt::STATE_TYPE;
use keelson_vm::machine::{SHUTDOWN_DEADLINE, create_disk};
use keelson_vm::nbd::PowerCutDisk;
use keelson_vm::node::Node;
use keelson_vm::qemu::Disk;
use keelson_vm::wait;
use libtest_mimic::{Failed, Trial};

use crate::shared::{Outcome, ensure, shared_node, trial, with_node};
use crate::support::{self, boots, console, ensure_up, flip, present};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("enter_on_the_serial_console_shows_the_overview", overview),
        trial("the_power_button_is_told_of_by_the_next_boot", power_button),
        trial("ctrl_alt_del_reboots_in_order_and_is_told_of", ctrl_alt_del),
        trial("ctrl_alt_del_pressed_twice_forces", forced),
        trial("a_panic_leaves_its_last_messages", panic),
        trial("data_grows_with_the_disk", growth),
        trial("a_damaged_copy_of_the_partition_table_is_written_anew", first_table),
        trial("without_any_copy_of_the_partition_table_it_holds", both_tables),
        trial("a_damaged_superblock_of_state_holds_and_nothing_is_made_anew", state_superblock),
        trial("a_disk_that_answers_nothing_does_not_stop_the_shutdown", frozen_disk),
        trial("ctrl_alt_del_restarts_a_machine_that_is_stuck_in_its_end", stuck_end),
        trial("the_power_button_ends_a_boot_that_waits_for_its_disk", stuck_boot),
        trial("another_disk_that_answers_nothing_holds_neither_boot_nor_end_up", another_disk),
    ]
}

/// Runs `test` with the machine up.
fn with_machine(test: impl FnOnce(&mut Node) -> Outcome) -> Outcome {
    if shared_node().is_none() {
        let node = support::new_node("faults")?;
        *shared_node() = Some(node);
    }
    with_node(|node| {
        ensure_up(node)?;
        test(node)
    })
}

/// The same with the machine off, by a cut of its power.
fn with_disk(test: impl FnOnce(&mut Node, &PathBuf) -> Outcome) -> Outcome {
    with_machine(|node| {
        let disk = disk(node);
        node.machine.cut_power()?;
        test(node, &disk)
    })
}

fn disk(node: &Node) -> PathBuf {
    node.machine.folder().join("disk.raw")
}

/// How boot `number` ended, by the words of `keelctl boots` in the boot after it.
fn ended(node: &Node, number: u64) -> Result<String, Failed> {
    let boot = support::ended_boot(node, number)?;
    Ok(boot["ended"].as_str().unwrap_or_default().to_owned())
}

/// Word by word: of an end that did not come about in order, what was asked for is told as well.
fn expect_end(node: &Node, number: u64, wanted: &str) -> Outcome {
    let ended = ended(node, number)?;
    ensure(ended == wanted, || format!("boot {number} is said to have ended so: {ended:?}"))
}

fn overview() -> Outcome {
    with_machine(|node| {
        let mark = node.machine.console().mark();
        let mut wire = UnixStream::connect(node.machine.console_socket())?;
        // Whoever is on the wire and does not read holds the port up.
        let mut heard = wire.try_clone()?;
        let reader = std::thread::spawn(move || std::io::copy(&mut heard, &mut std::io::sink()));
        wire.write_all(b"\n")?;
        println!("{}", console(node, ", control-plane; boot ", mark)?);
        println!("{}", console(node, " services.", mark)?);
        println!("{}", console(node, "node address 10.0.2.15", mark)?);
        wire.shutdown(Shutdown::Both)?;
        reader.join().map_err(|_| "the reader has panicked")??;
        Ok(())
    })
}

fn power_button() -> Outcome {
    with_machine(|node| {
        let number = present(node)?;
        let pressed = Instant::now();
        node.machine.press_power_button()?;
        node.machine.wait_until_off(SHUTDOWN_DEADLINE)?;
        println!("off after {:.1} s", pressed.elapsed().as_secs_f64());
        ensure_up(node)?;
        expect_end(node, number, "power off: power button")
    })
}

const CTRL_ALT_DEL: [&str; 3] = ["ctrl", "alt", "delete"];

fn ctrl_alt_del() -> Outcome {
    with_machine(|node| {
        let number = present(node)?;
        let mark = node.machine.console().mark();
        let pressed = Instant::now();
        node.machine.press_keys(&CTRL_ALT_DEL)?;
        node.machine.console().wait_for("Linux version", mark, SHUTDOWN_DEADLINE)?;
        println!("down after {:.1} s", pressed.elapsed().as_secs_f64());
        expect_end(node, number, "reboot: ctrl-alt-del")
    })
}

fn forced() -> Outcome {
    with_machine(|node| {
        // A pod that takes its time to end, as CoreDNS does: without one the machine is down before anybody presses again.
        node.wait_ready(|_| {})?;
        node.wait_dns()?;
        let number = present(node)?;
        let mark = node.machine.console().mark();
        node.machine.press_keys(&CTRL_ALT_DEL)?;
        console(node, "reboot asked for: ctrl-alt-del", mark)?;
        // What is pressed at once again is the same press to PID 1.
        let asked = Instant::now();
        wait::until("a second after the first press", support::DEADLINE, || {
            let waited = asked.elapsed();
            if waited >= Duration::from_secs(1) { Ok(()) } else { Err(format!("{} ms", waited.as_millis())) }
        })?;
        let again = Instant::now();
        node.machine.press_keys(&CTRL_ALT_DEL)?;
        node.machine.console().wait_for("ctrl-alt-del again: forced", mark, SHUTDOWN_DEADLINE)?;
        node.machine.console().wait_for("Linux version", mark, SHUTDOWN_DEADLINE)?;
        println!("down {:.1} s after it was forced", again.elapsed().as_secs_f64());
        expect_end(node, number, "reboot: ctrl-alt-del")
    })
}

/// The kernel is told to panic by the button that servers have for it.
fn panic() -> Outcome {
    with_machine(|node| {
        let number = present(node)?;
        let mark = node.machine.console().mark();
        node.machine.press_nmi_button()?;
        console(node, "Kernel panic", mark)?;
        console(node, "Linux version", mark)?;
        let boot = support::ended_boot(node, number)?;
        let messages = boot["lastMessages"].to_string();
        let ended = boot["ended"].as_str().unwrap_or_default();
        let told = messages.contains("Kernel panic") && messages.contains("NMI") && ended.contains("the kernel died");
        ensure(told, || format!("boots says {boot}"))?;
        let whole = node.keelctl(&["boots", &number.to_string()])?;
        let saved = whole.split("SAVED BY THE KERNEL AS IT DIED").nth(1).unwrap_or_default();
        ensure(saved.contains("Kernel panic") && saved.contains("Call Trace"), || {
            format!("of this boot it says {whole}")
        })
    })
}

const GIB: u64 = 1 << 30;

fn growth() -> Outcome {
    with_disk(|node, disk| {
        let file = File::options().read(true).write(true).open(disk)?;
        let bytes = file.metadata()?.len() + 2 * GIB;
        file.set_len(bytes)?;
        node.machine.start()?;
        println!("{}", console(node, "has grown", 0)?.trim());
        ensure_up(node)?;
        node.machine.cut_power()?;
        support::ensure_grown(disk)?;
        node.machine.start()?;
        let mark = node.machine.console().mark();
        ensure_up(node)?;
        let text = node.machine.console().text();
        let again = text.get(mark..).is_some_and(|text| text.contains("has grown"));
        ensure(!again, || "it grew a second time".to_owned())
    })
}

/// A byte of the table's first header, which is in sector 1.
const FIRST_HEADER: u64 = 512 + 56;

fn first_table() -> Outcome {
    with_disk(|node, disk| {
        flip(disk, FIRST_HEADER)?;
        node.machine.start()?;
        node.pin_api()?;
        node.machine.cut_power()?;
        let found = support::partition_table(&File::open(disk)?)?;
        ensure(!found.needs_repair, || "the copy was not written anew".to_owned())
    })
}

fn both_tables() -> Outcome {
    with_disk(|node, disk| {
        let last = File::open(disk)?.metadata()?.len() - 512 + 56;
        for place in [FIRST_HEADER, last] {
            flip(disk, place)?;
        }
        node.machine.start()?;
        let held = console(node, "this machine holds", 0);
        let said = node.machine.console().text();
        node.machine.cut_power()?;
        for place in [FIRST_HEADER, last] {
            flip(disk, place)?;
        }
        held?;
        ensure(said.contains("vda"), || "the disk is not named".to_owned())?;
        // As before: nothing was written to it meanwhile.
        ensure_up(node)
    })
}

/// The magic number of STATE's file system, in its superblock at byte 1024.
fn state_superblock() -> Outcome {
    with_disk(|node, disk| {
        let found = support::partition_table(&File::open(disk)?)?;
        let (_, state) = found.table.find(STATE_TYPE).ok_or("the disk has no STATE")?;
        let place = state.first * 512 + 1024 + 0x38;
        flip(disk, place)?;
        node.machine.start()?;
        let held = console(node, "this machine holds", 0);
        let said = node.machine.console().text();
        node.machine.cut_power()?;
        flip(disk, place)?;
        held?;
        ensure(said.contains("it is left as it is"), || "the console does not say why".to_owned())?;
        ensure_up(node)
    })
}

/// The machine's disk, served by the harness so that it can stop answering.
fn served_disk(node: &mut Node) -> Result<&'static PowerCutDisk, Failed> {
    static DISK: OnceLock<PowerCutDisk> = OnceLock::new();
    if let Some(disk) = DISK.get() {
        return Ok(disk);
    }
    let served = support::serve_disk(node)?;
    Ok(DISK.get_or_init(|| served))
}

fn frozen_disk() -> Outcome {
    with_disk(|node, _| {
        let served = served_disk(node)?;
        ensure_up(node)?;
        let number = present(node)?;
        let mark = node.machine.console().mark();
        served.freeze()?;
        let pressed = Instant::now();
        node.machine.press_power_button()?;
        let said = last_words(node, mark);
        let took = pressed.elapsed().as_secs_f64();
        served.restore_power();
        let said = said?;
        node.machine.wait_until_off(SHUTDOWN_DEADLINE)?;
        for line in said.lines().filter(|line| line.contains("shutdown")) {
            println!("{}", line.trim());
        }
        println!("off after {took:.1} s with a disk that answers nothing");
        ensure(said.contains("abandoned"), || "what was given up is not named".to_owned())?;
        // The disk took no word of it: the next boot can only say that there was none.
        ensure_up(node)?;
        boots(node, number + 1).map(drop)
    })
}

/// What was said behind `mark` until PID 1's last words before its last call. What QEMU then does, it does when the disk answers: it waits
/// for that when the kernel resets the disk, the processor with it.
fn last_words(node: &Node, mark: usize) -> Result<String, Failed> {
    let console = node.machine.console();
    let said = wait::until("PID 1's last words", SHUTDOWN_DEADLINE, || {
        let said = console.text().get(mark..).unwrap_or_default().to_owned();
        let last = |line: &str| line.contains("shutdown") && line.ends_with(" power off");
        if said.lines().any(last) { Ok(said) } else { Err(console.last_line()) }
    });
    Ok(said.map_err(|timeout| node.machine.console().explain(timeout))?)
}

/// From the button to PID 1's last words: what is killed and what is synced have some seconds each, and the disk answers neither.
const STUCK_BOOT_DEADLINE: Duration = Duration::from_mins(1);

/// Its disk hangs with the first request of the boot that writes to it: STATE and DATA are checked, and PID 1 waits for that.
fn stuck_boot() -> Outcome {
    with_disk(|node, _| {
        let served = served_disk(node)?;
        served.cut_at_request(1, 0);
        node.machine.start()?;
        let deadline = node.machine.speed().scale(support::DEADLINE);
        let hangs = wait::until("the disk's first request", deadline, || {
            served.cut().map(drop).ok_or_else(|| node.machine.console().last_line())
        });
        let pressed = Instant::now();
        let said = hangs
            .map_err(Failed::from)
            .and_then(|()| Ok(node.machine.press_power_button()?))
            .and_then(|()| last_words(node, 0));
        let took = pressed.elapsed();
        served.restore_power();
        let said = said?;
        node.machine.wait_until_off(SHUTDOWN_DEADLINE)?;
        println!("off after {:.1} s", took.as_secs_f64());
        ensure(!said.contains("starting services"), || "the boot was through before it was asked".to_owned())?;
        ensure(took < node.machine.speed().scale(STUCK_BOOT_DEADLINE), || {
            format!("it took {:.0} s", took.as_secs_f64())
        })?;
        // The cut of its checks costs nothing.
        ensure_up(node)
    })
}

/// The kernel has found it, and from then on it answers nothing: as one does that dies, or whose cable does.
fn another_disk() -> Outcome {
    with_disk(|node, _| {
        let folder = node.machine.folder();
        let (file, socket) = (folder.join("another.raw"), folder.join("another.sock"));
        create_disk(&file, 1 << 10)?;
        let other = PowerCutDisk::serve(&file, &socket)?;
        let disk = Disk { file: other.qemu_file(), ..Disk::from_file(&file, "another") };
        node.machine.change_hardware(|hardware| hardware.disks.push(disk))?;
        let outcome = goes_through_its_life_beside(node, &other);
        other.restore_power();
        let off = node.machine.wait_until_off(SHUTDOWN_DEADLINE);
        if off.is_err() {
            node.machine.cut_power()?;
        }
        node.machine.change_hardware(|hardware| hardware.disks.truncate(1))?;
        outcome?;
        Ok(off?)
    })
}

fn goes_through_its_life_beside(node: &mut Node, other: &PowerCutDisk) -> Outcome {
    node.machine.start()?;
    console(node, "Keelson ", 0)?;
    other.freeze()?;
    println!("{}", console(node, "vdb does not answer and is left out", 0)?.trim());
    node.pin_api()?;
    let number = present(node)?;
    let mark = node.machine.console().mark();
    let pressed = Instant::now();
    node.machine.press_power_button()?;
    let said = last_words(node, mark)?;
    println!("off after {:.1} s beside a disk that answers nothing", pressed.elapsed().as_secs_f64());
    ensure(number > 0 && !said.contains("abandoned"), || said)
}

/// It was to be off, and the disk that answers nothing has all that is left to do hang. That the kernel obeys shows by the machine's
/// coming back.
fn stuck_end() -> Outcome {
    with_disk(|node, _| {
        let served = served_disk(node)?;
        ensure_up(node)?;
        let number = present(node)?;
        let mark = node.machine.console().mark();
        served.freeze()?;
        node.machine.press_power_button()?;
        let pressed = node
            .machine
            .console()
            .wait_for("power off: power button", mark, SHUTDOWN_DEADLINE)
            .map_err(Failed::from)
            .and_then(|_| Ok(node.machine.press_keys(&CTRL_ALT_DEL)?))
            .and_then(|()| wait_until_the_disk_is_reset(node));
        served.restore_power();
        pressed?;
        node.machine.console().wait_for("Linux version", mark, SHUTDOWN_DEADLINE)?;
        ensure_up(node)?;
        boots(node, number + 1).map(drop)
    })
}

/// The kernel resets the disk on its way down, and QEMU answers nobody until the disk has answered.
fn wait_until_the_disk_is_reset(node: &Node) -> Outcome {
    let asleep = wait::until("QEMU to wait for the disk", SHUTDOWN_DEADLINE, || {
        match node.machine.qmp("query-status", &serde_json::json!({})) {
            Ok(_) => Err("QEMU answers".to_owned()),
            Err(_) => Ok(()),
        }
    });
    asleep.map_err(|timeout| node.machine.console().explain(timeout).into())
}
