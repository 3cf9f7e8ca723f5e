//! What is on a disk: nothing, or something that can be named, or something.
//!
//! Blank is meant strictly: not one byte other than zero in the first and last [`EDGE`] of it. All the places where libblkid
//! looks for partition tables, file systems, RAID and volume managers lie there (the farthest is that of VMFS, at 1 MiB), and so
//! does anything that was written by something unknown to it. The names are for messages and for finding labels; whether a disk
//! may be written to never depends on recognising something.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// How much of either end must be zero.
const EDGE: u64 = 4 * 1024 * 1024;
const CHUNK: usize = 128 * 1024;

/// A file system with a label, as far as we need them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Labelled {
    /// As mount(2) wants it.
    pub(super) file_system: &'static str,
    pub(super) label: String,
}

/// What a device holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    Blank,
    /// In words for a person.
    Something(String),
}

/// Looks at both ends of a device of `size` bytes.
pub(super) fn inspect(device: &File, size: u64) -> io::Result<Content> {
    let Some(offset) = first_nonzero(device, size)? else { return Ok(Content::Blank) };
    let name = name(device)?;
    let label = labelled(device)?.map(|labelled| labelled.label).filter(|label| !label.is_empty());
    Ok(Content::Something(match (name, label) {
        (Some(name), Some(label)) => format!("{name} labelled {label}"),
        (Some(name), None) => name.to_owned(),
        (None, _) => format!("data of an unknown kind at byte {offset}"),
    }))
}

fn first_nonzero(device: &File, size: u64) -> io::Result<Option<u64>> {
    let head = 0..size.min(EDGE);
    let tail = size.saturating_sub(EDGE).max(head.end)..size;
    for range in [head, tail] {
        if let Some(offset) = nonzero_in(device, range)? {
            return Ok(Some(offset));
        }
    }
    Ok(None)
}

fn nonzero_in(device: &File, range: std::ops::Range<u64>) -> io::Result<Option<u64>> {
    let mut buffer = vec![0; CHUNK];
    let mut offset = range.start;
    while offset < range.end {
        let length = usize::try_from(range.end - offset).unwrap_or(CHUNK).min(CHUNK);
        let Some(chunk) = buffer.get_mut(..length) else { return Ok(None) };
        device.read_exact_at(chunk, offset)?;
        if let Some(index) = chunk.iter().position(|byte| *byte != 0) {
            return Ok(Some(offset + index as u64));
        }
        offset += length as u64;
    }
    Ok(None)
}

