//! GUID partition tables: reading any, writing ours. UEFI specification, chapter 5.
//!
//! A crate because two need it: keelson-exec, which finds, makes and mends tables on a machine, and the image's build, which
//! writes the first one.
//!
//! Written here and not taken from a crate because the order of writes is the point: one copy of the table is always whole, and
//! what a power cut leaves is always recognised.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

mod encoding;

pub use encoding::Guid;

/// The type of the partition that holds STATE: a125dfff-34ba-4d0a-99b2-3353589e719c.
pub const STATE_TYPE: Guid = Guid(STATE_TYPE_BYTES);
/// The type of the partition that holds DATA: 7497b46a-cf52-48c6-8431-7d725c8a0ccc.
pub const DATA_TYPE: Guid = Guid(DATA_TYPE_BYTES);

/// The type of a root file system for x86-64, and of its hash tree (UAPI Discoverable Partitions Specification):
/// 4f68bce3-e8cd-4db1-96e7-fbcaf984b709 and 2c7357ed-ebd2-46d9-aec1-23d437ec2bf5.
pub const ROOT_TYPE: Guid =
    Guid([0xe3, 0xbc, 0x68, 0x4f, 0xcd, 0xe8, 0xb1, 0x4d, 0x96, 0xe7, 0xfb, 0xca, 0xf9, 0x84, 0xb7, 0x09]);
pub const HASHES_TYPE: Guid =
    Guid([0xed, 0x57, 0x73, 0x2c, 0xd2, 0xeb, 0xd9, 0x46, 0xae, 0xc1, 0x23, 0xd4, 0x37, 0xec, 0x2b, 0xf5]);
/// The type of the EFI system partition: c12a7328-f81f-11d2-ba4b-00a0c93ec93b.
pub const ESP_TYPE: Guid =
    Guid([0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b]);

/// An attribute bit of the range that the specification leaves to the type's owner (48 to 63): the partition's file system is
/// complete. Without it, whatever is in the partition is half-made and may be made again.
pub const COMPLETE: u64 = 1 << 48;

/// Where the first partition begins, and the unit of their sizes.
pub const ALIGNMENT: u64 = 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub kind: Guid,
    pub unique: Guid,
    /// In sectors; the last one is part of it.
    pub first: u64,
    pub last: u64,
    pub attributes: u64,
    pub name: String,
}

impl Partition {
    fn is_complete(&self) -> bool {
        self.attributes & COMPLETE != 0
    }
}

/// A disk's table. The position in `partitions` plus one is the kernel's partition number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub disk: Guid,
    pub partitions: Vec<Option<Partition>>,
}

impl Table {
    /// The number of the first partition of this type, and the partition.
    pub fn find(&self, kind: Guid) -> Option<(usize, &Partition)> {
        self.numbered().find(|(_, partition)| partition.kind == kind)
    }

    /// The partition with this identity.
    pub fn find_unique(&self, unique: Guid) -> Option<(usize, &Partition)> {
        self.numbered().find(|(_, partition)| partition.unique == unique)
    }

    /// The partitions that there are, with the kernel's numbers for them.
    pub fn numbered(&self) -> impl Iterator<Item = (usize, &Partition)> {
        (1..).zip(&self.partitions).filter_map(|(number, partition)| Some((number, partition.as_ref()?)))
    }

    /// STATE and DATA are there, one of each, and finished.
    pub fn is_complete(&self) -> bool {
        [STATE_TYPE, DATA_TYPE].into_iter().all(|kind| {
            let mut of_kind = self.numbered().filter(|(_, partition)| partition.kind == kind);
            of_kind.next().is_some_and(|(_, partition)| partition.is_complete()) && of_kind.next().is_none()
        })
    }

    /// STATE or DATA is finished, but not both, or there is more than one of a kind. Both are marked by one write of a table, so no cut of ours
    /// leaves this: somebody has changed a finished disk, and what is on it is not to be made again.
    pub fn has_lost_its_other_half(&self) -> bool {
        let finished = |partition: &Partition| {
            (partition.kind == STATE_TYPE || partition.kind == DATA_TYPE) && partition.is_complete()
        };
        self.numbered().any(|(_, partition)| finished(partition)) && !self.is_complete()
    }
}

/// A device's measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// In bytes.
    pub sector: u64,
    /// In sectors.
    pub sectors: u64,
}

/// Which of the two copies of a table are whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub table: Table,
    /// One of the copies is damaged or differs.
    pub needs_repair: bool,
}

/// Reads the table: the first copy if it is whole, else the second. One that the device does not give is missing if the other is
/// whole: that is what there are two for.
pub fn read(device: &impl FileExt, geometry: Geometry) -> io::Result<Option<Found>> {
    let first = encoding::read_copy(device, geometry, 1);
    let second = encoding::read_copy(device, geometry, geometry.sectors.saturating_sub(1));
    match (first, second) {
        (Ok(Some(table)), Err(_)) | (Err(_), Ok(Some(table))) => Ok(Some(Found { table, needs_repair: true })),
        (first, second) => {
            let (first, second) = (first?, second?);
            let needs_repair = first != second;
            Ok(first.or(second).map(|table| Found { table, needs_repair }))
        }
    }
}

/// Writes both copies, one after the other, each on the disk before anything else is.
///
/// The one at the end comes first: on a disk that has grown (an image that was written to a larger one) there is none yet, and
/// the one at the start is the only whole copy until it is.
pub fn write(device: &File, geometry: Geometry, table: &Table) -> io::Result<()> {
    let last = geometry.sectors.checked_sub(1).ok_or(io::ErrorKind::InvalidInput)?;
    for (own, other) in [(last, 1), (1, last)] {
        encoding::write_copy(device, geometry, table, own, other)?;
        device.sync_all()?;
    }
    Ok(())
}

/// What the boot code area of the first sector says while a disk is being made. It is the first thing written and the last
/// one removed: as long as it is there, everything on this disk is ours and may be made again.
const CLAIM: &[u8] = b"KEELSON: this disk is being made and holds nothing yet";

/// Writes the first sector: the protective MBR, with or without the claim. A single sector, so it is there or not.
pub fn write_first_sector(device: &File, geometry: Geometry, claimed: bool) -> io::Result<()> {
    let mut sector = encoding::protective_mbr(geometry)?;
    if let Some(area) = sector.get_mut(..CLAIM.len()).filter(|_| claimed) {
        area.copy_from_slice(CLAIM);
    }
    device.write_all_at(&sector, 0)?;
    device.sync_all()
}

pub fn is_claimed(device: &File) -> io::Result<bool> {
    let mut start = vec![0; CLAIM.len()];
    match device.read_exact_at(&mut start, 0) {
        Ok(()) => Ok(start == CLAIM),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sectors at either end that belong to the table.
pub fn reserved_sectors(geometry: Geometry) -> u64 {
    encoding::reserved_sectors(geometry)
}

const STATE_TYPE_BYTES: [u8; 16] =
    [0xff, 0xdf, 0x25, 0xa1, 0xba, 0x34, 0x0a, 0x4d, 0x99, 0xb2, 0x33, 0x53, 0x58, 0x9e, 0x71, 0x9c];
const DATA_TYPE_BYTES: [u8; 16] =
    [0x6a, 0xb4, 0x97, 0x74, 0x52, 0xcf, 0xc6, 0x48, 0x84, 0x31, 0x7d, 0x72, 0x5c, 0x8a, 0x0c, 0xcc];

#[cfg(test)]
mod tests;
