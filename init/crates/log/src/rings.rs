//! The lines in memory: one ring a service, bounded each and together, with a cursor for whoever reads.
//!
//! There are no queues beside the rings. The reading thread appends; the writing thread, queries and followers each
//! remember the number of the line they want next and read from the ring. A reader that is too slow finds that the ring
//! has moved on, learns how many lines it missed, and has held up nobody. That is the whole of the back-pressure rule: the
//! only thing that gives way is the oldest line.
//!
//! Invariants:
//! - lines of a ring are numbered without gaps; `first` is the number of its oldest line
//! - the bytes of all rings together stay within [`Limits::total`], those of one ring within [`Limits::per_service`]
//! - the lock is held for copying a few lines at most, never across a system call on a disk or a socket

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{service::ServiceName, timestamp::Timestamp};

/// How many services can have a ring. A node has about a dozen.
pub const SERVICES_MAX: usize = 64;

/// What a line costs beside its bytes: the reference count and length in its allocation, and its place in the ring.
const LINE_OVERHEAD: usize = 48;

/// How much one reading copies, so that a reader holds little and the lock is short.
const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// How many bytes of lines are kept in memory.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub per_service: usize,
    pub total: usize,
}

/// About a thousand lines of usual length a service. What is older is in the files; memory must only outlast a disk that
/// stalls for some seconds, and all of Keelson's own processes together have 60 MiB.
pub const LIMITS: Limits = Limits { per_service: 256 * 1024, total: 4 * 1024 * 1024 };

/// How far a service's current file had been written at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FilePosition {
    /// Changes whenever files are renamed.
    pub rotation: u64,
    /// The current file's own number, stat(2): it is told after files were renamed, and this says whether it is told yet.
    pub inode: u64,
    /// Bytes in the current file that are whole lines.
    pub bytes: u64,
}

/// Lines copied from a ring.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Chunk {
    pub lines: Vec<Arc<str>>,
    /// How many lines between the cursor and the first of `lines` are gone.
    pub missed: u64,
    /// The cursor for the next reading.
    pub next: u64,
}

/// Where a query begins to read.
#[derive(Debug, Eq, PartialEq)]
pub struct Tail {
    /// The first line wanted that is in memory.
    pub from: u64,
    /// One past the newest line.
    pub end: u64,
    /// How many older lines are wanted that are not in memory.
    pub older: u64,
    /// How many of the newest lines in the files are in memory too, from `from` on.
    pub overlap: u64,
    /// Absent until this process has opened the file.
    pub file: Option<FilePosition>,
}

/// What the writing thread is to write next.
#[derive(Debug)]
pub struct Batch {
    pub service: ServiceName,
    pub chunk: Chunk,
}

/// What a waiting reader woke up for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wake {
    Lines,
    Quiet,
    Closing,
}

#[derive(Debug, thiserror::Error, Eq, PartialEq)]
#[error("there are {SERVICES_MAX} services already")]
pub struct TooManyServices;

#[derive(Debug)]
pub struct Rings {
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Debug)]
struct Table {
    rings: BTreeMap<ServiceName, Ring>,
    bytes: usize,
    limits: Limits,
    closing: bool,
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Arc<str>>,
    first: u64,
    bytes: usize,
    /// The next line for the file.
    written: u64,
    file: Option<FilePosition>,
}

impl Rings {
    pub fn new(limits: Limits) -> Self {
        let table = Table { rings: BTreeMap::new(), bytes: 0, limits, closing: false };
        Self { table: Mutex::new(table), changed: Condvar::new() }
    }

    /// Makes a service known, so that it can be asked for before it has written a line.
    pub fn register(&self, service: &ServiceName) -> Result<(), TooManyServices> {
        let mut table = self.lock();
        if !table.rings.contains_key(service) {
            if table.rings.len() >= SERVICES_MAX {
                return Err(TooManyServices);
            }
            table.rings.insert(service.clone(), Ring::default());
        }
        Ok(())
    }

    pub fn knows(&self, service: &ServiceName) -> bool {
        self.lock().rings.contains_key(service)
    }

    /// Appends lines, each with its time. Lines of a service that is not registered are dropped.
    pub fn append(&self, service: &ServiceName, lines: impl IntoIterator<Item = (Timestamp, String)>) {
        let mut table = self.lock();
        for (time, text) in lines {
            table.push(service, Arc::from(format!("{time} {text}")));
        }
        drop(table);
        self.changed.notify_all();
    }

    /// Begins a reading of the newest `lines` lines.
    pub fn tail(&self, service: &ServiceName, lines: u64) -> Option<Tail> {
        let table = self.lock();
        let ring = table.rings.get(service)?;
        let end = ring.end();
        let from = end.saturating_sub(lines).max(ring.first);
        Some(Tail {
            from,
            end,
            older: lines.saturating_sub(end - from),
            overlap: ring.written.saturating_sub(from),
            file: ring.file,
        })
    }

