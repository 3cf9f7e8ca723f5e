use std::os::unix::fs::FileExt;

use super::inventory::tests::Machine;
use super::*;

const GIB: u64 = 1024 * 1024 * 1024;

fn standing_of(machine: &Machine, name: &str) -> Standing {
    let disk = inventory::disks(&machine.places).into_iter().find(|disk| disk.name == name).unwrap();
    standing(&disk, &machine.places, NO_BOOT).0
}

/// By what all disks have said.
fn judge_all(machine: &Machine, boot: Boot) -> Result<Decision, NoDecision> {
    let mut asked = ask_standings(&machine.places, boot);
    while {
        asked.ask(&candidates(&machine.places), |_| false);
        !asked.silent().is_empty()
    } {}
    judge(&asked)
}

/// Booted from elsewhere.
const NO_BOOT: Boot = Boot(None);

fn geometry(bytes: u64) -> gpt::Geometry {
    gpt::Geometry { sector: 512, sectors: bytes / 512 }
}

fn our_table(attributes: u64) -> Table {
    let partition = |kind, first, last| {
        Some(gpt::Partition { kind, unique: gpt::Guid([7; 16]), first, last, attributes, name: String::new() })
    };
    Table {
        disk: gpt::Guid([8; 16]),
        partitions: vec![partition(STATE_TYPE, 2048, 4095), partition(DATA_TYPE, 4096, 8191)],
    }
}

#[test]
fn blank_disk_is_blank_unless_it_cannot_serve() {
    let machine = Machine::new();
    machine.add("vda", 8 * GIB);
    assert_eq!(standing_of(&machine, "vda"), Standing::Blank);
    machine.set("vda", "ro", 1);
    assert_eq!(standing_of(&machine, "vda"), Standing::ReadOnly);
    machine.add("vdb", GIB);
    assert_eq!(standing_of(&machine, "vdb"), Standing::TooSmall);
}

#[test]
fn removable_disk_counts_as_none() {
    let machine = Machine::new();
    machine.add("sda", 8 * GIB);
    machine.set("sda", "removable", 1);
    assert_eq!(judge_all(&machine, NO_BOOT), Err(NoDecision::NoDisk));
}

#[test]
fn disk_is_ours_only_when_it_says_complete() {
    let machine = Machine::new();
    let device = machine.add("vda", 8 * GIB);
    gpt::write(&device, geometry(8 * GIB), &our_table(gpt::COMPLETE)).unwrap();
    assert_eq!(standing_of(&machine, "vda"), Standing::Ours);
    gpt::write(&device, geometry(8 * GIB), &our_table(0)).unwrap();
    assert_eq!(standing_of(&machine, "vda"), Standing::HalfMade);
}

/// From the first write on, the disk is recognised as half-made, whatever part of the table has arrived.
#[test]
fn disk_cut_off_at_any_step_of_its_making_is_made_again() {
    let machine = Machine::new();
    let device = machine.add("vda", 8 * GIB);
    gpt::write_first_sector(&device, geometry(8 * GIB), true).unwrap();
    assert_eq!(standing_of(&machine, "vda"), Standing::HalfMade);
    device.write_all_at(b"EFI PART, torn", 512).unwrap();
    assert_eq!(standing_of(&machine, "vda"), Standing::HalfMade);
    gpt::write(&device, geometry(8 * GIB), &our_table(0)).unwrap();
    assert_eq!(standing_of(&machine, "vda"), Standing::HalfMade);
    gpt::write(&device, geometry(8 * GIB), &our_table(gpt::COMPLETE)).unwrap();
    // The claim is still there, and no longer counts.
    assert_eq!(standing_of(&machine, "vda"), Standing::Ours);
    gpt::write_first_sector(&device, geometry(8 * GIB), false).unwrap();
    assert_eq!(standing_of(&machine, "vda"), Standing::Ours);
}

