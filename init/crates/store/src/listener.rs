//! Sockets, and what comes before the first request on a connection.
//!
//! Whoever connects is to say something, prove who it is, and ask; each of these has a deadline, and connections are at these points beside each
//! other: one that says nothing holds up nobody. Those that have not said a word yet are many where somebody means harm, so when there
//! are too many the oldest of them gives way to the newest: one that means to speak does so within milliseconds. All connections together, silent,
//! working and idle, are bounded by [`Room`]: for one more there would be no file left that the log may open. etcd has none of these
//! bounds.

mod connection;
mod guests;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::stream::Stream;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, UnixListener, lookup_host};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::MissedTickBehavior;

pub(crate) use self::connection::Connection;
use self::connection::{RawStream, Transport};
use self::guests::Guests;
use crate::flags::{Address, Endpoint, TlsFiles};
use crate::tls::{Doorman, Reloading, TlsError};

/// Connections of one listener on which nothing was said yet, at most, and never more than half of the room.
const MOST_SILENT: usize = 1024;
/// TLS handshakes under way on one listener.
const MAX_HANDSHAKES: usize = 256;
/// What each may take: the first word, the handshake, and the beginning of the first request.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(10);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// The head of an HTTP/1.1 request may be this long.
const OPENING_BYTES: usize = 8 << 10;
const OPENING_READ: usize = 512;
/// With this begins whoever speaks HTTP/2 (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// That there is no room is told once, and again after this time.
const TELL_INTERVAL: Duration = Duration::from_secs(30);
/// How often it is looked whether others are to be believed than before.
const REVIEW_INTERVAL: Duration = Duration::from_secs(5);
/// Pause after a failed accept: the reason is mostly that no file descriptor is left.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("listen on {address}")]
    Bind {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// How many connections there may be, on several listeners together.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    places: Arc<Semaphore>,
    size: usize,
    told: Arc<Mutex<Option<Instant>>>,
}

impl Room {
    pub(crate) fn new(size: usize) -> Self {
        let size = size.min(Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(size)), size, told: Arc::default() }
    }

    fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    fn tell(&self, listener: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL) {
            *told = Some(Instant::now());
            tracing::warn!(address = listener, most = self.size, "too many connections: new ones are turned away");
        }
    }
}

/// How a conversation begins. What is read of it to find out is given to whoever serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// With the preface of HTTP/2, or the whole head of an HTTP/1.1 request.
    Http,
    /// With anything.
    Bytes,
}

impl Opening {
    fn is_complete(self, bytes: &[u8]) -> bool {
        match self {
            Self::Bytes => !bytes.is_empty(),
            Self::Http => {
                let is_preface = bytes.starts_with(HTTP2_PREFACE);
                // What begins as the preface must be all of it.
                let may_be_preface = HTTP2_PREFACE.starts_with(bytes);
                let is_head = || bytes.windows(4).any(|end| end == b"\r\n\r\n");
                is_preface || (!may_be_preface && (is_head() || bytes.len() >= OPENING_BYTES))
            }
        }
    }
}

/// A bound socket.
#[derive(Debug)]
pub(crate) struct Listener {
    name: String,
    socket: Socket,
    tls: Option<Arc<Reloading<Doorman>>>,
    room: Room,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub(crate) async fn bind(endpoint: &Endpoint, tls: Option<&TlsFiles>, room: &Room) -> Result<Self, ListenError> {
        let name = match &endpoint.address {
            Address::Tcp { host, port } => format!("{host}:{port}"),
            Address::Unix(path) => path.display().to_string(),
        };
        let failed = |source| ListenError::Bind { address: name.clone(), source };
        let socket = match &endpoint.address {
            Address::Tcp { host, port } => {
                let addresses = lookup_host((host.as_str(), *port)).await.map_err(failed)?;
                Socket::Tcp(TcpListener::bind(preferred(addresses).as_slice()).await.map_err(failed)?)
            }
            Address::Unix(path) => {
                // One that a former process left cannot be bound to again.
                match std::fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                    _ => {}
                }
                Socket::Unix(UnixListener::bind(path).map_err(failed)?)
            }
        };
        let tls = match tls.filter(|_| endpoint.tls) {
            Some(files) => Some(Arc::new(Reloading::server(files)?)),
            None => None,
        };
        Ok(Self { name, socket, tls, room: room.clone() })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    /// Connections on which a conversation has begun.
    pub(crate) fn incoming(self, opening: Opening) -> impl Stream<Item = io::Result<Connection>> {
        let (ready, connections) = mpsc::channel(1);
        tokio::spawn(self.accept(opening, ready));
        futures::stream::unfold(connections, |mut connections| async move {
            Some((Ok(connections.recv().await?), connections))
        })
    }

    /// Accepts until nobody takes the connections any more.
    async fn accept(self, opening: Opening, ready: mpsc::Sender<Connection>) {
        let door = Door {
            tls: self.tls.clone(),
            guests: Guests::default(),
            opening,
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            ready: ready.clone(),
        };
        let mut silent = Silent { newcomers: VecDeque::new(), most: MOST_SILENT.min(self.room.size / 2).max(1) };
        let mut doorman = self.tls.as_ref().map(|tls| tls.current());
        let mut reviews = tokio::time::interval(REVIEW_INTERVAL);
        reviews.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // They end with this.
        let mut newcomers = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                Some(_) = newcomers.join_next() => continue,
                _ = reviews.tick(), if doorman.is_some() => {
                    self.review(&mut doorman, &door.guests);
                    continue;
                }
                () = ready.closed() => return,
            };
            let stream = match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(address = self.name, %error, "accept");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let Some(place) = self.room.place() else {
                self.room.tell(&self.name);
                // For the next one.
                silent.dismiss_oldest();
                continue;
            };
            let has_spoken = Arc::new(AtomicBool::new(false));
            let newcomer = newcomers.spawn(door.clone().welcome(stream, place, Arc::clone(&has_spoken)));
            silent.add(newcomer, has_spoken);
        }
    }
}

