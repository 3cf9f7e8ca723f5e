//! Which entries the log holds and where each one is: in memory, on disk, or both.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::segment::Segments;
use super::{Entry, LogId, Payload, format};
use crate::disk::DiskFile;

/// Where an entry's record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub segment: u64,
    pub offset: u32,
    pub len: u32,
}

impl Place {
    /// About what the entry takes in memory: its bytes, and the command that is made of slices of them.
    fn memory(self) -> usize {
        self.len as usize + DECODED_BYTES
    }
}

/// An allowance for the decoded request beside its bytes: a put is less, a transaction of several operations more.
const DECODED_BYTES: usize = 512;

#[derive(Debug)]
struct Slot {
    term: u64,
    /// None until it is durable.
    place: Option<Place>,
    /// Present until it is durable, and then until the cache is full.
    payload: Option<Payload>,
}

impl Slot {
    /// What the entry takes on the wire, about. One that is not durable yet is sent as well.
    fn bytes(&self) -> usize {
        match (self.place, &self.payload) {
            (Some(place), _) => place.len as usize,
            (None, Some(Payload::Command(command))) => format::ENTRY_HEADER_LEN + command.bytes().len(),
            (None, _) => format::ENTRY_HEADER_LEN,
        }
    }
}

#[derive(Debug)]
pub(super) struct Index {
    purged: Option<LogId>,
    /// Index of the first slot; meaningless while there is none.
    first: u64,
    slots: VecDeque<Slot>,
    cache_bytes: usize,
    cache_limit: usize,
    /// Slots before this index have no payload in memory.
    evicted: u64,
    /// Bytes of all records.
    bytes: u64,
    /// Bytes of all records there ever were.
    appended: u64,
}

impl Index {
    pub(super) fn new(cache_limit: usize) -> Self {
        Self {
            purged: None,
            first: 0,
            slots: VecDeque::new(),
            cache_bytes: 0,
            cache_limit,
            evicted: 0,
            bytes: 0,
            appended: 0,
        }
    }

    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    pub(super) fn last(&self) -> Option<LogId> {
        match self.slots.back() {
            Some(slot) => Some(LogId { term: slot.term, index: self.first + self.slots.len() as u64 - 1 }),
            None => self.purged,
        }
    }

    pub(super) fn retained_bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn appended_bytes(&self) -> u64 {
        self.appended
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        let position = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.slots.get_mut(position)
    }