    /// Copies lines from `cursor` on, as many as one reading may hold.
    pub fn read(&self, service: &ServiceName, cursor: u64) -> Chunk {
        self.lock().rings.get(service).map(|ring| ring.read(cursor)).unwrap_or_default()
    }

    /// Waits until there is a line at `cursor`.
    pub fn wait(&self, service: &ServiceName, cursor: u64, timeout: Duration) -> Wake {
        let quiet = |table: &mut Table| !table.closing && table.rings.get(service).is_none_or(|r| r.end() <= cursor);
        let (table, result) =
            self.changed.wait_timeout_while(self.lock(), timeout, quiet).unwrap_or_else(PoisonError::into_inner);
        match (table.closing, result.timed_out()) {
            (true, _) => Wake::Closing,
            (false, true) => Wake::Quiet,
            (false, false) => Wake::Lines,
        }
    }

    /// How far a service's file has been written.
    pub fn file(&self, service: &ServiceName) -> Option<FilePosition> {
        self.lock().rings.get(service).and_then(|ring| ring.file)
    }

    /// The next lines for a file; services take turns, `after` is the one that was served last. Waits for lines, and
    /// answers `None` once all is written and [`Rings::close`] has been called.
    pub fn next_batch(&self, after: Option<&ServiceName>) -> Option<Batch> {
        let mut table = self.lock();
        loop {
            if let Some(batch) = table.unwritten(after) {
                return Some(batch);
            }
            if table.closing {
                return None;
            }
            table = self.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Records where a file ends before anything is written to it.
    pub fn opened(&self, service: &ServiceName, file: FilePosition) {
        if let Some(ring) = self.lock().rings.get_mut(service) {
            ring.file = Some(file);
        }
    }

    /// Records that the file holds every line before `next`.
    pub fn written(&self, service: &ServiceName, next: u64, file: FilePosition) {
        if let Some(ring) = self.lock().rings.get_mut(service) {
            ring.written = next;
            ring.file = Some(file);
        }
    }

    /// Waits without doing anything; `true` when it ended because of [`Rings::close`].
    pub fn pause(&self, timeout: Duration) -> bool {
        let (table, _) = self
            .changed
            .wait_timeout_while(self.lock(), timeout, |table| !table.closing)
            .unwrap_or_else(PoisonError::into_inner);
        table.closing
    }

    /// No line will come any more: wakes everyone who waits.
    pub fn close(&self) {
        self.lock().closing = true;
        self.changed.notify_all();
    }

    /// Bytes that are held, by the same count as the limits.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// A thread that panicked while it held the lock left whole lines behind: each change below is complete in itself.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn push(&mut self, service: &ServiceName, line: Arc<str>) {
        let cost = line.len() + LINE_OVERHEAD;
        let Some(ring) = self.rings.get_mut(service) else { return };
        ring.lines.push_back(line);
        ring.bytes += cost;
        self.bytes += cost;
        while ring.bytes > self.limits.per_service {
            self.bytes -= ring.evict();
        }
        while self.bytes > self.limits.total {
            // The largest gives way, so that a chatty service cannot push out the few lines of a quiet one.
            let Some(largest) = self.rings.values_mut().max_by_key(|ring| ring.bytes) else { return };
            match largest.evict() {
                0 => return,
                freed => self.bytes -= freed,
            }
        }
    }

    fn unwritten(&self, after: Option<&ServiceName>) -> Option<Batch> {
        let pending = |(_, ring): &(&ServiceName, &Ring)| ring.written < ring.end();
        let later = self.rings.iter().filter(|(name, _)| after.is_some_and(|after| *name > after)).find(pending);
        let (service, ring) = later.or_else(|| self.rings.iter().find(pending))?;
        Some(Batch { service: service.clone(), chunk: ring.read(ring.written) })
    }
}

impl Ring {
    fn end(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    /// Drops the oldest line and says what that freed.
    fn evict(&mut self) -> usize {
        let Some(line) = self.lines.pop_front() else { return 0 };
        let cost = line.len() + LINE_OVERHEAD;
        self.first += 1;
        self.bytes -= cost;
        cost
    }

    fn read(&self, cursor: u64) -> Chunk {
        let from = cursor.clamp(self.first, self.end());
        let skipped = usize::try_from(from - self.first).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let fits = |line: &&Arc<str>| {
            let before = bytes;
            bytes += line.len();
            before < CHUNK_BYTES_MAX
        };
        let lines: Vec<_> = self.lines.iter().skip(skipped).take_while(fits).map(Arc::clone).collect();
        Chunk { next: from + lines.len() as u64, missed: from.saturating_sub(cursor), lines }
    }
}

#[cfg(test)]
mod tests;
