//! The thread that reads: PID 1's socket, the services' pipes and the kernel's log, by epoll.
//!
//! It never touches a disk and never waits for anything but input, so a service is never held up by its own log: its pipe
//! is emptied as fast as this thread gets to run. Each turn reads a bounded amount from each source, in the order in which
//! epoll reports them, so that a flood from one does not silence the others.
//!
//! PID 1 sends all sources again when keelson-log was restarted, and a new one when it made a service's pipe anew; a
//! source replaces the one of the same name. PID 1 keeps what it sent, so neither a restart of keelson-log nor one of the
//! service loses what is in a pipe, and /dev/kmsg goes on where it was read before.

use std::{
    collections::BTreeMap,
    io::IoSliceMut,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
    fs::OFlags,
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags},
};

use keelson_control::notify::Heartbeat;

use crate::{
    kmsg,
    line::LineSplitter,
    rings::Rings,
    service::{ANNOUNCEMENT_BYTES_MAX, Announcement, ServiceName},
    timestamp::Timestamp,
};

/// How much is read from a source in one turn.
const READ_BYTES: usize = 64 * 1024;

/// How often a source is read at the end: enough for the 256 KiB that PID 1's pipes hold, and no more, because a service
/// that still writes must not hold up the end.
const LAST_READS: usize = 8;

/// After this long the beginning of a line is shown without its end.
pub const PARTIAL_LINE_WAIT: Duration = Duration::from_secs(1);

const CONTROL: u64 = 0;
const SIGNAL: u64 = 1;
const FIRST_SOURCE: u64 = 2;

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot wait for input")]
    Wait(#[source] Errno),
    #[error("cannot watch {what}")]
    Watch { what: &'static str, source: Errno },
    #[error("cannot read what PID 1 sends")]
    Receive(#[source] Errno),
    #[error("PID 1's socket is closed")]
    Closed,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Turn {
    Continue,
    /// The signal that ends the process has come.
    Stop,
}

#[derive(Debug)]
pub struct Reader<'a> {
    rings: &'a Rings,
    own: ServiceName,
    epoll: OwnedFd,
    control: OwnedFd,
    sources: BTreeMap<u64, Source>,
    next_token: u64,
    buffer: Vec<u8>,
    heartbeat: Option<Heartbeat>,
}

#[derive(Debug)]
struct Source {
    service: ServiceName,
    descriptor: OwnedFd,
    splitter: LineSplitter,
    /// When a beginning of a line came that has no end yet.
    partial_since: Option<Instant>,
}

impl<'a> Reader<'a> {
    /// `control` is PID 1's socket; `stop` becomes readable when the process is to end.
    pub fn new(rings: &'a Rings, own: ServiceName, control: OwnedFd, stop: impl AsFd) -> Result<Self, ReadError> {
        let watch_error = |what| move |source| ReadError::Watch { what, source };
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(ReadError::Wait)?;
        set_nonblocking(&control).map_err(watch_error("PID 1's socket"))?;
        epoll::add(&epoll, &control, EventData::new_u64(CONTROL), EventFlags::IN)
            .map_err(watch_error("PID 1's socket"))?;
        epoll::add(&epoll, stop, EventData::new_u64(SIGNAL), EventFlags::IN).map_err(watch_error("signals"))?;
        let buffer = vec![0; READ_BYTES];
        let sources = BTreeMap::new();
        Ok(Self { rings, own, epoll, control, sources, next_token: FIRST_SOURCE, buffer, heartbeat: None })
    }

    /// Says by this that it goes on reading. A disk that hangs is no reason to fall silent: output is taken all the same.
    #[must_use]
    pub fn with_heartbeat(self, heartbeat: Option<Heartbeat>) -> Self {
        Self { heartbeat, ..self }
    }

    /// Reads until the process is to end, and then once more what the pipes still hold.
    pub fn run(&mut self) -> Result<(), ReadError> {
        while self.turn()? == Turn::Continue {}
        let tokens: Vec<u64> = self.sources.keys().copied().collect();
        for token in tokens {
            for _ in 0..LAST_READS {
                self.read_source(token);
            }
        }
        self.flush_partial(Duration::ZERO);
        Ok(())
    }

    /// Waits for input and takes it.
    pub fn turn(&mut self) -> Result<Turn, ReadError> {
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; 32];
        let ready: Vec<u64> = match epoll::wait(&self.epoll, &mut events, self.timeout().as_ref()) {
            Ok((ready, _)) => ready.iter().map(|event| event.data.u64()).collect(),
            Err(Errno::INTR) => Vec::new(),
            Err(error) => return Err(ReadError::Wait(error)),
        };
        let mut turn = Turn::Continue;
        for token in ready {
            match token {
                CONTROL => self.receive()?,
                SIGNAL => turn = Turn::Stop,
                token => self.read_source(token),
            }
        }
        self.flush_partial(PARTIAL_LINE_WAIT);
        if let Some(heartbeat) = &mut self.heartbeat {
            // PID 1 says so if it misses one.
            let _ = heartbeat.beat();
        }
        Ok(turn)
    }

    /// Until the first beginning of a line is due to be shown, or a word to PID 1 is; for ever if there is neither.
    fn timeout(&self) -> Option<Timespec> {
        let oldest = self.sources.values().filter_map(|source| source.partial_since).min();
        let partial = oldest.map(|oldest| PARTIAL_LINE_WAIT.saturating_sub(oldest.elapsed()));
        let rest = partial.into_iter().chain(self.heartbeat.as_ref().map(Heartbeat::rest)).min()?;
        Timespec::try_from(rest).ok()
    }

    /// Takes one packet of PID 1's.
    fn receive(&mut self) -> Result<(), ReadError> {
        let mut packet = [0; ANNOUNCEMENT_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut packet)];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let length = match rustix::net::recvmsg(&self.control, &mut parts, &mut ancillary, flags) {
            Ok(message) => message.bytes,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(error) => return Err(ReadError::Receive(error)),
        };
        let descriptor = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let packet = packet.get(..length).unwrap_or_default();
        match (serde_json::from_slice::<Announcement>(packet), descriptor) {
            (Ok(announcement), Some(descriptor)) => self.add(announcement.service, descriptor),
            (Ok(announcement), None) => self.say(format!("PID 1 announced {} without a pipe", announcement.service)),
            (Err(_), _) if packet.is_empty() => return Err(ReadError::Closed),
            (Err(error), _) => self.say(format!("PID 1 sent something else than a service's name: {error}")),
        }
        Ok(())
    }

    fn add(&mut self, service: ServiceName, descriptor: OwnedFd) {
        if let Err(error) = self.rings.register(&service) {
            self.say(format!("the output of {service} is not read: {error}"));
            return;
        }
        let replaced = self.sources.iter().find(|(_, source)| source.service == service).map(|(token, _)| *token);
        if let Some(token) = replaced {
            self.remove(token);
        }
        let token = self.next_token;
        let watched = set_nonblocking(&descriptor)
            .and_then(|()| epoll::add(&self.epoll, &descriptor, EventData::new_u64(token), EventFlags::IN));
        if let Err(error) = watched {
            self.say(format!("the output of {service} is not read: {error}"));
            return;
        }
        self.next_token += 1;
        let source = Source { service, descriptor, splitter: LineSplitter::default(), partial_since: None };
        self.sources.insert(token, source);
    }

    fn remove(&mut self, token: u64) {
        let Some(mut source) = self.sources.remove(&token) else { return };
        // Closing does it too, but not while PID 1 holds the same open file.
        let _ = epoll::delete(&self.epoll, &source.descriptor);
        if let Some(line) = source.splitter.flush() {
            self.rings.append(&source.service, [(Timestamp::now(), line)]);
        }
    }

    fn read_source(&mut self, token: u64) {
        let Some(source) = self.sources.get_mut(&token) else { return };
        let read = if source.service.is_kernel() {
            read_kernel(source, self.rings, &mut self.buffer)
        } else {
            read_pipe(source, self.rings, &mut self.buffer)
        };
        match read {
            Ok(true) => {}
            Ok(false) => self.remove(token),
            Err(error) => {
                let service = source.service.clone();
                self.remove(token);
                self.say(format!("the output of {service} is not read any more: {error}"));
            }
        }
    }

    fn flush_partial(&mut self, age: Duration) {
        for source in self.sources.values_mut() {
            if source.partial_since.is_some_and(|since| since.elapsed() >= age) {
                source.partial_since = None;
                if let Some(line) = source.splitter.flush() {
                    self.rings.append(&source.service, [(Timestamp::now(), line)]);
                }
            }
        }
    }

    /// Its own words go straight into its own ring: its pipe is one of those it has to empty.
    fn say(&self, text: String) {
        self.rings.append(&self.own, [(Timestamp::now(), text)]);
    }
}

