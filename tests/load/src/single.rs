//! One member of each, beside each other: requests first, then what needs servers of its own.

use crate::error::Error;
use crate::figures::Workload;
use crate::load::{self, Plan, Sample};
use crate::server::{self, Peer, Server};
use crate::workload::{self, Kind};
use crate::{Bench, extras, watch};

/// Both sides of one kind of cluster.
#[derive(Debug)]
pub(crate) struct Pair {
    pub etcd: Vec<Server>,
    pub keelson: Vec<Server>,
}

impl Pair {
    pub(crate) async fn start(bench: &Bench, members: usize) -> Result<Self, Error> {
        let start = |peer| server::cluster(peer, &bench.programs, &bench.authority, &bench.folder, members);
        Ok(Self { etcd: start(Peer::Etcd).await?, keelson: start(Peer::Keelson).await? })
    }

    pub(crate) fn of(&self, peer: Peer) -> &[Server] {
        match peer {
            Peer::Etcd => &self.etcd,
            Peer::Keelson => &self.keelson,
        }
    }
}

/// In the order in which they are measured.
pub(crate) const BOTH: [Peer; 2] = [Peer::Etcd, Peer::Keelson];

/// A workload's name, its requests, how many clients, and whether its times are measured at half of etcd's rate too.
type Row = (&'static str, Kind, usize, bool);

const ROWS: &[Row] = &[
    ("put 256 B, 1 client", Kind::Put { bytes: 256 }, 1, false),
    ("put 256 B, 16 clients", Kind::Put { bytes: 256 }, 16, true),
    ("put 256 B, 128 clients", Kind::Put { bytes: 256 }, 128, true),
    ("put 256 B, 1000 clients", Kind::Put { bytes: 256 }, 1000, false),
    ("put 4 KiB, 1 client", Kind::Put { bytes: 4096 }, 1, false),
    ("put 4 KiB, 16 clients", Kind::Put { bytes: 4096 }, 16, false),
    ("put 4 KiB, 128 clients", Kind::Put { bytes: 4096 }, 128, true),
    ("put 4 KiB, 1000 clients", Kind::Put { bytes: 4096 }, 1000, false),
    ("txn create, 64 clients", Kind::Create, 64, true),
    ("txn update, 64 clients", Kind::Update, 64, true),
    ("get linearizable, 1 client", Kind::Get { serializable: false }, 1, false),
    ("get linearizable, 64 clients", Kind::Get { serializable: false }, 64, true),
    ("get serializable, 64 clients", Kind::Get { serializable: true }, 64, true),
    ("list 10000 keys, 8 clients", Kind::List, 8, true),
    ("list in pages, 8 clients", Kind::Pages, 8, false),
    ("count, 8 clients", Kind::Count, 8, true),
    ("mix, 64 clients", Kind::Mix, 64, true),
];

pub(crate) async fn run(bench: &mut Bench) -> Result<(), Error> {
    let wanted: Vec<&Row> = ROWS.iter().filter(|(name, ..)| bench.wants(name)).collect();
    if !wanted.is_empty() || watch::wanted(bench) || extras::wants_leases(bench) {
        let pair = Pair::start(bench, 1).await?;
        fill(&pair).await?;
        for (name, kind, clients, is_timed) in wanted {
            rows(bench, &pair, name, *kind, *clients, *is_timed).await?;
        }
        watch::run(bench, &pair).await?;
        extras::leases(bench, &pair).await?;
    }
    extras::compaction(bench).await?;
    extras::many_keys(bench).await
}

pub(crate) async fn fill(pair: &Pair) -> Result<(), Error> {
    for peer in BOTH {
        let first = pair.of(peer).iter().take(1);
        for server in first {
            workload::fill(&mut server.kv()).await.map_err(Error::refused("fill"))?;
        }
    }
    Ok(())
}

/// A workload in a closed loop, and its times in an open one.
pub(crate) async fn rows(
    bench: &mut Bench,
    pair: &Pair,
    name: &str,
    kind: Kind,
    clients: usize,
    is_timed: bool,
) -> Result<(), Error> {
    let plan = Plan { name: name.to_owned(), kind, clients, warm_up: bench.warm_up(), window: bench.window() };
    let closed = alternate(bench.rounds, pair, &plan, None).await?;
    let half = closed.median_rate(Peer::Etcd) / 2.0;
    bench.add(closed)?;
    if is_timed {
        bench.add(alternate(bench.rounds, pair, &plan, Some(half)).await?)?;
    }
    Ok(())
}

async fn alternate(rounds: usize, pair: &Pair, plan: &Plan, offered: Option<f64>) -> Result<Workload, Error> {
    let (mut etcd, mut keelson) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for peer in BOTH {
            let sample: Sample = match offered {
                Some(rate) => load::open(pair.of(peer), plan, rate).await?,
                None => load::closed(pair.of(peer), plan).await?,
            };
            if peer == Peer::Etcd { etcd.push(sample) } else { keelson.push(sample) }
        }
    }
    let name = if offered.is_some() { format!("{}, half rate", plan.name) } else { plan.name.clone() };
    Ok(Workload::new(name, plan.clients, offered, etcd, keelson))
}
