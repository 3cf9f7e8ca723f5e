use super::*;

const SIZE: u64 = 64 * 1024 * 1024;
const GEOMETRY: Geometry = Geometry { sector: 512, sectors: SIZE / 512 };

fn device() -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE).unwrap();
    file
}

fn table(attributes: u64) -> Table {
    let partition = |kind, unique, first, last, name: &str| {
        Some(Partition { kind, unique: Guid([unique; 16]), first, last, attributes, name: name.to_owned() })
    };
    let mut partitions = vec![
        partition(STATE_TYPE, 1, 2048, 4095, "KEELSON-STATE"),
        partition(DATA_TYPE, 2, 4096, 100_000, "KEELSON-DATA"),
    ];
    partitions.resize(128, None);
    Table { disk: Guid([9; 16]), partitions }
}

#[test]
fn table_comes_back_as_it_was_written() {
    for geometry in [GEOMETRY, Geometry { sector: 4096, sectors: SIZE / 4096 }] {
        let device = device();
        write(&device, geometry, &table(COMPLETE)).unwrap();
        let found = read(&device, geometry).unwrap().unwrap();
        assert_eq!(found, Found { table: table(COMPLETE), needs_repair: false });
        assert!(found.table.is_complete());
        assert_eq!(found.table.find(DATA_TYPE).unwrap().0, 2);
    }
}

#[test]
fn finished_half_is_known_whatever_became_of_the_other() {
    assert!(!table(0).has_lost_its_other_half() && !table(COMPLETE).has_lost_its_other_half());
    for half in [0, 1] {
        let mut deleted = table(COMPLETE);
        deleted.partitions[half] = None;
        let mut unmarked = table(COMPLETE);
        unmarked.partitions[half].as_mut().unwrap().attributes = 0;
        let mut twice = table(COMPLETE);
        twice.partitions[2] = twice.partitions[half].clone();
        for changed in [deleted, unmarked, twice] {
            assert!(changed.has_lost_its_other_half() && !changed.is_complete(), "{changed:?}");
        }
    }
}

#[test]
fn blank_disk_has_no_table() {
    assert_eq!(read(&device(), GEOMETRY).unwrap(), None);
}

#[test]
fn second_copy_stands_in_for_a_damaged_first() {
    let device = device();
    write(&device, GEOMETRY, &table(0)).unwrap();
    device.write_all_at(&[0xff], 512 + 60).unwrap();
    let found = read(&device, GEOMETRY).unwrap().unwrap();
    assert_eq!(found, Found { table: table(0), needs_repair: true });
}

/// A device that cannot read what lies in `lost`, in sectors.
struct Worn {
    file: File,
    lost: std::ops::Range<u64>,
}

impl FileExt for Worn {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let sectors = offset / 512..(offset + buffer.len() as u64).div_ceil(512);
        let is_lost = sectors.start < self.lost.end && self.lost.start < sectors.end;
        if is_lost { Err(io::Error::other("unreadable")) } else { self.file.read_at(buffer, offset) }
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(buffer, offset)
    }
}

#[test]
fn copy_that_cannot_be_read_is_missing_if_the_other_is_whole() {
    let last = GEOMETRY.sectors - 1;
    // The headers, and the arrays behind and before them.
    for (lost, other) in [(1..2, last), (8..9, last), (last..last + 1, 1), (last - 8..last - 7, 1)] {
        let file = device();
        write(&file, GEOMETRY, &table(COMPLETE)).unwrap();
        let worn = Worn { file, lost };
        let found = read(&worn, GEOMETRY).unwrap().unwrap();
        assert_eq!(found, Found { table: table(COMPLETE), needs_repair: true }, "{:?}", worn.lost);
        worn.write_all_at(&[0xff], other * 512 + 60).unwrap();
        read(&worn, GEOMETRY).unwrap_err();
    }
    read(&Worn { file: device(), lost: 0..GEOMETRY.sectors }, GEOMETRY).unwrap_err();
}

#[test]
fn damage_in_the_array_is_noticed() {
    let device = device();
    write(&device, GEOMETRY, &table(0)).unwrap();
    device.write_all_at(&[0xff], 1024 + 36).unwrap();
    device.write_all_at(&[0xff], SIZE - 33 * 512 + 36).unwrap();
    assert_eq!(read(&device, GEOMETRY).unwrap(), None);
}

/// Each write of a table is cut off after each of its steps: the disk then has the old table or the new one, never none.
#[test]
fn cut_while_marking_complete_leaves_one_of_the_two_tables() {
    let mut seen = Vec::new();
    for steps in 0..=4 {
        let device = device();
        write(&device, GEOMETRY, &table(0)).unwrap();
        // What `write` writes, in its order, each on the disk before the next.
        let new = tempfile::tempfile().unwrap();
        new.set_len(SIZE).unwrap();
        write(&new, GEOMETRY, &table(COMPLETE)).unwrap();
        let ranges = [(GEOMETRY.sectors - 33, 32), (GEOMETRY.sectors - 1, 1), (2, 32), (1, 1)];
        for (first, count) in ranges.into_iter().take(steps) {
            let mut bytes = vec![0; count * 512];
            new.read_exact_at(&mut bytes, first * 512).unwrap();
            device.write_all_at(&bytes, first * 512).unwrap();
        }
        let found = read(&device, GEOMETRY).unwrap().unwrap();
        assert!(found.table == table(0) || found.table == table(COMPLETE), "after {steps} steps");
        seen.push(found.table.is_complete());
    }
    assert_eq!(seen, [false, false, false, true, true]);
}

