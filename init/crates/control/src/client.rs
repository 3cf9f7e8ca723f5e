//! A blocking client, for keelson-cluster (through `spawn_blocking`) and for tests.
//!
//! A request's answer is awaited for [`ANSWER_TIMEOUT`]: PID 1 answers from memory, so a longer silence means that it
//! hangs, and a caller must learn that.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::Timeout;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use thiserror::Error;

use crate::codec::{self, CodecError};
use crate::{
    Applied, BootDetails, BootRecord, ErrorKind, Event, PACKET_MAX, Packet, Request, Response, ServiceName, ServiceSet,
    SupervisorStatus, VersionRange,
};

/// How long an answer may take.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
pub enum ClientError {
    #[error("cannot connect to PID 1 at {}", path.display())]
    Connect { path: PathBuf, source: Errno },
    #[error("the connection to PID 1 failed")]
    Codec(#[source] CodecError),
    #[error("PID 1 closed the connection")]
    Closed,
    #[error("PID 1 did not answer in time")]
    TimedOut,
    #[error("PID 1 refused: {message}")]
    Refused { kind: ErrorKind, message: String },
    #[error("PID 1 gave an answer that does not belong to the request")]
    UnexpectedAnswer,
}

#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects and agrees on a version. `client` is the name that PID 1's log shows.
    pub fn connect(path: impl AsRef<Path>, client: &str) -> Result<Self, ClientError> {
        let path = path.as_ref();
        let failed = |source| ClientError::Connect { path: path.to_owned(), source };
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(failed)?;
        rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT)).map_err(failed)?;
        rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Send, Some(ANSWER_TIMEOUT)).map_err(failed)?;
        let address = SocketAddrUnix::new(path).map_err(failed)?;
        rustix::net::connect(&socket, &address).map_err(failed)?;
        let mut connected = Self { socket, buffer: vec![0; PACKET_MAX] };
        let hello = Request::Hello { versions: VersionRange::OURS, client: client.to_owned() };
        match connected.ask(&hello, None)? {
            Response::Hello { .. } => Ok(connected),
            _ => Err(ClientError::UnexpectedAnswer),
        }
    }

    pub fn list(&mut self) -> Result<SupervisorStatus, ClientError> {
        match self.ask(&Request::List {}, None)? {
            Response::Status(status) => Ok(status),
            _ => Err(ClientError::UnexpectedAnswer),
        }
    }

    pub fn apply_set(&mut self, set: &ServiceSet) -> Result<Applied, ClientError> {
        let memfd = codec::seal_set(set).map_err(ClientError::Codec)?;
        match self.ask(&Request::ApplySet {}, Some(&memfd))? {
            Response::Applied(applied) => Ok(applied),
            _ => Err(ClientError::UnexpectedAnswer),
        }
    }

    pub fn start(&mut self, service: &ServiceName) -> Result<(), ClientError> {
        self.order(&Request::Start { service: service.clone() })
    }

    pub fn stop(&mut self, service: &ServiceName) -> Result<(), ClientError> {
        self.order(&Request::Stop { service: service.clone() })
    }

    pub fn restart(&mut self, service: &ServiceName, reason: &str) -> Result<(), ClientError> {
        self.order(&Request::Restart { service: service.clone(), reason: reason.to_owned() })
    }

    pub fn report_unhealthy(&mut self, service: &ServiceName, reason: &str) -> Result<(), ClientError> {
        self.order(&Request::ReportUnhealthy { service: service.clone(), reason: reason.to_owned() })
    }

    pub fn mark_boot_good(&mut self) -> Result<(), ClientError> {
        self.order(&Request::MarkBootGood {})
    }

    pub fn boots(&mut self) -> Result<Vec<BootRecord>, ClientError> {
        match self.ask(&Request::Boots {}, None)? {
            Response::Boots { boots } => Ok(boots),
            _ => Err(ClientError::UnexpectedAnswer),
        }
    }

    pub fn boot(&mut self, number: u64) -> Result<BootDetails, ClientError> {
        match self.ask(&Request::Boot { number }, None)? {
            Response::Boot(details) => Ok(details),
            _ => Err(ClientError::UnexpectedAnswer),
        }
    }

    pub fn reboot(&mut self, reason: &str) -> Result<(), ClientError> {
        self.order(&Request::Reboot { reason: reason.to_owned() })
    }

    pub fn power_off(&mut self, reason: &str) -> Result<(), ClientError> {
        self.order(&Request::PowerOff { reason: reason.to_owned() })
    }

    /// Turns the connection into a delay of shutdowns, which lasts until the inhibitor is dropped.
    pub fn inhibit(mut self, who: &str, why: &str, delay_max: Duration) -> Result<Inhibitor, ClientError> {
        let delay_max_seconds = u32::try_from(delay_max.as_secs()).unwrap_or(u32::MAX);
        self.order(&Request::Inhibit { who: who.to_owned(), why: why.to_owned(), delay_max_seconds })?;
        Ok(Inhibitor { _socket: self.socket })
    }

    /// Turns the connection into a stream of events.
    pub fn subscribe(mut self) -> Result<Events, ClientError> {
        self.order(&Request::Subscribe {})?;
        Ok(Events { socket: self.socket, buffer: self.buffer })
    }

    fn order(&mut self, request: &Request) -> Result<(), ClientError> {
        match self.ask(request, None)? {
            Response::Done {} => Ok(()),
            _ => Err(ClientError::UnexpectedAnswer),
        }
    }

    fn ask(&mut self, request: &Request, descriptor: Option<&OwnedFd>) -> Result<Response, ClientError> {
        codec::send(&self.socket, request, descriptor).map_err(from_codec)?;
        match receive(self.socket.as_fd(), &mut self.buffer)? {
            Packet::Response(Response::Error { kind, message }) => Err(ClientError::Refused { kind, message }),
            Packet::Response(response) => Ok(response),
            Packet::Event(_) => Err(ClientError::UnexpectedAnswer),
        }
    }
}

/// Delays shutdowns while it lives.
#[derive(Debug)]
pub struct Inhibitor {
    _socket: OwnedFd,
}

/// A subscription.
#[derive(Debug)]
pub struct Events {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event, or `None` if there is none within `timeout`.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Event>, ClientError> {
        // A timeout of zero would mean none at all (socket(7), SO_RCVTIMEO).
        let timeout = timeout.max(Duration::from_millis(1));
        rustix::net::sockopt::set_socket_timeout(&self.socket, Timeout::Recv, Some(timeout))
            .map_err(|source| ClientError::Codec(CodecError::System { operation: "set a timeout", source }))?;
        match receive(self.socket.as_fd(), &mut self.buffer) {
            Ok(Packet::Event(event)) => Ok(Some(event)),
            Ok(Packet::Response(_)) => Err(ClientError::UnexpectedAnswer),
            Err(ClientError::TimedOut) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Packet, ClientError> {
    let received = codec::receive(socket, buffer).map_err(from_codec)?.ok_or(ClientError::Closed)?;
    received.decode().map_err(ClientError::Codec)
}

fn from_codec(error: CodecError) -> ClientError {
    match error {
        error if error.would_block() => ClientError::TimedOut,
        CodecError::System { source: Errno::PIPE | Errno::CONNRESET, .. } => ClientError::Closed,
        error => ClientError::Codec(error),
    }
}
