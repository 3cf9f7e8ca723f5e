//! Archives whose bytes depend on nothing but their content: tar for OCI images, cpio for the initramfs.
//!
//! Every entry belongs to root and carries [`SOURCE_DATE_EPOCH`]; the order is the caller's.

use std::io::{self, Read, Write};

use super::SOURCE_DATE_EPOCH;

/// Adds a file to a tar archive.
pub(crate) fn tar_file(
    archive: &mut tar::Builder<impl Write>,
    name: &str,
    mode: u32,
    size: u64,
    content: impl Read,
) -> io::Result<()> {
    let mut header = tar_header(tar::EntryType::Regular, mode);
    header.set_size(size);
    archive.append_data(&mut header, name, content)
}

/// Adds a folder to a tar archive.
pub(crate) fn tar_folder(archive: &mut tar::Builder<impl Write>, name: &str) -> io::Result<()> {
    let mut header = tar_header(tar::EntryType::Directory, 0o755);
    header.set_size(0);
    archive.append_data(&mut header, format!("{name}/"), io::empty())
}

fn tar_header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(SOURCE_DATE_EPOCH);
    header
}

/// Writes the kernel's initramfs format ("newc"), see Documentation/driver-api/early-userspace/buffer-format.rst.
///
/// An entry is a header of 110 bytes in hexadecimal, the name with a NUL, and the content; name and content are padded
/// to four bytes. The archive ends with an entry of a fixed name.
pub(crate) struct Cpio<W: Write> {
    output: W,
    entries: u32,
}

/// What stands in the header's mode beside the permissions, see inode(7).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Folder,
    CharacterDevice { major: u32, minor: u32 },
    File { size: u32 },
}

impl<W: Write> Cpio<W> {
    pub(crate) fn new(output: W) -> Self {
        Self { output, entries: 0 }
    }

    pub(crate) fn folder(&mut self, name: &str, permissions: u32) -> io::Result<()> {
        self.header(name, permissions, Kind::Folder)
    }

    pub(crate) fn character_device(&mut self, name: &str, permissions: u32, major: u32, minor: u32) -> io::Result<()> {
        self.header(name, permissions, Kind::CharacterDevice { major, minor })
    }

    /// Adds a file; the format's size field has 32 bits, so 4 GiB is refused.
    pub(crate) fn file(&mut self, name: &str, permissions: u32, size: u64, mut content: impl Read) -> io::Result<()> {
        let size = u32::try_from(size).map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, name.to_owned()))?;
        self.header(name, permissions, Kind::File { size })?;
        let copied = io::copy(&mut content, &mut self.output)?;
        if copied != u64::from(size) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{name} changed while it was read")));
        }
        self.pad(size as usize)
    }

    /// Ends the archive and returns what it was written to.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.header("TRAILER!!!", 0, Kind::File { size: 0 })?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn header(&mut self, name: &str, permissions: u32, kind: Kind) -> io::Result<()> {
        /// Length of the header's 6 + 13 * 8 characters.
        const HEADER: usize = 110;
        self.entries += 1;
        let (format, links, size, major, minor) = match kind {
            Kind::Folder => (0o040_000, 2, 0, 0, 0),
            Kind::CharacterDevice { major, minor } => (0o020_000, 1, 0, major, minor),
            Kind::File { size } => (0o100_000, 1, size, 0, 0),
        };
        let name_size = name.len() + 1;
        let [inode, mode, time] = [self.entries, format | permissions, epoch()];
        // magic, inode, mode, uid, gid, links, time, size, device (2), device number (2), length of the name, checksum
        write!(
            self.output,
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{links:08x}{time:08x}{size:08x}{0:08x}{0:08x}{major:08x}{minor:08x}{name_size:08x}{0:08x}{name}\0",
            0
        )?;
        self.pad(HEADER + name_size)
    }

    fn pad(&mut self, length: usize) -> io::Result<()> {
        let zeros = [0_u8; 3];
        self.output.write_all(zeros.get(..length.next_multiple_of(4) - length).unwrap_or_default())
    }
}

/// The header's field has 32 bits, which suffice until 2106.
fn epoch() -> u32 {
    u32::try_from(SOURCE_DATE_EPOCH).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn cpio_reads_back_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut archive = Cpio::new(Vec::new());
        archive.folder("folder", 0o755).unwrap();
        archive.file("folder/one", 0o640, 5, &b"12345"[..]).unwrap();
        archive.file("two", 0o755, 0, io::empty()).unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);

        let mut cpio = Command::new("cpio")
            .args(["--extract", "--quiet", "--no-preserve-owner"])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        cpio.stdin.take().unwrap().write_all(&bytes).unwrap();
        assert!(cpio.wait().unwrap().success());
        assert_eq!(std::fs::read(folder.path().join("folder/one")).unwrap(), b"12345");
        assert_eq!(std::fs::read(folder.path().join("two")).unwrap(), b"");
    }

    #[test]
    fn file_that_shrinks_while_it_is_read_is_refused() {
        let error = Cpio::new(Vec::new()).file("file", 0o644, 5, &b"1234"[..]).unwrap_err();
        assert_eq!(error.to_string(), "file changed while it was read");
    }

    #[test]
    fn file_of_4_gib_is_refused() {
        let error = Cpio::new(Vec::new()).file("file", 0o644, 1 << 32, io::empty()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