/// Offset, magic bytes, name. The more specific first: a FAT has an MBR's signature too.
const MAGICS: &[(u64, &[u8], &str)] = &[
    (0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
    (0, b"XFSB", "an XFS file system"),
    (0, b"hsqs", "a squashfs"),
    (0, b"bluestore block device", "a Ceph OSD (bluestore)"),
    (3, b"NTFS    ", "an NTFS file system"),
    (3, b"EXFAT   ", "an exFAT file system"),
    (54, b"FAT12   ", "a FAT file system"),
    (54, b"FAT16   ", "a FAT file system"),
    (82, b"FAT32   ", "a FAT file system"),
    (1080, b"\x53\xef", "an ext4 file system"),
    (1024, b"\xe2\xe1\xf5\xe0", "an erofs"),
    (1024, b"\x10\x20\xf5\xf2", "an F2FS file system"),
    (4096, b"\xfc\x4e\x2b\xa9", "a member of a RAID array"),
    (4086, b"SWAPSPACE2", "swap space"),
    (32769, b"CD001", "an ISO 9660 file system"),
    (65600, b"_BHRfS_M", "a Btrfs file system"),
    (0, b"LABELONE", "an LVM volume"),
    (512, b"LABELONE", "an LVM volume"),
    (512, b"EFI PART", "a partition table (GPT)"),
    (4096, b"EFI PART", "a partition table (GPT)"),
    (510, b"\x55\xaa", "a partition table or boot sector (MBR)"),
];

fn name(device: &File) -> io::Result<Option<&'static str>> {
    for (offset, magic, name) in MAGICS {
        if read_if_there(device, *offset, magic.len())?.as_deref() == Some(*magic) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The device's file system and its label, for those kinds that a user's disk may have.
pub(super) fn labelled(device: &File) -> io::Result<Option<Labelled>> {
    let Some(name) = name(device)? else { return Ok(None) };
    // Kind, where the label is, how long.
    let (file_system, offset, length) = match name {
        "an ext4 file system" => ("ext4", 1024 + 120, 16),
        "an erofs" => ("erofs", 1024 + 64, 16),
        "an ISO 9660 file system" => ("iso9660", 32768 + 40, 32),
        "a FAT file system" if read_if_there(device, 82, 8)?.as_deref() == Some(b"FAT32   ") => ("vfat", 71, 11),
        "a FAT file system" => ("vfat", 43, 11),
        _ => return Ok(None),
    };
    let bytes = read_if_there(device, offset, length)?.unwrap_or_default();
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Some(Labelled { file_system, label: String::from_utf8_lossy(text).trim_end().to_owned() }))
}

/// Whether an ext4 file system was unmounted in order and has seen no error, by its own superblock: e2fsck would look no
/// further (`e2fsck -p`, `check_if_skip`).
pub(super) fn is_clean_ext4(device: &File) -> io::Result<bool> {
    const SUPERBLOCK: u64 = 1024;
    const VALID: u16 = 1;
    const ERRORS: u16 = 2;
    const NEEDS_RECOVERY: u32 = 4;
    let state =
        read_if_there(device, SUPERBLOCK + 0x3a, 2)?.and_then(|bytes| Some(u16::from_le_bytes(*bytes.first_chunk()?)));
    let incompatible =
        read_if_there(device, SUPERBLOCK + 0x60, 4)?.and_then(|bytes| Some(u32::from_le_bytes(*bytes.first_chunk()?)));
    let in_order = state.is_some_and(|state| state & (VALID | ERRORS) == VALID);
    Ok(in_order && incompatible.is_some_and(|features| features & NEEDS_RECOVERY == 0))
}

/// The bytes, or nothing if the device ends before them.
fn read_if_there(device: &File, offset: u64, length: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; length];
    match device.read_exact_at(&mut bytes, offset) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 64 * 1024 * 1024;

    fn device(size: u64, writes: &[(u64, &[u8])]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        for (offset, bytes) in writes {
            file.write_all_at(bytes, *offset).unwrap();
        }
        file
    }

    #[test]
    fn zeroes_are_blank() {
        assert_eq!(inspect(&device(SIZE, &[]), SIZE).unwrap(), Content::Blank);
    }

    #[test]
    fn one_bit_at_either_end_is_not_blank() {
        for offset in [0, 511, 1024 * 1024, EDGE - 1, SIZE - EDGE, SIZE - 1] {
            let content = inspect(&device(SIZE, &[(offset, &[1])]), SIZE).unwrap();
            assert_eq!(content, Content::Something(format!("data of an unknown kind at byte {offset}")));
        }
    }

    #[test]
    fn device_smaller_than_the_edges_is_read_whole() {
        let size = EDGE + 512;
        assert_eq!(inspect(&device(size, &[]), size).unwrap(), Content::Blank);
        assert_ne!(inspect(&device(size, &[(size - 1, &[1])]), size).unwrap(), Content::Blank);
        assert_eq!(inspect(&device(0, &[]), 0).unwrap(), Content::Blank);
    }

    #[test]
    fn every_magic_is_named() {
        for (offset, magic, name) in MAGICS {
            let content = inspect(&device(SIZE, &[(*offset, magic)]), SIZE).unwrap();
            let Content::Something(text) = content else { panic!("{name}") };
            assert!(text.starts_with(name), "{text}, not {name}");
        }
    }

    #[test]
    fn ext4_is_clean_only_if_it_says_so_and_needs_no_recovery() {
        let state = |state: u8, features: u8| device(SIZE, &[(1024 + 0x3a, &[state]), (1024 + 0x60, &[features])]);
        assert!(is_clean_ext4(&state(1, 0x42)).unwrap());
        for (valid, features) in [(0, 0x42), (3, 0x42), (2, 0x42), (1, 0x46)] {
            assert!(!is_clean_ext4(&state(valid, features)).unwrap(), "{valid} {features}");
        }
    }

    #[test]
    fn labels_are_read_where_their_kind_has_them() {
        let ext4 = device(SIZE, &[(1080, b"\x53\xef"), (1144, b"KEELSON-IMAGES\0\0")]);
        assert_eq!(
            labelled(&ext4).unwrap().unwrap(),
            Labelled { file_system: "ext4", label: "KEELSON-IMAGES".to_owned() }
        );
        let erofs = device(SIZE, &[(1024, b"\xe2\xe1\xf5\xe0"), (1088, b"KEELSON-IMAGES\0\0")]);
        assert_eq!(labelled(&erofs).unwrap().unwrap().label, "KEELSON-IMAGES");
        let iso = device(SIZE, &[(32769, b"CD001"), (32808, b"KEELSON-IMAGES                  ")]);
        assert_eq!(labelled(&iso).unwrap().unwrap().label, "KEELSON-IMAGES");
        let fat = device(SIZE, &[(82, b"FAT32   "), (71, b"KEELSON-IMA"), (510, b"\x55\xaa")]);
        assert_eq!(labelled(&fat).unwrap().unwrap(), Labelled { file_system: "vfat", label: "KEELSON-IMA".to_owned() });
        assert_eq!(labelled(&device(SIZE, &[])).unwrap(), None);
    }
}
