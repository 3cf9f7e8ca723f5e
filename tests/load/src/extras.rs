//! Leases, compaction, snapshots, many keys and a restart on them.

use std::time::{Duration, Instant};

use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::lease_client::LeaseClient;
use keelson_etcd_api::etcdserverpb::maintenance_client::MaintenanceClient;
use tokio_stream::StreamExt as _;

use crate::Bench;
use crate::error::Error;
use crate::figures::{Value, Workload};
use crate::load::{self, Plan, Recorder};
use crate::server::{Peer, Server};
use crate::single::{BOTH, Pair};
use crate::workload::{self, Kind};

const GRANT: &str = "lease grant, 64 clients";
const KEEP_ALIVE: &str = "lease keep-alive, 16 streams";
const COMPACTION: &str = "compaction under load";
const MANY: &str = "many keys";
/// None of the measured leases runs out.
const TTL_SECONDS: i64 = 3600;
const STREAMS: u64 = 16;
/// The load beside a compaction: far from what either can do, so that its times are the compaction's doing.
const BESIDE_RATE: f64 = 1000.0;
/// Transactions of [`workload::grow`] at once.
const GROWERS: u64 = 16;

pub(crate) fn wants_leases(bench: &Bench) -> bool {
    bench.wants(GRANT) || bench.wants(KEEP_ALIVE)
}

fn plan(bench: &Bench, name: &str, clients: usize) -> Plan {
    let (warm_up, window) = (bench.warm_up(), bench.window());
    Plan { name: name.to_owned(), kind: Kind::Count, clients, warm_up, window }
}

pub(crate) async fn leases(bench: &mut Bench, pair: &Pair) -> Result<(), Error> {
    for (name, clients) in [(GRANT, 64), (KEEP_ALIVE, STREAMS)] {
        if !bench.wants(name) {
            continue;
        }
        let plan = plan(bench, name, usize::try_from(clients).unwrap_or(1));
        let (mut etcd, mut keelson) = (Vec::new(), Vec::new());
        let count = bench.scaled(100_000, 2000);
        for round in 0..bench.rounds {
            for peer in BOTH {
                let servers = pair.of(peer);
                let Some(server) = servers.first() else { continue };
                let sample = if name == GRANT {
                    let tasks = (0..clients).map(|_| grants(server)).collect();
                    load::measure(servers, &plan, tasks).await?
                } else {
                    if round == 0 {
                        grant_all(server, count).await?;
                    }
                    let tasks = (0..STREAMS).map(|stream| keep_alives(server, stream, count)).collect();
                    load::measure(servers, &plan, tasks).await?
                };
                if peer == Peer::Etcd { etcd.push(sample) } else { keelson.push(sample) }
            }
        }
        bench.add(Workload::new(name.to_owned(), plan.clients, None, etcd, keelson))?;
    }
    Ok(())
}

fn grants(
    server: &Server,
) -> impl FnOnce(Recorder) -> futures::future::BoxFuture<'static, Result<Recorder, tonic::Status>> {
    let mut client = LeaseClient::new(server.channel());
    move |mut recorder| {
        Box::pin(async move {
            while !recorder.is_over() {
                let began = Instant::now();
                client.lease_grant(pb::LeaseGrantRequest { ttl: TTL_SECONDS, id: 0 }).await?;
                recorder.record(began);
            }
            Ok(recorder)
        })
    }
}

/// Leases with the ids from 1 on.
async fn grant_all(server: &Server, count: u64) -> Result<(), Error> {
    let grants = (0..STREAMS).map(|first| {
        let mut client = LeaseClient::new(server.channel());
        async move {
            for number in (first..count).step_by(usize::try_from(STREAMS).unwrap_or(1)) {
                let id = i64::try_from(number + 1).unwrap_or(i64::MAX);
                client.lease_grant(pb::LeaseGrantRequest { ttl: TTL_SECONDS, id }).await?;
            }
            Ok::<_, tonic::Status>(())
        }
    });
    futures::future::try_join_all(grants).await.map_err(Error::refused(KEEP_ALIVE))?;
    Ok(())
}

fn keep_alives(
    server: &Server,
    stream: u64,
    count: u64,
) -> impl FnOnce(Recorder) -> futures::future::BoxFuture<'static, Result<Recorder, tonic::Status>> {
    let mut client = LeaseClient::new(server.channel());
    move |mut recorder| {
        Box::pin(async move {
            let (requests, queue) = tokio::sync::mpsc::channel(1);
            let ids = (0..count).skip(usize::try_from(stream).unwrap_or(0));
            let mut ids = ids.step_by(usize::try_from(STREAMS).unwrap_or(1)).cycle();
            let mut next = move || pb::LeaseKeepAliveRequest { id: ids.next().map_or(1, |id| id.cast_signed() + 1) };
            // The stream begins with a request.
            _ = requests.send(next()).await;
            let queue = tokio_stream::wrappers::ReceiverStream::new(queue);
            let mut answers = client.lease_keep_alive(queue).await?.into_inner();
            let mut began = Instant::now();
            while !recorder.is_over() {
                let answer =
                    answers.next().await.unwrap_or_else(|| Err(tonic::Status::internal("the stream ended")))?;
                if answer.ttl != TTL_SECONDS {
                    return Err(tonic::Status::internal("a lease is gone"));
                }
                recorder.record(began);
                began = Instant::now();
                _ = requests.send(next()).await;
            }
            Ok(recorder)
        })
    }
}

