//! The lines on disk: `<service>.log`, and `.1` to `.3` for what was rotated away, the higher the older.
//!
//! A file is plain text, one line a line as keelson-log formats it, so it needs no version: old files are read by whatever
//! can read text. Nothing is synced: a power cut may cost the last seconds of a log, and syncing each line would cost the
//! node its disk. A file may end in half a line after a power cut; the next start ends that line before it appends.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::{rings::FilePosition, service::ServiceName};

/// Where the services' logs are kept.
pub const DIRECTORY: &str = "/var/log/keelson";

/// Logs may hold what only an operator should read; the query socket is the way to them.
const FILE_MODE: u32 = 0o640;
const DIRECTORY_MODE: u32 = 0o750;

/// How much of a file is looked at in one step when its last lines are searched for.
const BLOCK_BYTES: usize = 64 * 1024;

/// When files are rotated, and how many are kept.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// A file that has reached this size gets no further line.
    pub file_bytes: u64,
    /// Files a service, the current one included; at least two.
    pub files: u32,
}

/// At most 16 MiB a service, some 200 MiB a node: enough for hours of a chatty kubelet, little beside images.
pub const ROTATION: Rotation = Rotation { file_bytes: 4 * 1024 * 1024, files: 4 };

#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("cannot make the directory {}", path.display())]
    MakeDirectory { path: PathBuf, source: io::Error },
    #[error("cannot open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot rotate {}", path.display())]
    Rotate { path: PathBuf, source: io::Error },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
}

/// Where the writing thread puts lines; a trait so that tests can have a disk that fails or stalls.
pub trait Storage: Send {
    /// Opens a service's file if it is not open, and says how far it reaches.
    fn open(&mut self, service: &ServiceName) -> Result<FilePosition, StorageError>;

    /// Appends whole lines and says how far the file reaches now.
    fn append(&mut self, service: &ServiceName, lines: &[u8]) -> Result<FilePosition, StorageError>;
}

/// The files below one directory.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    rotation: Rotation,
    open: BTreeMap<ServiceName, OpenFile>,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    position: FilePosition,
}

impl Directory {
    pub fn new(path: impl Into<PathBuf>, rotation: Rotation) -> Self {
        Self { path: path.into(), rotation, open: BTreeMap::new() }
    }

    fn opened(&mut self, service: &ServiceName) -> Result<OpenFile, StorageError> {
        if let Some(open) = self.open.remove(service) {
            return Ok(open);
        }
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(DIRECTORY_MODE);
        builder.create(&self.path).map_err(|source| StorageError::MakeDirectory { path: self.path.clone(), source })?;
        self.open_current(service, 0)
    }

    fn open_current(&self, service: &ServiceName, rotation: u64) -> Result<OpenFile, StorageError> {
        let path = file_path(&self.path, service, 0);
        let open = || -> io::Result<OpenFile> {
            let mut file = OpenOptions::new().create(true).append(true).read(true).mode(FILE_MODE).open(&path)?;
            let mut bytes = file.metadata()?.len();
            let mut last = [0; 1];
            if bytes > 0 {
                file.read_exact_at(&mut last, bytes - 1)?;
                if last != *b"\n" {
                    file.write_all(b"\n")?;
                    bytes += 1;
                }
            }
            let inode = file.metadata()?.ino();
            Ok(OpenFile { file, position: FilePosition { rotation, inode, bytes } })
        };
        open().map_err(|source| StorageError::Open { path: path.clone(), source })
    }

    /// Renames each file to the next higher number, the oldest away, and begins a new one.
    fn rotate(&self, service: &ServiceName, rotation: u64) -> Result<OpenFile, StorageError> {
        for number in (0..self.rotation.files.saturating_sub(1)).rev() {
            let (from, to) = (file_path(&self.path, service, number), file_path(&self.path, service, number + 1));
            match fs::rename(&from, to) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(StorageError::Rotate { path: from, source });
                }
                _ => {}
            }
        }
        self.open_current(service, rotation + 1)
    }
}

impl Storage for Directory {
    fn open(&mut self, service: &ServiceName) -> Result<FilePosition, StorageError> {
        let open = self.opened(service)?;
        let position = open.position;
        self.open.insert(service.clone(), open);
        Ok(position)
    }

