//! Strangers on both ports: thousands that say nothing, some that say anything, some that never come to an end. None of them costs much, and none
//! is in the way of a client that means it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Store, get, put};

/// On each of the two ports.
const IDLE: usize = 10_000;
/// The store and its clients have files besides.
const OTHER_FILES: u64 = 512;
/// What a connection may cost. Most that say nothing cost nothing before long.
const BYTES_EACH: u64 = 16 << 10;
/// The longest that a put may take beside all that, on a machine that builds at the same time.
const LONGEST_PUT: Duration = Duration::from_secs(20);
const DEADLINE: Duration = Duration::from_mins(1);
/// The beginning of an HTTP/2 connection, with an empty frame of settings.
const HTTP2_OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// How many connections this process may have, up to `wanted`. The store that it starts inherits the limit.
fn may_open(wanted: usize) -> usize {
    let needed = wanted as u64 + OTHER_FILES;
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.map_or(needed, |maximum| maximum.max(needed));
    // Only root may raise the upper limit.
    if setrlimit(Resource::Nofile, Rlimit { current: Some(maximum), maximum: Some(maximum) }).is_err() {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(needed);
    let count = wanted.min(usize::try_from(files - OTHER_FILES).unwrap());
    if count < wanted {
        println!("the limit of open files allows {count} connections, not {wanted}");
    }
    count
}

/// A client that writes all the time, and how long its slowest answer took.
struct Running {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    client: tokio::task::JoinHandle<Duration>,
}

impl Running {
    /// Returns once it has had its first answers: a client that has said nothing yet is a silent one.
    async fn start(store: &Store) -> Self {
        let mut kv = store.client().await;
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&written));
        let client = tokio::spawn(async move {
            let mut slowest = Duration::ZERO;
            while !stopped.load(Ordering::SeqCst) {
                let began = Instant::now();
                kv.put(put("running", "value")).await.unwrap();
                slowest = slowest.max(began.elapsed());
                count.fetch_add(1, Ordering::SeqCst);
            }
            slowest
        });
        let running = Self { stop, written, client };
        running.goes_on("alone").await;
        running
    }

    /// Waits until it has had some more answers.
    async fn goes_on(&self, while_: &str) {
        let target = self.written.load(Ordering::SeqCst) + 10;
        let waiting = async {
            while self.written.load(Ordering::SeqCst) < target {
                assert!(!self.client.is_finished(), "a client is refused: {while_}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(DEADLINE, waiting).await.is_ok(), "a client is not answered: {while_}");
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        let slowest = self.client.await.unwrap();
        println!("{} puts beside it, the slowest {slowest:?}", self.written.load(Ordering::SeqCst));
        assert!(slowest < LONGEST_PUT, "{slowest:?}");
    }
}

async fn connect(port: u16, opening: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(opening).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_to_each_port_are_survived() {
    let directory = tempfile::tempdir().unwrap();
    let count = may_open(2 * IDLE) / 2;
    let store = Store::start(directory.path(), &[]);
    let running = Running::start(&store).await;
    let before = store.resident_bytes();
    let mut idle = Vec::new();
    for number in 0..count {
        // On the port of clients a third begins to speak HTTP/2 and stops there, as an idle client does, and a third in the middle of that.
        let opening = match number % 3 {
            0 => HTTP2_OPENING,
            1 => &HTTP2_OPENING[..7],
            _ => &[],
        };
        idle.push(connect(store.port, opening).await);
        idle.push(connect(store.peer_port, &[]).await);
    }
    running.goes_on("thousands of idle connections").await;
    assert!(get(&mut store.client().await, "running").await.is_some(), "a new client is served, too");
    let grown = store.resident_bytes().saturating_sub(before);
    println!("{} idle connections: {grown} bytes more", idle.len());
    assert!(grown < BYTES_EACH * idle.len() as u64, "{grown} bytes for {} connections", idle.len());
    drop(idle);
    running.goes_on("they are gone").await;
    running.end().await;
}

/// Clients have room for so many and no more; who has a place keeps it, and one that says nothing gives it up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_connections_than_there_is_room_for_are_turned_away() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::start(directory.path(), &["--max-connections=8"]);
    let running = Running::start(&store).await;
    let silent: Vec<_> = futures::future::join_all((0..40).map(|_| connect(store.port, &[]))).await;
    running.goes_on("silent connections").await;
    // Those that say nothing have half of the places at most; that one more has just given up its own is known a moment later.
    let mut newcomer = store.lazy_client();
    let served = async {
        while newcomer.put(put("newcomer", "value")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, served).await.is_ok(), "a new client is not served");
    drop((newcomer, silent));
    let mut turned_away = 0;
    let mut speaking = Vec::new();
    for _ in 0..40 {
        let mut stream = connect(store.port, HTTP2_OPENING).await;
        // Whoever is let in is greeted.
        let mut greeting = [0; 9];
        match tokio::time::timeout(DEADLINE, stream.read_exact(&mut greeting)).await.unwrap() {
            Ok(_) => speaking.push(stream),
            Err(_) => turned_away += 1,
        }
    }
    assert!(speaking.len() <= 7 && turned_away >= 33, "{} were let in", speaking.len());
    store.wait_for("too many connections");
    running.goes_on("no place is left").await;
    drop(speaking);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_on_both_ports_are_survived() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::start(directory.path(), &[]);
    let running = Running::start(&store).await;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for number in 0..600 {
        let len = usize::try_from(draw() % 3000).unwrap();
        let mut bytes: Vec<u8> = (0..len).map(|_| draw().to_le_bytes()[0]).collect();
        if number % 4 == 0 {
            // Past the door: frames of nothing in particular.
            bytes = [HTTP2_OPENING, &bytes].concat();
        }
        for port in [store.port, store.peer_port] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            // It may be closed before all is written, and whatever it answers will do.
            _ = stream.write_all(&bytes).await;
            if number % 2 == 0 {
                _ = stream.shutdown().await;
                _ = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut [0; 512])).await;
            }
        }
    }
    running.goes_on("random bytes").await;
    running.end().await;
    assert!(store.is_running(), "{}", store.output());
    assert!(!store.output().contains("panicked"), "{}", store.output());
}