#[test]
fn partitions_of_others_make_a_disk_foreign_even_beside_unfinished_ones_of_ours() {
    let machine = Machine::new();
    let device = machine.add("vda", 8 * GIB);
    let mut table = our_table(0);
    table.partitions.push(Some(gpt::Partition {
        kind: gpt::Guid([5; 16]),
        unique: gpt::Guid([6; 16]),
        first: 10_000,
        last: 20_000,
        attributes: 0,
        name: "windows".to_owned(),
    }));
    gpt::write(&device, geometry(8 * GIB), &table).unwrap();
    gpt::write_first_sector(&device, geometry(8 * GIB), false).unwrap();
    assert!(matches!(standing_of(&machine, "vda"), Standing::Foreign(_)));
}

/// A machine that was booted from the root in this partition.
fn booted_from() -> (Boot, gpt::Partition) {
    let line = format!("roothash={}{}", "06".repeat(16), "05".repeat(16));
    let boot = Boot(RootHash::find(line.as_bytes()).unwrap());
    let root = gpt::Partition {
        kind: gpt::ROOT_TYPE,
        unique: gpt::Guid([6; 16]),
        first: 10_000,
        last: 20_000,
        attributes: 0,
        name: String::new(),
    };
    (boot, root)
}

/// The disk that the machine was booted from is its own at every step of the first boot, and no other machine's.
#[test]
fn disk_with_the_root_in_use_is_installed_on_until_it_is_complete() {
    let (boot, root) = booted_from();
    let machine = Machine::new();
    let device = machine.add("vda", 8 * GIB);
    let standing_here = || standing(&inventory::disks(&machine.places).remove(0), &machine.places, boot);
    // As it was written: its second copy is not at the end of this larger disk.
    let mut table = Table { disk: gpt::Guid([8; 16]), partitions: vec![Some(root.clone())] };
    gpt::write(&device, geometry(3 * GIB), &table).unwrap();
    gpt::write_first_sector(&device, geometry(3 * GIB), false).unwrap();
    assert_eq!(standing_here(), (Standing::Image, true));
    assert!(matches!(standing_of(&machine, "vda"), Standing::Foreign(_)), "booted from elsewhere");
    let mut both = our_table(0);
    both.partitions.push(Some(root.clone()));
    gpt::write(&device, geometry(8 * GIB), &both).unwrap();
    assert_eq!(standing_here(), (Standing::Image, true));
    table = our_table(gpt::COMPLETE);
    table.partitions.push(Some(root));
    gpt::write(&device, geometry(8 * GIB), &table).unwrap();
    assert_eq!(standing_here(), (Standing::Ours, true));
}

/// Whoever deletes a partition or clears a mark on a finished disk does not get the rest of it made anew, in either form of disk.
#[test]
fn finished_disk_is_never_made_again_for_what_its_table_has_lost() {
    let (boot, root) = booted_from();
    let cases = [(0, false), (0, true), (1, false), (1, true)];
    for (boots, (half, deleted)) in [false, true].into_iter().flat_map(|boots| cases.map(|case| (boots, case))) {
        let machine = Machine::new();
        let device = machine.add("vda", 8 * GIB);
        machine.add("vdb", 8 * GIB);
        let mut table = our_table(gpt::COMPLETE);
        if deleted {
            table.partitions[half] = None;
        } else {
            table.partitions[half].as_mut().unwrap().attributes = 0;
        }
        if boots {
            table.partitions.push(Some(root.clone()));
        }
        gpt::write(&device, geometry(8 * GIB), &table).unwrap();
        let disk = inventory::disks(&machine.places).remove(0);
        assert_eq!(standing(&disk, &machine.places, boot), (Standing::Halved, boots), "{half} {deleted}");
        let held = judge_all(&machine, boot);
        assert!(matches!(held, Err(NoDecision::Halved { .. })), "{boots} {half} {deleted}: {held:?}");
    }
}

