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
        let ranges = [(2, 32), (1, 1), (GEOMETRY.sectors - 33, 32), (GEOMETRY.sectors - 1, 1)];
        for (first, count) in ranges.into_iter().take(steps) {
            let mut bytes = vec![0; count * 512];
            new.read_exact_at(&mut bytes, first * 512).unwrap();
            device.write_all_at(&bytes, first * 512).unwrap();
        }
        let found = read(&device, GEOMETRY).unwrap().unwrap();
        assert!(found.table == table(0) || found.table == table(COMPLETE), "after {steps} steps");
        seen.push(found.table.is_complete());
    }
    assert_eq!(seen, [false, false, true, true, true]);
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
