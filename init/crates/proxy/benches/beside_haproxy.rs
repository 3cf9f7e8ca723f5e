//! keelson-proxy beside `HAProxy` in TCP mode: bytes and requests a second, the processor time that they cost, and how long a client is
//! held up by each way in which a server can fail. Both run as processes of their own, one after the other, in front of the same two API
//! servers, which live in this process with the clients.
//!
//! `cargo vm bench cluster` runs it; by itself: `cargo bench --package keelson-proxy -- FILE`, which writes JSON.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark that fails says so and ends")]

#[path = "../tests/support/api_server.rs"]
mod api_server;
#[path = "beside_haproxy/balancer.rs"]
mod balancer;
#[path = "beside_haproxy/client.rs"]
mod client;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use api_server::{ApiServer, Mood};
use balancer::{Balancer, Kind};
use client::Client;

/// For each measurement of speed.
const WINDOW: Duration = Duration::from_secs(5);
const CLIENTS: usize = 8;
/// How often each failure is brought about.
const FAILURES: usize = 5;

/// What one of the two did.
#[derive(Debug, Default, Serialize)]
struct Figures {
    /// Through four connections at once.
    megabytes_per_second: f64,
    cpu_seconds_per_gigabyte: f64,
    /// Small ones, over connections that stay.
    requests_per_second: f64,
    cpu_micros_per_request: f64,
    /// TLS handshake and a request each.
    connections_per_second: f64,
    cpu_micros_per_connection: f64,
    resident_megabytes: f64,
    /// From the failure to the next answer on a new connection, for a client of the server that fails, in milliseconds.
    killed: Vec<f64>,
    paused: Vec<f64>,
    never_ready: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Report {
    keelson: Figures,
    haproxy: Figures,
}

fn main() {
    let mut arguments = std::env::args_os().skip(1).filter(|argument| argument != "--bench");
    let first = arguments.next();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if first.as_deref().is_some_and(|word| word == balancer::SERVE) {
        let folder = PathBuf::from(arguments.next().unwrap());
        return runtime.block_on(balancer::serve(&folder));
    }
    let Some(file) = first else {
        // `cargo test --benches` and the like: nothing to do without a place for the figures.
        println!("usage: cargo bench --package keelson-proxy -- FILE");
        return;
    };
    let report = runtime.block_on(async {
        let keelson = measure(Kind::Keelson).await;
        let haproxy = measure(Kind::Haproxy).await;
        Report { keelson, haproxy }
    });
    println!("{report:#?}");
    std::fs::write(file, serde_json::to_vec_pretty(&report).unwrap()).unwrap();
}

async fn measure(kind: Kind) -> Figures {
    let authority = api_server::authority();
    let (mut a, b) = (ApiServer::start("a", &authority), ApiServer::start("b", &authority));
    let balancer = Balancer::start(kind, &authority, [a.address, b.address]).await;
    let client = Client::new(&authority, balancer.address);
    wait_for(&client, "a").await;
    let mut figures = Figures::default();

    let (bytes, seconds, cpu) = busy(&balancer, 4, || bulk(client.clone())).await;
    figures.megabytes_per_second = bytes / seconds / 1e6;
    figures.cpu_seconds_per_gigabyte = cpu / (bytes / 1e9);
    let (requests, seconds, cpu) = busy(&balancer, CLIENTS, || requests(client.clone())).await;
    figures.requests_per_second = requests / seconds;
    figures.cpu_micros_per_request = cpu * 1e6 / requests;
    let (connections, seconds, cpu) = busy(&balancer, CLIENTS, || connections(client.clone())).await;
    figures.connections_per_second = connections / seconds;
    figures.cpu_micros_per_connection = cpu * 1e6 / connections;
    figures.resident_megabytes = balancer.resident_megabytes();

    for _ in 0..FAILURES {
        figures.killed.push(stall(&client, async || a.kill().await).await);
        a.start_again();
        wait_for(&client, "a").await;
    }
    for (mood, stalls) in [(Mood::Paused, &mut figures.paused), (Mood::NotReady, &mut figures.never_ready)] {
        for _ in 0..FAILURES {
            stalls.push(stall(&client, async || a.become_(mood)).await);
            a.become_(Mood::Ready);
            wait_for(&client, "a").await;
        }
    }
    figures
}

/// Runs so many clients for the window. Returns what they did, in how many seconds, and the balancer's processor seconds.
async fn busy<F: Future<Output = f64> + Send + 'static>(
    balancer: &Balancer,
    clients: usize,
    client: impl Fn() -> F,
) -> (f64, f64, f64) {
    let (begun, before) = (Instant::now(), balancer.cpu_seconds());
    let tasks: Vec<_> = (0..clients).map(|_| tokio::spawn(client())).collect();
    let mut done = 0.0;
    for task in tasks {
        done += task.await.unwrap();
    }
    (done, begun.elapsed().as_secs_f64(), balancer.cpu_seconds() - before)
}

async fn bulk(client: Client) -> f64 {
    let (begun, mut bytes) = (Instant::now(), 0);
    let mut connection = client.connect().await.unwrap();
    while begun.elapsed() < WINDOW {
        bytes += connection.ask(api_server::BULK).await.unwrap().len();
    }
    count(bytes)
}

async fn requests(client: Client) -> f64 {
    let (begun, mut done) = (Instant::now(), 0);
    let mut connection = client.connect().await.unwrap();
    while begun.elapsed() < WINDOW {
        connection.ask("/whoami").await.unwrap();
        done += 1;
    }
    count(done)
}

async fn connections(client: Client) -> f64 {
    let (begun, mut done) = (Instant::now(), 0);
    while begun.elapsed() < WINDOW {
        client.connect().await.unwrap().ask("/whoami").await.unwrap();
        done += 1;
    }
    count(done)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}

/// A client that watches at server a, as kubelet does, notices that its connection is gone or asks in vain, and connects again.
async fn stall(client: &Client, fail: impl AsyncFnOnce()) -> f64 {
    let mut connection = client.connect().await.unwrap();
    assert_eq!(connection.ask("/whoami").await.unwrap(), "a");
    let begun = Instant::now();
    fail().await;
    loop {
        // Go's client gives up a connection only when it is closed; so does this one.
        if let Ok(answer) = connection.ask("/whoami").await
            && answer == "b"
        {
            return begun.elapsed().as_secs_f64() * 1e3;
        }
        if let Ok(new) = client.connect().await {
            connection = new;
        }
    }
}

/// Until a new connection is answered by that server, its health being known.
async fn wait_for(client: &Client, name: &str) {
    let mut in_a_row = 0;
    while in_a_row < 3 {
        let answer = match client.connect().await {
            Ok(mut connection) => connection.ask("/whoami").await,
            Err(error) => Err(error),
        };
        in_a_row = if answer.is_ok_and(|answer| answer == name) { in_a_row + 1 } else { 0 };
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
