//! Encoding and decoding of segment headers, batches and records. The layout is in the parent's documentation.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::{Entry, LogId, Payload, Vote};
use crate::command::{DecodeError, Encoded};
use crate::member::{MemberId, Membership};

pub const FORMAT_VERSION: u32 = 1;
/// The oldest release format that can read what this one writes.
pub const OLDEST_READER: u32 = 1;
pub const SEGMENT_HEADER_LEN: u32 = 4096;
pub const BATCH_HEADER_LEN: usize = 56;
pub const BATCH_ALIGN: usize = 8;
pub const ENTRY_HEADER_LEN: usize = 32;

/// Further than any log counts: numbers of segments, batches and entries beyond it are nonsense, and sums with them would overflow.
const NUMBER_MAX: u64 = u64::MAX >> 1;

const SEGMENT_MAGIC: &[u8; 8] = b"KEELSLOG";
pub const BATCH_MAGIC: &[u8; 4] = b"KBAT";

const RECORD_ENTRY: u8 = 1;
const RECORD_VOTE: u8 = 2;
const RECORD_TRUNCATE: u8 = 3;
const RECORD_PURGE: u8 = 4;

const PAYLOAD_BLANK: u8 = 0;
const PAYLOAD_COMMAND: u8 = 1;
const PAYLOAD_MEMBERSHIP: u8 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub store_id: u64,
    pub number: u64,
    pub salt: u64,
    pub size: u32,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("it is no log segment")]
    Magic,
    #[error(
        "it is written in format {version}, readable from format {oldest}; this release reads format {FORMAT_VERSION}: run a newer release"
    )]
    Version { version: u32, oldest: u32 },
    #[error("its header is damaged")]
    Checksum,
}

impl SegmentHeader {
    pub fn encode(&self) -> Vec<u8> {
        let mut buffer = Vec::with_capacity(SEGMENT_HEADER_LEN as usize);
        buffer.put_slice(SEGMENT_MAGIC);
        buffer.put_u32_le(FORMAT_VERSION);
        buffer.put_u32_le(OLDEST_READER);
        buffer.put_u64_le(self.store_id);
        buffer.put_u64_le(self.number);
        buffer.put_u64_le(self.salt);
        buffer.put_u32_le(self.size);
        let crc = crc32fast::hash(&buffer);
        buffer.put_u32_le(crc);
        buffer.resize(SEGMENT_HEADER_LEN as usize, 0);
        buffer
    }

    pub fn decode(buffer: &[u8]) -> Result<Self, HeaderError> {
        let mut fields = Reader::new(buffer);
        let header = (|| {
            let magic = fields.bytes(8)?;
            let version = fields.u32()?;
            let oldest = fields.u32()?;
            let header =
                Self { store_id: fields.u64()?, number: fields.u64()?, salt: fields.u64()?, size: fields.u32()? };
            Some((magic, version, oldest, header, fields.u32()?))
        })();
        let (magic, version, oldest, header, crc) = header.ok_or(HeaderError::Magic)?;
        if magic != SEGMENT_MAGIC {
            return Err(HeaderError::Magic);
        }
        if oldest > FORMAT_VERSION {
            return Err(HeaderError::Version { version, oldest });
        }
        if buffer.get(..44).map(crc32fast::hash) != Some(crc) || header.number > NUMBER_MAX {
            return Err(HeaderError::Checksum);
        }
        Ok(header)
    }
}

/// Collects records and becomes the bytes of one batch. The buffer is used again.
#[derive(Debug, Default)]
pub struct BatchEncoder {
    buffer: BytesMut,
    records: u32,
}

