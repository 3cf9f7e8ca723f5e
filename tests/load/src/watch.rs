//! Watches: how many events a second reach many watchers, and what ten thousand idle ones cost a write.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::watch_client::WatchClient;
use keelson_etcd_api::etcdserverpb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::Bench;
use crate::error::Error;
use crate::figures::{Value, Workload};
use crate::latency::Latencies;
use crate::load::{self, Plan, Sample};
use crate::server::{self, Server};
use crate::single::{BOTH, Pair};
use crate::workload::{Kind, range_end};

const FAN_OUT: &str = "watch fan-out 10 x 100";
const IDLE: &str = "put beside idle watchers";
/// Watches share streams as kube-apiserver's do not, but 1000 connections would measure TLS.
const WATCHES_PER_STREAM: u64 = 100;
const PREFIXES: u64 = 10;
const WATCHERS_PER_PREFIX: u64 = 100;
/// How long watches may take to be created.
const CREATE_TIMEOUT: Duration = Duration::from_mins(1);

pub(crate) fn wanted(bench: &Bench) -> bool {
    bench.wants(FAN_OUT) || bench.wants(IDLE)
}

pub(crate) async fn run(bench: &mut Bench, pair: &Pair) -> Result<(), Error> {
    if bench.wants(FAN_OUT) {
        fan_out(bench, pair).await?;
    }
    if bench.wants(IDLE) {
        idle(bench, pair).await?;
    }
    Ok(())
}

fn prefix(number: u64) -> String {
    format!("/registry/watched-{number:05}/")
}

/// Watches of one stream, received until the value is dropped.
#[derive(Debug)]
struct Watches {
    _requests: mpsc::Sender<pb::WatchRequest>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Default)]
struct Seen {
    events: AtomicU64,
    created: AtomicU64,
    latencies: std::sync::Mutex<Latencies>,
}

/// Watches these prefixes. Events carry when they were sent, as nanoseconds since `epoch`.
async fn watch(server: &Server, prefixes: Vec<String>, seen: Arc<Seen>, epoch: Instant) -> Result<Watches, Error> {
    let (requests, queue) = mpsc::channel(64);
    let mut client = WatchClient::new(server.channel()).max_decoding_message_size(64 << 20);
    let asked = tokio::spawn({
        let requests = requests.clone();
        async move {
            for prefix in prefixes {
                let end = range_end(&prefix);
                let create = pb::WatchCreateRequest { key: prefix.into(), range_end: end, ..Default::default() };
                let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
                if requests.send(request).await.is_err() {
                    return;
                }
            }
        }
    });
    let mut answers = client.watch(ReceiverStream::new(queue)).await.map_err(Error::refused("watch"))?.into_inner();
    let task = tokio::spawn(async move {
        while let Some(Ok(answer)) = answers.next().await {
            if answer.created {
                seen.created.fetch_add(1, Ordering::Relaxed);
            }
            if answer.events.is_empty() {
                continue;
            }
            let now = epoch.elapsed();
            let mut latencies = seen.latencies.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            for event in &answer.events {
                seen.events.fetch_add(1, Ordering::Relaxed);
                let stamp = event.kv.as_ref().and_then(|kv| kv.value.first_chunk::<8>());
                let sent = Duration::from_nanos(stamp.map_or(0, |stamp| u64::from_le_bytes(*stamp)));
                latencies.record(now.saturating_sub(sent));
            }
        }
    });
    asked.await.map_err(Error::Worker)?;
    Ok(Watches { _requests: requests, task })
}

