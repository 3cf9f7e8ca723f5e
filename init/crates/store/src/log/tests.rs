//! The log, case by case: order, purges, every torn byte, damage, failing disks. Random operations against a model are in [`random`], files with any
//! bytes in them in [`mutation`].

use std::sync::mpsc;

use bytes::Bytes;
use keelson_etcd_api::etcdserverpb as pb;

use super::*;
use crate::command::Command;
use crate::disk::fake::{FakeDisk, Throws};

mod mutation;
mod random;

/// Small, so that tests see many of them.
const SEGMENT: u32 = 16 << 10;

#[derive(Debug)]
struct Seeded(Mutex<Throws>);

impl Random for Seeded {
    fn next_u64(&self) -> u64 {
        self.0.lock().unwrap().draw()
    }
}

fn random(seed: u64) -> Arc<dyn Random> {
    Arc::new(Seeded(Mutex::new(Throws::new(seed))))
}

fn options() -> Options {
    Options { segment_size: SEGMENT, cache_bytes: 8 << 10, store_id: 7 }
}

fn open(disk: &FakeDisk, seed: u64) -> Result<Log, OpenError> {
    Log::open(Arc::new(disk.clone()), &random(seed), options(), Box::new(|_| {}))
}

fn entry(term: u64, index: u64, size: usize) -> Entry {
    let value = Bytes::from(vec![u8::try_from(index % 251).unwrap(); size]);
    let key = Bytes::from(format!("key-{term}-{index}"));
    let put = pb::PutRequest { key, value, ..Default::default() };
    let payload = match index % 7 {
        0 => Payload::Blank,
        _ => Payload::Command(Encoded::new(&Command::Put(put)).unwrap()),
    };
    Entry { id: LogId { term, index }, payload }
}

fn entries(term: u64, range: std::ops::Range<u64>, size: usize) -> Vec<Entry> {
    range.map(|index| entry(term, index, size)).collect()
}

/// Does an operation and waits until it is durable.
fn wait(operation: impl FnOnce(Completion)) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel();
    operation(Box::new(move |result| drop(sender.send(result))));
    receiver.recv().unwrap_or_else(|_| Err(io::Error::other("dropped")))
}

fn append(log: &Log, entries: Vec<Entry>) {
    wait(|done| log.append(entries, done).unwrap()).unwrap();
}

fn all(log: &Log) -> Vec<Entry> {
    log.read(0, u64::MAX, usize::MAX).unwrap()
}

#[test]
fn reads_back_what_was_written_after_reopening() {
    let disk = FakeDisk::new();
    let vote = Vote { term: 3, member: MemberId(9), committed: true };
    let written = entries(3, 1..40, 300);
    {
        let log = open(&disk, 1).unwrap();
        wait(|done| log.save_vote(vote, done)).unwrap();
        append(&log, written[..20].to_vec());
        log.save_committed(Some(written[10].id));
        append(&log, written[20..].to_vec());
        assert_eq!(all(&log), written);
    }
    let log = open(&disk, 2).unwrap();
    assert_eq!(all(&log), written);
    let marks = log.marks();
    assert_eq!(marks.vote, Some(vote));
    assert_eq!(marks.committed, Some(written[10].id));
    assert_eq!(marks.last, Some(written[38].id));
    assert_eq!(marks.purged, None);
}

#[test]
fn entries_can_be_read_before_they_are_durable() {
    let disk = FakeDisk::new();
    let log = open(&disk, 1).unwrap();
    let written = entries(1, 5..8, 10);
    log.append(written.clone(), Box::new(|_| {})).unwrap();
    assert_eq!(all(&log), written);
    assert_eq!(log.read(6, 7, 0).unwrap(), written[1..2], "at least one entry, whatever the bound");
}

/// Reads a log in pieces of at most `BOUND` bytes, where the entries 1 to 14 are smaller than that and 15 is larger.
fn check_pieces(when: &str, read: impl Fn(u64) -> Vec<Entry>) {
    let bytes = |entry: &Entry| match &entry.payload {
        Payload::Command(command) => command.bytes().len(),
        _ => 0,
    };
    let mut start = 1;
    while start < 15 {
        let some = read(start);
        let sum: usize = some.iter().map(bytes).sum();
        assert!(!some.is_empty() && sum <= BOUND, "{when}: {} entries, {sum} bytes", some.len());
        start += some.len() as u64;
        assert!(sum + 1200 > BOUND || start == 15, "{when}: only {sum} bytes");
    }
    assert_eq!(read(15).len(), 1, "{when}: the large one comes, and alone");
}

const BOUND: usize = 4096;