impl BatchEncoder {
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.buffer.put_bytes(0, BATCH_HEADER_LEN);
        self.records = 0;
    }

    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Adds an entry; returns where its record begins, from the start of the batch, and how long it is.
    pub fn entry(&mut self, entry: &Entry) -> (u32, u32) {
        let start = self.buffer.len();
        self.buffer.put_u8(RECORD_ENTRY);
        self.buffer.put_u8(match entry.payload {
            Payload::Blank => PAYLOAD_BLANK,
            Payload::Command(_) => PAYLOAD_COMMAND,
            Payload::Membership(_) => PAYLOAD_MEMBERSHIP,
        });
        self.buffer.put_u16_le(0);
        self.buffer.put_u64_le(0); // length and CRC, below
        self.buffer.put_u32_le(0);
        self.buffer.put_u64_le(entry.id.index);
        self.buffer.put_u64_le(entry.id.term);
        match &entry.payload {
            Payload::Blank => {}
            Payload::Command(command) => self.buffer.put_slice(command.bytes()),
            Payload::Membership(membership) => self.buffer.put_slice(&membership.encode()),
        }
        let record_len = self.buffer.len() - start;
        let payload_len = to_u32(record_len - ENTRY_HEADER_LEN);
        if let Some(place) = self.buffer.get_mut(start + 4..start + 8) {
            place.copy_from_slice(&payload_len.to_le_bytes());
        }
        let crc = self.buffer.get(start..).map_or(0, entry_checksum);
        if let Some(place) = self.buffer.get_mut(start + 8..start + 12) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
        self.records += 1;
        (to_u32(start), to_u32(record_len))
    }

    pub fn vote(&mut self, vote: Vote) {
        self.buffer.put_u8(RECORD_VOTE);
        self.buffer.put_u8(u8::from(vote.committed));
        self.buffer.put_bytes(0, 6);
        self.buffer.put_u64_le(vote.term);
        self.buffer.put_u64_le(vote.member.0);
        self.records += 1;
    }

    pub fn truncate(&mut self, first: u64) {
        self.buffer.put_u8(RECORD_TRUNCATE);
        self.buffer.put_bytes(0, 7);
        self.buffer.put_u64_le(first);
        self.records += 1;
    }

    pub fn purge(&mut self, last: LogId) {
        self.buffer.put_u8(RECORD_PURGE);
        self.buffer.put_bytes(0, 7);
        self.buffer.put_u64_le(last.index);
        self.buffer.put_u64_le(last.term);
        self.records += 1;
    }

    /// Completes the header. The bytes, padding included, are what goes to the file.
    pub fn finish(&mut self, salt: u64, sequence: u64, committed: Option<LogId>) -> &[u8] {
        let payload_len = to_u32(self.buffer.len() - BATCH_HEADER_LEN);
        let mut header = Vec::with_capacity(BATCH_HEADER_LEN);
        header.put_slice(BATCH_MAGIC);
        header.put_u32_le(0);
        header.put_u64_le(salt);
        header.put_u64_le(sequence);
        header.put_u32_le(payload_len);
        header.put_u32_le(self.records);
        header.put_u64_le(committed.map_or(0, |id| id.index));
        header.put_u64_le(committed.map_or(0, |id| id.term));
        // Index 0 is a real place and no mark would look like it, so say which one it is.
        header.put_u64_le(u64::from(committed.is_some()));
        if let Some(place) = self.buffer.get_mut(..BATCH_HEADER_LEN) {
            place.copy_from_slice(&header);
        }
        let crc = self.buffer.get(8..).map_or(0, crc32fast::hash);
        if let Some(place) = self.buffer.get_mut(4..8) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
        let padded = self.buffer.len().next_multiple_of(BATCH_ALIGN);
        self.buffer.resize(padded, 0);
        &self.buffer
    }
}

/// Lengths are bounded by the segment size, which is a `u32`.
fn to_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// A batch whose checksum held.
#[derive(Debug)]
pub struct Batch {
    pub sequence: u64,
    pub committed: Option<LogId>,
    pub records: u32,
    pub payload: Bytes,
    /// Bytes it takes in the file, padding included.
    pub len: usize,
}

impl Batch {
    /// The batch at the start of `data` if it is whole and belongs to the segment of that salt.
    pub fn decode(data: &Bytes, salt: u64) -> Option<Self> {
        let mut fields = Reader::new(data);
        if fields.bytes(4)? != BATCH_MAGIC {
            return None;
        }
        let crc = fields.u32()?;
        if fields.u64()? != salt {
            return None;
        }
        let sequence = fields.u64().filter(|sequence| *sequence <= NUMBER_MAX)?;
        let payload_len = fields.u32()? as usize;
        let records = fields.u32()?;
        let id = LogId { index: fields.u64()?, term: fields.u64()? };
        let committed = (fields.u64()? != 0).then_some(id);
        let end = BATCH_HEADER_LEN.checked_add(payload_len)?;
        if crc32fast::hash(data.get(8..end)?) != crc {
            return None;
        }
        let payload = data.slice(BATCH_HEADER_LEN..end);
        Some(Self { sequence, committed, records, payload, len: end.next_multiple_of(BATCH_ALIGN) })
    }
}

#[derive(Debug, PartialEq)]
pub enum Record {
    /// Where it is; what it holds is read when it is needed.
    Entry {
        id: LogId,
        offset: u32,
        len: u32,
    },
    Vote(Vote),
    Truncate(u64),
    Purge(LogId),
}

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("a record is cut short")]
    Short,
    #[error("a record has kind {0}, which this release does not know: run a newer release")]
    Kind(u8),
    #[error("an entry has payload kind {0}, which this release does not know: run a newer release")]
    PayloadKind(u8),
    #[error("an entry's checksum does not match")]
    Checksum,
    #[error("no log reaches the place {0}")]
    Index(u64),
    #[error("an entry's command")]
    Command(#[source] DecodeError),
    #[error("an entry's membership cannot be decoded")]
    Membership(#[source] prost::DecodeError),
}

/// The records of a batch, in order. Offsets are from the start of the batch.
pub fn records(batch: &Batch) -> impl Iterator<Item = Result<Record, RecordError>> + '_ {
    let mut position = 0;
    let mut left = batch.records;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        left -= 1;
        let parsed = record(&batch.payload.slice(position.min(batch.payload.len())..)).map(|(mut record, len)| {
            if let Record::Entry { offset, .. } = &mut record {
                *offset = to_u32(BATCH_HEADER_LEN + position);
            }
            position += len;
            record
        });
        if parsed.is_err() {
            left = 0;
        }
        Some(parsed)
    })
}