/// Reads once; `false` at the end of the pipe.
fn read_pipe(source: &mut Source, rings: &Rings, buffer: &mut [u8]) -> Result<bool, Errno> {
    let length = match rustix::io::read(&source.descriptor, &mut *buffer) {
        Ok(0) => return Ok(false),
        Ok(length) => length,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(true),
        Err(error) => return Err(error),
    };
    let time = Timestamp::now();
    let mut lines = Vec::new();
    source.splitter.push(buffer.get(..length).unwrap_or_default(), |line| lines.push((time, line)));
    if !lines.is_empty() {
        rings.append(&source.service, lines);
    }
    source.partial_since = source.splitter.is_partial().then(Instant::now);
    Ok(true)
}

/// Reads records, one a read(2), up to the amount of a turn.
fn read_kernel(source: &Source, rings: &Rings, buffer: &mut [u8]) -> Result<bool, Errno> {
    let mut lines = Vec::new();
    let mut taken = 0;
    let mut open = true;
    while taken < READ_BYTES {
        match rustix::io::read(&source.descriptor, &mut *buffer) {
            Ok(0) => {
                open = false;
                break;
            }
            Ok(length) => {
                taken += length;
                let record = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
                if let Some(record) = kmsg::parse(&record) {
                    lines.push((time_of(record.since_boot), record.to_line()));
                }
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            // Records were overwritten before they were read; the next read gives the oldest that is left.
            Err(Errno::PIPE) => {
                lines.push((Timestamp::now(), "warning: records of the kernel's log were overwritten".to_owned()));
            }
            Err(error) => return Err(error),
        }
    }
    if !lines.is_empty() {
        rings.append(&source.service, lines);
    }
    Ok(open)
}

/// The time of a moment that the kernel's clock names, by the clock as it is set now.
fn time_of(since_boot: Duration) -> Timestamp {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = Duration::try_from(now).unwrap_or_default();
    Timestamp::now().before(now.saturating_sub(since_boot))
}

fn set_nonblocking(descriptor: &OwnedFd) -> Result<(), Errno> {
    let flags = rustix::fs::fcntl_getfl(descriptor)?;
    rustix::fs::fcntl_setfl(descriptor, flags | OFlags::NONBLOCK)
}

#[cfg(test)]
mod tests;
