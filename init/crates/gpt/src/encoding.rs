//! The bytes of a partition table.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{Geometry, Partition, Table};

const SIGNATURE: &[u8; 8] = b"EFI PART";
const REVISION: u32 = 0x0001_0000;
const HEADER_BYTES: usize = 92;
const ENTRY_BYTES: usize = 128;
/// What every table has room for, by the specification's minimum of 16 KiB.
const ENTRIES: usize = 128;
/// A name has 36 code units of UTF-16.
const NAME_UNITS: usize = 36;
/// Larger entries or more of them than this are refused: nobody makes such tables.
const MAX_ARRAY_BYTES: usize = 1024 * 1024;

/// A GUID as it lies on the disk: the first three fields little-endian.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// From the sixteen bytes in the order in which a GUID is written down.
    pub fn from_written(bytes: [u8; 16]) -> Self {
        let mut bytes = bytes;
        // The first three fields are numbers, of four, two and two bytes.
        for (from, to) in [(0, 4), (4, 6), (6, 8)] {
            bytes.get_mut(from..to).unwrap_or_default().reverse();
        }
        Self(bytes)
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = Reader(&self.0);
        write!(f, "{:08x}", fields.u32().unwrap_or_default())?;
        for _ in 0..2 {
            write!(f, "-{:04x}", fields.take().map_or(0, u16::from_le_bytes))?;
        }
        for (index, byte) in fields.0.iter().enumerate() {
            let dash = if index == 0 || index == 2 { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Little-endian fields, one after the other.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

fn array_sectors(geometry: Geometry) -> u64 {
    ((ENTRIES * ENTRY_BYTES) as u64).div_ceil(geometry.sector.max(1))
}

/// Header and array; at the start the protective MBR comes on top.
pub(crate) fn reserved_sectors(geometry: Geometry) -> u64 {
    array_sectors(geometry) + 2
}

/// The copy whose header is in sector `own`, or nothing if it is not whole.
pub(crate) fn read_copy(device: &impl FileExt, geometry: Geometry, own: u64) -> io::Result<Option<Table>> {
    let mut header = vec![0; usize::try_from(geometry.sector).map_err(io::Error::other)?];
    let offset = own.saturating_mul(geometry.sector);
    match device.read_exact_at(&mut header, offset) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let Some(header) = Header::parse(&header, own) else { return Ok(None) };
    let mut array = vec![0; header.array_bytes];
    match device.read_exact_at(&mut array, header.array.saturating_mul(geometry.sector)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    if crc32fast::hash(&array) != header.array_crc {
        return Ok(None);
    }
    let partitions = array.chunks_exact(header.entry_bytes).map(parse_entry).collect();
    Ok(Some(Table { disk: header.disk, partitions }))
}

struct Header {
    disk: Guid,
    array: u64,
    array_bytes: usize,
    entry_bytes: usize,
    array_crc: u32,
}

impl Header {
    fn parse(sector: &[u8], own: u64) -> Option<Self> {
        let mut fields = Reader(sector);
        if fields.take::<8>()? != *SIGNATURE {
            return None;
        }
        fields.u32()?;
        let length = usize::try_from(fields.u32()?).ok()?;
        let crc = fields.u32()?;
        let mut covered = sector.get(..length).filter(|_| length >= HEADER_BYTES)?.to_vec();
        covered.get_mut(16..20)?.fill(0);
        if crc32fast::hash(&covered) != crc {
            return None;
        }
        fields.u32()?;
        if fields.u64()? != own {
            return None;
        }
        // The other copy, the first and the last usable sector.
        fields.take::<24>()?;
        let disk = Guid(fields.take()?);
        let array = fields.u64()?;
        let count = usize::try_from(fields.u32()?).ok()?;
        let entry_bytes = usize::try_from(fields.u32()?).ok()?;
        let array_crc = fields.u32()?;
        let array_bytes = count.checked_mul(entry_bytes)?;
        let sane = entry_bytes >= ENTRY_BYTES && array_bytes > 0 && array_bytes <= MAX_ARRAY_BYTES;
        sane.then_some(Self { disk, array, array_bytes, entry_bytes, array_crc })
    }
}

fn parse_entry(bytes: &[u8]) -> Option<Partition> {
    let mut fields = Reader(bytes);
    let kind = Guid(fields.take()?);
    if kind.0 == [0; 16] {
        return None;
    }
    let unique = Guid(fields.take()?);
    let (first, last, attributes) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let units =
        std::iter::from_fn(|| fields.take().map(u16::from_le_bytes)).take(NAME_UNITS).take_while(|unit| *unit != 0);
    let name = char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    Some(Partition { kind, unique, first, last, attributes, name })
}

/// Writes the copy whose header is in sector `own`: the array first, since the header vouches for it.
pub(crate) fn write_copy(device: &File, geometry: Geometry, table: &Table, own: u64, other: u64) -> io::Result<()> {
    let array = encode_array(table);
    let sectors = array_sectors(geometry);
    // After the first header, before the second.
    let array_at = if own < other { own + 1 } else { own - sectors };
    let header = encode_header(geometry, table, &array, [own, other, array_at])?;
    device.write_all_at(&array, array_at * geometry.sector)?;
    device.sync_all()?;
    device.write_all_at(&header, own * geometry.sector)
}

fn encode_array(table: &Table) -> Vec<u8> {
    let mut array = Vec::with_capacity(ENTRIES * ENTRY_BYTES);
    for partition in table.partitions.iter().take(ENTRIES) {
        let start = array.len();
        if let Some(partition) = partition {
            array.extend_from_slice(&partition.kind.0);
            array.extend_from_slice(&partition.unique.0);
            for field in [partition.first, partition.last, partition.attributes] {
                array.extend_from_slice(&field.to_le_bytes());
            }
            for unit in partition.name.encode_utf16().take(NAME_UNITS) {
                array.extend_from_slice(&unit.to_le_bytes());
            }
        }
        array.resize(start + ENTRY_BYTES, 0);
    }
    array.resize(ENTRIES * ENTRY_BYTES, 0);
    array
}

fn encode_header(
    geometry: Geometry,
    table: &Table,
    array: &[u8],
    [own, other, array_at]: [u64; 3],
) -> io::Result<Vec<u8>> {
    let reserved = reserved_sectors(geometry);
    // The end has no MBR: one sector less.
    let usable = geometry.sectors.checked_sub(reserved).ok_or(io::ErrorKind::InvalidInput)?;
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(SIGNATURE);
    header.extend_from_slice(&REVISION.to_le_bytes());
    header.extend_from_slice(&u32::try_from(HEADER_BYTES).map_err(io::Error::other)?.to_le_bytes());
    // The checksum, computed with itself as zero, and four reserved bytes.
    header.extend_from_slice(&[0; 8]);
    for field in [own, other, reserved, usable] {
        header.extend_from_slice(&field.to_le_bytes());
    }
    header.extend_from_slice(&table.disk.0);
    header.extend_from_slice(&array_at.to_le_bytes());
    for field in [ENTRIES, ENTRY_BYTES] {
        header.extend_from_slice(&u32::try_from(field).map_err(io::Error::other)?.to_le_bytes());
    }
    header.extend_from_slice(&crc32fast::hash(array).to_le_bytes());
    let crc = crc32fast::hash(&header).to_le_bytes();
    if let Some(field) = header.get_mut(16..20) {
        field.copy_from_slice(&crc);
    }
    header.resize(usize::try_from(geometry.sector).map_err(io::Error::other)?, 0);
    Ok(header)
}

/// The MBR that tells tools without GPT that the whole disk is taken.
pub(crate) fn protective_mbr(geometry: Geometry) -> io::Result<Vec<u8>> {
    let size = u32::try_from(geometry.sectors.saturating_sub(1)).unwrap_or(u32::MAX);
    let mut sector = vec![0; 446];
    // Not bootable; from cylinder 0, head 0, sector 2; type "GPT protective"; to the last that can be expressed.
    sector.extend_from_slice(&[0x00, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff]);
    sector.extend_from_slice(&1_u32.to_le_bytes());
    sector.extend_from_slice(&size.to_le_bytes());
    sector.resize(510, 0);
    sector.extend_from_slice(&[0x55, 0xaa]);
    sector.resize(usize::try_from(geometry.sector).map_err(io::Error::other)?, 0);
    Ok(sector)
}
