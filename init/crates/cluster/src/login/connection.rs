//! One connection: authentication, then calls and their replies, and the signal of a shutdown in between.

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use uuid::Uuid;

use super::message::{Call, FIXED_BYTES, Malformed, Outgoing, length, parse};
use super::{DELAY_MAX, Seat};

const MANAGER: &str = "org.freedesktop.login1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/login1";
/// What a bus would call us and the client.
const OUR_NAME: &str = ":1.0";
const CLIENT_NAME: &str = ":1.1";
/// For the authentication's lines, each way.
const LINE_MAX: usize = 1024;
/// A client that does not take its replies is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("a login1 client's connection failed")]
    Io(#[from] std::io::Error),
    #[error("a login1 client's connection failed")]
    Send(#[source] rustix::io::Errno),
    #[error("a login1 client did not authenticate as the protocol says")]
    Authentication,
    #[error("what a login1 client sent")]
    Message(#[from] Malformed),
    #[error("too many login1 clients")]
    TooMany,
}

/// The sending half, shared with whoever announces a shutdown.
#[derive(Debug)]
pub(super) struct Writer {
    stream: UnixStream,
    serial: Mutex<u32>,
}

impl Writer {
    pub(super) fn prepare_for_shutdown(&self) -> Result<(), ConnectionError> {
        self.send(&Outgoing::signal(MANAGER_PATH, MANAGER, "PrepareForShutdown").boolean(true), None)
    }

    fn send(&self, message: &Outgoing, descriptor: Option<&OwnedFd>) -> Result<(), ConnectionError> {
        // Held while sending, so that messages do not mix.
        let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
        *serial = serial.wrapping_add(1).max(1);
        let bytes = message.encode(*serial, OUR_NAME, CLIENT_NAME);
        let borrowed: Vec<_> = descriptor.iter().map(|descriptor| descriptor.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !borrowed.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&borrowed));
        }
        // A message is far smaller than a socket's buffer, so it is taken whole or not at all.
        rustix::net::sendmsg(&self.stream, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)
            .map_err(ConnectionError::Send)?;
        Ok(())
    }
}

/// Serves until the client goes.
pub(super) fn serve(mut stream: UnixStream, seat: &Seat) -> Result<(), ConnectionError> {
    stream.set_write_timeout(Some(SEND_TIMEOUT))?;
    let mut nul = [0; 1];
    if stream.read(&mut nul)? == 0 {
        // PID 1 only wanted to know whether somebody answers.
        return Ok(());
    }
    authenticate(&mut stream)?;
    let writer = Arc::new(Writer { stream: stream.try_clone()?, serial: Mutex::new(0) });
    if !seat.add_connection(Arc::clone(&writer)) {
        return Err(ConnectionError::TooMany);
    }
    let result = answer_calls(&mut stream, &writer, seat);
    seat.remove_connection(&writer);
    result
}

/// The server's side of SASL as D-Bus has it, after the first byte: `EXTERNAL` only. Who the peer is, the socket's mode has decided already.
fn authenticate(stream: &mut UnixStream) -> Result<(), ConnectionError> {
    use std::io::Write as _;
    let accept = || format!("OK {}\r\n", Uuid::new_v4().simple());
    let mut asked_for_data = false;
    loop {
        let line = read_line(stream)?;
        let answer = match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["AUTH", "EXTERNAL", _] => accept(),
            // kubelet's library names itself only when it is asked to, and then says nothing: the peer that the kernel knows.
            ["AUTH", "EXTERNAL"] => {
                asked_for_data = true;
                "DATA\r\n".to_owned()
            }
            ["DATA", ..] if asked_for_data => accept(),
            ["AUTH", ..] => "REJECTED EXTERNAL\r\n".to_owned(),
            ["NEGOTIATE_UNIX_FD"] => "AGREE_UNIX_FD\r\n".to_owned(),
            ["BEGIN"] => return Ok(()),
            _ => "ERROR\r\n".to_owned(),
        };
        stream.write_all(answer.as_bytes())?;
    }
}

/// Byte by byte: what follows `BEGIN` is no line any more.
fn read_line(stream: &mut UnixStream) -> Result<String, ConnectionError> {
    let mut line = Vec::new();
    let mut byte = [0; 1];
    while line.len() < LINE_MAX {
        stream.read_exact(&mut byte)?;
        line.extend_from_slice(&byte);
        if let Some(line) = line.strip_suffix(b"\r\n") {
            return String::from_utf8(line.to_vec()).map_err(|_| ConnectionError::Authentication);
        }
    }
    Err(ConnectionError::Authentication)
}

fn answer_calls(stream: &mut UnixStream, writer: &Writer, seat: &Seat) -> Result<(), ConnectionError> {
    loop {
        let mut bytes = vec![0; FIXED_BYTES];
        match stream.read_exact(&mut bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            result => result?,
        }
        let total = length(&bytes)?;
        bytes.resize(total, 0);
        if let Some(rest) = bytes.get_mut(FIXED_BYTES..) {
            stream.read_exact(rest)?;
        }
        let Some(call) = parse(&bytes)? else {
            continue;
        };
        let (reply, descriptor) = answer(&call, seat);
        if call.reply_expected {
            writer.send(&reply, descriptor.as_ref())?;
        }
    }
}

fn answer(call: &Call, seat: &Seat) -> (Outgoing, Option<OwnedFd>) {
    let arguments: Vec<_> = call.arguments.iter().map(String::as_str).collect();
    let reply = Outgoing::reply(call.serial);
    match (call.interface.as_str(), call.member.as_str(), arguments.as_slice()) {
        ("org.freedesktop.DBus", "Hello", []) => (reply.string(CLIENT_NAME), None),
        ("org.freedesktop.DBus", "AddMatch" | "RemoveMatch", [_]) | ("org.freedesktop.DBus.Peer", "Ping", []) => {
            (reply, None)
        }
        ("org.freedesktop.DBus.Properties", "Get", [MANAGER, "InhibitDelayMaxUSec"]) => {
            let delay = u64::try_from(DELAY_MAX.as_micros()).unwrap_or(u64::MAX);
            (reply.variant_u64(delay), None)
        }
        (MANAGER, "Inhibit", ["shutdown", _, _, "delay"]) => match inhibit(seat) {
            Some(lock) => (reply.descriptor(), Some(lock)),
            None => (error(call, "org.freedesktop.DBus.Error.LimitsExceeded", "no more inhibitors"), None),
        },
        (MANAGER, "Inhibit", _) => {
            (error(call, "org.freedesktop.DBus.Error.NotSupported", "only shutdowns, and only their delay"), None)
        }
        _ => (
            error(call, "org.freedesktop.DBus.Error.UnknownMethod", "keelson-cluster's login1 does not have this"),
            None,
        ),
    }
}

/// The lock is the writing end of a pipe that nobody writes to.
fn inhibit(seat: &Seat) -> Option<OwnedFd> {
    let (ours, lock) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).ok()?;
    seat.add_inhibitor(ours).then_some(lock)
}

fn error(call: &Call, name: &'static str, text: &str) -> Outgoing {
    Outgoing::error(call.serial, name, text)
}
