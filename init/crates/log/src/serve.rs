//! The query socket: who may ask, and how an answer is put together from files and rings.
//!
//! Each query has a thread, at most [`QUERIES_MAX`] of them, that holds a chunk of lines and a cursor. A client that does
//! not take its lines for [`SEND_TIMEOUT`] is disconnected; one that takes them more slowly than they come is told how many
//! it missed. Only root and keelson-log's own account may ask, by the socket's mode and by `SO_PEERCRED` (unix(7)).

use std::{
    fmt::Write as _,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::{io::Errno, net::RecvFlags};

use crate::{
    error_chain::chain,
    files::{Archive, Rotation, StorageError},
    query::{ERROR_PREFIX, QUERY_BYTES_MAX, Query},
    rings::{Rings, Tail, Wake},
    service::ServiceName,
    timestamp::Timestamp,
    writer::missed_text,
};

/// Queries at a time. keelson-cluster passes on those of operators, who are few.
pub const QUERIES_MAX: usize = 16;

/// Beside them, as many connections get a thread that reads the query and refuses it; the next are closed at once.
const CONNECTIONS_MAX: usize = 2 * QUERIES_MAX;

/// How long a client may take to send its query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client may leave what is sent to it untouched.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a follower to whom nothing is sent is looked at, to notice that it is gone.
const IDLE_CHECK: Duration = Duration::from_secs(2);

/// A query's thread holds its buffers on the heap.
const STACK_BYTES: usize = 128 * 1024;

/// How often a tail is begun anew because files were rotated meanwhile, and how long it waits for the writer to say so.
const ROTATION_RETRIES: usize = 50;
const ROTATION_PAUSE: Duration = Duration::from_millis(2);

/// Only its owner, and root by `CAP_DAC_OVERRIDE`.
const SOCKET_MODE: u32 = 0o600;

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {}", path.display())]
    Listen { path: PathBuf, source: io::Error },
}