/// What consensus sends in one message is bounded, also of entries that the disk has not taken yet.
#[test]
fn a_read_is_bounded_in_bytes_before_and_after_entries_are_durable() {
    let disk = FakeDisk::new();
    let roomy = Options { segment_size: 1 << 20, ..options() };
    let open = || Log::open(Arc::new(disk.clone()), &random(1), roomy, Box::new(|_| {})).unwrap();
    let log = open();
    let mut all = entries(1, 1..15, 1000);
    all.extend([entry(1, 15, 6000), entry(1, 16, 10)]);
    let (sender, receiver) = mpsc::channel();
    {
        // Holding the lock keeps the writer from taking them.
        let mut state = log.shared.lock();
        state.index.append(&all).unwrap();
        check_pieces("before", |start| {
            let found = state.index.lookup(start, 50, BOUND, &state.segments).unwrap();
            found.into_iter().map(|entry| entry.resolve().unwrap()).collect()
        });
        log.submit(&mut state, Operation::Append(all), Box::new(move |result| sender.send(result).unwrap()));
    }
    receiver.recv().unwrap().unwrap();
    check_pieces("after", |start| log.read(start, 50, BOUND).unwrap());
    drop(log);
    let log = open();
    check_pieces("from the disk", |start| log.read(start, 50, BOUND).unwrap());
}

#[test]
fn groups_what_is_queued_under_one_sync() {
    let disk = FakeDisk::new();
    let roomy = Options { segment_size: 1 << 20, ..options() };
    let log = Log::open(Arc::new(disk.clone()), &random(1), roomy, Box::new(|_| {})).unwrap();
    append(&log, entries(1, 1..2, 10));
    let before = disk.syncs();
    let (sender, receiver) = mpsc::channel();
    {
        // Holding the lock keeps the writer from taking the queue in parts.
        let mut state = log.shared.lock();
        for index in 2..102 {
            let one = vec![entry(1, index, 10)];
            state.index.append(&one).unwrap();
            let sender = sender.clone();
            let done: Completion = Box::new(move |result| sender.send(result).unwrap());
            log.submit(&mut state, Operation::Append(one), done);
        }
    }
    for _ in 2..102 {
        receiver.recv().unwrap().unwrap();
    }
    assert_eq!(disk.syncs() - before, 1);
}

#[test]
fn a_purge_frees_segments_and_they_are_used_again() {
    let disk = FakeDisk::new();
    let vote = Vote { term: 1, member: MemberId(1), committed: false };
    {
        let log = open(&disk, 1).unwrap();
        wait(|done| log.save_vote(vote, done)).unwrap();
        for round in 0..40 {
            let first = 1 + round * 10;
            append(&log, entries(1, first..first + 10, 500));
            wait(|done| log.purge(LogId { term: 1, index: first + 4 }, done)).unwrap();
        }
    }
    let files = disk.list().unwrap().len();
    assert!(files <= 6, "{files} files are left of {:?}", disk.list());
    let log = open(&disk, 2).unwrap();
    assert_eq!(all(&log), entries(1, 396..401, 500));
    assert_eq!(log.marks().vote, Some(vote), "the vote outlives the segment it was written to");
    assert_eq!(log.marks().purged, Some(LogId { term: 1, index: 395 }));
}

#[test]
fn a_purge_may_reach_beyond_the_end() {
    let disk = FakeDisk::new();
    let beyond = LogId { term: 2, index: 50 };
    {
        let log = open(&disk, 1).unwrap();
        append(&log, entries(1, 1..10, 10));
        wait(|done| log.purge(beyond, done)).unwrap();
        assert!(all(&log).is_empty());
        append(&log, entries(2, 51..53, 10));
    }
    let log = open(&disk, 2).unwrap();
    assert_eq!(log.marks().purged, Some(beyond));
    assert_eq!(all(&log), entries(2, 51..53, 10));
}

#[test]
fn refuses_entries_that_leave_a_hole() {
    let log = open(&FakeDisk::new(), 1).unwrap();
    append(&log, entries(1, 1..3, 10));
    assert!(log.append(entries(1, 4..5, 10), Box::new(|_| {})).is_err());
}

#[test]
fn an_old_cache_is_dropped_and_read_from_disk() {
    let disk = FakeDisk::new();
    let log = open(&disk, 1).unwrap();
    let written = entries(1, 1..60, 200);
    for one in &written {
        append(&log, vec![one.clone()]);
    }
    let on_disk = {
        let state = log.shared.lock();
        let found = state.index.lookup(0, u64::MAX, usize::MAX, &state.segments).unwrap();
        found.iter().filter(|lookup| matches!(lookup, index::Lookup::OnDisk { .. })).count()
    };
    assert!(on_disk > 40, "{on_disk}");
    assert_eq!(all(&log), written);
}

