//! One connection to another member: made when it is needed, shared by all calls of its lane.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::frame::{self, Reader};
use super::traffic::Counters;
use super::wire::{AnswerRecord, HelloRecord, RequestRecord};
use super::{Answer, CallError, Hello, Local, Refusal, Request};
use crate::flags::{Address, Endpoint};
use crate::member::MemberId;
use crate::tls::Reloading;

/// Frames that wait to be written. Behind it calls wait, and their time runs.
const QUEUE: usize = 64;
/// The largest answer: a transaction that reads much. Memory is taken as it arrives.
const ANSWER_BYTES: usize = 512 << 20;
const HELLO_BYTES: usize = 4 << 10;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

#[derive(Debug)]
pub(super) enum ConnectError {
    Io(io::Error),
    Refused(Refusal),
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

type Pending = Mutex<HashMap<u64, oneshot::Sender<Result<Answer, &'static str>>>>;

/// An established connection. It ends when the last reference is gone, or when it is broken.
#[derive(Debug)]
pub(super) struct Link {
    target: MemberId,
    /// The other side's data directory.
    pub(super) store: u64,
    frames: mpsc::Sender<Bytes>,
    shared: Arc<Shared>,
    next_id: AtomicU64,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

#[derive(Debug)]
struct Shared {
    pending: Pending,
    counters: Arc<Counters>,
    broken: AtomicBool,
    created: Instant,
    /// Milliseconds since `created` at which something came in last.
    heard: AtomicU64,
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Result<Answer, &'static str>>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self) {
        let now = u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Relaxed);
    }

    fn silent_for(&self) -> Duration {
        self.created.elapsed().saturating_sub(Duration::from_millis(self.heard.load(Ordering::Relaxed)))
    }

    /// Nobody waits for what cannot come any more.
    fn break_off(&self) {
        if !self.broken.swap(true, Ordering::AcqRel) {
            self.counters.disconnected();
        }
        self.pending().clear();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.shared.break_off();
    }
}

/// Forgets a call that was given up.
struct Registered<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.shared.pending().remove(&self.id);
    }
}

impl Link {
    /// Connects to one of the URLs, says hello, and hears the same. The certificate of the other side must name `member`, or
    /// the URL's host where there is no such name.
    pub(super) async fn connect(
        url: &str,
        member: Option<&str>,
        hello: &Hello,
        tls: Option<&Reloading<ClientConfig>>,
        counters: &Arc<Counters>,
    ) -> Result<Self, ConnectError> {
        let endpoint = Endpoint::parse(url).ok_or(io::ErrorKind::InvalidInput).map_err(io::Error::from)?;
        let mut stream = open(&endpoint, member, tls).await?;
        stream.write_all(&frame::encode(0, &HelloRecord::new(hello))).await?;
        stream.flush().await?;
        let (read, write) = tokio::io::split(stream);
        let mut reader = Reader::new(read, HELLO_BYTES);
        let answer = reader.next().await?.ok_or(io::ErrorKind::UnexpectedEof).map_err(io::Error::from)?;
        let answer = HelloRecord::decode(answer.body).map_err(io::Error::other)?;
        if answer.refusal != 0 {
            return Err(ConnectError::Refused(Refusal::from_code(answer.refusal)));
        }
        reader.set_limit(ANSWER_BYTES);
        counters.connected();
        let shared = Arc::new(Shared {
            pending: Mutex::default(),
            counters: Arc::clone(counters),
            broken: AtomicBool::new(false),
            created: Instant::now(),
            heard: AtomicU64::new(0),
        });
        let (frames, queue) = mpsc::channel(QUEUE);
        let tasks = [
            tokio::spawn(write_frames(write, queue, Arc::clone(&shared))),
            tokio::spawn(read_answers(reader, Arc::clone(&shared))),
        ];
        let Local { member_id: target, store_id: store, .. } = answer.local();
        Ok(Self { target, store, frames, shared, next_id: AtomicU64::new(1), tasks })
    }

