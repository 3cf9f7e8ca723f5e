//! Connections to the control socket.
//!
//! Everything is bounded: connections, packets a turn, packets waiting for a client. A client that does not read what it
//! asked for is disconnected; it can connect again and list. Only the owner (root) is let in (`SO_PEERCRED`, unix(7)).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use keelson_control::codec::{self, CodecError};
use keelson_control::{ErrorKind, Event, PACKET_MAX, Packet, Request, Response};
use keelson_sys::poller::{Interest, Poller};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::Source;

/// keelson-cluster has a few: requests, a subscription, one for each inhibitor.
const CLIENTS_MAX: usize = 32;

/// Packets that wait for a slow client. All services changing state twice fit.
const QUEUE_MAX: usize = 128;

/// Requests that one client gets answered before others have their turn.
const TURN_MAX: usize = 16;

/// Who waits to be let in, and how many are let in before others have their turn.
const WAITING_MAX: i32 = 16;

#[derive(Debug)]
pub(super) struct Clients {
    listener: OwnedFd,
    owner: u32,
    connected: BTreeMap<u64, Client>,
    next_number: u64,
    buffer: Vec<u8>,
    /// Who was disconnected or left, until the driver has heard of it.
    gone: Vec<u64>,
}

#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    /// By its own word, with its hello.
    name: Option<String>,
    subscribed: bool,
    queue: VecDeque<Vec<u8>>,
}

/// What a client sent.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) descriptor: Option<OwnedFd>,
}

impl Clients {
    pub(super) fn listen(path: &Path, owner: u32, poller: &Poller) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        bind_afresh(&listener, path)?;
        rustix::fs::chmod(path, Mode::from_bits_retain(0o600))?;
        rustix::net::listen(&listener, WAITING_MAX)?;
        poller.add(&listener, Source::Listener.token(), Interest::Read)?;
        Ok(Self {
            listener,
            owner,
            connected: BTreeMap::new(),
            next_number: 0,
            buffer: vec![0; PACKET_MAX],
            gone: Vec::new(),
        })
    }

    /// Lets in who waits. Who is not the owner, or one too many, is disconnected without a word.
    pub(super) fn accept(&mut self, poller: &Poller) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        for _ in 0..WAITING_MAX {
            let Ok(socket) = rustix::net::accept_with(&self.listener, flags) else { return };
            let peer = rustix::net::sockopt::socket_peercred(&socket);
            if peer.is_ok_and(|peer| peer.uid.as_raw() == self.owner) && self.connected.len() < CLIENTS_MAX {
                self.next_number += 1;
                let token = Source::Client(self.next_number).token();
                if poller.add(&socket, token, Interest::Read).is_ok() {
                    let client = Client { socket, name: None, subscribed: false, queue: VecDeque::new() };
                    self.connected.insert(self.next_number, client);
                }
            }
        }
    }

    /// Those who are gone since the last call.
    pub(super) fn take_gone(&mut self) -> impl Iterator<Item = u64> {
        std::mem::take(&mut self.gone).into_iter()
    }

    fn disconnect(&mut self, number: u64) {
        if self.connected.remove(&number).is_some() {
            self.gone.push(number);
        }
    }

    /// The client's next requests. What it asked before it left is still obeyed.
    pub(super) fn read(&mut self, number: u64) -> Vec<Asked> {
        let mut asked = Vec::new();
        for _ in 0..TURN_MAX {
            let Some(client) = self.connected.get_mut(&number) else { break };
            let received = match codec::receive(&client.socket, &mut self.buffer) {
                Ok(Some(received)) => received,
                Err(error) if error.would_block() => break,
                Err(CodecError::PacketTooLong { .. }) => {
                    self.refuse(number, ErrorKind::Malformed, "the packet is too long");
                    continue;
                }
                Ok(None) | Err(_) => {
                    self.disconnect(number);
                    break;
                }
            };
            match received.decode() {
                Ok(request) => asked.push(Asked { request, descriptor: received.descriptor }),
                Err(error) => {
                    let message = super::words::chain(&error);
                    self.refuse(number, ErrorKind::Malformed, &message);
                }
            }
        }
        asked
    }

    fn refuse(&mut self, number: u64, kind: ErrorKind, message: &str) {
        self.answer(number, Response::Error { kind, message: message.to_owned() });
    }

    /// The name of a client that has said hello.
    pub(super) fn name(&self, number: u64) -> Option<&str> {
        self.connected.get(&number)?.name.as_deref()
    }

    pub(super) fn set_name(&mut self, number: u64, name: String) {
        if let Some(client) = self.connected.get_mut(&number) {
            client.name = Some(name);
        }
    }

    pub(super) fn set_subscribed(&mut self, number: u64) {
        if let Some(client) = self.connected.get_mut(&number) {
            client.subscribed = true;
        }
    }

    pub(super) fn answer(&mut self, number: u64, response: Response) {
        let Ok(mut bytes) = serde_json::to_vec(&Packet::Response(response)) else { return };
        if bytes.len() > PACKET_MAX {
            let message = format!("the answer has {} bytes, and a packet {PACKET_MAX} at most", bytes.len());
            let refusal = Response::Error { kind: ErrorKind::TooLong, message };
            bytes = serde_json::to_vec(&Packet::Response(refusal)).unwrap_or_default();
        }
        if let Some(client) = self.connected.get_mut(&number) {
            client.queue.push_back(bytes);
        }
    }

    /// Tells all subscribers. Who has too much unread already is disconnected: a gap would be a lie.
    pub(super) fn broadcast(&mut self, event: &Event, poller: &Poller) {
        if !self.connected.values().any(|client| client.subscribed) {
            return;
        }
        let Ok(bytes) = serde_json::to_vec(&Packet::Event(event.clone())) else { return };
        for client in self.connected.values_mut().filter(|client| client.subscribed) {
            client.queue.push_back(bytes.clone());
        }
        self.flush_all(poller);
    }

    pub(super) fn flush_all(&mut self, poller: &Poller) {
        let failed = |(number, client): (&u64, &mut Client)| (!client.flush(*number, poller)).then_some(*number);
        let gone: Vec<u64> = self.connected.iter_mut().filter_map(failed).collect();
        for number in gone {
            self.disconnect(number);
        }
    }

    /// Sends what this client has room for.
    pub(super) fn flush(&mut self, number: u64, poller: &Poller) {
        if self.connected.get_mut(&number).is_some_and(|client| !client.flush(number, poller)) {
            self.disconnect(number);
        }
    }
}