#[derive(Debug, thiserror::Error)]
enum AnswerError {
    #[error("only root may read the logs")]
    Forbidden,
    #[error("cannot read the query")]
    Receive(#[source] io::Error),
    #[error("the query is not a line of JSON with service, lines and follow")]
    Malformed(#[source] serde_json::Error),
    #[error("there is no service {0:?}")]
    UnknownService(String),
    #[error("the logs on disk cannot be read")]
    Files(#[from] StorageError),
    #[error("{QUERIES_MAX} queries are being answered already")]
    Busy,
    #[error("the client is gone or does not read")]
    Send(#[source] io::Error),
}

/// What answering needs.
#[derive(Debug)]
pub struct Server {
    pub rings: Arc<Rings>,
    pub directory: PathBuf,
    pub rotation: Rotation,
}

/// Makes the socket, in the place of one that an earlier process left.
pub fn listen(path: &Path) -> Result<UnixListener, ServeError> {
    let bind = || {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
        Ok(listener)
    };
    bind().map_err(|source| ServeError::Listen { path: path.to_path_buf(), source })
}

impl Server {
    /// Answers queries for ever.
    pub fn run(self, listener: &UnixListener) {
        let server = Arc::new(self);
        let running = Arc::new(AtomicUsize::new(0));
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                // Out of descriptors, most likely: wait until a query has ended rather than spin.
                server.rings.pause(Duration::from_millis(100));
                continue;
            };
            let others = running.fetch_add(1, Ordering::AcqRel);
            if others >= CONNECTIONS_MAX {
                running.fetch_sub(1, Ordering::AcqRel);
                continue;
            }
            let (server, count) = (Arc::clone(&server), Arc::clone(&running));
            let spawned = thread::Builder::new().name("query".to_owned()).stack_size(STACK_BYTES).spawn(move || {
                if let Err(error) = server.answer(&stream, others >= QUERIES_MAX) {
                    refuse(&stream, &error);
                }
                count.fetch_sub(1, Ordering::AcqRel);
            });
            if spawned.is_err() {
                running.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    fn answer(&self, stream: &UnixStream, busy: bool) -> Result<(), AnswerError> {
        stream.set_read_timeout(Some(QUERY_TIMEOUT)).map_err(AnswerError::Receive)?;
        stream.set_write_timeout(Some(SEND_TIMEOUT)).map_err(AnswerError::Receive)?;
        let peer = rustix::net::sockopt::socket_peercred(stream).map_err(|_| AnswerError::Forbidden)?;
        if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
            return Err(AnswerError::Forbidden);
        }
        let query = receive(stream)?;
        if busy {
            return Err(AnswerError::Busy);
        }
        let unknown = || AnswerError::UnknownService(query.service.clone());
        let service = ServiceName::try_from(query.service.clone()).map_err(|_| unknown())?;
        match self.tail(&service, &query, stream)? {
            Some(tail) => self.send_lines(&service, &tail, query.follow, stream),
            None => Err(unknown()),
        }
    }

    /// Sends what the files have to add, and says from where on memory has the rest.
    fn tail(&self, service: &ServiceName, query: &Query, mut out: &UnixStream) -> Result<Option<Tail>, AnswerError> {
        let lines = u64::from(query.lines);
        for _ in 0..ROTATION_RETRIES {
            let Some(tail) = self.rings.tail(service, lines) else {
                return self.tail_from_files_only(service, lines, out);
            };
            if tail.older == 0 {
                return Ok(Some(tail));
            }
            let bytes = tail.file.map(|file| file.bytes);
            let archive = match Archive::open(&self.directory, service, self.rotation, bytes) {
                Ok(archive) => archive,
                Err(error) => {
                    writeln!(out, "{} keelson-log: {}", Timestamp::now(), chain(&error)).map_err(AnswerError::Send)?;
                    return Ok(Some(tail));
                }
            };
            // Are these the files that `tail` speaks of? The writer says where it begins before it writes for the first time, and
            // renames before it says so later.
            let told = self.rings.file(service).map(|file| file.rotation) == tail.file.map(|file| file.rotation);
            if !told || tail.file.is_some_and(|file| !archive.ends_in(file.inode)) {
                thread::park_timeout(ROTATION_PAUSE);
                continue;
            }
            send_archive(&archive, tail.overlap, tail.older, out)?;
            return Ok(Some(tail));
        }
        // The files are renamed faster than they can be opened: memory has to do.
        Ok(self.rings.tail(service, lines))
    }

    /// For a service that PID 1 has not announced since the start, but that has files.
    fn tail_from_files_only(
        &self,
        service: &ServiceName,
        lines: u64,
        out: &UnixStream,
    ) -> Result<Option<Tail>, AnswerError> {
        let archive = Archive::open(&self.directory, service, self.rotation, None)?;
        if archive.is_empty() {
            return Ok(None);
        }
        send_archive(&archive, 0, lines, out)?;
        Ok(Some(Tail { from: 0, end: 0, older: 0, overlap: 0, file: None }))
    }

    fn send_lines(
        &self,
        service: &ServiceName,
        tail: &Tail,
        follow: bool,
        mut out: &UnixStream,
    ) -> Result<(), AnswerError> {
        let mut cursor = tail.from;
        loop {
            let chunk = self.rings.read(service, cursor);
            let mut text = String::new();
            if chunk.missed > 0 {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{} {}", Timestamp::now(), missed_text(chunk.missed));
            }
            let wanted = if follow { u64::MAX } else { tail.end.saturating_sub(cursor + chunk.missed) };
            for line in chunk.lines.iter().take(usize::try_from(wanted).unwrap_or(usize::MAX)) {
                text.push_str(line);
                text.push('\n');
            }
            out.write_all(text.as_bytes()).map_err(AnswerError::Send)?;
            cursor = cursor.max(chunk.next);
            if !follow && (cursor >= tail.end || chunk.lines.is_empty()) {
                return Ok(());
            }
            if follow && chunk.lines.is_empty() && !self.wait_for_lines(service, cursor, out) {
                return Ok(());
            }
        }
    }

    /// Whether there are lines to send to a follower that is still there.
    fn wait_for_lines(&self, service: &ServiceName, cursor: u64, out: &UnixStream) -> bool {
        loop {
            match self.rings.wait(service, cursor, IDLE_CHECK) {
                Wake::Lines => return true,
                Wake::Closing => return false,
                Wake::Quiet if is_gone(out) => return false,
                Wake::Quiet => {}
            }
        }
    }
}

fn receive(stream: &UnixStream) -> Result<Query, AnswerError> {
    let mut line = String::new();
    BufReader::new(stream.take(QUERY_BYTES_MAX as u64)).read_line(&mut line).map_err(AnswerError::Receive)?;
    serde_json::from_str(&line).map_err(AnswerError::Malformed)
}

fn send_archive(archive: &Archive, skip: u64, lines: u64, mut out: &UnixStream) -> Result<(), AnswerError> {
    for segment in archive.tail(skip, lines)? {
        let mut reader = segment.reader().map_err(AnswerError::Receive)?;
        io::copy(&mut reader, &mut out).map_err(AnswerError::Send)?;
    }
    Ok(())
}

fn refuse(mut stream: &UnixStream, error: &AnswerError) {
    if !matches!(error, AnswerError::Send(_)) {
        // Whoever asked may be gone; there is nobody else to tell.
        let _ = stream.set_write_timeout(Some(SEND_TIMEOUT));
        let line = format!("{ERROR_PREFIX}{}\n", chain(error));
        let _ = stream.write_all(line.as_bytes());
        // What is left unread at the closing of the socket would make the client see a reset instead of the line.
        let mut rest = [0; 8 * QUERY_BYTES_MAX];
        let _ = rustix::net::recv(stream, &mut rest, RecvFlags::DONTWAIT);
    }
}

/// A follower has nothing to say after its query, so anything but silence means that it has closed.
fn is_gone(stream: &UnixStream) -> bool {
    let mut byte = [0; 1];
    let received = rustix::net::recv(stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
    !matches!(received, Err(Errno::AGAIN | Errno::INTR))
}