/// Writes `count` keys of 256 bytes.
async fn grow(server: &Server, count: u64) -> Result<(), Error> {
    let each = count.div_ceil(GROWERS);
    let growers = (0..GROWERS).map(|grower| {
        let mut kv = server.kv();
        async move { workload::grow(&mut kv, grower * each, each).await }
    });
    futures::future::try_join_all(growers).await.map_err(Error::refused("fill"))?;
    Ok(())
}

/// A history that is mostly garbage, and its compaction beside writes.
pub(crate) async fn compaction(bench: &mut Bench) -> Result<(), Error> {
    if !bench.wants(COMPACTION) {
        return Ok(());
    }
    let pair = Pair::start(bench, 1).await?;
    let keys = bench.scaled(100_000, 10_000);
    let plan = Plan { kind: Kind::Put { bytes: 256 }, ..plan(bench, COMPACTION, 16) };
    let mut times = [Vec::new(), Vec::new()];
    let mut ratios = [Vec::new(), Vec::new()];
    for ((peer, times), ratios) in BOTH.into_iter().zip(&mut times).zip(&mut ratios) {
        let servers = pair.of(peer);
        let Some(server) = servers.first() else { continue };
        // Ten versions of each key.
        for _ in 0..10 {
            grow(server, keys).await?;
        }
        let quiet = load::open(servers, &plan, BESIDE_RATE).await?;
        let status = server.status().await.ok_or_else(|| server.late("answer"))?;
        let revision = status.header.map_or(0, |header| header.revision);
        let mut kv = server.kv();
        let compact = async {
            tokio::time::sleep(plan.warm_up).await;
            let began = Instant::now();
            let compacted = kv.compact(pb::CompactionRequest { revision, physical: true }).await;
            compacted.map(|_| began.elapsed()).map_err(Error::refused(COMPACTION))
        };
        let (busy, time) = tokio::join!(load::open(servers, &plan, BESIDE_RATE), compact);
        times.push(time?.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "times of less than hours")]
        ratios.push(busy?.latency_micros.p99 as f64 / quiet.latency_micros.p99.max(1) as f64);
    }
    let [etcd, keelson] = times;
    bench.add_value(Value::new(format!("compaction of {} revisions", keys * 10), "s", etcd, keelson))?;
    let [etcd, keelson] = ratios;
    bench.add_value(Value::new("put p99 while compacting by that without", "", etcd, keelson))
}

/// Memory, snapshot and restart with many keys.
pub(crate) async fn many_keys(bench: &mut Bench) -> Result<(), Error> {
    if !bench.wants(MANY) {
        return Ok(());
    }
    let mut pair = Pair::start(bench, 1).await?;
    let keys = bench.scaled(1_000_000, 100_000);
    let mut values: Vec<[Vec<f64>; 2]> = (0..4).map(|_| <[Vec<f64>; 2]>::default()).collect();
    for peer in BOTH {
        let servers = if peer == Peer::Etcd { &mut pair.etcd } else { &mut pair.keelson };
        let Some(server) = servers.first_mut() else { continue };
        grow(server, keys).await?;
        #[expect(clippy::cast_precision_loss, reason = "less than petabytes")]
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let resident = mib(server.usage().resident_bytes);
        let (snapshot_time, snapshot_bytes) = snapshot(server).await?;
        server.kill();
        let began = Instant::now();
        server.start()?;
        server.ready().await?;
        let found = [resident, snapshot_time.as_secs_f64(), mib(snapshot_bytes), began.elapsed().as_secs_f64()];
        for (sides, value) in values.iter_mut().zip(found) {
            let [etcd, keelson] = sides;
            if peer == Peer::Etcd { etcd.push(value) } else { keelson.push(value) }
        }
        // Its memory is not to be in the other's way.
        server.kill();
    }
    let names =
        [("resident memory", "MiB"), ("snapshot", "s"), ("size of a snapshot", "MiB"), ("start after kill -9", "s")];
    for ((name, unit), [etcd, keelson]) in names.into_iter().zip(values) {
        bench.add_value(Value::new(format!("{name}, {keys} keys"), unit, etcd, keelson))?;
    }
    Ok(())
}

async fn snapshot(server: &Server) -> Result<(Duration, u64), Error> {
    let refused = Error::refused("snapshot");
    let mut client = MaintenanceClient::new(server.channel()).max_decoding_message_size(64 << 20);
    let began = Instant::now();
    let mut pieces = client.snapshot(pb::SnapshotRequest {}).await.map_err(&refused)?.into_inner();
    let mut bytes = 0;
    while let Some(piece) = pieces.next().await {
        bytes += piece.map_err(&refused)?.blob.len() as u64;
    }
    Ok((began.elapsed(), bytes))
}
