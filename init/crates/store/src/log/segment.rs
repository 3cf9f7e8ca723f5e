//! The log's files: making them, using them again, finding them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::format::{SEGMENT_HEADER_LEN, SegmentHeader};
use crate::disk::{Disk, DiskFile};

/// How many purged files are kept to be used again: as many as a burst between two checkpoints needs at once.
const SPARE_FILES: usize = 2;
/// Zeros are written in pieces of a page. The kernel caches a file in units as large as its writes were; of a larger unit each batch would dirty all,
/// which costs time at every sync and is what counts as written in the process's accounts.
const ZERO_CHUNK: usize = 4 << 10;
const TEMPORARY: &str = "log-next.tmp";
const SPARE_PREFIX: &str = "log-spare-";

pub(super) fn file_name(number: u64) -> String {
    format!("log-{number:016x}")
}

/// The segment number in a file's name.
pub(super) fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log-")?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// Removes what a crash left of files in the making.
pub(super) fn remove_leftovers(disk: &dyn Disk) -> io::Result<()> {
    for name in disk.list()? {
        if name == TEMPORARY || name.starts_with(SPARE_PREFIX) {
            disk.remove(&name)?;
        }
    }
    Ok(())
}

/// A file of the log that is open.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub header: SegmentHeader,
    pub file: Arc<dyn DiskFile>,
}

/// The open segments, by number, each with the last entry index in it.
#[derive(Debug, Default)]
pub(super) struct Segments {
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    segment: Segment,
    last_index: Option<u64>,
}

impl Segments {
    pub(super) fn insert(&mut self, segment: Segment, last_index: Option<u64>) {
        self.open.insert(segment.header.number, Open { segment, last_index });
    }

    pub(super) fn file(&self, number: u64) -> io::Result<Arc<dyn DiskFile>> {
        match self.open.get(&number) {
            Some(open) => Ok(Arc::clone(&open.segment.file)),
            None => Err(io::Error::new(io::ErrorKind::NotFound, format!("log segment {number:016x} is purged"))),
        }
    }

    pub(super) fn holds(&mut self, number: u64, index: u64) {
        if let Some(open) = self.open.get_mut(&number) {
            open.last_index = open.last_index.max(Some(index));
        }
    }

    /// Takes out the segments before `active` whose entries are all purged, oldest first and without a gap.
    pub(super) fn take_purged(&mut self, active: u64, purged: u64) -> Vec<Segment> {
        let mut taken = Vec::new();
        while let Some(first) = self.open.first_entry() {
            if *first.key() >= active || first.get().last_index.is_some_and(|last| last > purged) {
                break;
            }
            taken.push(first.remove().segment);
        }
        taken
    }
}

/// Makes segments and disposes of them. Owned by the writer.
#[derive(Debug)]
pub(super) struct Factory {
    disk: Arc<dyn Disk>,
    spares: Vec<String>,
}

impl Factory {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, spares: Vec::new() }
    }

    /// Makes a segment that is durable, named, and takes no block when it is written to.
    pub(super) fn make(&mut self, header: SegmentHeader) -> io::Result<Segment> {
        let file = match self.reuse(header.size)? {
            Some(file) => file,
            None => self.make_zeroed(header.size)?,
        };
        file.write_at(0, &header.encode())?;
        file.sync_data()?;
        self.disk.rename(TEMPORARY, &file_name(header.number))?;
        self.disk.sync_directory()?;
        Ok(Segment { header, file })
    }

    /// A spare of that size. Its blocks are allocated already; the new salt makes what is in them foreign.
    fn reuse(&mut self, size: u32) -> io::Result<Option<Arc<dyn DiskFile>>> {
        while let Some(spare) = self.spares.pop() {
            let file = self.disk.open(&spare)?;
            if file.len()? == u64::from(size) {
                self.disk.rename(&spare, TEMPORARY)?;
                return Ok(Some(file));
            }
            // The size of segments was another when it was made.
            self.disk.remove(&spare)?;
        }
        Ok(None)
    }

    /// Zeros, not merely allocation: the first write to an unwritten extent would change metadata, and `fdatasync` would wait for it.
    fn make_zeroed(&self, size: u32) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.create(TEMPORARY)?;
        file.allocate(u64::from(size))?;
        let zeros = vec![0; ZERO_CHUNK];
        let mut offset = u64::from(SEGMENT_HEADER_LEN);
        while offset < u64::from(size) {
            let len = usize::try_from(u64::from(size) - offset).unwrap_or(ZERO_CHUNK).min(ZERO_CHUNK);
            file.write_at(offset, zeros.get(..len).unwrap_or_default())?;
            offset += len as u64;
        }
        Ok(file)
    }

    /// Gives up a purged segment. A reader may still hold the file; then it is unlinked and not used again.
    pub(super) fn dispose(&mut self, segment: &Segment) -> io::Result<()> {
        let name = file_name(segment.header.number);
        let unused = Arc::strong_count(&segment.file) == 1;
        if unused && self.spares.len() < SPARE_FILES {
            let spare = format!("{SPARE_PREFIX}{:016x}", segment.header.number);
            self.disk.rename(&name, &spare)?;
            self.spares.push(spare);
        } else {
            self.disk.remove(&name)?;
        }
        // One at a time and durably: the names that are left never have a gap, and a spare's old name never comes back with a new header.
        self.disk.sync_directory()
    }
}