#[test]
fn users_disk_of_images_is_no_candidate() {
    let machine = Machine::new();
    let device = machine.add("vdb", 8 * GIB);
    device.write_all_at(b"\x53\xef", 1080).unwrap();
    device.write_all_at(b"KEELSON-IMAGES", 1144).unwrap();
    assert_eq!(standing_of(&machine, "vdb"), Standing::Images);
}

#[test]
fn foreign_disk_is_decided_against_with_its_contents() {
    let machine = Machine::new();
    machine.add("vda", 8 * GIB).write_all_at(b"XFSB", 0).unwrap();
    let error = judge_all(&machine, NO_BOOT).unwrap_err();
    assert!(error.to_string().contains("vda (8 GiB) holds an XFS file system"), "{error}");
}

#[test]
fn blank_disk_is_taken_once_the_list_of_disks_is_quiet() {
    let machine = Machine::new();
    machine.add("vda", 8 * GIB);
    let start = Instant::now();
    let decided = decide(&machine.places, NO_BOOT, PATIENCE).unwrap();
    assert_eq!(decided.decision, Decision::Make("vda".to_owned()));
    assert!(start.elapsed() >= SETTLE);
}

#[test]
fn our_disk_is_taken_at_once() {
    let machine = Machine::new();
    let device = machine.add("vdb", 8 * GIB);
    gpt::write(&device, geometry(8 * GIB), &our_table(gpt::COMPLETE)).unwrap();
    machine.add("vda", 8 * GIB);
    // Who waits takes so long each time; who does not may be kept waiting by a busy machine now and then.
    let at_once = (0..20).any(|_| {
        let start = Instant::now();
        let decided = decide(&machine.places, NO_BOOT, PATIENCE).unwrap();
        assert_eq!((decided.decision, decided.notes.len()), (Decision::Use("vdb".to_owned()), 0));
        start.elapsed() < SETTLE
    });
    assert!(at_once);
}

/// Whoever opens a pipe that nobody writes to waits, as one does who reads a disk that does not answer.
fn silence(machine: &Machine, name: &str) {
    let path = machine.places.dev.join(name);
    std::fs::remove_file(&path).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

/// A busy machine takes its time to read a disk that answers.
const IMPATIENT: Patience =
    Patience { late: Duration::ZERO, silence: Duration::from_secs(3), doubt: Duration::from_secs(6) };

#[test]
fn disk_that_does_not_answer_is_left_out_where_state_is_on_another() {
    let machine = Machine::new();
    machine.add("vda", 8 * GIB);
    let device = machine.add("vdb", 8 * GIB);
    gpt::write(&device, geometry(8 * GIB), &our_table(gpt::COMPLETE)).unwrap();
    silence(&machine, "vda");
    let start = Instant::now();
    let decided = decide(&machine.places, NO_BOOT, IMPATIENT).unwrap();
    assert_eq!((decided.disk.name.as_str(), decided.decision), ("vdb", Decision::Use("vdb".to_owned())));
    assert_eq!(decided.notes, ["vda does not answer and is left out"]);
    assert!(start.elapsed() >= IMPATIENT.silence);
}

#[test]
fn nothing_is_made_while_a_disk_does_not_answer() {
    let machine = Machine::new();
    machine.add("vda", 8 * GIB);
    machine.add("vdb", 8 * GIB);
    silence(&machine, "vdb");
    let start = Instant::now();
    let held = decide(&machine.places, NO_BOOT, IMPATIENT).unwrap_err();
    assert_eq!(held, NoDecision::Doubt { seen: "vdb (8 GiB) does not answer".to_owned() });
    assert!(start.elapsed() >= IMPATIENT.doubt);
}

#[test]
fn fat_label_is_cut_to_its_eleven_characters() {
    assert!(is_images("KEELSON-IMA", "vfat") && is_images("KEELSON-IMAGES", "ext4"));
    assert!(!is_images("KEELSON-IMA", "ext4"));
}
