//! Making STATE and DATA on a disk that is blank, or that an earlier attempt left half-made.
//!
//! A power cut may come between any two writes, so that every state in between must say what it is:
//!
//! 1. the first sector with a claim: from here on the disk is ours and half-made
//! 2. both copies of the partition table, the partitions not marked complete
//! 3. the file systems, flushed
//! 4. both copies again, the partitions marked complete
//! 5. the first sector without the claim
//!
//! Up to 4 nothing but zeroes of ours can be lost, and everything is made again. From the moment that the first copy of the table says
//! complete of either partition, nothing is ever made again here: what cannot be read then holds the machine, and so does a table that has
//! lost the other partition or its mark since.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use keelson_sys::{block, entropy};
use rustix::fs::{Mode, OFlags};
use thiserror::Error;

use super::inventory::{Disk, Places};
use super::wait;
use keelson_gpt::{self as gpt, ALIGNMENT, COMPLETE, DATA_TYPE, Geometry, Guid, Partition, STATE_TYPE, Table};

/// Labels of the file systems, and names of the partitions.
pub(super) const STATE_LABEL: &str = "KEELSON-STATE";
pub(super) const DATA_LABEL: &str = "KEELSON-DATA";

const MIB: u64 = 1024 * 1024;
/// No node fits on less.
pub(super) const MINIMUM_BYTES: u64 = 2048 * MIB;
/// STATE is an eighth of the disk within these bounds. The upper one is what the store of a large control plane with its snapshots
/// needs; the lower one still holds a small store and the boot history.
const STATE_SHARE: u64 = 8;
const STATE_MINIMUM: u64 = 256 * MIB;
const STATE_MAXIMUM: u64 = 8192 * MIB;

/// Sized for a node's small, frequent commits.
const STATE_JOURNAL_MIB: u32 = 32;
const DATA_JOURNAL_MIB: u32 = 64;

const MKFS: &str = "/usr/bin/mkfs.ext4";

