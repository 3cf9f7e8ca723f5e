//! The socket on which services say that they are ready, and what a person at the console should know (`sd_notify(3)`).
//!
//! Anyone on the node may send to it, so what counts is who sent: the kernel adds the sender's process id
//! (`SCM_CREDENTIALS`, unix(7)), and that belongs to a service by its cgroup or to none.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use keelson_sys::poller::{Interest, Poller};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType};

use super::Source;

/// systemd's own limit for a message.
const MESSAGE_MAX: usize = 4096;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Notification {
    pub(super) pid: i32,
    pub(super) ready: bool,
    /// `WATCHDOG=1`: it lives.
    pub(super) alive: bool,
    /// `STATUS=`: one line about how the service is.
    pub(super) status: Option<String>,
}

#[derive(Debug)]
pub(super) struct NotifySocket {
    socket: OwnedFd,
}

impl NotifySocket {
    pub(super) fn bind(path: &Path, poller: &Poller) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        super::clients::bind_afresh(&socket, path)?;
        rustix::net::sockopt::set_socket_passcred(&socket, true)?;
        // Services of any account send here.
        rustix::fs::chmod(path, Mode::from_bits_retain(0o666))?;
        poller.add(&socket, Source::Notify.token(), Interest::Read)?;
        Ok(Self { socket })
    }

    /// The messages that wait, as many as `limit` at most. Those of unknown senders count, and are left out.
    pub(super) fn receive(&self, limit: usize) -> Vec<Notification> {
        let mut buffer = [0; MESSAGE_MAX];
        // An error means that there is no message: the descriptor is ours and open.
        (0..limit).map_while(|_| self.receive_one(&mut buffer).ok()).flatten().collect()
    }

    /// `None`: nobody knows who sent it.
    fn receive_one(&self, buffer: &mut [u8]) -> rustix::io::Result<Option<Notification>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let message = rustix::net::recvmsg(&self.socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
        let sender = control.drain().find_map(|item| match item {
            RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials.pid.as_raw_nonzero().get()),
            _ => None,
        });
        let text = buffer.get(..message.bytes).unwrap_or_default();
        Ok(sender.map(|pid| Notification {
            pid,
            ready: says(text, b"READY=1"),
            alive: says(text, b"WATCHDOG=1"),
            status: status(text),
        }))
    }
}

fn says(text: &[u8], what: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').any(|line| line == what)
}

fn status(text: &[u8]) -> Option<String> {
    let line = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"STATUS="))?;
    Some(String::from_utf8_lossy(line).into_owned()).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn what_is_said_is_a_line_of_its_own() {
        let says_ready = |text| says(text, b"READY=1");
        assert!(says_ready(b"READY=1"));
        assert!(says_ready(b"STATUS=up\nREADY=1\n"));
        assert!(!says_ready(b"STATUS=READY=1"));
        assert!(!says_ready(b"READY=10"));
    }

    #[test]
    fn a_status_is_the_rest_of_its_line() {
        assert_eq!(status(b"READY=1\nSTATUS=up = well\nMAINPID=1").as_deref(), Some("up = well"));
        assert_eq!(status(b"STATUS="), None);
        assert_eq!(status(b"XSTATUS=no"), None);
    }

    #[test]
    fn the_kernel_says_who_sent() {
        let (_directory, path, socket) = bound();
        assert_eq!(socket.receive(2), []);
        let sender = UnixDatagram::unbound().unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        for (text, ready, alive) in [("READY=1", true, false), ("WATCHDOG=1", false, true)] {
            sender.send_to(text.as_bytes(), &path).unwrap();
            assert_eq!(socket.receive(2), [Notification { pid, ready, alive, status: None }]);
        }
    }

    #[test]
    fn who_sends_much_is_not_read_to_the_end() {
        let (_directory, path, socket) = bound();
        let sender = UnixDatagram::unbound().unwrap();
        for _ in 0..5 {
            sender.send_to(b"WATCHDOG=1", &path).unwrap();
        }
        assert_eq!([socket.receive(3).len(), socket.receive(3).len(), socket.receive(3).len()], [3, 2, 0]);
    }

    fn bound() -> (tempfile::TempDir, PathBuf, NotifySocket) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = NotifySocket::bind(&path, &Poller::new().unwrap()).unwrap();
        (directory, path, socket)
    }
}