/// In the order in which they are tried, of which the first that can be bound is the one: as in Go, a name stands for its IPv4 address where it has
/// one, whichever the machine's list of hosts has first.
fn preferred(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let (ipv4, others): (Vec<_>, Vec<_>) = addresses.partition(SocketAddr::is_ipv4);
    [ipv4, others].concat()
}

impl Listener {
    /// When another doorman has come, guests of the former one are looked at again.
    fn review(&self, doorman: &mut Option<Arc<Doorman>>, guests: &Guests) {
        let Some(present) = self.tls.as_ref().map(|tls| tls.current()) else { return };
        if doorman.as_ref().is_some_and(|former| Arc::ptr_eq(former, &present)) {
            return;
        }
        let gone = guests.review(&present);
        if gone > 0 {
            tracing::info!(address = self.name, gone, "ended connections whose certificates are believed no more");
        }
        *doorman = Some(present);
    }
}

/// Newcomers, the oldest first, and others that are not silent any more.
struct Silent {
    newcomers: VecDeque<(AbortHandle, Arc<AtomicBool>)>,
    most: usize,
}

impl Silent {
    fn add(&mut self, newcomer: AbortHandle, has_spoken: Arc<AtomicBool>) {
        if self.newcomers.len() >= self.most {
            self.newcomers.retain(|(task, has_spoken)| !task.is_finished() && !has_spoken.load(Ordering::Relaxed));
        }
        if self.newcomers.len() >= self.most {
            self.dismiss_oldest();
        }
        self.newcomers.push_back((newcomer, has_spoken));
    }

    fn dismiss_oldest(&mut self) {
        while let Some((task, has_spoken)) = self.newcomers.pop_front() {
            if !task.is_finished() && !has_spoken.load(Ordering::Relaxed) {
                task.abort();
                return;
            }
        }
    }
}

/// What a newcomer must pass.
#[derive(Clone)]
struct Door {
    tls: Option<Arc<Reloading<Doorman>>>,
    guests: Guests,
    opening: Opening,
    handshakes: Arc<Semaphore>,
    ready: mpsc::Sender<Connection>,
}

impl Door {
    async fn welcome(self, raw: RawStream, place: OwnedSemaphorePermit, has_spoken: Arc<AtomicBool>) {
        if !matches!(tokio::time::timeout(SILENCE_TIMEOUT, raw.readable()).await, Ok(Ok(()))) {
            return;
        }
        has_spoken.store(true, Ordering::Relaxed);
        let (mut stream, guest) = match &self.tls {
            None => (raw.plain(), None),
            Some(tls) => {
                let Ok(_permit) = self.handshakes.acquire().await else { return };
                let doorman = tls.current();
                let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, raw.handshake(&doorman)).await {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake"),
                    Err(_) => return tracing::debug!("TLS handshake timed out"),
                };
                let guest = stream.peer_certificates().map(|chain| self.guests.add(chain.to_vec()));
                // Another one may have come since, and have looked at all guests but this one.
                let present = tls.current();
                if !Arc::ptr_eq(&doorman, &present) && guest.as_ref().is_some_and(|guest| guest.is_to_go(&present)) {
                    return;
                }
                (stream, guest)
            }
        };
        let opened = tokio::time::timeout(OPENING_TIMEOUT, read_opening(&mut stream, self.opening));
        let Ok(Ok(opening)) = opened.await else { return };
        if opening.is_empty() {
            // Whoever only looked whether somebody listens.
            return;
        }
        // Nobody is left to serve it if the send fails.
        drop(self.ready.send(Connection::new(stream, guest, opening, place)).await);
    }
}

/// Reads until it is clear how the conversation begins, or the other side has said all it will.
async fn read_opening(stream: &mut Transport, opening: Opening) -> io::Result<Bytes> {
    let mut bytes = BytesMut::with_capacity(OPENING_READ);
    while !opening.is_complete(&bytes) {
        bytes.reserve(OPENING_READ);
        if stream.read_buf(&mut bytes).await? == 0 {
            break;
        }
    }
    Ok(bytes.freeze())
}

impl Socket {
    async fn accept(&self) -> io::Result<RawStream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(RawStream::Tcp(stream))
            }
            Self::Unix(listener) => Ok(RawStream::Unix(listener.accept().await?.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_addresses_of_both_kinds_is_listened_on_by_its_ipv4_one() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let found = addresses(&["[::1]:2379", "127.0.0.1:2379", "[::2]:2379", "127.0.0.2:2379"]);
        let expected = addresses(&["127.0.0.1:2379", "127.0.0.2:2379", "[::1]:2379", "[::2]:2379"]);
        assert_eq!(preferred(found.into_iter()), expected);
        assert_eq!(preferred(addresses(&["[::1]:2379"]).into_iter()), addresses(&["[::1]:2379"]));
    }
}
