//! A disk in memory that does what a real one may do: lose, tear and reorder what was not synced, fail, and fill up.
//!
//! Each file has a durable content and the writes since its last sync. A crash keeps each 512-byte sector of each unsynced write or
//! not, each by a throw of its own, and some prefix of the directory's unsynced changes.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Disk, DiskFile};

const SECTOR: usize = 512;

/// A small generator (xorshift64*), so that a failing test repeats from its seed.
#[derive(Clone, Debug)]
pub struct Throws(u64);

impl Throws {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }
}

#[derive(Clone, Debug, Default)]
pub struct FakeDisk(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// By file number: names come and go.
    files: BTreeMap<u64, Content>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    changes: Vec<Change>,
    next_file: u64,
    syncs_until_failure: Option<u64>,
    capacity: Option<u64>,
    syncs: u64,
    /// Power is cut at the sync after so many.
    syncs_until_cut: Option<(u64, Throws)>,
    after_cut: Option<FakeDisk>,
    /// Says that it synced, and did not.
    lies: bool,
}

#[derive(Clone, Debug, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone, Debug)]
enum Change {
    Set(String, u64),
    Rename(String, String),
    Remove(String),
}

fn apply(names: &mut BTreeMap<String, u64>, change: &Change) {
    match change {
        Change::Set(name, file) => {
            names.insert(name.clone(), *file);
        }
        Change::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        Change::Remove(name) => {
            names.remove(name);
        }
    }
}

impl FakeDisk {
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What is on the disk after power was cut at this moment, as a disk of its own.
    #[must_use]
    pub fn crash(&self, throws: &mut Throws) -> Self {
        self.lock().crash(throws)
    }

    /// Cuts power in the middle of a later sync: what is written by then may be there or not.
    pub fn cut_after_syncs(&self, syncs: u64, throws: Throws) {
        self.lock().syncs_until_cut = Some((syncs, throws));
    }

    /// Cuts power now.
    pub fn cut(&self, throws: &mut Throws) {
        let after = self.crash(throws);
        self.lock().after_cut.get_or_insert(after);
    }

    /// Ends whoever uses it, which leaves everything, synced or not.
    pub fn kill(&self) {
        let after = self.copy();
        self.lock().after_cut.get_or_insert(after);
    }

    /// What is left, if power was cut.
    pub fn after_cut(&self) -> Option<Self> {
        self.lock().after_cut.clone()
    }

    pub fn is_cut(&self) -> bool {
        self.lock().after_cut.is_some()
    }

    pub fn lie_about_syncs(&self) {
        self.lock().lies = true;
    }

    /// What a process that was killed leaves: everything, synced or not.
    #[must_use]
    pub fn copy(&self) -> Self {
        let inner = self.lock();
        let files = inner.files.iter().map(|(number, content)| (*number, content.clone())).collect();
        Self(Arc::new(Mutex::new(Inner {
            files,
            names: inner.names.clone(),
            durable_names: inner.durable_names.clone(),
            changes: inner.changes.clone(),
            next_file: inner.next_file,
            lies: inner.lies,
            ..Inner::default()
        })))
    }

    pub fn fail_after_syncs(&self, syncs: u64) {
        self.lock().syncs_until_failure = Some(syncs);
    }

    pub fn set_capacity(&self, capacity: impl Into<Option<u64>>) {
        self.lock().capacity = capacity.into();
    }

    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let inner = self.lock();
        let file = inner.names.get(name)?;
        Some(inner.files[file].now.clone())
    }

    /// Replaces a file's content as by rot on the medium.
    pub fn set_content(&self, name: &str, content: Vec<u8>) {
        let mut inner = self.lock();
        let file = inner.names[name];
        inner.files.insert(file, Content { durable: content.clone(), now: content, unsynced: Vec::new() });
    }
}

fn size(len: u64) -> usize {
    usize::try_from(len).unwrap()
}

fn persist_some(durable: &mut Vec<u8>, offset: usize, data: &[u8], throws: &mut Throws) {
    let end = offset + data.len();
    let mut position = offset;
    while position < end {
        let stop = ((position / SECTOR + 1) * SECTOR).min(end);
        if throws.below(2) == 0 {
            if durable.len() < stop {
                durable.resize(stop, 0);
            }
            durable[position..stop].copy_from_slice(&data[position - offset..stop - offset]);
        }
        position = stop;
    }
}