    pub(super) fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        entries.iter().try_for_each(|entry| self.push(entry.id, Some(entry.payload.clone()), false))
    }

    /// As [`Index::append`], during replay: the oldest segments may be gone, so the first entry found may be behind a hole that a
    /// purge noted later on explains. Nothing is cached: most of it is never read, and what was read is a whole segment.
    pub(super) fn append_replayed(&mut self, id: LogId, place: Place) -> io::Result<()> {
        self.push(id, None, self.slots.is_empty())?;
        self.placed(id, place);
        Ok(())
    }

    /// Whether entries are missing between the purged ones and the first.
    pub(super) fn has_hole(&self) -> bool {
        !self.slots.is_empty() && self.purged.is_some_and(|purged| self.first > purged.index + 1)
    }

    fn push(&mut self, id: LogId, payload: Option<Payload>, may_leave_hole: bool) -> io::Result<()> {
        let index = id.index;
        let next = match (self.slots.is_empty(), self.purged) {
            (false, _) => Some(self.first + self.slots.len() as u64),
            (true, Some(purged)) => Some(purged.index + 1),
            (true, None) => None,
        };
        if next.is_some_and(|next| next != index && !(may_leave_hole && next < index)) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("an entry at {index} would not continue the log, whose next is {next:?}"),
            ));
        }
        if self.slots.is_empty() {
            self.first = index;
            self.evicted = index;
        }
        self.slots.push_back(Slot { term: id.term, place: None, payload });
        Ok(())
    }

    /// Notes that an entry is durable. One that was truncated since, or replaced, is left alone.
    pub(super) fn placed(&mut self, id: LogId, place: Place) {
        let Some(slot) = self.slot_mut(id.index) else { return };
        if slot.term != id.term || slot.place.is_some() {
            return;
        }
        slot.place = Some(place);
        let cached = slot.payload.is_some();
        self.bytes += u64::from(place.len);
        self.appended += u64::from(place.len);
        if cached {
            self.cache_bytes += place.memory();
        }
    }

    /// Drops the oldest durable payloads until the cache is within its bound.
    pub(super) fn evict(&mut self) {
        while self.cache_bytes > self.cache_limit {
            let index = self.evicted.max(self.first);
            let Some(slot) = self.slot_mut(index) else { return };
            let Some(place) = slot.place else { return };
            let had = slot.payload.take().is_some();
            if had {
                self.cache_bytes = self.cache_bytes.saturating_sub(place.memory());
            }
            self.evicted = index + 1;
        }
    }

    pub(super) fn truncate(&mut self, first_removed: u64) {
        let keep = first_removed.saturating_sub(self.first);
        while self.slots.len() as u64 > keep {
            let slot = self.slots.pop_back();
            self.forget(slot);
        }
        self.evicted = self.evicted.min(first_removed.max(self.first));
    }

    pub(super) fn purge(&mut self, last: LogId) {
        while !self.slots.is_empty() && self.first <= last.index {
            let slot = self.slots.pop_front();
            self.forget(slot);
            self.first += 1;
        }
        if self.purged.is_none_or(|purged| purged.index < last.index) {
            self.purged = Some(last);
        }
    }

    fn forget(&mut self, slot: Option<Slot>) {
        if let Some(Slot { place: Some(place), payload, .. }) = slot {
            self.bytes = self.bytes.saturating_sub(u64::from(place.len));
            if payload.is_some() {
                self.cache_bytes = self.cache_bytes.saturating_sub(place.memory());
            }
        }
    }

    /// What to read for `[start, end)`: all of it that is there, but after the first no more than `max_bytes`.
    pub(super) fn lookup(
        &self,
        start: u64,
        end: u64,
        max_bytes: usize,
        segments: &Segments,
    ) -> io::Result<Vec<Lookup>> {
        let from = start.max(self.first);
        let to = end.min(self.first + self.slots.len() as u64);
        let mut found = Vec::new();
        let mut bytes = 0;
        for index in from..to {
            let position = usize::try_from(index - self.first).unwrap_or(usize::MAX);
            let Some(slot) = self.slots.get(position) else { break };
            bytes += slot.bytes();
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            let id = LogId { term: slot.term, index };
            found.push(match (&slot.payload, slot.place) {
                (Some(payload), _) => Lookup::Cached(Entry { id, payload: payload.clone() }),
                (None, Some(place)) => Lookup::OnDisk { id, file: segments.file(place.segment)?, place },
                (None, None) => return Err(io::Error::other("an entry is neither in memory nor on disk")),
            });
        }
        Ok(found)
    }

    /// The newest entry with at least `keep_bytes` behind it.
    pub(super) fn purge_point(&self, keep_bytes: u64) -> Option<u64> {
        let mut kept = 0;
        for (position, slot) in self.slots.iter().enumerate().rev() {
            if kept >= keep_bytes {
                return Some(self.first + position as u64);
            }
            kept += slot.place.map_or(0, |place| u64::from(place.len));
        }
        None
    }
}

/// An entry, or where to read it once the lock is let go.
#[derive(Debug)]
pub(super) enum Lookup {
    Cached(Entry),
    OnDisk { id: LogId, file: Arc<dyn DiskFile>, place: Place },
}

impl Lookup {
    pub(super) fn resolve(self) -> io::Result<Entry> {
        let (id, file, place) = match self {
            Self::Cached(entry) => return Ok(entry),
            Self::OnDisk { id, file, place } => (id, file, place),
        };
        let mut record = vec![0; place.len as usize];
        file.read_at(u64::from(place.offset), &mut record)?;
        let damaged = |reason: String| {
            let text = format!("log entry {} of segment {:016x}: {reason}", id.index, place.segment);
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        match format::entry(&Bytes::from(record)) {
            Ok(entry) if entry.id == id => Ok(entry),
            Ok(_) => Err(damaged("another entry is in its place".to_owned())),
            Err(error) => Err(damaged(error.to_string())),
        }
    }
}
