//! Checkpoints: what was committed is read back, damage is noticed, crashes leave the old one or the new one.

mod mutation;

use std::collections::BTreeSet;

use bytes::Bytes;

use super::*;
use crate::disk::fake::{FakeDisk, Throws};
use crate::member::{Member, MemberId};

fn row(key: u64, value: &str) -> Row {
    Row {
        table: Table::Revisions,
        key: Bytes::copy_from_slice(&key.to_be_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

fn applied(index: u64) -> Applied {
    Applied {
        last: Some(LogId { term: 2, index }),
        membership: Membership {
            voters: vec![BTreeSet::from([MemberId(5)])],
            members: [(MemberId(5), Member { name: "a".to_owned(), ..Member::default() })].into(),
        },
        membership_id: Some(LogId { term: 1, index: 1 }),
    }
}

fn rows(checkpoint: &Checkpoint) -> Vec<Row> {
    checkpoint.rows().unwrap().collect::<Result<_, _>>().unwrap()
}

#[test]
fn rows_and_applied_index_are_read_back_together() {
    let disk = FakeDisk::new();
    let meta = Row { table: Table::Meta, key: "revision".into(), value: "9".into() };
    let lease = Row { table: Table::Leases, key: "l".into(), value: "".into() };
    {
        let checkpoint = Checkpoint::open(&disk, 1).unwrap();
        assert_eq!(checkpoint.applied().unwrap().0, Applied::default());
        let puts = vec![row(1, "a"), row(2, "b"), row(3, "c"), lease.clone(), meta.clone()];
        let first = checkpoint.commit(&Delta { puts, deletes: Vec::new() }, &applied(10)).unwrap();
        let delta = Delta {
            puts: vec![row(4, "d")],
            deletes: vec![(Table::Revisions, row(2, "").key), (Table::Revisions, row(99, "").key)],
        };
        let second = checkpoint.commit(&delta, &applied(20)).unwrap();
        assert_eq!(first, second, "one row went and one of the same size came");
    }
    let checkpoint = Checkpoint::open(&disk, 1).unwrap();
    assert_eq!(rows(&checkpoint), vec![row(1, "a"), row(3, "c"), row(4, "d"), lease, meta]);
    assert_eq!(checkpoint.applied().unwrap().0, applied(20));
    assert_eq!(checkpoint.rows().unwrap().applied(), &applied(20));
}

#[test]
fn a_reader_keeps_its_commit_while_others_go_on() {
    let disk = FakeDisk::new();
    let checkpoint = Checkpoint::open(&disk, 1).unwrap();
    checkpoint.commit(&Delta { puts: vec![row(1, "old")], deletes: Vec::new() }, &applied(1)).unwrap();
    let reader = checkpoint.rows().unwrap();
    checkpoint.commit(&Delta { puts: vec![row(1, "new")], deletes: Vec::new() }, &applied(2)).unwrap();
    assert_eq!(reader.applied(), &applied(1));
    assert_eq!(reader.collect::<Result<Vec<_>, _>>().unwrap(), vec![row(1, "old")]);
}

#[test]
fn replace_leaves_nothing_of_before() {
    let disk = FakeDisk::new();
    let source = Checkpoint::open(&FakeDisk::new(), 2).unwrap();
    source.commit(&Delta { puts: vec![row(7, "x"), row(8, "y")], deletes: Vec::new() }, &applied(5)).unwrap();
    let checkpoint = Checkpoint::open(&disk, 1).unwrap();
    checkpoint.commit(&Delta { puts: vec![row(1, "a")], deletes: Vec::new() }, &applied(1)).unwrap();
    let mut from = source.rows().unwrap();
    checkpoint.replace(&mut from, &applied(5)).unwrap();
    assert_eq!(rows(&checkpoint), vec![row(7, "x"), row(8, "y")]);
    assert_eq!(checkpoint.applied().unwrap().0, applied(5));
}

#[test]
fn a_damaged_value_is_noticed_when_it_is_loaded() {
    let disk = FakeDisk::new();
    let value = "a value that can be found in the file";
    {
        let checkpoint = Checkpoint::open(&disk, 1).unwrap();
        checkpoint.commit(&Delta { puts: vec![row(1, value)], deletes: Vec::new() }, &applied(1)).unwrap();
    }
    let mut content = disk.content(FILE_NAME).unwrap();
    let places: Vec<_> =
        (0..content.len() - value.len()).filter(|at| content[*at..].starts_with(value.as_bytes())).collect();
    assert!(!places.is_empty());
    for place in places {
        content[place] ^= 1;
    }
    disk.set_content(FILE_NAME, content);
    let checkpoint = Checkpoint::open(&disk, 1).unwrap();
    let loaded: Result<Vec<_>, _> = checkpoint.rows().unwrap().collect();
    assert!(matches!(loaded, Err(LoadError::Read(_))), "{loaded:?}");
    let loaded: Result<Vec<_>, _> = checkpoint.rows().unwrap().ahead().unwrap().collect();
    assert!(matches!(loaded, Err(LoadError::Read(_))), "read ahead: {loaded:?}");
}

#[test]
fn rows_that_are_read_ahead_are_the_same_and_need_not_be_taken() {
    let checkpoint = Checkpoint::open(&FakeDisk::new(), 1).unwrap();
    assert_eq!(checkpoint.rows().unwrap().ahead().unwrap().count(), 0);
    // More of them, and larger ones, than wait at once.
    let large = "x".repeat(100_000);
    let puts: Vec<Row> = (0..5000).map(|key| row(key, if key % 100 == 7 { &large } else { "small" })).collect();
    checkpoint.commit(&Delta { puts: puts.clone(), deletes: Vec::new() }, &applied(1)).unwrap();
    let ahead: Vec<Row> = checkpoint.rows().unwrap().ahead().unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(ahead, puts);
    let mut ahead = checkpoint.rows().unwrap().ahead().unwrap();
    assert_eq!(ahead.next().unwrap().unwrap(), puts[0]);
    drop(ahead);
    assert_eq!(rows(&checkpoint), puts);
}

#[test]
fn another_stores_checkpoint_is_refused() {
    let disk = FakeDisk::new();
    drop(Checkpoint::open(&disk, 1).unwrap());
    assert!(matches!(Checkpoint::open(&disk, 2), Err(CheckpointError::Foreign { found: 1, expected: 2 })));
}

#[test]
fn a_power_cut_leaves_a_whole_checkpoint() {
    for seed in 0..40 {
        let mut throws = Throws::new(seed);
        let disk = FakeDisk::new();
        let checkpoint = Checkpoint::open(&disk, 1).unwrap();
        let mut states = vec![(Applied::default(), Vec::new())];
        let durable = 1 + throws.below(6);
        for number in 1..=durable {
            let delta = Delta {
                puts: vec![row(number, &"v".repeat(usize::try_from(number).unwrap() * 300))],
                deletes: Vec::new(),
            };
            checkpoint.commit(&delta, &applied(number)).unwrap();
            states.push((applied(number), rows(&checkpoint)));
        }
        // The next commit fails at one of its syncs; whatever reached the disk until then may be there or not.
        disk.fail_after_syncs(throws.below(3));
        let delta = Delta { puts: vec![row(durable + 1, "last")], deletes: Vec::new() };
        let answered = checkpoint.commit(&delta, &applied(durable + 1)).is_ok();
        let mut last = states.last().unwrap().1.clone();
        last.push(row(durable + 1, "last"));
        states.push((applied(durable + 1), last));

        let image = disk.crash(&mut throws);
        let second = Checkpoint::open(&image, 1).unwrap();
        let found = (second.applied().unwrap().0, rows(&second));
        let oldest = states.len() - if answered { 1 } else { 2 };
        assert!(states[oldest..].contains(&found), "seed {seed}: {:?}", found.0);
    }
}

/// Large values, all but the last of them removed again.
fn with_gaps(disk: &FakeDisk) -> (Checkpoint, Row) {
    let checkpoint = Checkpoint::open(disk, 1).unwrap();
    let puts: Vec<Row> = (0..500).map(|key| row(key, &"x".repeat(8000))).collect();
    let deletes = puts[..499].iter().map(|row| (row.table, row.key.clone())).collect();
    let last = puts[499].clone();
    checkpoint.commit(&Delta { puts, deletes: Vec::new() }, &applied(10)).unwrap();
    checkpoint.commit(&Delta { puts: Vec::new(), deletes }, &applied(20)).unwrap();
    (checkpoint, last)
}

#[test]
fn defragmenting_gives_space_back_and_keeps_rows_and_readers() {
    let disk = FakeDisk::new();
    let (checkpoint, last) = with_gaps(&disk);
    let before = checkpoint.file_bytes();
    let mut reader = checkpoint.rows().unwrap();
    checkpoint.defragment(&disk).unwrap();
    assert!(checkpoint.file_bytes() < before / 4, "{} of {before}", checkpoint.file_bytes());
    assert_eq!(rows(&checkpoint), std::slice::from_ref(&last));
    assert_eq!(reader.next().unwrap().unwrap(), last, "of the file that is no more");
    checkpoint.commit(&Delta { puts: vec![row(1000, "new")], deletes: Vec::new() }, &applied(30)).unwrap();
    drop((reader, checkpoint));
    let checkpoint = Checkpoint::open(&disk, 1).unwrap();
    assert_eq!(rows(&checkpoint), [last, row(1000, "new")]);
    assert_eq!(checkpoint.applied().unwrap().0, applied(30));
}

#[test]
fn defragmenting_without_room_changes_nothing() {
    let disk = FakeDisk::new();
    let (checkpoint, last) = with_gaps(&disk);
    disk.set_capacity(5 << 20);
    assert!(matches!(checkpoint.defragment(&disk), Err(CheckpointError::NoRoom { available: 0, .. })));
    assert_eq!(rows(&checkpoint), [last]);
}

#[test]
fn a_power_cut_while_defragmenting_leaves_the_rows() {
    for syncs in 0..12 {
        let mut throws = Throws::new(syncs);
        let disk = FakeDisk::new();
        let (checkpoint, last) = with_gaps(&disk);
        disk.fail_after_syncs(syncs);
        drop(checkpoint.defragment(&disk));
        let image = disk.crash(&mut throws);
        let second = Checkpoint::open(&image, 1).unwrap();
        assert_eq!((second.applied().unwrap().0, rows(&second)), (applied(20), vec![last]), "{syncs} syncs");
        assert!(image.content("state.redb.copy").is_none());
    }
}
