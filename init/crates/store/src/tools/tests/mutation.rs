//! Snapshots and etcd's files with any bytes in them: refused, or loaded into a state that works.

use aws_lc_rs::digest;
use bytes::Bytes;
use keelson_etcd_api::etcdserverpb as pb;
use keelson_mutation::{campaign, inputs, mutate};

use super::super::snapshot_file::SnapshotFile;
use super::*;
use crate::command::Command;
use crate::server::snapshot::{BLOCK, FORMAT, MAGIC};
use crate::state::{Committed, Row};

const WORDS: [&[u8]; 6] =
    [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff\xff\xff\xff\xff", b"\x01\0\0\0\x0c", b"revision", b"alarms"];
const SHA256: usize = 32;

fn apply(state: &State, command: Command) {
    state.apply(&[Committed { index: 1, term: 1, command: command.into() }]);
}

fn put(key: &str, lease: i64) -> Command {
    Command::Put(pb::PutRequest { key: key.to_owned().into(), value: "v".into(), lease, ..Default::default() })
}

/// Of a state with a past, a lease and an alarm.
fn rows() -> Vec<Row> {
    let state = State::default();
    apply(&state, Command::LeaseGrant(pb::LeaseGrantRequest { ttl: 60, id: 5 }));
    for number in 0..20 {
        apply(&state, put(&format!("key-{}", number % 7), if number == 3 { 5 } else { 0 }));
    }
    apply(&state, Command::Compact(pb::CompactionRequest { revision: 6, physical: false }));
    apply(&state, Command::Alarm(pb::AlarmRequest { action: 1, member_id: 9, alarm: 1 }));
    state.take_delta().puts
}

/// Everything of a snapshot but its checksum.
fn unsealed(rows: &[Row]) -> Vec<u8> {
    let mut bytes = [MAGIC.as_slice(), &FORMAT.to_be_bytes(), &FORMAT.to_be_bytes()].concat();
    for row in rows {
        bytes.push(row.table as u8);
        for field in [&row.key, &row.value] {
            bytes.extend(u32::try_from(field.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(field);
        }
    }
    bytes.push(0);
    bytes
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(usize::try_from(BLOCK).unwrap()), 0);
    let checksum = digest::digest(&digest::SHA256, &bytes);
    bytes.extend_from_slice(checksum.as_ref());
    bytes
}

/// What loads is a state like any other: it takes changes, is read, hashed, and put into a checkpoint.
fn use_up(state: &State) {
    for command in [
        put("key-1", 0),
        Command::DeleteRange(pb::DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), prev_kv: true }),
        Command::LeaseRevoke(pb::LeaseRevokeRequest { id: 5 }),
        Command::Compact(pb::CompactionRequest { revision: state.public().revision(), physical: false }),
        put("key-2", 0),
    ] {
        apply(state, command);
    }
    let all = pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    let _ = state.public().read(|mvcc, current| mvcc.range(&all, current));
    drop(state.take_delta());
}

/// Whatever is asked of a file, whether or not its checksum was looked at.
fn ask(file: &SnapshotFile) {
    drop(file.facts());
    let Ok(mut rows) = file.rows(true) else { return };
    let state = State::default();
    if state.load(&mut rows).is_ok() {
        use_up(&state);
    }
}

#[test]
fn a_damaged_snapshot_does_not_match_its_checksum() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("snapshot");
    let good = sealed(unsealed(&rows()));
    std::fs::write(&path, &good).unwrap();
    SnapshotFile::open(&path).unwrap().verify().unwrap();
    campaign("a snapshot", 1500, std::slice::from_ref(&good), &WORDS, |bytes| {
        std::fs::write(&path, bytes).unwrap();
        let Ok(file) = SnapshotFile::open(&path) else { return };
        assert!(file.verify().is_err() || bytes == good);
        ask(&file);
    });
}

#[test]
fn a_forged_snapshot_is_loaded_or_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("snapshot");
    let good = unsealed(&rows());
    inputs("a snapshot with the right checksum", 1500, |random| {
        let bytes = mutate(random, &good, &WORDS);
        assert_eq!(sealed(bytes.clone()).len() % usize::try_from(BLOCK).unwrap(), SHA256);
        std::fs::write(&path, sealed(bytes)).unwrap();
        let Ok(file) = SnapshotFile::open(&path) else { return };
        file.verify().unwrap();
        ask(&file);
    });
}

/// Rows as such, in another order and with other revisions than a store ever wrote.
#[test]
fn rows_of_any_order_are_loaded_or_refused() {
    let good = rows();
    inputs("rows", 3000, |random| {
        let mut rows = good.clone();
        for _ in 0..=random.below(3) {
            let (at, other) = (random.below(rows.len()), random.below(rows.len()));
            match random.below(4) {
                0 => rows.swap(at, other),
                1 => drop(rows.remove(at)),
                2 => rows[at].key = Bytes::from(mutate(random, &good[at].key, &WORDS)),
                _ => rows[at].value = Bytes::from(mutate(random, &good[at].value, &WORDS)),
            }
        }
        let state = State::default();
        if state.load(&mut rows.into_iter().map(Ok)).is_ok() {
            use_up(&state);
        }
    });
}

#[test]
fn a_damaged_etcd_file_is_loaded_or_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let good = etcd_content(60);
    inputs("an etcd's file", 1500, |random| {
        let mut content = if random.below(8) == 0 { mutate(random, &good, &WORDS) } else { good.clone() };
        for _ in 0..=random.below(4) {
            // Headers, places of pairs, and the first pairs themselves.
            let at = (random.below(content.len() / PAGE + 1) * PAGE + random.below(1200)).min(content.len());
            if let Some(byte) = content.get_mut(at) {
                *byte = [0, 0xff, random.byte()][random.below(3)];
            }
        }
        std::fs::write(&path, content).unwrap();
        if let Ok(file) = SnapshotFile::open(&path) {
            drop(file.verify());
            ask(&file);
        }
    });
}
