use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::*;
use crate::rings::Limits;

/// A disk that keeps what is written, and fails or stalls as a test says.
#[derive(Clone, Debug, Default)]
struct FakeDisk {
    written: Arc<Mutex<String>>,
    failing: Arc<AtomicBool>,
    stalled: Arc<(Mutex<bool>, Condvar)>,
}

impl FakeDisk {
    fn stall(&self, stalled: bool) {
        *self.stalled.0.lock().expect("no panic before") = stalled;
        self.stalled.1.notify_all();
    }

    fn text(&self) -> String {
        self.written.lock().expect("no panic before").clone()
    }
}

impl Storage for FakeDisk {
    fn open(&mut self, _: &ServiceName) -> Result<FilePosition, StorageError> {
        if self.failing.load(Ordering::Acquire) {
            return Err(StorageError::Open {
                path: PathBuf::from("/fake"),
                source: io::ErrorKind::ReadOnlyFilesystem.into(),
            });
        }
        Ok(FilePosition::default())
    }

    fn append(&mut self, service: &ServiceName, lines: &[u8]) -> Result<FilePosition, StorageError> {
        let stalled = self.stalled.0.lock().expect("no panic before");
        drop(self.stalled.1.wait_while(stalled, |stalled| *stalled).expect("no panic before"));
        if self.failing.load(Ordering::Acquire) {
            return Err(StorageError::Write {
                path: PathBuf::from("/fake"),
                source: io::ErrorKind::StorageFull.into(),
            });
        }
        let mut written = self.written.lock().expect("no panic before");
        for line in std::str::from_utf8(lines).expect("text").lines() {
            let text = line.split_once(' ').expect("a time and a text").1;
            writeln!(written, "{service}: {text}").expect("memory");
        }
        Ok(FilePosition { bytes: written.len() as u64, ..FilePosition::default() })
    }
}

fn name(text: &str) -> ServiceName {
    ServiceName::try_from(text.to_owned()).expect("a valid name")
}

fn start(disk: &FakeDisk, limits: Limits) -> (Arc<Rings>, thread::JoinHandle<()>) {
    let rings = Arc::new(Rings::new(limits));
    for service in ["log", "a"] {
        rings.register(&name(service)).expect("room for a service");
    }
    let (thread_rings, disk) = (Arc::clone(&rings), disk.clone());
    let thread = thread::spawn(move || {
        Writer::new(&thread_rings, disk, name("log")).retry_pause(Duration::from_millis(5)).run();
    });
    (rings, thread)
}

fn append(rings: &Rings, lines: impl IntoIterator<Item = String>) {
    rings.append(&name("a"), lines.into_iter().map(|line| (Timestamp::now(), line)));
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::yield_now();
    }
}

#[test]
fn writes_every_line_in_order_before_it_ends() {
    let disk = FakeDisk::default();
    let (rings, thread) = start(&disk, Limits { per_service: 1 << 20, total: 1 << 20 });
    append(&rings, (0..1000).map(|n| n.to_string()));
    rings.close();
    thread.join().expect("the writer ends");
    let expected: Vec<_> = (0..1000).map(|n| format!("a: {n}")).collect();
    assert_eq!(disk.text().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_stalled_disk_costs_the_oldest_lines_and_says_how_many() {
    let disk = FakeDisk::default();
    disk.stall(true);
    let (rings, thread) = start(&disk, Limits { per_service: 4000, total: 8000 });
    append(&rings, ["0".to_owned()]);
    // However many come, appending does not wait for the disk.
    for number in 1..=5000 {
        append(&rings, [number.to_string()]);
    }
    assert!(rings.bytes() <= 8000);
    disk.stall(false);
    wait_for("the newest line", || disk.text().ends_with("a: 5000\n"));
    rings.close();
    thread.join().expect("the writer ends");

    let text = disk.text();
    let mut next = 0;
    let mut missing = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("a: ")) {
        if let Some(rest) = line.strip_prefix("keelson-log: ") {
            let count: u64 = rest.split(' ').next().expect("a word").parse().expect("a count");
            missing += count;
            next += count;
        } else {
            assert_eq!(line.parse::<u64>().expect("a number"), next, "in {text}");
            next += 1;
        }
    }
    assert_eq!(next, 5001);
    assert!(missing > 4000, "only {missing} lines missing, so the disk was not stalled");
}

#[test]
fn a_failing_disk_is_reported_once_and_nothing_in_memory_is_lost() {
    let disk = FakeDisk::default();
    disk.failing.store(true, Ordering::Release);
    let (rings, thread) = start(&disk, Limits { per_service: 1 << 20, total: 1 << 20 });
    append(&rings, ["one".to_owned()]);
    let own_lines = |rings: &Rings| -> Vec<String> {
        rings
            .read(&name("log"), 0)
            .lines
            .iter()
            .map(|line| line.split_once(' ').expect("a text").1.to_owned())
            .collect()
    };
    wait_for("the report", || !own_lines(&rings).is_empty());
    append(&rings, ["two".to_owned()]);
    rings.pause(Duration::from_millis(50));
    let lines = own_lines(&rings);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("logs are kept in memory only: cannot open /fake: "), "{lines:?}");

    disk.failing.store(false, Ordering::Release);
    wait_for("both lines", || disk.text().contains("a: one\na: two\n"));
    wait_for("the second report", || own_lines(&rings).len() == 2);
    assert_eq!(own_lines(&rings)[1], "logs are written to disk again");
    rings.close();
    thread.join().expect("the writer ends");
}

#[test]
fn ends_although_the_disk_refuses() {
    let disk = FakeDisk::default();
    disk.failing.store(true, Ordering::Release);
    let (rings, thread) = start(&disk, Limits { per_service: 1 << 20, total: 1 << 20 });
    append(&rings, ["one".to_owned()]);
    rings.close();
    thread.join().expect("the writer ends");
    assert_eq!(disk.text(), "");
}