#[test]
fn a_failed_sync_fails_everything_and_is_reported_once() {
    let disk = FakeDisk::new();
    let (sender, receiver) = mpsc::channel();
    let on_failure: OnFailure = Box::new(move |error| sender.send(error.to_string()).unwrap());
    let log = Log::open(Arc::new(disk.clone()), &random(1), options(), on_failure).unwrap();
    append(&log, entries(1, 1..2, 10));
    disk.fail_after_syncs(0);
    assert!(wait(|done| log.append(entries(1, 2..3, 10), done).unwrap()).is_err());
    assert!(receiver.recv().unwrap().contains("injected"));
    let syncs = disk.syncs();
    assert!(wait(|done| log.save_vote(Vote { term: 9, member: MemberId(1), committed: false }, done)).is_err());
    assert_eq!(disk.syncs(), syncs, "nothing is tried again after a failed sync");
}

#[test]
fn a_full_disk_fails_the_log_before_it_answers() {
    let disk = FakeDisk::new();
    let log = open(&disk, 1).unwrap();
    append(&log, entries(1, 1..2, 10));
    disk.set_capacity(u64::from(SEGMENT) * 3 / 2);
    let mut acknowledged = 1;
    for index in 2..200 {
        if wait(|done| log.append(entries(1, index..index + 1, 500), done).unwrap()).is_err() {
            break;
        }
        acknowledged = index;
    }
    assert!((10..60).contains(&acknowledged), "{acknowledged}");
    drop(log);
    let after = disk.crash(&mut Throws::new(1));
    let log = open(&after, 2).unwrap();
    assert!(log.marks().last.unwrap().index >= acknowledged);
}

/// A killed process leaves writes in the page cache that look durable. Recovery counts on them, so it must make them so.
#[test]
fn what_recovery_found_survives_a_power_cut_right_after() {
    let disk = FakeDisk::new();
    append(&open(&disk, 1).unwrap(), entries(1, 1..3, 10));
    let name = segment::file_name(1);
    let durable = disk.content(&name).unwrap();
    append(&open(&disk, 2).unwrap(), entries(1, 3..6, 10));
    // The last batch as a write that no sync followed.
    let written = disk.content(&name).unwrap();
    disk.set_content(&name, durable);
    disk.open(&name).unwrap().write_at(0, &written).unwrap();
    for seed in 0..16 {
        let killed = disk.copy();
        let found = all(&open(&killed, 3).unwrap());
        assert_eq!(found, entries(1, 1..6, 10));
        let after = killed.crash(&mut Throws::new(seed));
        assert_eq!(all(&open(&after, 4).unwrap()), found, "seed {seed}");
    }
}

#[test]
fn segments_of_another_size_go_on_being_used() {
    let disk = FakeDisk::new();
    {
        let log = open(&disk, 1).unwrap();
        for index in 1..60 {
            append(&log, entries(1, index..index + 1, 400));
        }
    }
    let larger = Options { segment_size: 4 * SEGMENT, ..options() };
    let log = Log::open(Arc::new(disk.clone()), &random(2), larger, Box::new(|_| {})).unwrap();
    // Larger than what the first segments had room for.
    append(&log, entries(1, 60..61, SEGMENT as usize));
    for index in 61..200 {
        append(&log, entries(1, index..index + 1, 400));
        wait(|done| log.purge(LogId { term: 1, index: index - 10 }, done)).unwrap();
    }
    drop(log);
    let log = open(&disk, 3).unwrap();
    assert_eq!(all(&log), entries(1, 190..200, 400));
}

#[test]
fn a_batch_of_another_salt_is_not_current() {
    let mut encoder = format::BatchEncoder::default();
    encoder.clear();
    encoder.entry(&entry(1, 1, 10));
    let data = Bytes::copy_from_slice(encoder.finish(5, 9, None));
    assert_eq!(format::Batch::decode(&data, 5).unwrap().sequence, 9);
    assert!(format::Batch::decode(&data, 6).is_none());
}