/// An image written to a larger disk has its second copy in the middle of it. Each cut of the first write to the larger disk
/// leaves the old table or the new one.
#[test]
fn cut_while_a_table_moves_to_a_larger_disk_leaves_one_of_the_two() {
    const LARGE: Geometry = Geometry { sector: 512, sectors: GEOMETRY.sectors * 2 };
    let new = tempfile::tempfile().unwrap();
    new.set_len(SIZE * 2).unwrap();
    write(&new, LARGE, &table(COMPLETE)).unwrap();
    let ranges = [(LARGE.sectors - 33, 32), (LARGE.sectors - 1, 1), (2, 32), (1, 1)];
    for steps in 0..=4 {
        let device = device();
        write(&device, GEOMETRY, &table(0)).unwrap();
        device.set_len(SIZE * 2).unwrap();
        for (first, count) in ranges.into_iter().take(steps) {
            let mut bytes = vec![0; count * 512];
            new.read_exact_at(&mut bytes, first * 512).unwrap();
            device.write_all_at(&bytes, first * 512).unwrap();
        }
        let found = read(&device, LARGE).unwrap().unwrap();
        assert_eq!(found.table.is_complete(), steps >= 3, "after {steps} steps");
        assert_eq!(found.needs_repair, steps < 4, "after {steps} steps");
    }
}

#[test]
fn partitions_are_found_by_their_identity_and_types_are_the_specifications() {
    let table = table(0);
    assert_eq!(table.find_unique(Guid([2; 16])).unwrap().0, 2);
    assert_eq!(table.find_unique(Guid([3; 16])), None);
    assert_eq!(ROOT_TYPE.to_string(), "4f68bce3-e8cd-4db1-96e7-fbcaf984b709");
    assert_eq!(HASHES_TYPE.to_string(), "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5");
    assert_eq!(ESP_TYPE.to_string(), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
    let written = *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff";
    assert_eq!(Guid::from_written(written).to_string(), "00112233-4455-6677-8899-aabbccddeeff");
}

#[test]
fn claim_is_seen_and_goes() {
    let device = device();
    assert!(!is_claimed(&device).unwrap());
    write_first_sector(&device, GEOMETRY, true).unwrap();
    assert!(is_claimed(&device).unwrap());
    write_first_sector(&device, GEOMETRY, false).unwrap();
    assert!(!is_claimed(&device).unwrap());
    let mut signature = [0; 2];
    device.read_exact_at(&mut signature, 510).unwrap();
    assert_eq!(signature, [0x55, 0xaa]);
}

#[test]
fn guids_are_shown_as_people_write_them() {
    assert_eq!(STATE_TYPE.to_string(), "a125dfff-34ba-4d0a-99b2-3353589e719c");
    assert_eq!(DATA_TYPE.to_string(), "7497b46a-cf52-48c6-8431-7d725c8a0ccc");
}

const SMALL: Geometry = Geometry { sector: 512, sectors: 128 };

/// Damaged and forged tables, their checksums made right again half of the time so that what lies behind them is reached.
#[test]
fn no_table_whatever_its_bytes_does_more_than_be_refused() {
    let device = tempfile::tempfile().unwrap();
    device.set_len(SMALL.sectors * 512).unwrap();
    write(&device, SMALL, &table(COMPLETE)).unwrap();
    let mut good = vec![0; 128 * 512];
    device.read_exact_at(&mut good, 0).unwrap();
    keelson_mutation::inputs("a partition table", 2000, |random| {
        let mut bytes = good.clone();
        for _ in 0..=random.below(8) {
            // Mostly in the headers and the first entries.
            let reach = if random.below(4) == 0 { 128 * 512 } else { 2048 };
            let at = random.below(reach);
            let count = (1 + random.below(8)).min(bytes.len() - at);
            for byte in &mut bytes[at..at + count] {
                *byte = [0, 0xff, random.byte()][random.below(3)];
            }
        }
        if random.below(2) == 0 {
            let length = u32::from_le_bytes(bytes[524..528].try_into().unwrap()).clamp(92, 512);
            bytes[528..532].fill(0);
            let crc = crc32fast::hash(&bytes[512..512 + usize::try_from(length).unwrap()]);
            bytes[528..532].copy_from_slice(&crc.to_le_bytes());
        }
        device.write_all_at(&bytes, 0).unwrap();
        // It is an answer or an error; what it must not be is a panic, or an allocation of what the table claims.
        if let Ok(Some(found)) = read(&device, SMALL) {
            assert!(found.table.partitions.len() <= 1024 * 1024 / 128);
            let _ = (found.table.is_complete(), format!("{:?}", found.table));
        }
    });
}
