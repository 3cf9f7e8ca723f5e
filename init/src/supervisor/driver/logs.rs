//! The services' output pipes, and how their reading ends reach keelson-log.
//!
//! PID 1 makes a pipe per service and keeps both ends. So a service never gets EPIPE, a restart of keelson-log loses
//! nothing that fits the pipe ([`PIPE_BYTES`]), and a restart of the service continues the same log. keelson-log gets one
//! end of a packet socket and on it every reading end, all of them again after its own restart.
//!
//! A pipe that nobody reads fills up, and then a service that writes would stop. PID 1 prefers the service to its log:
//! a pipe that was nearly full at each look for [`FULL_PATIENCE`] is read half empty, and the number of bytes thrown away
//! is said on the console.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use keelson_control::{ServiceName, codec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use serde::Serialize;

/// Room for some thousand lines while keelson-log restarts. Below /proc/sys/fs/pipe-max-size (1 MiB).
const PIPE_BYTES: usize = 256 * 1024;

/// A working keelson-log empties a pipe in milliseconds.
const FULL_PATIENCE: Duration = Duration::from_secs(5);

/// The name under which keelson-log gets the kernel's log.
const KERNEL: &str = "kernel";

#[derive(Debug)]
pub(super) struct Logs {
    pipes: BTreeMap<ServiceName, Pipe>,
    kernel_log: Option<OwnedFd>,
    channel: Option<OwnedFd>,
    /// Names of what this keelson-log was not sent yet.
    unsent: BTreeSet<String>,
}

#[derive(Debug)]
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    bytes: usize,
    full_since: Option<Duration>,
}

#[derive(Serialize)]
struct Announcement<'a> {
    service: &'a str,
}

impl Logs {
    pub(super) fn new(kernel_log: Option<OwnedFd>) -> Self {
        Self { pipes: BTreeMap::new(), kernel_log, channel: None, unsent: BTreeSet::new() }
    }

    /// Where a service writes.
    pub(super) fn writer(&mut self, service: &ServiceName) -> io::Result<BorrowedFd<'_>> {
        if !self.pipes.contains_key(service) {
            self.pipes.insert(service.clone(), Pipe::new()?);
            self.unsent.insert(service.to_string());
        }
        let pipe = self.pipes.get(service).ok_or(io::ErrorKind::NotFound)?;
        Ok(pipe.writer.as_fd())
    }

    /// A new channel for a new keelson-log, which has nothing yet.
    pub(super) fn new_channel(&mut self) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        self.channel = Some(ours);
        self.unsent = self.pipes.keys().map(ToString::to_string).collect();
        if self.kernel_log.is_some() {
            self.unsent.insert(KERNEL.to_owned());
        }
        Ok(theirs)
    }

    /// Sends what is unsent, as far as the channel takes it.
    pub(super) fn send_pending(&mut self) {
        let Some(channel) = &self.channel else { return };
        while let Some(name) = self.unsent.pop_first() {
            let reader = self.pipes.iter().find(|(service, _)| service.as_str() == name).map(|(_, pipe)| &pipe.reader);
            let Some(descriptor) = reader.or(self.kernel_log.as_ref().filter(|_| name == KERNEL)) else { continue };
            match codec::send(channel, &Announcement { service: &name }, Some(descriptor)) {
                Ok(()) => {}
                Err(error) if error.would_block() => {
                    self.unsent.insert(name);
                    return;
                }
                // keelson-log is gone. The next one gets a channel of its own and everything on it.
                Err(_) => {
                    self.channel = None;
                    return;
                }
            }
        }
    }

    /// keelson-log sees the end of the pipe when the last writer is gone and keeps what it has.
    pub(super) fn forget(&mut self, service: &ServiceName) {
        self.pipes.remove(service);
        self.unsent.remove(service.as_str());
    }

    /// Throws away from pipes that stay full, and says how much.
    pub(super) fn relieve(&mut self, now: Duration) -> Vec<(ServiceName, usize)> {
        let relieved = |(service, pipe): (&ServiceName, &mut Pipe)| {
            let dropped = pipe.relieve(now);
            (dropped > 0).then(|| (service.clone(), dropped))
        };
        self.pipes.iter_mut().filter_map(relieved).collect()
    }
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        // Only the reading end: a service that finds its output full has to wait, not to fail.
        rustix::io::ioctl_fionbio(&reader, true)?;
        // Refused to users over their share (pipe(7)); the default size does as well.
        let bytes = rustix::pipe::fcntl_setpipe_size(&writer, PIPE_BYTES)
            .or_else(|_| rustix::pipe::fcntl_getpipe_size(&writer))?;
        Ok(Self { reader, writer, bytes, full_since: None })
    }

    fn relieve(&mut self, now: Duration) -> usize {
        // The kernel counts in pages that may be partly filled: a pipe takes no more well before its nominal size.
        let held = rustix::io::ioctl_fionread(&self.reader).unwrap_or_default();
        let full = is_full(&self.writer) || usize::try_from(held).unwrap_or(usize::MAX) >= self.bytes / 8 * 7;
        if !full {
            self.full_since = None;
            return 0;
        }
        if now.saturating_sub(*self.full_since.get_or_insert(now)) < FULL_PATIENCE {
            return 0;
        }
        self.full_since = None;
        drop_bytes(&self.reader, usize::try_from(held).unwrap_or(self.bytes) / 2)
    }
}