async fn wait_created(server: &Server, seen: &Seen, count: u64) -> Result<(), Error> {
    let began = Instant::now();
    while seen.created.load(Ordering::Relaxed) < count {
        if began.elapsed() > CREATE_TIMEOUT {
            return Err(server.late("create the watches"));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

async fn fan_out(bench: &mut Bench, pair: &Pair) -> Result<(), Error> {
    let (mut etcd, mut keelson) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        for peer in BOTH {
            for server in pair.of(peer).iter().take(1) {
                let sample = fan_out_once(server, bench.warm_up(), bench.window()).await?;
                if peer == server::Peer::Etcd { etcd.push(sample) } else { keelson.push(sample) }
            }
        }
    }
    bench.add(Workload::new(FAN_OUT.to_owned(), 10, None, etcd, keelson))
}

/// Ten writers, each on a prefix that a hundred watch. A writer's next write waits for nobody, so what limits is delivery.
async fn fan_out_once(server: &Server, warm_up: Duration, window: Duration) -> Result<Sample, Error> {
    let (seen, epoch) = (Arc::new(Seen::default()), Instant::now());
    let mut watches = Vec::new();
    for number in 0..PREFIXES {
        let prefixes = (0..WATCHERS_PER_PREFIX).map(|_| prefix(number)).collect();
        watches.push(watch(server, prefixes, Arc::clone(&seen), epoch).await?);
    }
    wait_created(server, &seen, PREFIXES * WATCHERS_PER_PREFIX).await?;
    let writers: Vec<_> = (0..PREFIXES)
        .map(|number| {
            let mut kv = server.kv();
            tokio::spawn(async move {
                let key = Bytes::from(format!("{}key", prefix(number)));
                loop {
                    let stamp = u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
                    let mut value = vec![b'w'; 256];
                    value.splice(..8, stamp.to_le_bytes());
                    let request = pb::PutRequest { key: key.clone(), value: value.into(), ..Default::default() };
                    if kv.put(request).await.is_err() {
                        return;
                    }
                }
            })
        })
        .collect();
    tokio::time::sleep(warm_up).await;
    let take = || std::mem::take(&mut *seen.latencies.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    drop(take());
    let (before, began) = (server.usage(), Instant::now());
    tokio::time::sleep(window).await;
    let latencies = take();
    let (after, elapsed) = (server.usage(), began.elapsed());
    for writer in writers {
        writer.abort();
    }
    if latencies.total() == 0 {
        return Err(Error::Silent(FAN_OUT.to_owned()));
    }
    Ok(Sample::new(&latencies, elapsed, before, after))
}

async fn idle(bench: &mut Bench, pair: &Pair) -> Result<(), Error> {
    let count = bench.scaled(10_000, 1000);
    let (mut etcd, mut keelson, mut memory) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
    for (peer, memory) in BOTH.into_iter().zip(&mut memory) {
        let servers = pair.of(peer);
        for server in servers.iter().take(1) {
            let seen = Arc::new(Seen::default());
            let before = server.usage().resident_bytes;
            let mut watches = Vec::new();
            for first in (0..count).step_by(usize::try_from(WATCHES_PER_STREAM).unwrap_or(1)) {
                let prefixes = (first..(first + WATCHES_PER_STREAM).min(count)).map(prefix).collect();
                watches.push(watch(server, prefixes, Arc::clone(&seen), Instant::now()).await?);
            }
            wait_created(server, &seen, count).await?;
            #[expect(clippy::cast_precision_loss, reason = "less than petabytes")]
            memory.push(server.usage().resident_bytes.saturating_sub(before) as f64 / 1024.0);
            let plan = Plan {
                name: IDLE.to_owned(),
                kind: Kind::Put { bytes: 256 },
                clients: 64,
                warm_up: bench.warm_up(),
                window: bench.window(),
            };
            for _ in 0..bench.rounds {
                let sample = load::closed(servers, &plan).await?;
                if peer == server::Peer::Etcd { etcd.push(sample) } else { keelson.push(sample) }
            }
        }
    }
    bench.add(Workload::new(IDLE.to_owned(), 64, None, etcd, keelson))?;
    let [etcd, keelson] = memory;
    bench.add_value(Value::new(format!("memory of {count} idle watchers"), "KiB", etcd, keelson))
}