impl Client {
    /// Returns whether the client is worth keeping.
    fn flush(&mut self, number: u64, poller: &Poller) -> bool {
        while let Some(bytes) = self.queue.front() {
            match codec::send_bytes(&self.socket, bytes, None) {
                Ok(()) => drop(self.queue.pop_front()),
                Err(error) if error.would_block() => break,
                Err(_) => return false,
            }
        }
        let interest = if self.queue.is_empty() { Interest::Read } else { Interest::ReadWrite };
        let watched = poller.modify(&self.socket, Source::Client(number).token(), interest);
        watched.is_ok() && self.queue.len() <= QUEUE_MAX
    }
}

/// Binds a socket to a path that an earlier one may have left behind.
pub(super) fn bind_afresh(socket: &OwnedFd, path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok(rustix::net::bind(socket, &SocketAddrUnix::new(path)?)?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keelson_control::{Client as TestClient, ClientError};

    use super::*;

    fn listening() -> (tempfile::TempDir, Poller, Clients) {
        let directory = tempfile::tempdir().unwrap();
        let poller = Poller::new().unwrap();
        let owner = rustix::process::geteuid().as_raw();
        let clients = Clients::listen(&directory.path().join("init.sock"), owner, &poller).unwrap();
        (directory, poller, clients)
    }

    fn connect(directory: &tempfile::TempDir) -> OwnedFd {
        let address = SocketAddrUnix::new(directory.path().join("init.sock")).unwrap();
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::NONBLOCK, None).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        socket
    }

    #[test]
    fn who_comes_in_a_crowd_is_let_in_over_several_turns() {
        let (directory, poller, mut clients) = listening();
        // The kernel lets one more wait than it was asked for.
        let crowd: Vec<_> = (0..=WAITING_MAX).map(|_| connect(&directory)).collect();
        clients.accept(&poller);
        assert_eq!(clients.connected.len(), crowd.len() - 1);
        clients.accept(&poller);
        assert_eq!(clients.connected.len(), crowd.len());
    }

    #[test]
    fn answer_that_fits_no_packet_is_an_error_and_no_end_of_the_connection() {
        let (directory, poller, mut clients) = listening();
        let socket = connect(&directory);
        clients.accept(&poller);
        let (kind, message) = (ErrorKind::Malformed, "x".repeat(PACKET_MAX));
        clients.answer(1, Response::Error { kind, message });
        clients.answer(1, Response::Done {});
        clients.flush(1, &poller);
        let mut buffer = vec![0; PACKET_MAX];
        let mut receive = || codec::receive(&socket, &mut buffer).unwrap().unwrap().decode::<Packet>().unwrap();
        let first = receive();
        assert!(matches!(first, Packet::Response(Response::Error { kind: ErrorKind::TooLong, .. })), "{first:?}");
        assert_eq!(receive(), Packet::Response(Response::Done {}));
    }

    #[test]
    fn who_is_not_the_owner_is_not_let_in() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("init.sock");
        let poller = Poller::new().unwrap();
        let stranger = rustix::process::geteuid().as_raw().wrapping_add(1);
        let mut clients = Clients::listen(&path, stranger, &poller).unwrap();
        let asking = std::thread::spawn(move || TestClient::connect(path, "stranger").err());
        poller.wait(Some(Duration::from_secs(20)), &mut Vec::new()).unwrap();
        clients.accept(&poller);
        assert!(clients.connected.is_empty());
        let error = asking.join().unwrap();
        assert!(matches!(error, Some(ClientError::Closed)), "{error:?}");
    }
}