#[derive(Debug, Error)]
pub(crate) enum MakeError {
    #[error("cannot open {} for writing", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot draw random bytes")]
    Random(#[source] io::Error),
    #[error("cannot write the partition table of {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the kernel did not take the partition table of {}", path.display())]
    Reread { path: PathBuf, source: io::Error },
    #[error("partition {number} of {disk} did not appear")]
    NoPartition { disk: String, number: usize },
    #[error("cannot run {MKFS}")]
    RunMkfs(#[source] io::Error),
    #[error("{MKFS} failed on {}: {output}", path.display())]
    Mkfs { path: PathBuf, output: String },
    #[error("cannot flush {}", path.display())]
    Flush { path: PathBuf, source: io::Error },
}

pub(super) fn make(disk: &Disk, places: &Places) -> Result<(), MakeError> {
    let path = disk.path(places);
    let write_failed = |source| MakeError::Write { path: path.clone(), source };
    let mut table = plan(disk.geometry)?;
    {
        // Exclusively, so that nothing in use is written to; given up again, because mkfs wants its partition to itself.
        let device = open_exclusively(&path).map_err(|source| MakeError::Open { path: path.clone(), source })?;
        gpt::write_first_sector(&device, disk.geometry, true).map_err(write_failed)?;
        gpt::write(&device, disk.geometry, &table).map_err(write_failed)?;
        block::reread_partitions(&device).map_err(|source| MakeError::Reread { path: path.clone(), source })?;
    }
    make_file_systems(disk, places, &table)?;
    for partition in table.partitions.iter_mut().flatten() {
        partition.attributes |= COMPLETE;
    }
    let device = open_exclusively(&path).map_err(|source| MakeError::Open { path: path.clone(), source })?;
    gpt::write(&device, disk.geometry, &table).map_err(write_failed)?;
    finish(&device, disk.geometry).map_err(write_failed)
}

/// Removes the claim. Also for a disk whose making was cut between the last two steps.
pub(super) fn finish(device: &File, geometry: Geometry) -> io::Result<()> {
    gpt::write_first_sector(device, geometry, false)
}

/// Opened with `O_EXCL` a block device refuses if anything on it is in use (open(2)).
pub(super) fn open_exclusively(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// For a disk that has the root in use on it.
pub(super) fn open_shared(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

fn plan(geometry: Geometry) -> Result<Table, MakeError> {
    Ok(layout(geometry, [random_guid()?, random_guid()?, random_guid()?]))
}

pub(super) fn random_guid() -> Result<Guid, MakeError> {
    let bytes = entropy::seed_material().map_err(MakeError::Random)?;
    let (guid, _) =
        bytes.split_first_chunk::<16>().ok_or_else(|| MakeError::Random(io::ErrorKind::InvalidData.into()))?;
    Ok(guid_of_random(*guid))
}

/// Version 4, variant 1, in the mixed-endian form of the disk.
fn guid_of_random(mut bytes: [u8; 16]) -> Guid {
    let [_, _, _, _, _, _, _, version, variant, ..] = &mut bytes;
    *version = *version & 0x0f | 0x40;
    *variant = *variant & 0x3f | 0x80;
    Guid(bytes)
}

/// STATE, then DATA up to the end, both aligned.
fn layout(geometry: Geometry, [disk, state, data]: [Guid; 3]) -> Table {
    let partitions = two_partitions(geometry, unit(geometry), [state, data]).map(Some).into();
    Table { disk, partitions }
}

/// STATE and DATA between sector `from` and the disk's end.
pub(super) fn two_partitions(geometry: Geometry, from: u64, [state, data]: [Guid; 2]) -> [Partition; 2] {
    let unit = unit(geometry);
    let first = from.next_multiple_of(unit);
    let end = usable_end(geometry);
    // The share is of the whole room from the first alignment on.
    let room = (end + unit).saturating_sub(first).saturating_mul(geometry.sector);
    let second = first + state_bytes(room) / geometry.sector.max(1) / unit * unit;
    let partition = |kind, unique, first, end: u64, name: &str| Partition {
        kind,
        unique,
        first,
        last: end.saturating_sub(1),
        attributes: 0,
        name: name.to_owned(),
    };
    [partition(STATE_TYPE, state, first, second, STATE_LABEL), partition(DATA_TYPE, data, second, end, DATA_LABEL)]
}

fn unit(geometry: Geometry) -> u64 {
    (ALIGNMENT / geometry.sector.max(1)).max(1)
}

/// The first sector behind what partitions can have.
pub(super) fn usable_end(geometry: Geometry) -> u64 {
    let unit = unit(geometry);
    geometry.sectors.saturating_sub(gpt::reserved_sectors(geometry)) / unit * unit
}

fn state_bytes(disk: u64) -> u64 {
    (disk / STATE_SHARE).clamp(STATE_MINIMUM, STATE_MAXIMUM)
}

pub(super) fn appear(disk: &Disk, places: &Places, number: usize) -> Result<PathBuf, MakeError> {
    let found = wait::until(wait::DEVICE_LIMIT, || {
        let volume = disk.volumes(places).into_iter().find(|volume| volume.number == number)?;
        let path = places.dev.join(volume.name);
        path.exists().then_some(path)
    });
    found.ok_or_else(|| MakeError::NoPartition { disk: disk.name.clone(), number })
}

/// Both at once: a machine has a processor for each, and most of the time is their start.
pub(super) fn make_file_systems(disk: &Disk, places: &Places, table: &Table) -> Result<(), MakeError> {
    let mut makers = Vec::new();
    for (kind, label, journal_mib) in
        [(STATE_TYPE, STATE_LABEL, STATE_JOURNAL_MIB), (DATA_TYPE, DATA_LABEL, DATA_JOURNAL_MIB)]
    {
        let number = table.find(kind).map_or(0, |(number, _)| number);
        let volume = appear(disk, places, number)?;
        let maker = start_mkfs(&volume, label, journal_mib, "nodiscard").map_err(MakeError::RunMkfs)?;
        makers.push((volume, maker));
    }
    makers.into_iter().try_for_each(|(volume, maker)| finish_mkfs(&volume, maker))
}

/// Makes DATA in the place where it was, and lets the disk forget what was there, if it can. A cut in between leaves what made
/// it necessary, so that the next boot does it again.
pub(super) fn make_data_again(volume: &Path) -> Result<(), MakeError> {
    let maker = start_mkfs(volume, DATA_LABEL, DATA_JOURNAL_MIB, "discard").map_err(MakeError::RunMkfs)?;
    finish_mkfs(volume, maker)
}

fn finish_mkfs(volume: &Path, maker: Child) -> Result<(), MakeError> {
    let output = maker.wait_with_output().map_err(MakeError::RunMkfs)?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
        return Err(MakeError::Mkfs { path: volume.to_owned(), output: words });
    }
    flush(volume)
}

/// Inode tables are zeroed later by the kernel, and blank space is not discarded: both would only take time.
fn start_mkfs(volume: &Path, label: &str, journal_mib: u32, discard: &str) -> io::Result<Child> {
    Command::new(MKFS)
        .args(["-q", "-F", "-b", "4096", "-m", "1", "-L", label])
        .args(["-J", &format!("size={journal_mib}")])
        .args(["-O", "extent,64bit,metadata_csum,has_journal,dir_index,flex_bg,huge_file,dir_nlink,extra_isize"])
        .args(["-E", &format!("{discard},lazy_itable_init=1,lazy_journal_init=0")])
        .arg(volume)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
}

fn flush(volume: &Path) -> Result<(), MakeError> {
    let flushed = File::options().write(true).open(volume).and_then(|device| device.sync_all());
    flushed.map_err(|source| MakeError::Flush { path: volume.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1024 * MIB;

    fn geometry(bytes: u64, sector: u64) -> Geometry {
        Geometry { sector, sectors: bytes / sector }
    }

    fn guids() -> [Guid; 3] {
        [Guid([1; 16]), Guid([2; 16]), Guid([3; 16])]
    }

    #[test]
    fn state_is_an_eighth_of_the_disk_within_bounds() {
        assert_eq!(state_bytes(MINIMUM_BYTES), 256 * MIB);
        assert_eq!(state_bytes(16 * GIB), 2 * GIB);
        assert_eq!(state_bytes(1024 * GIB), 8 * GIB);
    }

    #[test]
    fn partitions_are_aligned_adjacent_and_inside_the_disk() {
        for (bytes, sector) in [(MINIMUM_BYTES, 512), (8 * GIB, 512), (8 * GIB + 512 * 777, 512), (20 * GIB, 4096)] {
            let geometry = geometry(bytes, sector);
            let table = layout(geometry, guids());
            let (_, state) = table.find(STATE_TYPE).unwrap();
            let (_, data) = table.find(DATA_TYPE).unwrap();
            let unit = ALIGNMENT / sector;
            assert!(state.first >= gpt::reserved_sectors(geometry));
            assert_eq!((state.first % unit, data.first % unit, (data.last + 1) % unit), (0, 0, 0));
            assert_eq!(state.last + 1, data.first);
            assert!(data.last <= geometry.sectors - gpt::reserved_sectors(geometry));
            assert!((data.last - data.first) * sector > bytes * 3 / 4);
        }
    }

    #[test]
    fn new_table_is_not_complete() {
        assert!(!layout(geometry(8 * GIB, 512), guids()).is_complete());
    }

    #[test]
    fn random_guids_say_that_they_are_random() {
        let text = guid_of_random([0xff; 16]).to_string();
        assert_eq!(text, "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