    fn append(&mut self, service: &ServiceName, lines: &[u8]) -> Result<FilePosition, StorageError> {
        let mut open = self.opened(service)?;
        if open.position.bytes >= self.rotation.file_bytes {
            open = match self.rotate(service, open.position.rotation) {
                Ok(fresh) => fresh,
                Err(error) => {
                    self.open.insert(service.clone(), open);
                    return Err(error);
                }
            };
        }
        if let Err(source) = open.file.write_all(lines) {
            // Part of the lines may be in the file. They will be written again, so the part has to go; if it cannot be
            // cut off, half a line stays and the rest is repeated, which is better than a hole.
            let _ = open.file.set_len(open.position.bytes);
            open.position.bytes = open.file.metadata().map_or(open.position.bytes, |metadata| metadata.len());
            let path = file_path(&self.path, service, 0);
            self.open.insert(service.clone(), open);
            return Err(StorageError::Write { path, source });
        }
        open.position.bytes += lines.len() as u64;
        let position = open.position;
        self.open.insert(service.clone(), open);
        Ok(position)
    }
}

fn file_path(directory: &Path, service: &ServiceName, number: u32) -> PathBuf {
    match number {
        0 => directory.join(format!("{service}.log")),
        number => directory.join(format!("{service}.log.{number}")),
    }
}

/// A service's files, opened together, newest first.
#[derive(Debug)]
pub struct Archive {
    current: PathBuf,
    files: Vec<(PathBuf, File, u64)>,
}

impl Archive {
    /// Opens what there is. `bytes` bounds what counts of the current file, `None` takes all of it.
    pub fn open(
        directory: &Path,
        service: &ServiceName,
        rotation: Rotation,
        bytes: Option<u64>,
    ) -> Result<Self, StorageError> {
        let mut files = Vec::new();
        for number in 0..rotation.files {
            let path = file_path(directory, service, number);
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(source) if source.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(StorageError::Open { path, source }),
            };
            let length = file.metadata().map_err(|source| StorageError::Read { path: path.clone(), source })?.len();
            let length = if number == 0 { bytes.unwrap_or(length).min(length) } else { length };
            files.push((path, file, length));
        }
        Ok(Self { current: file_path(directory, service, 0), files })
    }

    /// Whether the current file has this number now. It had it then when the files were opened, since names only move on: so
    /// none was renamed in between.
    pub fn ends_in(&self, inode: u64) -> bool {
        fs::metadata(&self.current).is_ok_and(|metadata| metadata.ino() == inode)
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The newest `lines` lines but for the very newest `skip`, oldest first.
    pub fn tail(&self, mut skip: u64, mut lines: u64) -> Result<Vec<Segment<'_>>, StorageError> {
        let mut segments = Vec::new();
        for (path, file, length) in &self.files {
            let read_error = |source| StorageError::Read { path: path.clone(), source };
            let (end, skipped) = start_of_last(file, *length, skip).map_err(read_error)?;
            skip -= skipped;
            let (start, found) = start_of_last(file, end, lines).map_err(read_error)?;
            lines -= found;
            segments.push(Segment { file, start, end });
            if lines == 0 {
                break;
            }
        }
        segments.reverse();
        Ok(segments)
    }
}

/// A stretch of whole lines in a file.
#[derive(Debug)]
pub struct Segment<'a> {
    file: &'a File,
    start: u64,
    end: u64,
}

impl Segment<'_> {
    /// The bytes of the stretch.
    pub fn reader(&self) -> io::Result<impl Read> {
        let mut file = self.file;
        file.seek(SeekFrom::Start(self.start))?;
        Ok(file.take(self.end - self.start))
    }
}

/// Where the last `lines` lines before `end` begin, and how many there are of them.
fn start_of_last(file: &File, end: u64, lines: u64) -> io::Result<(u64, u64)> {
    if lines == 0 || end == 0 {
        return Ok((end, 0));
    }
    let mut block = vec![0; BLOCK_BYTES];
    let mut found = 0;
    let mut position = end;
    while position > 0 {
        let size = position.min(BLOCK_BYTES as u64);
        let base = position - size;
        let bytes = block.get_mut(..usize::try_from(size).unwrap_or(BLOCK_BYTES)).unwrap_or_default();
        file.read_exact_at(bytes, base)?;
        for (index, byte) in bytes.iter().enumerate().rev() {
            let after = base + index as u64 + 1;
            // A line feed ends the line before it, so the very last one begins no line.
            if *byte == b'\n' && after < end {
                found += 1;
                if found == lines {
                    return Ok((after, found));
                }
            }
        }
        position = base;
    }
    Ok((0, found + 1))
}

#[cfg(test)]
mod tests;