/// A frame of another member that announces gigabytes is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_requests_are_refused_before_they_take_memory() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::start(directory.path(), &[]);
    let running = Running::start(&store).await;
    let before = store.resident_bytes();
    let mut kv = store.client().await;
    for megabytes in [2, 3, 32] {
        let refused = kv.put(put("large", vec![b'x'; megabytes << 20])).await.unwrap_err();
        let known = [tonic::Code::InvalidArgument, tonic::Code::ResourceExhausted];
        assert!(known.contains(&refused.code()), "{megabytes} MiB: {refused}");
    }
    for _ in 0..50 {
        let mut stream = connect(store.peer_port, &[0xff; 16]).await;
        let mut rest = Vec::new();
        let end = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await.unwrap();
        assert!(end.is_err() || rest.is_empty(), "{rest:?}");
    }
    running.goes_on("oversized requests").await;
    let grown = store.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
    running.end().await;
}

/// Requests whose end does not come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_never_end_are_bounded_and_in_nobodys_way() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::start(directory.path(), &[]);
    let running = Running::start(&store).await;
    // The head of a request of HTTP/1.1, byte by byte, until the store has had enough of it.
    let mut slow = connect(store.port, b"GET /health HTTP/1.1\r\n").await;
    let mut closed = [0; 1];
    let began = Instant::now();
    while began.elapsed() < DEADLINE {
        if slow.write_all(b"x").await.is_err() {
            break;
        }
        let read = tokio::time::timeout(Duration::from_millis(300), slow.read(&mut closed)).await;
        if matches!(read, Ok(Ok(0) | Err(_))) {
            break;
        }
    }
    assert!(began.elapsed() < DEADLINE, "it is still listened to");
    running.goes_on("a slow head").await;
    running.end().await;
}
