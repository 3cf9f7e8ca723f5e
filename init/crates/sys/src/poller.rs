//! epoll(7), level-triggered, with a number for each source.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    Read,
    ReadWrite,
    Write,
    /// A change in a kernfs file such as `cgroup.events`. Reported once a change.
    Priority,
}

impl Interest {
    fn flags(self) -> EventFlags {
        match self {
            Self::Read => EventFlags::IN,
            Self::ReadWrite => EventFlags::IN | EventFlags::OUT,
            Self::Write => EventFlags::OUT,
            // kernfs reports EPOLLERR beside EPOLLPRI; without ET it would be reported until the file is read again.
            Self::Priority => EventFlags::PRI | EventFlags::ET,
        }
    }
}

/// Something has happened at the source with this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Happened {
    pub token: u64,
    pub readable: bool,
    pub writable: bool,
    pub closed: bool,
}

#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
}

/// How many sources one wait reports. The rest is reported by the next: level-triggered, nothing is lost.
const BATCH: usize = 32;

impl Poller {
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    pub fn add(&self, source: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, source, EventData::new_u64(token), interest.flags())?)
    }

    pub fn modify(&self, source: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, source, EventData::new_u64(token), interest.flags())?)
    }

    pub fn remove(&self, source: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, source)?)
    }

    /// Waits until something happens or the time is over. `happened` is emptied first.
    pub fn wait(&self, timeout: Option<Duration>, happened: &mut Vec<Happened>) -> io::Result<()> {
        happened.clear();
        let timeout = timeout.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        let mut events = [MaybeUninit::<Event>::uninit(); BATCH];
        let (ready, _) = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(()),
            other => other?,
        };
        happened.extend(ready.iter().map(|event| {
            // The struct is packed on x86: copy before borrowing.
            let (flags, data) = (event.flags, event.data);
            Happened {
                token: data.u64(),
                readable: flags.intersects(EventFlags::IN | EventFlags::PRI),
                writable: flags.contains(EventFlags::OUT),
                closed: flags.intersects(EventFlags::HUP | EventFlags::ERR),
            }
        }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_who_is_readable_and_who_is_closed() {
        let poller = Poller::new().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        poller.add(&reader, 7, Interest::Read).unwrap();
        let mut happened = Vec::new();
        poller.wait(Some(Duration::ZERO), &mut happened).unwrap();
        assert_eq!(happened, []);
        rustix::io::write(&writer, b"x").unwrap();
        poller.wait(Some(Duration::from_secs(20)), &mut happened).unwrap();
        assert_eq!(happened, [Happened { token: 7, readable: true, writable: false, closed: false }]);
        drop(writer);
        poller.wait(Some(Duration::from_secs(20)), &mut happened).unwrap();
        assert!(happened[0].closed);
    }
}
