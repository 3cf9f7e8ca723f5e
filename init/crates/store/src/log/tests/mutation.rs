//! Files of the log with any bytes in them: what is read is what the log once was, or an error.

use std::collections::BTreeSet;

use keelson_mutation::{Random as Numbers, inputs, mutate};

use super::*;
use crate::member::Member;

const WORDS: [&[u8]; 5] = [b"\0\0\0\0\0\0\0\0", b"\xff\xff\xff\xff\xff\xff\xff\xff", b"\x01", b"KBAT", b"KEELSLOG"];
const ROUNDS: u64 = 48;
/// The round in which old entries go.
const PURGE: u64 = 18;
/// The sequence number of a log's first batch.
const FIRST_BATCH: u64 = 1;

/// All that can be read of a log.
type Seen = (Vec<Entry>, Option<Vote>, Option<LogId>);

fn seen(log: &Log) -> Seen {
    let marks = log.marks();
    (all(log), marks.vote, marks.purged)
}

fn membership(term: u64, index: u64) -> Entry {
    let membership = Membership {
        voters: vec![BTreeSet::from([MemberId(1)])],
        members: [(MemberId(1), Member { name: "a".to_owned(), ..Member::default() })].into(),
    };
    Entry { id: LogId { term, index }, payload: Payload::Membership(Arc::new(membership)) }
}

/// A log of several files, of which the first ones have gone, and all that it was on the way.
fn written() -> (FakeDisk, Vec<Seen>) {
    let disk = FakeDisk::new();
    let log = open(&disk, 1).unwrap();
    let mut states = vec![seen(&log)];
    let mut next = 1;
    for round in 1..=ROUNDS {
        append(&log, entries(round, next..next + 3, 300));
        states.push(seen(&log));
        next += 3;
        if round % 5 == 0 {
            let vote = Vote { term: round, member: MemberId(round), committed: round % 2 == 0 };
            wait(|done| log.save_vote(vote, done)).unwrap();
            states.push(seen(&log));
            append(&log, vec![membership(round, next)]);
            next += 1;
        } else if round % 7 == 0 {
            next -= 1;
            wait(|done| log.truncate(next, done)).unwrap();
        } else if round == PURGE {
            wait(|done| log.purge(LogId { term: round, index: next - 20 }, done)).unwrap();
        }
        states.push(seen(&log));
        log.save_committed(log.marks().last);
    }
    drop(log);
    (disk, states)
}

#[test]
fn damaged_files_give_what_the_log_was_or_an_error() {
    let (disk, states) = written();
    let mut names: Vec<String> = disk.list().unwrap();
    names.retain(|name| segment::parse_name(name).is_some());
    assert!(names.len() > 2, "{names:?}");
    inputs("the log's files", 400, |random| {
        let damaged = disk.copy();
        for _ in 0..=random.below(2) {
            let name = random.choose(&names).unwrap();
            let content = damaged.content(name).unwrap();
            damaged.set_content(name, mutate(random, &content, &WORDS));
        }
        let Ok(log) = open(&damaged, 2) else { return };
        assert!(states.contains(&seen(&log)), "{:?}", log.marks());
        // And it goes on from there.
        let next = LogId { term: ROUNDS + 1, index: log.marks().last.map_or(1, |last| last.index + 1) };
        append(&log, vec![Entry { id: next, payload: Payload::Blank }]);
        drop(log);
        assert_eq!(open(&damaged, 3).unwrap().marks().last, Some(next));
    });
}

/// Makes right what is checked before a batch is believed, so that what it says is reached.
fn repair(bytes: &mut Vec<u8>, salt: u64) {
    let mut at = format::BATCH_HEADER_LEN;
    bytes.resize(bytes.len().max(at), 0);
    while let Some(&[1, _, _, _, a, b, c, d]) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let len = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap();
        let end = at + format::ENTRY_HEADER_LEN + len;
        let Some(record) = bytes.get(at..end) else { break };
        let crc = format::entry_checksum(record);
        bytes[at + 8..at + 12].copy_from_slice(&crc.to_le_bytes());
        at = end;
    }
    let len = u32::try_from(bytes.len() - format::BATCH_HEADER_LEN).unwrap();
    bytes[..4].copy_from_slice(format::BATCH_MAGIC);
    bytes[8..16].copy_from_slice(&salt.to_le_bytes());
    bytes[24..28].copy_from_slice(&len.to_le_bytes());
    let crc = crc32fast::hash(&bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// A batch with records of all kinds, changed and made to be believed.
fn forged(random: &mut Numbers, sequence: u64, salt: u64) -> Vec<u8> {
    let mut encoder = format::BatchEncoder::default();
    encoder.clear();
    for index in 7..10 {
        encoder.entry(&entry(2, index, 20));
    }
    encoder.entry(&membership(2, 10));
    encoder.vote(Vote { term: 2, member: MemberId(1), committed: true });
    encoder.truncate(10);
    encoder.purge(LogId { term: 2, index: 7 });
    let good = encoder.finish(salt, sequence, Some(LogId { term: 2, index: 8 })).to_vec();
    let mut bytes = mutate(random, &good, &WORDS);
    repair(&mut bytes, salt);
    bytes.resize(bytes.len().next_multiple_of(format::BATCH_ALIGN), 0);
    bytes
}

#[test]
fn forged_batches_are_read_or_refused() {
    let name = segment::file_name(1);
    inputs("batches with right checksums", 3000, |random| {
        let header = format::SegmentHeader { store_id: 7, number: 1, salt: 5, size: SEGMENT };
        let mut content = header.encode();
        for sequence in FIRST_BATCH..=FIRST_BATCH + 1 {
            content.extend(forged(random, sequence, header.salt));
        }
        content.resize(SEGMENT as usize, 0);
        let disk = FakeDisk::new();
        disk.create(&name).unwrap();
        disk.set_content(&name, content);
        let Ok(log) = open(&disk, 2) else { return };
        // An entry that cannot be decoded is an error, once it is read.
        drop(log.read(0, u64::MAX, usize::MAX));
        let _ = (log.marks(), log.purge_point(100));
    });
}
