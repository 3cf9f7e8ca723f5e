//! Small files on STATE that must survive anything: written whole or not at all, and refused when damaged or too new.
//!
//! Layout: one header line, then the body. The header is
//! `keelson <kind> version=<v> oldest-reader=<o> crc32=<hex>` with the CRC-32 of the body. A reader whose version is at least
//! `oldest-reader` can read the file. Upgrade rule: release N writes what N-1 can read until its slot is marked good, so
//! `oldest-reader` is raised one release after `version`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The version of all kinds that this release writes and reads.
const VERSION: u32 = 1;
/// Far above any of these files.
const MAX_BYTES: u64 = 1024 * 1024;

#[derive(Debug, Error)]
pub(crate) enum DurableError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} is damaged: {problem}", path.display())]
    Damaged { path: PathBuf, problem: &'static str },
    #[error("{} was written by a later release: it needs version {oldest_reader}, this release has {VERSION}", path.display())]
    TooNew { path: PathBuf, oldest_reader: u32 },
}

/// Replaces the file: a new one beside it, synced, renamed over it, and the directory synced. See rename(2), fsync(2).
pub(crate) fn write(path: &Path, kind: &str, body: &[u8]) -> Result<(), DurableError> {
    let failed = |source| DurableError::Write { path: path.to_owned(), source };
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    let crc = crc32fast::hash(body);
    let header = format!("keelson {kind} version={VERSION} oldest-reader={VERSION} crc32={crc:08x}\n");
    let options = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).clone();
    let mut file = options.open(&unfinished).map_err(failed)?;
    file.write_all(header.as_bytes()).map_err(failed)?;
    file.write_all(body).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&unfinished, path).map_err(failed)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

/// The body, or `None` if there is no such file.
pub(crate) fn read(path: &Path, kind: &str) -> Result<Option<Vec<u8>>, DurableError> {
    let failed = |source| DurableError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        Ok(file) => file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(failed)?,
    };
    parse(&bytes, kind).map(|body| Some(body.to_vec())).map_err(|problem| match problem {
        Problem::Damaged(problem) => DurableError::Damaged { path: path.to_owned(), problem },
        Problem::TooNew(oldest_reader) => DurableError::TooNew { path: path.to_owned(), oldest_reader },
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Problem {
    Damaged(&'static str),
    TooNew(u32),
}

fn parse<'a>(bytes: &'a [u8], kind: &str) -> Result<&'a [u8], Problem> {
    let no_header = Problem::Damaged("it has no header");
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(Problem::Damaged("it has no header"))?;
    let (header, body) = bytes.split_at_checked(end + 1).ok_or(Problem::Damaged("it has no header"))?;
    let header = std::str::from_utf8(header).map_err(|_| Problem::Damaged("its header is not text"))?;
    let mut words = header.split_ascii_whitespace();
    if words.next() != Some("keelson") {
        return Err(no_header);
    }
    if words.next() != Some(kind) {
        return Err(Problem::Damaged("it is of another kind"));
    }
    let fields: Vec<_> = words.filter_map(|word| word.split_once('=')).collect();
    let field = |name: &str| fields.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    let oldest_reader = field("oldest-reader").and_then(|value| value.parse().ok());
    let oldest_reader: u32 = oldest_reader.ok_or(Problem::Damaged("its header names no version"))?;
    if oldest_reader > VERSION {
        return Err(Problem::TooNew(oldest_reader));
    }
    let crc = field("crc32").and_then(|value| u32::from_str_radix(value, 16).ok());
    if crc != Some(crc32fast::hash(body)) {
        return Err(Problem::Damaged("its checksum does not match"));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_comes_back_whatever_bytes_it_has() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seed");
        write(&path, "seed", b"\n\0bytes\xff").unwrap();
        assert_eq!(read(&path, "seed").unwrap().unwrap(), b"\n\0bytes\xff");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn missing_file_is_none() {
        assert!(read(Path::new("/nonexistent/clock"), "clock").unwrap().is_none());
    }

    #[test]
    fn damage_in_any_byte_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("clock");
        write(&path, "clock", b"1767225600").unwrap();
        let good = fs::read(&path).unwrap();
        for index in 0..good.len() {
            let mut bad = good.clone();
            bad[index] ^= 0x40;
            // A version that is unknown but readable is no damage.
            let version = good.windows(8).position(|window| window == b"version=").unwrap() + 8;
            if index == version || (version - 8..version).contains(&index) {
                continue;
            }
            assert!(parse(&bad, "clock").is_err(), "byte {index}");
        }
        for length in 0..good.len() {
            assert!(parse(&good[..length], "clock").is_err(), "{length} bytes");
        }
    }

    #[test]
    fn later_release_is_told_from_damage() {
        let text = b"keelson clock version=3 oldest-reader=2 crc32=00000000\n";
        assert_eq!(parse(text, "clock"), Err(Problem::TooNew(2)));
        let readable = b"keelson clock version=3 oldest-reader=1 crc32=00000000\n";
        assert_eq!(parse(readable, "clock"), Ok(&b""[..]));
    }

    #[test]
    fn other_kind_is_refused() {
        assert_eq!(
            parse(b"keelson seed version=1 oldest-reader=1 crc32=00000000\n", "clock"),
            Err(Problem::Damaged("it is of another kind"))
        );
    }
}