impl Inner {
    fn crash(&self, throws: &mut Throws) -> FakeDisk {
        let mut files = BTreeMap::new();
        for (number, content) in &self.files {
            let mut after = content.durable.clone();
            for (offset, data) in &content.unsynced {
                persist_some(&mut after, *offset, data, throws);
            }
            files.insert(*number, Content { now: after.clone(), durable: after, unsynced: Vec::new() });
        }
        let mut names = self.durable_names.clone();
        let survive = size(throws.below(self.changes.len() as u64 + 1));
        for change in &self.changes[..survive] {
            apply(&mut names, change);
        }
        FakeDisk(Arc::new(Mutex::new(Inner {
            files,
            durable_names: names.clone(),
            names,
            next_file: self.next_file,
            lies: self.lies,
            ..Inner::default()
        })))
    }

    fn used(&self) -> u64 {
        self.files.values().map(|content| content.now.len() as u64).sum()
    }

    fn reserve(&self, more: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if more > 0 && self.used() + more > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn count_sync(&mut self) -> io::Result<()> {
        self.syncs += 1;
        crate::simulation::trace(&(self.syncs, self.used()));
        match self.syncs_until_cut.take() {
            Some((0, mut throws)) => {
                let after = self.crash(&mut throws);
                self.after_cut.get_or_insert(after);
            }
            Some((left, throws)) => self.syncs_until_cut = Some((left - 1, throws)),
            None => {}
        }
        if self.after_cut.is_some() {
            return Err(io::Error::other("power is off"));
        }
        match &mut self.syncs_until_failure {
            Some(0) => Err(io::Error::other("injected: sync failed")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Disk for FakeDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.lock();
        let number = inner.next_file;
        inner.next_file += 1;
        inner.files.insert(number, Content::default());
        let change = Change::Set(name.to_owned(), number);
        apply(&mut inner.names, &change);
        inner.changes.push(change);
        Ok(Arc::new(FakeFile { disk: self.clone(), number }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let number = *self.lock().names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(FakeFile { disk: self.clone(), number }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.lock();
        if !inner.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let change = Change::Rename(from.to_owned(), to.to_owned());
        apply(&mut inner.names, &change);
        inner.changes.push(change);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.lock();
        let change = Change::Remove(name.to_owned());
        apply(&mut inner.names, &change);
        inner.changes.push(change);
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut inner = self.lock();
        inner.count_sync()?;
        inner.changes.clear();
        inner.durable_names = inner.names.clone();
        Ok(())
    }

    fn available(&self) -> io::Result<u64> {
        let inner = self.lock();
        Ok(inner.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(inner.used())))
    }
}

#[derive(Debug)]
struct FakeFile {
    disk: FakeDisk,
    number: u64,
}

impl FakeFile {
    fn with<T>(&self, f: impl FnOnce(&mut Inner, u64) -> io::Result<T>) -> io::Result<T> {
        f(&mut self.disk.lock(), self.number)
    }
}

impl DiskFile for FakeFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|inner, number| Ok(inner.files[&number].now.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|inner, number| {
            let now = inner.files[&number].now.len() as u64;
            inner.reserve(len.saturating_sub(now))?;
            let content = inner.files.get_mut(&number).unwrap();
            content.now.resize(size(len), 0);
            if len < now {
                content.durable.truncate(size(len));
                content.unsynced.clear();
            }
            Ok(())
        })
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if len > self.len()? { self.set_len(len) } else { Ok(()) }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.with(|inner, number| {
            let start = size(offset);
            let data = inner.files[&number].now.get(start..start + buffer.len());
            buffer.copy_from_slice(data.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|inner, number| {
            let start = size(offset);
            let end = start + data.len();
            let grown = end.saturating_sub(inner.files[&number].now.len());
            inner.reserve(grown as u64)?;
            let content = inner.files.get_mut(&number).unwrap();
            if grown > 0 {
                content.now.resize(end, 0);
            }
            content.now[start..end].copy_from_slice(data);
            content.unsynced.push((start, data.to_vec()));
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|inner, number| {
            inner.count_sync()?;
            if inner.lies {
                return Ok(());
            }
            let content = inner.files.get_mut(&number).unwrap();
            for (offset, data) in content.unsynced.drain(..) {
                let end = offset + data.len();
                if content.durable.len() < end {
                    content.durable.resize(end, 0);
                }
                content.durable[offset..end].copy_from_slice(&data);
            }
            let len = content.now.len();
            content.durable.resize(len, 0);
            Ok(())
        })
    }
}
