//! GUID partition tables: reading any, writing ours. UEFI specification, chapter 5.
//!
//! Written here and not taken from a crate because the order of writes is the point: one copy of the table is always whole, and
//! what a power cut leaves is always recognised.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

mod encoding;

pub(super) use encoding::Guid;

/// The type of the partition that holds STATE: a125dfff-34ba-4d0a-99b2-3353589e719c.
pub(super) const STATE_TYPE: Guid = Guid(STATE_TYPE_BYTES);
/// The type of the partition that holds DATA: 7497b46a-cf52-48c6-8431-7d725c8a0ccc.
pub(super) const DATA_TYPE: Guid = Guid(DATA_TYPE_BYTES);

/// An attribute bit of the range that the specification leaves to the type's owner (48 to 63): the partition's file system is
/// complete. Without it, whatever is in the partition is half-made and may be made again.
pub(super) const COMPLETE: u64 = 1 << 48;

/// Where the first partition begins, and the unit of their sizes.
pub(super) const ALIGNMENT: u64 = 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) kind: Guid,
    pub(super) unique: Guid,
    /// In sectors; the last one is part of it.
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) attributes: u64,
    pub(super) name: String,
}

/// A disk's table. The position in `partitions` plus one is the kernel's partition number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) disk: Guid,
    pub(super) partitions: Vec<Option<Partition>>,
}

impl Table {
    /// The number of the first partition of this type, and the partition.
    pub(super) fn find(&self, kind: Guid) -> Option<(usize, &Partition)> {
        let mut numbered = (1..).zip(&self.partitions);
        numbered.find_map(|(number, partition)| {
            Some((number, partition.as_ref().filter(|partition| partition.kind == kind)?))
        })
    }

    pub(super) fn is_complete(&self) -> bool {
        [STATE_TYPE, DATA_TYPE]
            .iter()
            .all(|kind| self.find(*kind).is_some_and(|(_, partition)| partition.attributes & COMPLETE != 0))
    }
}

/// A device's measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    /// In bytes.
    pub(super) sector: u64,
    /// In sectors.
    pub(super) sectors: u64,
}

/// Which of the two copies of a table are whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) table: Table,
    /// One of the copies is damaged or differs.
    pub(super) needs_repair: bool,
}

/// Reads the table: the first copy if it is whole, else the second.
pub(super) fn read(device: &File, geometry: Geometry) -> io::Result<Option<Found>> {
    let first = encoding::read_copy(device, geometry, 1)?;
    let second = encoding::read_copy(device, geometry, geometry.sectors.saturating_sub(1))?;
    let needs_repair = first != second;
    Ok(first.or(second).map(|table| Found { table, needs_repair }))
}

/// Writes both copies, one after the other, each on the disk before anything else is.
pub(super) fn write(device: &File, geometry: Geometry, table: &Table) -> io::Result<()> {
    let last = geometry.sectors.checked_sub(1).ok_or(io::ErrorKind::InvalidInput)?;
    for (own, other) in [(1, last), (last, 1)] {
        encoding::write_copy(device, geometry, table, own, other)?;
        device.sync_all()?;
    }
    Ok(())
}

/// What the boot code area of the first sector says while a disk is being made. It is the first thing written and the last
/// one removed: as long as it is there, everything on this disk is ours and may be made again.
const CLAIM: &[u8] = b"KEELSON: this disk is being made and holds nothing yet";

/// Writes the first sector: the protective MBR, with or without the claim. A single sector, so it is there or not.
pub(super) fn write_first_sector(device: &File, geometry: Geometry, claimed: bool) -> io::Result<()> {
    let mut sector = encoding::protective_mbr(geometry)?;
    if let Some(area) = sector.get_mut(..CLAIM.len()).filter(|_| claimed) {
        area.copy_from_slice(CLAIM);
    }
    device.write_all_at(&sector, 0)?;
    device.sync_all()
}

pub(super) fn is_claimed(device: &File) -> io::Result<bool> {
    let mut start = vec![0; CLAIM.len()];
    match device.read_exact_at(&mut start, 0) {
        Ok(()) => Ok(start == CLAIM),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sectors at either end that belong to the table.
pub(super) fn reserved_sectors(geometry: Geometry) -> u64 {
    encoding::reserved_sectors(geometry)
}

const STATE_TYPE_BYTES: [u8; 16] =
    [0xff, 0xdf, 0x25, 0xa1, 0xba, 0x34, 0x0a, 0x4d, 0x99, 0xb2, 0x33, 0x53, 0x58, 0x9e, 0x71, 0x9c];
const DATA_TYPE_BYTES: [u8; 16] =
    [0x6a, 0xb4, 0x97, 0x74, 0x52, 0xcf, 0xc6, 0x48, 0x84, 0x31, 0x7d, 0x72, 0x5c, 0x8a, 0x0c, 0xcc];

#[cfg(test)]
mod tests;