/// A pipe is writable as soon as one page is free.
fn is_full(writer: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut descriptors = [PollFd::new(writer, PollFlags::OUT)];
    matches!(poll(&mut descriptors, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

fn drop_bytes(reader: &OwnedFd, wanted: usize) -> usize {
    let mut buffer = [0; 4096];
    let mut dropped = 0;
    while dropped < wanted {
        match rustix::io::read(reader, &mut buffer) {
            Ok(0) => break,
            Ok(count) => dropped += count,
            Err(Errno::INTR) => {}
            Err(_) => break,
        }
    }
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> ServiceName {
        ServiceName::new("a").unwrap()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Writes until the pipe takes no more.
    fn fill(logs: &mut Logs) -> usize {
        let writer = logs.writer(&name()).unwrap().try_clone_to_owned().unwrap();
        let mut written = 0;
        while !is_full(&writer) {
            written += rustix::io::write(&writer, &[b'x'; 1000]).unwrap();
        }
        written
    }

    #[test]
    fn a_pipe_that_stays_full_is_relieved_after_a_while_and_not_before() {
        let mut logs = Logs::new(None);
        let written = fill(&mut logs);
        assert!(written >= 64 * 1024);
        assert_eq!(logs.relieve(seconds(10)), []);
        assert_eq!(logs.relieve(seconds(14)), []);
        let relieved = logs.relieve(seconds(15));
        assert_eq!(relieved.len(), 1);
        assert!(relieved[0].1 >= written / 2 && relieved[0].1 < written, "{relieved:?}");
        assert_eq!(logs.relieve(seconds(16)), []);
    }

    #[test]
    fn a_pipe_that_is_read_in_time_loses_nothing() {
        let mut logs = Logs::new(None);
        fill(&mut logs);
        assert_eq!(logs.relieve(seconds(10)), []);
        let reader = logs.pipes.values().next().unwrap().reader.try_clone().unwrap();
        drop_bytes(&reader, usize::MAX);
        assert_eq!(logs.relieve(seconds(14)), []);
        fill(&mut logs);
        assert_eq!(logs.relieve(seconds(15)), []);
    }

    #[test]
    fn every_new_reader_is_sent_all_pipes_and_the_kernels_log() {
        let kernel_log = rustix::fs::memfd_create("kmsg", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut logs = Logs::new(Some(kernel_log));
        logs.writer(&name()).unwrap();
        for _ in 0..2 {
            let channel = logs.new_channel().unwrap();
            logs.send_pending();
            let mut names = Vec::new();
            for _ in 0..2 {
                let mut buffer = [0; 256];
                let received = codec::receive(&channel, &mut buffer).unwrap().unwrap();
                assert!(received.descriptor.is_some());
                names.push(String::from_utf8_lossy(received.bytes).into_owned());
            }
            assert_eq!(names, [r#"{"service":"a"}"#, r#"{"service":"kernel"}"#]);
        }
        logs.writer(&ServiceName::new("b").unwrap()).unwrap();
        assert_eq!(logs.unsent.len(), 1, "a later service is sent by itself");
    }

    #[test]
    fn a_reader_that_is_gone_is_forgotten() {
        let mut logs = Logs::new(None);
        logs.writer(&name()).unwrap();
        drop(logs.new_channel().unwrap());
        logs.send_pending();
        assert!(logs.channel.is_none());
    }
}
