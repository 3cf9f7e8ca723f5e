//! A unified kernel image: kernel, first stage and command line as sections of one EFI program (UAPI Unified Kernel Image
//! specification), which a signature covers as a whole.
//!
//! The program is systemd's stub; adding a section to a PE file is an entry in its table and bytes at its end. systemd builds
//! the stub with room for entries.

use super::error::BuildError;

/// One section to add.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Section<'a> {
    /// At most eight characters, with the dot.
    pub(crate) name: &'a str,
    pub(crate) content: &'a [u8],
}

/// `IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ`
const READ_ONLY_DATA: u32 = 0x4000_0040;
const ENTRY_BYTES: usize = 40;
/// PE32+, and where in its header things are.
const PE32_PLUS: u16 = 0x20b;
const SECTION_ALIGNMENT_AT: usize = 32;
const FILE_ALIGNMENT_AT: usize = 36;
const IMAGE_SIZE_AT: usize = 56;
const HEADERS_SIZE_AT: usize = 60;

/// Adds the sections to the stub, in this order.
pub(crate) fn assemble(stub: &[u8], sections: &[Section<'_>]) -> Result<Vec<u8>, BuildError> {
    let problem = |problem: &str| BuildError::Malformed { path: "systemd's stub".into(), problem: problem.to_owned() };
    try_assemble(stub, sections).ok_or_else(|| problem("it is no EFI program, or has no room for further sections"))
}

/// The file's own numbers, none of them trusted.
fn try_assemble(stub: &[u8], sections: &[Section<'_>]) -> Option<Vec<u8>> {
    let header = long(stub, 0x3c)?;
    if stub.get(header..header.checked_add(4)?)? != b"PE\0\0" {
        return None;
    }
    let coff = header + 4;
    let count = usize::from(short(stub, coff + 2)?);
    let optional = coff + 20;
    if short(stub, optional)? != PE32_PLUS {
        return None;
    }
    let table = optional + usize::from(short(stub, coff + 16)?);
    let (alignment, file_alignment) =
        (long(stub, optional + SECTION_ALIGNMENT_AT)?, long(stub, optional + FILE_ALIGNMENT_AT)?);
    let room = long(stub, optional + HEADERS_SIZE_AT)?;
    if !alignment.is_power_of_two() || !file_alignment.is_power_of_two() {
        return None;
    }
    let end_of_table = table + (count + sections.len()) * ENTRY_BYTES;
    let mut address = 0;
    for entry in (0..count).map(|number| table + number * ENTRY_BYTES) {
        address = address.max(long(stub, entry + 12)? + long(stub, entry + 8)?);
        // The first section's bytes must not begin inside the longer table.
        let bytes_at = long(stub, entry + 20)?;
        if end_of_table > room || (bytes_at != 0 && end_of_table > bytes_at) {
            return None;
        }
    }
    let mut file = stub.to_vec();
    for (number, section) in sections.iter().enumerate() {
        address = address.next_multiple_of(alignment);
        file.resize(file.len().next_multiple_of(file_alignment), 0);
        let place = file.len();
        file.extend_from_slice(section.content);
        file.resize(file.len().next_multiple_of(file_alignment), 0);
        let raw_size = file.len() - place;
        let entry = entry(section, address, raw_size, place)?;
        let at = table + (count + number) * ENTRY_BYTES;
        file.get_mut(at..at + ENTRY_BYTES)?.copy_from_slice(&entry);
        address += section.content.len();
    }
    let total = u16::try_from(count + sections.len()).ok()?;
    file.get_mut(coff + 2..coff + 4)?.copy_from_slice(&total.to_le_bytes());
    let image_size = u32::try_from(address.next_multiple_of(alignment)).ok()?;
    file.get_mut(optional + IMAGE_SIZE_AT..optional + IMAGE_SIZE_AT + 4)?.copy_from_slice(&image_size.to_le_bytes());
    Some(file)
}

fn entry(section: &Section<'_>, address: usize, raw_size: usize, place: usize) -> Option<[u8; ENTRY_BYTES]> {
    let mut entry = [0; ENTRY_BYTES];
    entry.get_mut(..section.name.len()).filter(|_| section.name.len() <= 8)?.copy_from_slice(section.name.as_bytes());
    for (at, value) in [(8, section.content.len()), (12, address), (16, raw_size), (20, place)] {
        entry.get_mut(at..at + 4)?.copy_from_slice(&u32::try_from(value).ok()?.to_le_bytes());
    }
    entry.get_mut(36..40)?.copy_from_slice(&READ_ONLY_DATA.to_le_bytes());
    Some(entry)
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

fn long(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..)?.first_chunk().and_then(|bytes| usize::try_from(u32::from_le_bytes(*bytes)).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least that is an EFI program with one section, and room for `room` bytes of headers.
    fn stub(room: u32) -> Vec<u8> {
        let mut file = vec![0; 0x40];
        file[0x3c] = 0x40;
        file.extend_from_slice(b"PE\0\0");
        file.extend_from_slice(&[0x64, 0x86, 1, 0]);
        file.extend_from_slice(&[0; 12]);
        file.extend_from_slice(&[112, 0, 0, 0]);
        let mut optional = vec![0; 112];
        optional[..2].copy_from_slice(&PE32_PLUS.to_le_bytes());
        optional[32..36].copy_from_slice(&4096_u32.to_le_bytes());
        optional[36..40].copy_from_slice(&512_u32.to_le_bytes());
        optional[60..64].copy_from_slice(&room.to_le_bytes());
        file.extend_from_slice(&optional);
        let text = Section { name: ".text", content: &[0; 100] };
        file.extend_from_slice(&entry(&text, 4096, 512, 1024).unwrap());
        file.resize(1024 + 512, 0);
        file
    }

    #[test]
    fn sections_lie_at_the_end_under_addresses_of_their_own() {
        let kernel = vec![7; 5000];
        let sections = [Section { name: ".cmdline", content: b"quiet" }, Section { name: ".linux", content: &kernel }];
        let file = assemble(&stub(1024), &sections).unwrap();
        let table = 0x40 + 24 + 112;
        let field = |number: usize, at: usize| long(&file, table + number * ENTRY_BYTES + at).unwrap();
        assert_eq!(short(&file, 0x40 + 6), Some(3));
        assert_eq!(&file[table + 40..table + 48], b".cmdline");
        // Size, address, bytes in the file, their place.
        assert_eq!((field(1, 8), field(1, 12), field(1, 16), field(1, 20)), (5, 8192, 512, 1536));
        assert_eq!((field(2, 8), field(2, 12), field(2, 16), field(2, 20)), (5000, 12288, 5120, 2048));
        assert_eq!(&file[2048..2048 + 5000], &kernel);
        // The image ends where the last section does, up to a page.
        assert_eq!(long(&file, 0x40 + 24 + 56), Some(12288 + 8192));
    }

    #[test]
    fn stub_without_room_or_sense_is_refused() {
        let sections = [Section { name: ".linux", content: b"x" }];
        assert!(assemble(&stub(0x40 + 24 + 112 + 40), &sections).is_err());
        assert!(assemble(b"MZ", &sections).is_err());
        assert!(assemble(&[0; 4096], &sections).is_err());
        assert!(assemble(&stub(1024), &[Section { name: ".too-long-a-name", content: b"x" }]).is_err());
    }
}
