//! A FAT32 file system with given files, for the EFI system partition. Microsoft's "FAT: General Overview of On-Disk Format".
//!
//! Written here so that the same files give the same bytes: mtools and mkfs.vfat put the present time into directories. Files
//! lie in one piece each, in the order in which they are named; nothing is ever changed afterwards.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

const SECTOR: u64 = 512;
const CLUSTER_SECTORS: u64 = 8;
const CLUSTER_BYTES: usize = 4096;
const RESERVED_SECTORS: u64 = 32;
const ENTRY_BYTES: usize = 32;
/// The least number of clusters that makes a FAT a FAT32.
const MINIMUM_CLUSTERS: u64 = 65_525;
/// 2026-01-01, 0:00, in the form of a directory entry: years since 1980, month, day.
const DATE: u16 = 46 << 9 | 1 << 5 | 1;
const FOLDER: u8 = 0x10;
const ARCHIVE: u8 = 0x20;
const END_OF_CHAIN: u32 = 0x0fff_ffff;

/// Where the file system goes, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// Something in a folder.
struct Node<'a> {
    name: &'a str,
    content: Content<'a>,
}

enum Content<'a> {
    File(&'a [u8]),
    Folder(Vec<Node<'a>>),
}

/// Writes the file system with these files, whose paths are relative and use `/`.
pub(crate) fn write(device: &File, place: Place, files: &[(&str, &[u8])]) -> io::Result<()> {
    let sectors = place.bytes / SECTOR;
    let fat_sectors = (((sectors / CLUSTER_SECTORS) + 2) * 4).div_ceil(SECTOR);
    let data = RESERVED_SECTORS + 2 * fat_sectors;
    let clusters = sectors.saturating_sub(data) / CLUSTER_SECTORS;
    if clusters < MINIMUM_CLUSTERS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too small for FAT32"));
    }
    let mut nodes = Vec::new();
    for (path, content) in files {
        insert(&mut nodes, path, content);
    }
    let mut volume = Volume { device, data: place.offset + data * SECTOR, fat: vec![0x0fff_fff8, END_OF_CHAIN] };
    volume.folder(&nodes, None)?;
    if volume.fat.len() as u64 > clusters + 2 {
        return Err(io::ErrorKind::StorageFull.into());
    }

    let fat: Vec<u8> = volume.fat.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    for copy in 0..2 {
        device.write_all_at(&fat, place.offset + (RESERVED_SECTORS + copy * fat_sectors) * SECTOR)?;
    }
    let free = (clusters + 2).saturating_sub(volume.fat.len() as u64);
    let boot = boot_sector(place, sectors, fat_sectors)?;
    let info = info_sector(free, volume.fat.len() as u64)?;
    for copy in [0, 6] {
        device.write_all_at(&boot, place.offset + copy * SECTOR)?;
        device.write_all_at(&info, place.offset + (copy + 1) * SECTOR)?;
    }
    Ok(())
}

fn insert<'a>(nodes: &mut Vec<Node<'a>>, path: &'a str, content: &'a [u8]) {
    let Some((folder, rest)) = path.split_once('/') else {
        nodes.push(Node { name: path, content: Content::File(content) });
        return;
    };
    let index = nodes.iter().position(|node| node.name == folder).unwrap_or_else(|| {
        nodes.push(Node { name: folder, content: Content::Folder(Vec::new()) });
        nodes.len() - 1
    });
    if let Some(Node { content: Content::Folder(inner), .. }) = nodes.get_mut(index) {
        insert(inner, rest, content);
    }
}

struct Volume<'a> {
    device: &'a File,
    /// Where cluster 2 is.
    data: u64,
    /// The allocation table so far.
    fat: Vec<u32>,
}

