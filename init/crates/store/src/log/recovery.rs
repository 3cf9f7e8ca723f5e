//! Reading the log back after a stop or a crash.
//!
//! Walks the segments in order and their batches by sequence number. Where the sequence breaks, the log ends: cleanly, with a
//! torn batch that was never acknowledged, or, if any valid batch with a higher number is found behind the break, with damage. Damage is
//! never repaired by guessing: what the log promised to other members is gone, so the member has to come back as a new one.

use std::io;

use bytes::Bytes;

use super::format::{
    self, BATCH_ALIGN, BATCH_MAGIC, Batch, HeaderError, Record, RecordError, SEGMENT_HEADER_LEN, SegmentHeader,
};
use super::index::{Index, Place};
use super::segment::{self, Segment, Segments};
use super::writer::Tail;
use super::{LogId, Options, Vote};
use crate::disk::Disk;

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{operation} {name}")]
    Io {
        operation: &'static str,
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("{name} is not this release's log: {source}")]
    Header {
        name: String,
        #[source]
        source: HeaderError,
    },
    #[error("{name} belongs to another store ({found:016x}, this one is {expected:016x}): files were mixed up")]
    Foreign { name: String, found: u64, expected: u64 },
    #[error(
        "the log is damaged: {name} at byte {offset} should hold batch {expected}, which cannot be read, but batch {found} \
         follows in {later}. Acknowledged writes and votes are lost on this disk; this member must not return under its id. \
         Remove it from the cluster, empty its data directory and let it join as a new member"
    )]
    Damaged { name: String, offset: u64, expected: u64, found: u64, later: String },
    #[error(
        "the log is damaged: {name} is cut off at byte {found} of {expected}. Acknowledged writes and votes may be lost on this disk; this member must \
         not return under its id. Remove it from the cluster, empty its data directory and let it join as a new member"
    )]
    Cut { name: String, found: u64, expected: u64 },
    #[error("the log is damaged: segment {missing:016x} is missing before {name}. This member must join as a new one")]
    Gap { missing: u64, name: String },
    #[error(
        "the log is damaged: its oldest segment {name} begins with a batch that cannot be read. This member must join as a new one"
    )]
    NoBeginning { name: String },
    #[error("the log is damaged: entries are missing before its first. This member must join as a new one")]
    Hole,
    #[error("{name}, batch {sequence}: {source}")]
    Record {
        name: String,
        sequence: u64,
        #[source]
        source: RecordError,
    },
    #[error("{name}, batch {sequence}: an entry does not continue the log")]
    Discontinuous {
        name: String,
        sequence: u64,
        #[source]
        source: io::Error,
    },
}

#[derive(Debug)]
pub(super) struct Recovered {
    pub index: Index,
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub segments: Segments,
    pub tail: Tail,
}

/// A segment's content, with what its header says.
struct Loaded {
    segment: Segment,
    name: String,
    data: Bytes,
}

pub(super) fn recover(disk: &dyn Disk, options: Options) -> Result<Recovered, OpenError> {
    let io_error = |operation, name: &str| {
        let name = name.to_owned();
        move |source| OpenError::Io { operation, name, source }
    };
    segment::remove_leftovers(disk).map_err(io_error("tidy the data directory", ""))?;
    let names = disk.list().map_err(io_error("list the data directory", ""))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::parse_name(name)).collect();
    numbers.sort_unstable();

    let mut replay = Replay::new(options);
    let mut later = numbers.iter().copied().peekable();
    while let Some(number) = later.next() {
        let loaded = load(disk, number, options)?;
        replay.segment(&loaded)?;
        if let Some(&next) = later.peek()
            && next != number + 1
        {
            return Err(OpenError::Gap { missing: number + 1, name: segment::file_name(next) });
        }
    }
    replay.finish()
}

fn load(disk: &dyn Disk, number: u64, options: Options) -> Result<Loaded, OpenError> {
    let name = segment::file_name(number);
    let io_error = |operation| {
        let name = name.clone();
        move |source| OpenError::Io { operation, name, source }
    };
    let file = disk.open(&name).map_err(io_error("open"))?;
    let found = file.len().map_err(io_error("measure"))?;
    let cut = |name, size| OpenError::Cut { name, found, expected: u64::from(size) };
    // A segment has its name only once all of it is durable.
    if found < u64::from(SEGMENT_HEADER_LEN) {
        return Err(cut(name, SEGMENT_HEADER_LEN));
    }
    let mut data = vec![0; usize::try_from(found).unwrap_or(usize::MAX)];
    file.read_at(0, &mut data).map_err(io_error("read"))?;
    let header = SegmentHeader::decode(&data).map_err(|source| OpenError::Header { name: name.clone(), source })?;
    if header.store_id != options.store_id {
        return Err(OpenError::Foreign { name, found: header.store_id, expected: options.store_id });
    }
    if header.number != number {
        return Err(OpenError::Header { name, source: HeaderError::Checksum });
    }
    if found < u64::from(header.size) {
        return Err(cut(name, header.size));
    }
    // What a crash of this process (not of the machine) left in the page cache looks durable and is not yet: it counts from here on, so
    // it has to be.
    file.sync_data().map_err(io_error("sync"))?;
    Ok(Loaded { segment: Segment { header, file }, name, data: Bytes::from(data) })
}