    pub(super) fn is_broken(&self) -> bool {
        self.shared.broken.load(Ordering::Acquire)
    }

    /// Breaks it off if nothing has come in for so long: the other side, or the way to it, is gone without a word.
    pub(super) fn suspect(&self, silence: Duration) {
        if self.shared.silent_for() >= silence {
            self.shared.break_off();
        }
    }

    pub(super) async fn call(&self, request: Request, timeout: Duration) -> Result<Answer, CallError> {
        let target = self.target;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = frame::encode(id, &RequestRecord::from(request));
        let (sender, receiver) = oneshot::channel();
        self.shared.pending().insert(id, sender);
        let _registered = Registered { shared: &self.shared, id };
        let deadline = Instant::now() + timeout;
        let not_sent = |reason: &str| CallError::NotSent { target, reason: reason.to_owned() };
        match tokio::time::timeout_at(deadline, self.frames.reserve()).await {
            Ok(Ok(permit)) if !self.is_broken() => permit.send(frame),
            Ok(_) => return Err(not_sent("the connection is broken")),
            Err(_) => return Err(not_sent("the connection is held up")),
        }
        match tokio::time::timeout_at(deadline, receiver).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(reason))) => Err(CallError::Lost { target, reason }),
            Ok(Err(_)) => Err(CallError::Lost { target, reason: "the connection broke" }),
            Err(_) => Err(CallError::Lost { target, reason: "timed out" }),
        }
    }
}

/// Whether each of the addresses refuses connections, as a machine does on which nobody listens there.
pub(super) async fn is_refused(urls: &[String]) -> bool {
    for url in urls {
        let connected = match Endpoint::parse(url).map(|endpoint| endpoint.address) {
            Some(Address::Tcp { host, port }) => TcpStream::connect((host.as_str(), port)).await.map(drop),
            Some(Address::Unix(path)) => UnixStream::connect(path).await.map(drop),
            None => return false,
        };
        if !connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            return false;
        }
    }
    !urls.is_empty()
}

async fn open(
    endpoint: &Endpoint,
    member: Option<&str>,
    tls: Option<&Reloading<ClientConfig>>,
) -> io::Result<Box<dyn Stream>> {
    let (stream, host): (Box<dyn Stream>, &str) = match &endpoint.address {
        Address::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            (Box::new(stream), host)
        }
        Address::Unix(path) => (Box::new(UnixStream::connect(path).await?), "localhost"),
    };
    if !endpoint.tls {
        return Ok(stream);
    }
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "https needs --peer-cert-file and its kind");
    let connector = TlsConnector::from(tls.ok_or_else(missing)?.current());
    let name = ServerName::try_from(member.unwrap_or(host).to_owned()).map_err(io::Error::other)?;
    Ok(Box::new(connector.connect(name, stream).await?))
}

async fn write_frames(mut stream: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Bytes>, shared: Arc<Shared>) {
    while let Some(frame) = queue.recv().await {
        if stream.write_all(&frame).await.is_err() {
            break;
        }
        shared.counters.sent(frame.len());
        if queue.is_empty() && stream.flush().await.is_err() {
            break;
        }
    }
    shared.break_off();
}

async fn read_answers(mut reader: Reader<impl AsyncRead + Unpin>, shared: Arc<Shared>) {
    while let Ok(Some(frame)) = reader.next().await {
        shared.hear();
        shared.counters.received(frame.wire_len());
        let waiting = shared.pending().remove(&frame.id);
        // A call that was given up is not there any more.
        let Some(waiting) = waiting else { continue };
        let answer = AnswerRecord::decode(frame.body).map_err(Into::into).and_then(AnswerRecord::answer);
        let answer = answer.map_err(|error: super::wire::WireError| {
            tracing::warn!(error = crate::logging::chain(&error), "an answer of another member");
            "the answer was not understood"
        });
        drop(waiting.send(answer));
    }
    shared.break_off();
}