fn record(data: &Bytes) -> Result<(Record, usize), RecordError> {
    let mut fields = Reader::new(data);
    let kind = fields.u8().ok_or(RecordError::Short)?;
    let simple = |record: Option<Record>, fields: &Reader<'_>| Ok((record.ok_or(RecordError::Short)?, fields.position));
    match kind {
        RECORD_ENTRY => {
            let (id, len) = entry_header(data)?;
            Ok((Record::Entry { id, offset: 0, len: to_u32(len) }, len))
        }
        RECORD_VOTE => {
            let vote = (|| {
                let committed = fields.u8()? != 0;
                fields.bytes(6)?;
                Some(Record::Vote(Vote { term: fields.u64()?, member: MemberId(fields.u64()?), committed }))
            })();
            simple(vote, &fields)
        }
        RECORD_TRUNCATE => {
            let first = fields.bytes(7).and_then(|_| fields.u64()).map(Record::Truncate);
            simple(first, &fields)
        }
        RECORD_PURGE => {
            let last = (|| {
                fields.bytes(7)?;
                Some(LogId { index: fields.u64()?, term: fields.u64()? })
            })();
            simple(last.map(reachable).transpose()?.map(Record::Purge), &fields)
        }
        unknown => Err(RecordError::Kind(unknown)),
    }
}

fn reachable(id: LogId) -> Result<LogId, RecordError> {
    if id.index <= NUMBER_MAX { Ok(id) } else { Err(RecordError::Index(id.index)) }
}

/// Which entry a record holds, and the record's length.
fn entry_header(data: &Bytes) -> Result<(LogId, usize), RecordError> {
    let (_, id, end) = checked_entry(data)?;
    Ok((id, end))
}

/// Payload kind, place and length of the entry's record at the start of `data`.
fn checked_entry(data: &Bytes) -> Result<(u8, LogId, usize), RecordError> {
    let mut fields = Reader::new(data);
    let header = (|| {
        let kind = fields.u8()?;
        let payload_kind = fields.u8()?;
        fields.bytes(2)?;
        let len = fields.u32()? as usize;
        let crc = fields.u32()?;
        fields.u32()?;
        let id = LogId { index: fields.u64()?, term: fields.u64()? };
        Some((kind, payload_kind, len, crc, id))
    })();
    let (kind, payload_kind, len, crc, id) = header.ok_or(RecordError::Short)?;
    if kind != RECORD_ENTRY {
        return Err(RecordError::Kind(kind));
    }
    let end = ENTRY_HEADER_LEN.checked_add(len).filter(|end| *end <= data.len()).ok_or(RecordError::Short)?;
    if data.get(..end).map(entry_checksum) != Some(crc) {
        return Err(RecordError::Checksum);
    }
    Ok((payload_kind, reachable(id)?, end))
}

/// Decodes one entry's record. Entries are read back one by one, which is why each has a checksum of its own.
pub fn entry(data: &Bytes) -> Result<Entry, RecordError> {
    let (payload_kind, id, end) = checked_entry(data)?;
    let body = data.slice(ENTRY_HEADER_LEN..end);
    let payload = match payload_kind {
        PAYLOAD_BLANK => Payload::Blank,
        PAYLOAD_COMMAND => Payload::Command(Encoded::from_bytes(body).map_err(RecordError::Command)?),
        PAYLOAD_MEMBERSHIP => Payload::Membership(Arc::new(Membership::decode(body).map_err(RecordError::Membership)?)),
        unknown => return Err(RecordError::PayloadKind(unknown)),
    };
    Ok(Entry { id, payload })
}

/// Of all of an entry's record but the checksum itself and the zeros behind it.
pub(super) fn entry_checksum(record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(record.get(..8).unwrap_or_default());
    hasher.update(record.get(16..).unwrap_or_default());
    hasher.finalize()
}

/// Takes fields off the front of a slice.
struct Reader<'a> {
    data: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    fn new(data: &'a [u8]) -> Self {
        Self { data, position: 0 }
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.position.checked_add(len)?;
        let bytes = self.data.get(self.position..end)?;
        self.position = end;
        Some(bytes)
    }

    fn u8(&mut self) -> Option<u8> {
        self.bytes(1)?.first().copied()
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }
}
