//! Watches what services wait for: files by inotify, sockets by connecting to them from time to time.
//!
//! A connection attempt never blocks: a unix socket answers at once or not at all, a TCP one is awaited by epoll for at
//! most [`PROBE_PATIENCE`].

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keelson_control::Condition;
use keelson_sys::clock;
use keelson_sys::poller::{Interest, Poller};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::Source;
use crate::supervisor::core::Event;

/// Between two attempts at the same socket.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);

/// Between two attempts at one that answered: only its loss is of interest.
const PROBE_INTERVAL_HELD: Duration = Duration::from_secs(2);

/// What is read of inotify in one go, in pieces of some hundred events. The rest is reported anew.
const READS_MAX: usize = 16;

/// How long a TCP connection may be in the making.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Conditions {
    inotify: OwnedFd,
    watched: BTreeMap<Condition, Watched>,
    next_number: u64,
}

#[derive(Debug)]
struct Watched {
    /// What the core was told.
    holds: Option<bool>,
    next_probe: Duration,
    connecting: Option<Connecting>,
}

#[derive(Debug)]
struct Connecting {
    number: u64,
    socket: OwnedFd,
    until: Duration,
}

enum Attempt {
    Answered,
    Refused,
    Underway(OwnedFd),
}

impl Conditions {
    pub(super) fn new(poller: &Poller) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        poller.add(&inotify, Source::Inotify.token(), Interest::Read)?;
        Ok(Self { inotify, watched: BTreeMap::new(), next_number: 0 })
    }

    /// Looks at it now, whether it was watched already or not, and tells the core.
    pub(super) fn watch(&mut self, condition: Condition, poller: &Poller, events: &mut VecDeque<Event>) {
        let now = clock::since_boot();
        let is_file = matches!(condition, Condition::FileExists(_));
        self.watched.insert(condition, Watched { holds: None, next_probe: now, connecting: None });
        if is_file {
            self.look_at_files(events);
        } else {
            self.probe(now, poller, events);
        }
    }

    pub(super) fn unwatch(&mut self, condition: &Condition) {
        self.watched.remove(condition);
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let sockets = self.watched.iter().filter(|(condition, _)| !matches!(condition, Condition::FileExists(_)));
        sockets.map(|(_, watched)| watched.connecting.as_ref().map_or(watched.next_probe, |c| c.until)).min()
    }

    /// Something happened in a watched directory. Which name it was does not matter: looking is cheap.
    pub(super) fn changed(&mut self, events: &mut VecDeque<Event>) {
        let mut buffer = [0_u8; 4096];
        for _ in 0..READS_MAX {
            if !rustix::io::read(&self.inotify, &mut buffer).is_ok_and(|count| count > 0) {
                break;
            }
        }
        self.look_at_files(events);
    }

    /// Watches a directory for names that come and go, for [`super::ConsoleFile`] too.
    pub(super) fn watch_directory_of(&self, path: &Path) {
        let flags = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ONLYDIR;
        // The nearest directory that exists: when the next one appears in it, all is looked at again. The kernel knows a
        // directory that is added twice. If it refuses, housekeeping looks once a second all the same.
        for directory in path.ancestors().skip(1) {
            if inotify::add_watch(&self.inotify, directory, flags).is_ok() {
                return;
            }
        }
    }

    fn look_at_files(&mut self, events: &mut VecDeque<Event>) {
        let files: Vec<PathBuf> = self
            .watched
            .keys()
            .filter_map(|condition| match condition {
                Condition::FileExists(path) => Some(path.clone()),
                _ => None,
            })
            .collect();
        for path in files {
            // The watch comes first: a file that appears in between is then an event.
            self.watch_directory_of(&path);
            let exists = path.exists();
            self.tell(&Condition::FileExists(path), exists, events);
        }
    }

    fn tell(&mut self, condition: &Condition, holds: bool, events: &mut VecDeque<Event>) {
        if let Some(watched) = self.watched.get_mut(condition)
            && watched.holds != Some(holds)
        {
            watched.holds = Some(holds);
            events.push_back(Event::Condition { condition: condition.clone(), holds });
        }
    }

    /// Tries all sockets whose turn it is.
    pub(super) fn probe(&mut self, now: Duration, poller: &Poller, events: &mut VecDeque<Event>) {
        let is_due = |watched: &Watched| match &watched.connecting {
            Some(connecting) => now >= connecting.until,
            None => now >= watched.next_probe,
        };
        let due: Vec<Condition> = self
            .watched
            .iter()
            .filter(|(_, watched)| is_due(watched))
            .map(|(condition, _)| condition.clone())
            .collect();
        for condition in due {
            let attempt = match &condition {
                Condition::SocketAnswers(path) => try_unix(path),
                Condition::TcpAnswers(address) => try_tcp(*address),
                Condition::FileExists(_) | Condition::ServiceReady(_) => continue,
            };
            self.attempted(&condition, attempt, now, poller, events);
        }
    }

    fn attempted(
        &mut self,
        condition: &Condition,
        attempt: Attempt,
        now: Duration,
        poller: &Poller,
        events: &mut VecDeque<Event>,
    ) {
        let Some(watched) = self.watched.get_mut(condition) else { return };
        // Dropping the socket of an attempt that took too long takes it out of epoll.
        watched.connecting = None;
        match attempt {
            Attempt::Answered => self.answer(condition, true, now, events),
            Attempt::Refused => self.answer(condition, false, now, events),
            Attempt::Underway(socket) => {
                self.next_number += 1;
                let number = self.next_number;
                if poller.add(&socket, Source::Probe(number).token(), Interest::Write).is_ok() {
                    watched.connecting = Some(Connecting { number, socket, until: now + PROBE_PATIENCE });
                } else {
                    self.answer(condition, false, now, events);
                }
            }
        }
    }

    fn answer(&mut self, condition: &Condition, holds: bool, now: Duration, events: &mut VecDeque<Event>) {
        if let Some(watched) = self.watched.get_mut(condition) {
            watched.next_probe = now + if holds { PROBE_INTERVAL_HELD } else { PROBE_INTERVAL };
        }
        self.tell(condition, holds, events);
    }

    /// A TCP connection is there, or has failed.
    pub(super) fn connected(&mut self, number: u64, poller: &Poller, events: &mut VecDeque<Event>) {
        let found = self.watched.iter_mut().find_map(|(condition, watched)| {
            let connecting = watched.connecting.take_if(|connecting| connecting.number == number)?;
            Some((condition.clone(), connecting.socket))
        });
        let Some((condition, socket)) = found else { return };
        let _ = poller.remove(&socket);
        let holds = matches!(rustix::net::sockopt::socket_error(&socket), Ok(Ok(())));
        self.answer(&condition, holds, clock::since_boot(), events);
    }
}

fn try_unix(path: &Path) -> Attempt {
    let attempt = || -> rustix::io::Result<()> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
    };
    if attempt().is_ok() { Attempt::Answered } else { Attempt::Refused }
}

fn try_tcp(address: SocketAddr) -> Attempt {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let Ok(socket) = rustix::net::socket_with(family, SocketType::STREAM, flags, None) else {
        return Attempt::Refused;
    };
    match rustix::net::connect(&socket, &address) {
        Ok(()) => Attempt::Answered,
        Err(Errno::INPROGRESS) => Attempt::Underway(socket),
        Err(_) => Attempt::Refused,
    }
}