impl Volume<'_> {
    /// Takes the next clusters for so many bytes; returns the first one.
    fn allocate(&mut self, bytes: usize) -> io::Result<u32> {
        let first = u32::try_from(self.fat.len()).map_err(io::Error::other)?;
        let count = u32::try_from(bytes.div_ceil(CLUSTER_BYTES).max(1)).map_err(io::Error::other)?;
        self.fat.extend((1..count).map(|number| first + number));
        self.fat.push(END_OF_CHAIN);
        Ok(first)
    }

    fn write_at(&self, cluster: u32, bytes: &[u8]) -> io::Result<()> {
        self.device.write_all_at(bytes, self.data + (u64::from(cluster) - 2) * CLUSTER_BYTES as u64)
    }

    /// Writes a folder and all below it; returns its first cluster. The root has no parent, and its number is 2 because it
    /// comes first.
    fn folder(&mut self, nodes: &[Node<'_>], parent: Option<u32>) -> io::Result<u32> {
        let own_entries = if parent.is_some() { 2 } else { 0 };
        let entries = own_entries + nodes.iter().map(|node| entries_of(node.name)).sum::<usize>();
        // One more, which is zero and ends the list.
        let cluster = self.allocate((entries + 1) * ENTRY_BYTES)?;
        let mut bytes = Vec::new();
        if let Some(parent) = parent {
            // The root is called 0 here.
            let parent = if parent == 2 { 0 } else { parent };
            bytes.extend_from_slice(&entry(*b".          ", FOLDER, cluster, 0));
            bytes.extend_from_slice(&entry(*b"..         ", FOLDER, parent, 0));
        }
        for (number, node) in nodes.iter().enumerate() {
            let (attributes, first, size) = match &node.content {
                Content::Folder(inner) => (FOLDER, self.folder(inner, Some(cluster))?, 0),
                Content::File(content) => {
                    let first = self.allocate(content.len())?;
                    self.write_at(first, content)?;
                    (ARCHIVE, first, u32::try_from(content.len()).map_err(io::Error::other)?)
                }
            };
            let short = short_name(node.name, number);
            if needs_long_name(node.name) {
                bytes.extend_from_slice(&long_name(node.name, short));
            }
            bytes.extend_from_slice(&entry(short, attributes, first, size));
        }
        self.write_at(cluster, &bytes)?;
        Ok(cluster)
    }
}

/// Characters of the name in one entry of a long name.
const LONG_UNITS: usize = 13;

fn entries_of(name: &str) -> usize {
    1 + if needs_long_name(name) { name.encode_utf16().count().div_ceil(LONG_UNITS) } else { 0 }
}

/// Whether the name is anything but eight and three capital letters or digits.
fn needs_long_name(name: &str) -> bool {
    let (base, extension) = name.split_once('.').unwrap_or((name, ""));
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    !(plain(base) && plain(extension) && (1..=8).contains(&base.len()) && extension.len() <= 3)
}

