//! Three members: the main workloads, what idleness costs, and how long writes stop when the leader is killed.

use std::time::{Duration, Instant};

use keelson_etcd_api::etcdserverpb as pb;

use crate::Bench;
use crate::error::Error;
use crate::figures::Value;
use crate::server::{Peer, Server};
use crate::single::{self, BOTH, Pair};
use crate::workload::Kind;

const ROWS: &[(&str, Kind, usize, bool)] = &[
    ("three: put 256 B, 1 client", Kind::Put { bytes: 256 }, 1, false),
    ("three: put 256 B, 16 clients", Kind::Put { bytes: 256 }, 16, true),
    ("three: put 256 B, 128 clients", Kind::Put { bytes: 256 }, 128, true),
    ("three: txn update, 64 clients", Kind::Update, 64, true),
    ("three: get lin., 64 clients", Kind::Get { serializable: false }, 64, true),
    ("three: mix, 64 clients", Kind::Mix, 64, true),
];
const IDLE: &str = "three: idle";
const KILL: &str = "three: leader killed";
/// Between two tries to write while there is no leader.
const RETRY: Duration = Duration::from_millis(5);
const DEADLINE: Duration = Duration::from_mins(1);

pub(crate) async fn run(bench: &mut Bench) -> Result<(), Error> {
    let wanted: Vec<_> = ROWS.iter().filter(|(name, ..)| bench.wants(name)).collect();
    if wanted.is_empty() && !bench.wants(IDLE) && !bench.wants(KILL) {
        return Ok(());
    }
    let mut pair = Pair::start(bench, 3).await?;
    single::fill(&pair).await?;
    for (name, kind, clients, is_timed) in wanted {
        single::rows(bench, &pair, name, *kind, *clients, *is_timed).await?;
    }
    if bench.wants(IDLE) {
        idle(bench, &pair).await?;
    }
    if bench.wants(KILL) {
        kills(bench, &mut pair).await?;
    }
    Ok(())
}

/// The leader and the place of another.
async fn leader(servers: &[Server]) -> Result<(usize, usize), Error> {
    let began = Instant::now();
    loop {
        for (number, server) in servers.iter().enumerate().filter(|(_, server)| server.is_running()) {
            if server.leads().await {
                return Ok((number, (number + 1) % servers.len()));
            }
        }
        match servers.first() {
            Some(server) if began.elapsed() > DEADLINE => return Err(server.late("elect a leader")),
            _ => tokio::time::sleep(RETRY).await,
        }
    }
}

async fn idle(bench: &mut Bench, pair: &Pair) -> Result<(), Error> {
    let window = bench.window() * 6;
    let mut found: Vec<[Vec<f64>; 2]> = (0..4).map(|_| <[Vec<f64>; 2]>::default()).collect();
    for (side, peer) in BOTH.into_iter().enumerate() {
        let servers = pair.of(peer);
        let (leader, follower) = leader(servers).await?;
        let places = [leader, follower];
        let of = |place: usize| servers.get(place).map(Server::usage).unwrap_or_default();
        let before = places.map(of);
        tokio::time::sleep(window).await;
        let after = places.map(of);
        for (role, (before, after)) in before.into_iter().zip(after).enumerate() {
            #[expect(clippy::cast_precision_loss, reason = "a few megabytes")]
            let written = (after.written_bytes - before.written_bytes) as f64;
            let cpu = (after.cpu_seconds - before.cpu_seconds) / window.as_secs_f64() * 100.0;
            let per_minute = written / 1024.0 / window.as_secs_f64() * 60.0;
            for (offset, value) in [(0, cpu), (2, per_minute)] {
                if let Some(values) = found.get_mut(role + offset).and_then(|sides| sides.get_mut(side)) {
                    values.push(value);
                }
            }
        }
    }
    let names = [
        ("three: idle leader", "% of a core"),
        ("three: idle follower", "% of a core"),
        ("three: idle leader, written", "KiB/min"),
        ("three: idle follower, written", "KiB/min"),
    ];
    for ((name, unit), [etcd, keelson]) in names.into_iter().zip(found) {
        bench.add_value(Value::new(name, unit, etcd, keelson))?;
    }
    Ok(())
}

async fn kills(bench: &mut Bench, pair: &mut Pair) -> Result<(), Error> {
    let count = bench.scaled(30, 5);
    let mut times = [Vec::new(), Vec::new()];
    for (peer, times) in BOTH.into_iter().zip(&mut times) {
        let servers = if peer == Peer::Etcd { &mut pair.etcd } else { &mut pair.keelson };
        for _ in 0..count {
            times.push(kill_once(servers).await?.as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
    }
    let [etcd, keelson] = times;
    bench.add_value(Value::new(KILL, "s", etcd, keelson))
}

/// From the kill to the next write that is acknowledged, tried at the members that are left.
async fn kill_once(servers: &mut [Server]) -> Result<Duration, Error> {
    let (leader, _) = leader(servers).await?;
    let mut others: Vec<_> =
        servers.iter().enumerate().filter(|(number, _)| *number != leader).map(|(_, server)| server.kv()).collect();
    for kv in &mut others {
        let request = pb::RangeRequest { key: "ready".into(), serializable: true, ..Default::default() };
        kv.range(request).await.map_err(Error::refused(KILL))?;
    }
    let Some(killed) = servers.get_mut(leader) else { return Ok(Duration::ZERO) };
    killed.kill();
    let began = Instant::now();
    let mut tries = Vec::new();
    for mut kv in others {
        tries.push(Box::pin(async move {
            loop {
                let request = pb::PutRequest { key: "killed".into(), value: "1".into(), ..Default::default() };
                if kv.put(request).await.is_ok() {
                    return;
                }
                tokio::time::sleep(RETRY).await;
            }
        }));
    }
    let acknowledged = tokio::time::timeout(DEADLINE, futures::future::select_all(tries)).await;
    if acknowledged.is_err() {
        return Err(killed.late("be replaced as the leader"));
    }
    let time = began.elapsed();
    killed.start()?;
    killed.ready().await?;
    Ok(time)
}
