//! STATE and DATA behind the image on the disk from which the machine was booted.
//!
//! The disk is in use, so nobody can have it for himself, and the kernel is told of the two partitions one by one. A power cut
//! may come between any two writes:
//!
//! 1. both copies of the partition table with STATE and DATA in it, not marked complete; the copy at the disk's end first,
//!    because an image on a larger disk has none there yet
//! 2. the file systems, flushed
//! 3. both copies again, the partitions marked complete
//!
//! Until 3 the disk says "an image without STATE", and all of it is done again; what step 1 wrote is then found and kept. The
//! image's own partitions are never touched.

use std::io;
use std::path::PathBuf;

use keelson_gpt::{self as gpt, COMPLETE, DATA_TYPE, Geometry, Guid, Partition, STATE_TYPE, Table};
use keelson_sys::partition::{self, Extent};
use thiserror::Error;

use super::inventory::{Disk, Places, human};
use super::make::{self, MakeError};

#[derive(Debug, Error)]
pub(crate) enum InstallError {
    #[error("cannot open {} for writing", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot read the partition table of {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the partition table is gone")]
    NoTable,
    #[error("there are {room} behind the image; STATE and DATA need {}", human(make::MINIMUM_BYTES))]
    TooSmall { room: String },
    #[error("cannot write the partition table of {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the kernel did not take partition {number}")]
    Announce { number: usize, source: io::Error },
    #[error(transparent)]
    Make(#[from] MakeError),
}

pub(super) fn install(disk: &Disk, places: &Places) -> Result<(), InstallError> {
    let path = disk.path(places);
    let device = make::open_shared(&path).map_err(|source| InstallError::Open { path: path.clone(), source })?;
    let found =
        gpt::read(&device, disk.geometry).map_err(|source| InstallError::Read { path: path.clone(), source })?;
    let found = found.ok_or(InstallError::NoTable)?.table;
    let mut table = with_both(&found, disk.geometry, [make::random_guid()?, make::random_guid()?])?;
    let write = |table: &Table| {
        gpt::write(&device, disk.geometry, table).map_err(|source| InstallError::Write { path: path.clone(), source })
    };
    write(&table)?;
    let known: Vec<usize> = disk.volumes(places).into_iter().map(|volume| volume.number).collect();
    for (number, added) in table.numbered().filter(|(number, added)| is_ours(added) && !known.contains(number)) {
        partition::add(&device, number, extent(added, disk.geometry))
            .map_err(|source| InstallError::Announce { number, source })?;
    }
    make::make_file_systems(disk, places, &table)?;
    for partition in table.partitions.iter_mut().flatten().filter(|partition| is_ours(partition)) {
        partition.attributes |= COMPLETE;
    }
    write(&table)
}

fn is_ours(partition: &Partition) -> bool {
    partition.kind == STATE_TYPE || partition.kind == DATA_TYPE
}

pub(super) fn extent(partition: &Partition, geometry: Geometry) -> Extent {
    let sectors = (partition.last + 1).saturating_sub(partition.first);
    Extent { start: partition.first.saturating_mul(geometry.sector), length: sectors.saturating_mul(geometry.sector) }
}

/// The table with STATE and DATA behind everything else. Those of an attempt that was cut are kept where they are: the kernel
/// knows them already.
fn with_both(table: &Table, geometry: Geometry, guids: [Guid; 2]) -> Result<Table, InstallError> {
    if table.find(STATE_TYPE).is_some() && table.find(DATA_TYPE).is_some() {
        return Ok(table.clone());
    }
    let mut table = table.clone();
    // Behind the last partition come the array's empty places.
    while table.partitions.pop_if(|partition| partition.is_none()).is_some() {}
    let from = table.numbered().map(|(_, partition)| partition.last + 1).max().unwrap_or_default();
    let room = make::usable_end(geometry).saturating_sub(from).saturating_mul(geometry.sector);
    if room < make::MINIMUM_BYTES {
        return Err(InstallError::TooSmall { room: human(room) });
    }
    table.partitions.extend(make::two_partitions(geometry, from, guids).map(Some));
    Ok(table)
}

#[cfg(test)]
mod tests {
    use keelson_gpt::{ESP_TYPE, ROOT_TYPE};

    use super::*;

    const MIB: u64 = 1024 * 1024;
    const GIB: u64 = 1024 * MIB;

    fn geometry(bytes: u64) -> Geometry {
        Geometry { sector: 512, sectors: bytes / 512 }
    }

    fn partition(kind: Guid, first: u64, mib: u64) -> Partition {
        let last = first + mib * MIB / 512 - 1;
        Partition { kind, unique: Guid([4; 16]), first, last, attributes: 0, name: String::new() }
    }

    fn image() -> Table {
        let mut partitions = vec![Some(partition(ESP_TYPE, 2048, 512)), Some(partition(ROOT_TYPE, 1_050_624, 1024))];
        partitions.resize(128, None);
        Table { disk: Guid([9; 16]), partitions }
    }

    fn guids() -> [Guid; 2] {
        [Guid([1; 16]), Guid([2; 16])]
    }

    #[test]
    fn both_come_behind_the_image_and_nothing_else_moves() {
        let table = with_both(&image(), geometry(16 * GIB), guids()).unwrap();
        assert_eq!(table.partitions[..2], image().partitions[..2]);
        let (number, state) = table.find(STATE_TYPE).unwrap();
        let (_, data) = table.find(DATA_TYPE).unwrap();
        assert_eq!((number, state.first), (3, 1_050_624 + 1024 * 2048));
        assert_eq!(state.last + 1, data.first);
        assert_eq!(data.last + 1, make::usable_end(geometry(16 * GIB)));
        assert!(!table.is_complete());
    }

    #[test]
    fn those_of_an_attempt_that_was_cut_stay_where_they_are() {
        let first = with_both(&image(), geometry(16 * GIB), guids()).unwrap();
        let again = with_both(&first, geometry(16 * GIB), [Guid([7; 16]), Guid([8; 16])]).unwrap();
        assert_eq!(again, first);
    }

    #[test]
    fn disk_without_room_behind_the_image_is_refused_with_its_size() {
        let error = with_both(&image(), geometry(3 * GIB), guids()).unwrap_err();
        assert_eq!(error.to_string(), "there are 1 GiB behind the image; STATE and DATA need 2 GiB");
    }

    #[test]
    fn kernel_is_told_in_bytes() {
        let state = partition(STATE_TYPE, 2048, 256);
        assert_eq!(extent(&state, geometry(GIB)), Extent { start: MIB, length: 256 * MIB });
    }
}
