//! Growing with the disk. DATA is the last partition and takes what a larger disk has to offer.
//!
//! First the table (its second copy, at the new end, before the first), then the kernel's view of the partition, then, mounted,
//! the file system. Each step follows from what is found, not from what was done: a partition that is larger than its file
//! system is a growth that was cut, and is finished at the next boot.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use keelson_gpt::{DATA_TYPE, Geometry, Table};
use keelson_sys::{block, ext4, partition};

use super::inventory::Disk;
use super::{install, make};

/// Less is not worth the change.
const WORTHWHILE_BYTES: u64 = 64 * 1024 * 1024;

/// The table for the larger disk, if DATA can grow.
pub(super) fn table(table: &Table, geometry: Geometry) -> Option<Table> {
    let (number, data) = table.find(DATA_TYPE)?;
    let last = table.numbered().map(|(_, partition)| partition.last).max()?;
    let end = make::usable_end(geometry);
    let gained = end.checked_sub(data.last + 1)?.saturating_mul(geometry.sector);
    if data.last != last || gained < WORTHWHILE_BYTES {
        return None;
    }
    let mut grown = table.clone();
    let data = grown.partitions.get_mut(number.checked_sub(1)?)?.as_mut()?;
    data.last = end.checked_sub(1)?;
    Some(grown)
}

/// Makes the kernel see DATA's new length.
pub(super) fn announce(device: &File, disk: &Disk, table: &Table) -> io::Result<()> {
    let Some((number, data)) = table.find(DATA_TYPE) else { return Ok(()) };
    partition::resize(device, number, install::extent(data, disk.geometry))
}

/// Grows the mounted file system to its partition. A file system that stays small works as well as before: a failure is a note.
///
/// By the file system's own request: resize2fs would open the device for writing, which this kernel refuses for a mounted one.
pub(super) fn file_system(volume: &Path, mounted: &Path) -> Option<String> {
    let device = File::open(volume).ok()?;
    let (partition, held) = (block::size(&device).ok()?, Ext4::of(&device)?);
    if partition.saturating_sub(held.bytes()?) < WORTHWHILE_BYTES {
        return None;
    }
    let grown = File::open(mounted).and_then(|top| ext4::resize(&top, partition / held.block));
    Some(match grown {
        Ok(()) => format!("the file system of {} has grown", volume.display()),
        Err(error) => format!("the file system of {} stays as large as it was: {error}", volume.display()),
    })
}

/// What a file system says of its size, in the superblock at byte 1024.
#[derive(Debug, PartialEq, Eq)]
struct Ext4 {
    blocks: u64,
    /// In bytes.
    block: u64,
}

impl Ext4 {
    fn of(device: &File) -> Option<Self> {
        let word = |offset: u64| {
            let mut bytes = [0; 4];
            device.read_exact_at(&mut bytes, 1024 + offset).ok()?;
            Some(u32::from_le_bytes(bytes))
        };
        let blocks = u64::from(word(0x4)?) | u64::from(word(0x150)?) << 32;
        let block = 1024_u64.checked_shl(word(0x18)?).filter(|bytes| *bytes > 0)?;
        Some(Self { blocks, block })
    }

    fn bytes(&self) -> Option<u64> {
        self.blocks.checked_mul(self.block)
    }
}

#[cfg(test)]
mod tests {
    use keelson_gpt::{Guid, Partition, STATE_TYPE};

    use super::*;

    const GIB: u64 = 1024 * 1024 * 1024;

    fn geometry(bytes: u64) -> Geometry {
        Geometry { sector: 512, sectors: bytes / 512 }
    }

    fn made_for(bytes: u64) -> Table {
        let partitions = make::two_partitions(geometry(bytes), 2048, [Guid([1; 16]), Guid([2; 16])]);
        Table { disk: Guid([3; 16]), partitions: partitions.map(Some).into() }
    }

    #[test]
    fn data_takes_what_a_larger_disk_has_and_state_stays() {
        let old = made_for(8 * GIB);
        assert_eq!(table(&old, geometry(8 * GIB)), None);
        let new = table(&old, geometry(20 * GIB)).unwrap();
        assert_eq!(new.find(STATE_TYPE), old.find(STATE_TYPE));
        assert_eq!(new.find(DATA_TYPE).unwrap().1.last + 1, make::usable_end(geometry(20 * GIB)));
        assert_eq!(table(&new, geometry(20 * GIB)), None, "once");
        assert_eq!(table(&old, geometry(8 * GIB + 10 * 1024 * 1024)), None, "not for a little");
    }

    #[test]
    fn disk_that_shrank_or_has_something_behind_data_is_left_as_it_is() {
        let old = made_for(8 * GIB);
        assert_eq!(table(&old, geometry(4 * GIB)), None);
        let mut followed = old.clone();
        let data = old.find(DATA_TYPE).unwrap().1.clone();
        let behind = Partition { kind: Guid([5; 16]), first: data.last + 1, last: data.last + 10, ..data };
        followed.partitions.push(Some(behind));
        assert_eq!(table(&followed, geometry(20 * GIB)), None);
    }

    #[test]
    fn size_of_a_file_system_is_its_own_word() {
        let device = tempfile::tempfile().unwrap();
        device.set_len(4096).unwrap();
        device.write_all_at(&1000_u32.to_le_bytes(), 1024 + 4).unwrap();
        device.write_all_at(&2_u32.to_le_bytes(), 1024 + 0x18).unwrap();
        let found = Ext4::of(&device).unwrap();
        assert_eq!((&found, found.bytes()), (&Ext4 { blocks: 1000, block: 4096 }, Some(4_096_000)));
        device.write_all_at(&[0xff; 4], 1024 + 0x18).unwrap();
        assert_eq!(Ext4::of(&device), None);
    }
}