/// The last batch torn at every byte: what was acknowledged before stays, the torn one goes whole.
#[test]
fn a_torn_last_batch_is_dropped_whole() {
    let disk = FakeDisk::new();
    let kept = entries(1, 1..6, 50);
    let name = segment::file_name(1);
    let (before, after) = {
        let log = open(&disk, 1).unwrap();
        append(&log, kept.clone());
        let before = disk.content(&name).unwrap();
        append(&log, entries(1, 6..9, 50));
        (before, disk.content(&name).unwrap())
    };
    let start = before.iter().zip(&after).position(|(a, b)| a != b).unwrap();
    let end = before.iter().zip(&after).rposition(|(a, b)| a != b).unwrap() + 1;
    for cut in start..end {
        for torn in [[&after[..cut], &before[cut..]].concat(), [&before[..cut], &after[cut..]].concat()] {
            let whole = torn == after;
            let torn_disk = disk.copy();
            torn_disk.set_content(&name, torn);
            let log = open(&torn_disk, 2).unwrap();
            let expected = if whole { entries(1, 1..9, 50) } else { kept.clone() };
            assert_eq!(all(&log), expected, "cut at {cut}");
            // And the log goes on over it.
            if cut.is_multiple_of(16) {
                let next = expected.len() as u64 + 1;
                append(&log, entries(2, next..next + 1, 5));
                drop(log);
                let log = open(&torn_disk, 3).unwrap();
                assert_eq!(log.marks().last, Some(LogId { term: 2, index: next }));
            }
        }
    }
}

/// A flipped bit anywhere in a batch that others follow is damage, never a shorter log.
#[test]
fn damage_before_a_valid_batch_is_refused() {
    let disk = FakeDisk::new();
    let name = segment::file_name(1);
    let end = {
        let log = open(&disk, 1).unwrap();
        append(&log, entries(1, 1..6, 50));
        let end = disk.content(&name).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
        append(&log, entries(1, 6..7, 50));
        end
    };
    let good = disk.content(&name).unwrap();
    for position in format::SEGMENT_HEADER_LEN as usize..end {
        let mut bad = good.clone();
        bad[position] ^= 1;
        let bad_disk = disk.copy();
        bad_disk.set_content(&name, bad);
        let error = open(&bad_disk, 2).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "byte {position}: {error}");
    }
}

#[test]
fn damage_in_an_older_segment_and_missing_segments_are_refused() {
    let disk = FakeDisk::new();
    {
        let log = open(&disk, 1).unwrap();
        for index in 1..120 {
            append(&log, entries(1, index..index + 1, 400));
        }
    }
    let mut names: Vec<_> = disk.list().unwrap();
    names.sort();
    assert!(names.len() >= 4, "{names:?}");

    let missing = disk.copy();
    missing.remove(&names[1]).unwrap();
    assert!(matches!(open(&missing, 2), Err(OpenError::Gap { .. })));

    let mut content = disk.content(&names[1]).unwrap();
    content[5000] ^= 1;
    let flipped = disk.copy();
    flipped.set_content(&names[1], content);
    assert!(matches!(open(&flipped, 2), Err(OpenError::Damaged { .. })));

    // The first segment may be gone by a purge; then its successor must have a beginning.
    let beheaded = disk.copy();
    beheaded.remove(&names[0]).unwrap();
    let mut content = disk.content(&names[1]).unwrap();
    content[format::SEGMENT_HEADER_LEN as usize] ^= 1;
    beheaded.set_content(&names[1], content);
    assert!(matches!(open(&beheaded, 2), Err(OpenError::NoBeginning { .. } | OpenError::Damaged { .. })));
}

/// What is cut off a file's end may have been acknowledged, also where no batch follows that would tell.
#[test]
fn a_segment_that_is_cut_short_is_refused() {
    let disk = FakeDisk::new();
    append(&open(&disk, 1).unwrap(), entries(1, 1..6, 50));
    let name = segment::file_name(1);
    let whole = disk.content(&name).unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
    for len in [0, 47, format::SEGMENT_HEADER_LEN as usize, end / 8 * 8, whole.len() - 1] {
        let short = disk.copy();
        short.set_content(&name, whole[..len].to_vec());
        let error = open(&short, 2).unwrap_err();
        assert!(matches!(error, OpenError::Cut { found, .. } if found == len as u64), "{len}: {error}");
        assert!(error.to_string().contains("let it join as a new member"), "{error}");
    }
}

#[test]
fn files_of_another_store_or_a_newer_format_are_refused() {
    let disk = FakeDisk::new();
    append(&open(&disk, 1).unwrap(), entries(1, 1..3, 10));
    let other = Options { store_id: 8, ..options() };
    let refused = Log::open(Arc::new(disk.clone()), &random(2), other, Box::new(|_| {}));
    assert!(matches!(refused, Err(OpenError::Foreign { found: 7, expected: 8, .. })));

    let name = segment::file_name(1);
    let mut content = disk.content(&name).unwrap();
    content[12] = 99;
    disk.set_content(&name, content);
    let error = open(&disk, 2).unwrap_err();
    assert!(error.to_string().contains("run a newer release"), "{error}");
}