struct Replay {
    index: Index,
    vote: Option<Vote>,
    committed: Option<LogId>,
    segments: Segments,
    active: Option<(Segment, u32)>,
    prepared: Option<Segment>,
    next_number: u64,
    /// None until the first batch was read.
    next_sequence: Option<u64>,
    /// Where the sequence broke: nothing valid may follow.
    broken: Option<(String, u64)>,
}

impl Replay {
    fn new(options: Options) -> Self {
        Self {
            index: Index::new(options.cache_bytes),
            vote: None,
            committed: None,
            segments: Segments::default(),
            active: None,
            prepared: None,
            next_number: 1,
            next_sequence: None,
            broken: None,
        }
    }

    fn segment(&mut self, loaded: &Loaded) -> Result<(), OpenError> {
        let number = loaded.segment.header.number;
        self.next_number = number + 1;
        let mut offset = SEGMENT_HEADER_LEN as usize;
        let mut last_index = None;
        self.segments.insert(loaded.segment.clone(), None);
        while let Some(batch) = self.next_batch(loaded, offset) {
            self.batch(loaded, offset, &batch, &mut last_index)?;
            offset += batch.len;
        }
        let empty = offset == SEGMENT_HEADER_LEN as usize;
        if empty && self.next_sequence.is_none() && number > 1 {
            return Err(OpenError::NoBeginning { name: loaded.name.clone() });
        }
        if let Some(last_index) = last_index {
            self.segments.holds(number, last_index);
        }
        self.refuse_batches_behind(loaded, offset)?;
        if empty && self.active.is_some() {
            // Made ahead of its use, or its first batch was torn.
            self.broken.get_or_insert_with(|| (loaded.name.clone(), offset as u64));
            self.prepared.get_or_insert_with(|| loaded.segment.clone());
        } else {
            self.active = Some((loaded.segment.clone(), u32::try_from(offset).unwrap_or(u32::MAX)));
        }
        Ok(())
    }

    /// The batch at `offset` if it is the one that the sequence asks for.
    fn next_batch(&self, loaded: &Loaded, offset: usize) -> Option<Batch> {
        if self.broken.is_some() || offset >= loaded.data.len() {
            return None;
        }
        let batch = Batch::decode(&loaded.data.slice(offset..), loaded.segment.header.salt)?;
        self.next_sequence.is_none_or(|next| next == batch.sequence).then_some(batch)
    }

    /// Looks for a valid batch with a later number than the sequence reached. Batches are aligned, so few places come into question.
    fn refuse_batches_behind(&mut self, loaded: &Loaded, offset: usize) -> Result<(), OpenError> {
        let expected = self.next_sequence.unwrap_or(0);
        let behind = loaded.data.get(offset..).unwrap_or_default();
        let begins_batch = |chunk: &[u8]| chunk.starts_with(BATCH_MAGIC);
        let places = behind.chunks(BATCH_ALIGN).enumerate().filter(|(_, chunk)| begins_batch(chunk));
        for place in places.map(|(number, _)| offset + number * BATCH_ALIGN) {
            let Some(batch) = Batch::decode(&loaded.data.slice(place..), loaded.segment.header.salt) else { continue };
            if batch.sequence >= expected {
                let (name, at) = self.broken.clone().unwrap_or_else(|| (loaded.name.clone(), offset as u64));
                let later = loaded.name.clone();
                return Err(OpenError::Damaged { name, offset: at, expected, found: batch.sequence, later });
            }
        }
        Ok(())
    }

    fn batch(
        &mut self,
        loaded: &Loaded,
        offset: usize,
        batch: &Batch,
        last_index: &mut Option<u64>,
    ) -> Result<(), OpenError> {
        for record in format::records(batch) {
            let record = record.map_err(|source| OpenError::Record {
                name: loaded.name.clone(),
                sequence: batch.sequence,
                source,
            })?;
            match record {
                Record::Entry { id, offset: within, len } => {
                    let offset = u32::try_from(offset).unwrap_or(u32::MAX).saturating_add(within);
                    let place = Place { segment: loaded.segment.header.number, offset, len };
                    self.index.append_replayed(id, place).map_err(|source| OpenError::Discontinuous {
                        name: loaded.name.clone(),
                        sequence: batch.sequence,
                        source,
                    })?;
                    *last_index = (*last_index).max(Some(id.index));
                }
                Record::Vote(vote) => self.vote = Some(vote),
                Record::Truncate(first) => self.index.truncate(first),
                Record::Purge(last) => self.index.purge(last),
            }
        }
        if batch.committed.is_some() {
            self.committed = batch.committed;
        }
        self.next_sequence = Some(batch.sequence + 1);
        Ok(())
    }

    fn finish(self) -> Result<Recovered, OpenError> {
        if self.index.has_hole() {
            return Err(OpenError::Hole);
        }
        // Followers learn what is committed before their own log is durable, so the mark may be ahead of what survived.
        let last = self.index.last();
        let committed = self.committed.map(|mark| match last {
            Some(last) if mark.index > last.index => last,
            _ => mark,
        });
        Ok(Recovered {
            index: self.index,
            vote: self.vote,
            committed: committed.filter(|_| last.is_some()),
            segments: self.segments,
            tail: Tail {
                active: self.active,
                prepared: self.prepared,
                next_number: self.next_number,
                next_sequence: self.next_sequence.unwrap_or(1),
            },
        })
    }
}