/// The name of eight and three characters; of a long name one that is made up and differs within the folder.
fn short_name(name: &str, number: usize) -> [u8; 11] {
    let (base, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let letters = |text: &str, limit: usize| {
        let kept = text.chars().filter(char::is_ascii_alphanumeric).map(|character| character.to_ascii_uppercase());
        kept.take(limit).collect::<String>()
    };
    let base = if needs_long_name(name) { format!("{}~{}", letters(base, 5), number + 1) } else { base.to_owned() };
    let mut short = [b' '; 11];
    for (place, byte) in short.iter_mut().take(8).zip(base.bytes()) {
        *place = byte;
    }
    for (place, byte) in short.iter_mut().skip(8).zip(letters(extension, 3).bytes()) {
        *place = byte;
    }
    short
}

fn entry(name: [u8; 11], attributes: u8, cluster: u32, size: u32) -> [u8; ENTRY_BYTES] {
    let [low, second, third, high] = cluster.to_le_bytes();
    let [day, year] = DATE.to_le_bytes();
    let mut entry = [0; ENTRY_BYTES];
    let parts: [&[u8]; 7] = [
        &name,
        // Attributes; then the time of creation, of which only the day is said.
        &[attributes, 0, 0, 0, 0, day, year, day, year],
        &[third, high],
        // The time and day of the last change.
        &[0, 0, day, year],
        &[low, second],
        &size.to_le_bytes(),
        &[],
    ];
    for (place, byte) in entry.iter_mut().zip(parts.concat()) {
        *place = byte;
    }
    entry
}

/// The entries that hold the name, the last part of it first.
fn long_name(name: &str, short: [u8; 11]) -> Vec<u8> {
    let checksum = short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let mut units: Vec<u16> = name.encode_utf16().collect();
    // An end mark if there is room for it, then a filler.
    if !units.len().is_multiple_of(LONG_UNITS) {
        units.push(0);
        units.resize(units.len().next_multiple_of(LONG_UNITS), 0xffff);
    }
    let parts: Vec<&[u16]> = units.chunks(LONG_UNITS).collect();
    let mut entries = Vec::new();
    for (number, part) in (1_u8..).zip(&parts).collect::<Vec<_>>().into_iter().rev() {
        let last = if usize::from(number) == parts.len() { 0x40 } else { 0 };
        let text: Vec<u8> = part.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let piece = |from: usize, to: usize| text.get(from * 2..to * 2).unwrap_or_default();
        let bytes: [&[u8]; 5] = [&[number | last], piece(0, 5), &[0x0f, 0, checksum], piece(5, 11), &[0, 0]];
        entries.extend_from_slice(&bytes.concat());
        entries.extend_from_slice(piece(11, 13));
    }
    entries
}

fn boot_sector(place: Place, sectors: u64, fat_sectors: u64) -> io::Result<Vec<u8>> {
    let long = |value: u64| u32::try_from(value).map(u32::to_le_bytes).map_err(io::Error::other);
    let mut sector = b"\xeb\x58\x90KEELSON ".to_vec();
    // Bytes a sector, sectors a cluster, reserved sectors, two tables, and what FAT32 leaves empty.
    sector.extend_from_slice(&[0, 2, 8, 32, 0, 2, 0, 0, 0, 0, 0xf8, 0, 0]);
    // Sectors a track and heads, as every image has them; sectors before this one; sectors.
    sector.extend_from_slice(&[63, 0, 255, 0]);
    sector.extend_from_slice(&long(place.offset / SECTOR)?);
    sector.extend_from_slice(&long(sectors)?);
    sector.extend_from_slice(&long(fat_sectors)?);
    // Flags and version; the root's cluster; where the information and the copy of this sector are.
    sector.extend_from_slice(&[0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 6, 0]);
    sector.extend_from_slice(&[0; 12]);
    sector.extend_from_slice(b"\x80\x00\x29KLSNKEELSON-ESPFAT32   ");
    sector.resize(510, 0);
    sector.extend_from_slice(&[0x55, 0xaa]);
    Ok(sector)
}

fn info_sector(free: u64, next: u64) -> io::Result<Vec<u8>> {
    let long = |value: u64| u32::try_from(value).map(u32::to_le_bytes).map_err(io::Error::other);
    let mut sector = b"RRaA".to_vec();
    sector.resize(484, 0);
    sector.extend_from_slice(b"rrAa");
    sector.extend_from_slice(&long(free)?);
    sector.extend_from_slice(&long(next)?);
    sector.resize(510, 0);
    sector.extend_from_slice(&[0x55, 0xaa]);
    Ok(sector)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const PLACE: Place = Place { offset: 1 << 20, bytes: 512 << 20 };

    fn volume(files: &[(&str, &[u8])]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(PLACE.offset + PLACE.bytes).unwrap();
        write(file.as_file(), PLACE, files).unwrap();
        file
    }

    #[test]
    fn mtools_reads_back_every_file_under_its_name() {
        let large: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let files: [(&str, &[u8]); 4] = [
            ("EFI/BOOT/BOOTX64.EFI", b"boot"),
            ("EFI/Linux/keelson_0.1.0+3.efi", &large),
            ("EFI/Linux/keelson_0.2.0.efi", b""),
            ("loader/loader.conf", b"timeout 0\n"),
        ];
        let volume = volume(&files);
        for (path, content) in files {
            let mut copy = Command::new("mcopy");
            copy.arg("-i")
                .arg(format!("{}@@{}", volume.path().display(), PLACE.offset))
                .arg(format!("::{path}"))
                .arg("-");
            let output = copy.env("MTOOLS_SKIP_CHECK", "0").output().unwrap();
            assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
            assert!(output.stdout == content, "{path}: {} bytes", output.stdout.len());
        }
    }

    #[test]
    fn same_files_give_the_same_bytes() {
        let read = || {
            let mut bytes = vec![0; 4 << 20];
            volume(&[("a/long name", b"x")]).as_file().read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        assert!(read() == read());
    }

    #[test]
    fn short_names_are_made_up_for_long_ones() {
        assert_eq!(&short_name("BOOTX64.EFI", 3), b"BOOTX64 EFI");
        assert_eq!(&short_name("keelson_0.1.0.efi", 0), b"KEELS~1 EFI");
        assert_eq!(&short_name("loader", 11), b"LOADE~12   ");
        assert!(!needs_long_name("EFI") && needs_long_name("Linux") && needs_long_name("A.B.C"));
    }

    #[test]
    fn volume_too_small_for_fat32_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(write(&file, Place { offset: 0, bytes: 64 << 20 }, &[]).is_err());
    }
}
