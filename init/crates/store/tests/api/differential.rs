//! The same random history on a real etcd and on ours; every answer, every watched event and every hash must be the same.
//!
//! A history that is answered differently is replayed on fresh servers with parts of it left out, and what is left of it is printed.

use std::collections::BTreeSet;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;

use futures::FutureExt as _;
use futures::future::join_all;
use keelson_etcd_api::etcdserverpb as pb;
use keelson_store::command::Command;

use crate::compare::{Mismatch, Seen, same, seen, settle_ties, settle_txn, strip};
use crate::histories::{Histories, Step, count, seed};
use crate::servers::{Clients, Server, etcd_program};
use crate::shrink::shrink;
use crate::streams::Streams;
use crate::waiting::wait_until;

/// Progress is told often, or a test would wait for it.
const PROGRESS: &str = "--watch-progress-notify-interval=300ms";
/// Watches of one history at once.
const MOST_WATCHES: usize = 16;

/// Who is compared.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// None: another of ours.
    pub(crate) etcd: Option<PathBuf>,
    /// What ours is asked in place of a command: an error that is put in to see it found.
    pub(crate) defect: Option<fn(Command) -> Command>,
}

/// What is done to both, with all that was drawn for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    Command(Command),
    Range(pb::RangeRequest),
    Hash(i64),
    /// On a stream of its own, or on one that has others.
    OpenWatch {
        own: bool,
        which: usize,
        request: pb::WatchCreateRequest,
    },
    CompareWatches,
    CancelWatch(usize),
    Lease(i64),
    KeepAlive(i64),
    Alarms,
    /// Of ours, which must come back with everything.
    Crash,
}

impl Histories {
    fn action(&mut self) -> Action {
        if self.dice.one_in(25) {
            return self.no_request_for_keys();
        }
        loop {
            return match self.step() {
                // etcd keeps a hash of every compaction under its revision, and answers any request that names no revision with
                // that of a compaction to 0.
                Step::Command(Command::Compact(request)) if request.revision == 0 => continue,
                Step::Command(command) => Action::Command(command),
                Step::Range(request) => Action::Range(request),
                Step::Checkpoint => Action::Hash(self.some_revision().max(0)),
            };
        }
    }

    /// Watches, leases, alarms, a crash of ours.
    fn no_request_for_keys(&mut self) -> Action {
        let which = usize::try_from(self.dice.below(64)).unwrap();
        match self.dice.below(16) {
            0..=6 => Action::OpenWatch { own: self.dice.one_in(2), which, request: self.watch() },
            9 => Action::CancelWatch(which),
            10..=11 => Action::Lease(self.lease_id()),
            12..=13 => Action::KeepAlive(self.lease_id()),
            14 => Action::Alarms,
            15 if self.dice.one_in(4) => Action::Crash,
            _ => Action::CompareWatches,
        }
    }

    fn watch(&mut self) -> pb::WatchCreateRequest {
        let mut filters = Vec::new();
        if self.dice.one_in(4) {
            filters.push(i32::try_from(self.dice.below(2)).unwrap());
        }
        pb::WatchCreateRequest {
            key: self.key(),
            range_end: self.range_end(),
            start_revision: self.some_revision(),
            progress_notify: self.dice.one_in(3),
            filters,
            prev_kv: self.dice.one_in(2),
            watch_id: if self.dice.one_in(3) { 7 } else { 0 },
            fragment: self.dice.one_in(4),
        }
    }
}

struct Pair {
    etcd: Clients,
    ours: Clients,
    streams: Vec<Streams>,
}

/// An answer to a command.
#[derive(Debug, PartialEq)]
enum Answered {
    Put(pb::PutResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    LeaseGrant(pb::LeaseGrantResponse),
    LeaseRevoke(pb::LeaseRevokeResponse),
}

async fn answer(clients: &Clients, command: Command) -> Seen<Answered> {
    let Clients { mut kv, mut lease, .. } = clients.clone();
    match command {
        Command::Put(request) => seen(kv.put(request).await).map(Answered::Put),
        Command::DeleteRange(request) => seen(kv.delete_range(request).await).map(Answered::DeleteRange),
        Command::Txn(request) => seen(kv.txn(request.clone()).await).map(|mut response| {
            settle_txn(&request, &mut response);
            Answered::Txn(response)
        }),
        Command::Compact(request) => seen(kv.compact(request).await).map(Answered::Compact),
        Command::LeaseGrant(request) => seen(lease.lease_grant(request).await).map(Answered::LeaseGrant),
        Command::LeaseRevoke(request) => seen(lease.lease_revoke(request).await).map(Answered::LeaseRevoke),
        other => panic!("{other:?} is not drawn"),
    }
}

impl Pair {
    async fn command(&self, command: &Command, defect: Option<fn(Command) -> Command>) -> Result<(), Mismatch> {
        let to_ours = defect.map_or_else(|| command.clone(), |defect| defect(command.clone()));
        let etcd = answer(&self.etcd, command.clone()).await;
        same(command, &etcd, &answer(&self.ours, to_ours).await)
    }

    async fn range(&mut self, request: &pb::RangeRequest) -> Result<(), Mismatch> {
        let (etcd, ours) = (self.etcd.kv.range(request.clone()).await, self.ours.kv.range(request.clone()).await);
        let settle = |mut answer: Seen<pb::RangeResponse>| {
            if let Ok(response) = &mut answer {
                settle_ties(request, response);
            }
            answer
        };
        same(request, &settle(seen(etcd)), &settle(seen(ours)))?;
        let etcd = streamed(&mut self.etcd, request).await;
        let ours = streamed(&mut self.ours, request).await;
        same(&("streamed", request), &etcd, &ours)
    }

    async fn lease(&mut self, id: i64) -> Result<(), Mismatch> {
        let request = pb::LeaseTimeToLiveRequest { id, keys: true };
        let settle = |mut answer: Seen<pb::LeaseTimeToLiveResponse>| {
            if let Ok(response) = &mut answer {
                response.keys.sort();
                // A second may have passed between the two.
                response.ttl = response.ttl.signum();
            }
            answer
        };
        let etcd = settle(seen(self.etcd.lease.lease_time_to_live(request).await));
        let ours = settle(seen(self.ours.lease.lease_time_to_live(request).await));
        same(&request, &etcd, &ours)?;
        let settle = |mut answer: Seen<pb::LeaseLeasesResponse>| {
            if let Ok(response) = &mut answer {
                response.leases.sort_by_key(|lease| lease.id);
            }
            answer
        };
        let etcd = settle(seen(self.etcd.lease.lease_leases(pb::LeaseLeasesRequest {}).await));
        let ours = settle(seen(self.ours.lease.lease_leases(pb::LeaseLeasesRequest {}).await));
        same(&"leases", &etcd, &ours)
    }

    async fn hash(&mut self, revision: i64) -> Result<(), Mismatch> {
        let request = pb::HashKvRequest { revision };
        let etcd = self.etcd.maintenance.hash_kv(request).await;
        let ours = self.ours.maintenance.hash_kv(request).await;
        same(&request, &seen(etcd), &seen(ours))
    }

    async fn alarms(&mut self) -> Result<(), Mismatch> {
        let etcd = self.etcd.maintenance.alarm(pb::AlarmRequest::default()).await;
        let ours = self.ours.maintenance.alarm(pb::AlarmRequest::default()).await;
        same(&"alarms", &seen(etcd), &seen(ours))
    }

    async fn keep_alive(&mut self, id: i64) -> Result<(), Mismatch> {
        let request = pb::LeaseKeepAliveRequest { id };
        let mut answers = Vec::new();
        for clients in [&mut self.etcd, &mut self.ours] {
            let requests = tokio_stream::iter([request]);
            let mut stream = clients.lease.lease_keep_alive(requests).await.unwrap().into_inner();
            let mut answer = stream.message().await.unwrap().expect("an answer to each request");
            strip(&mut answer.header);
            answers.push(answer);
        }
        same(&request, &answers[0], &answers[1])
    }

    /// A new watch, unless there are enough.
    async fn open_watch(&mut self, own: bool, which: usize, request: &pb::WatchCreateRequest) -> Result<(), Mismatch> {
        if self.streams.iter().map(Streams::watches).sum::<usize>() >= MOST_WATCHES {
            return Ok(());
        }
        if own || self.streams.is_empty() {
            self.streams.push(Streams::open(&self.etcd, &self.ours).await);
        }
        let which = if own { self.streams.len() - 1 } else { which % self.streams.len() };
        self.streams[which].create(request).await?;
        self.streams.retain(|streams| !streams.ended());
        Ok(())
    }

    /// All streams at once: etcd tells those that are behind no sooner than its next look at them.
    async fn compare_watches(&mut self, revision: i64) -> Result<(), Mismatch> {
        let compared = join_all(self.streams.iter_mut().map(|streams| streams.compare(revision))).await;
        self.streams.retain(|streams| !streams.ended());
        compared.into_iter().collect()
    }

    /// Cancels a watch of a stream that is told everything.
    async fn cancel_watch(&mut self, which: usize, revision: i64) -> Result<(), Mismatch> {
        self.compare_watches(revision).await?;
        if self.streams.is_empty() {
            return Ok(());
        }
        let which = which % self.streams.len();
        self.streams[which].cancel(revision).await?;
        self.streams.retain(|streams| !streams.ended());
        Ok(())
    }
}

/// A streamed range put together: pairs, and what the last piece says. How it is cut is the server's choice.
async fn streamed(clients: &mut Clients, request: &pb::RangeRequest) -> Seen<pb::RangeResponse> {
    let refused = |status: tonic::Status| (status.code(), status.message().to_owned());
    let mut pieces = clients.kv.range_stream(request.clone()).await.map_err(refused)?.into_inner();
    let mut whole = pb::RangeResponse::default();
    while let Some(piece) = pieces.message().await.map_err(refused)? {
        let mut piece = piece.range_response.unwrap();
        assert!(whole.header.is_none(), "a header comes in the last piece only");
        whole.kvs.append(&mut piece.kvs);
        whole = pb::RangeResponse { kvs: whole.kvs, ..piece };
    }
    assert!(whole.header.is_some(), "the last piece has a header");
    strip(&mut whole.header);
    Ok(whole)
}

/// Both servers from their first moment on.
struct Run {
    pair: Pair,
    defect: Option<fn(Command) -> Command>,
    ours: Server,
    _etcd: Server,
    /// Revisions that were compacted to.
    compacted: BTreeSet<i64>,
}

impl Run {
    async fn begin(setup: &Setup) -> Self {
        let flags = [PROGRESS];
        let beside = async {
            match &setup.etcd {
                Some(program) => Server::etcd_with(program, &flags).await,
                None => Server::keelson(&flags).await,
            }
        };
        let (etcd, ours) = tokio::join!(beside, Server::keelson(&flags));
        let pair = Pair { etcd: etcd.clients(), ours: ours.clients(), streams: Vec::new() };
        Self { pair, defect: setup.defect, ours, _etcd: etcd, compacted: BTreeSet::new() }
    }

    async fn revision(&mut self) -> i64 {
        let status = self.pair.ours.maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
        status.header.unwrap().revision
    }

    async fn perform(&mut self, action: &Action) -> Result<(), Mismatch> {
        match action {
            Action::Command(Command::Compact(request)) => self.compact(request).await,
            Action::Command(command) => self.pair.command(command, self.defect).await,
            Action::Range(request) => self.pair.range(request).await,
            // For a revision that was compacted to, etcd tells the hash that it made then, of another range of rows.
            Action::Hash(revision) if self.compacted.contains(revision) => Ok(()),
            Action::Hash(revision) => self.pair.hash(*revision).await,
            Action::OpenWatch { own, which, request } => self.pair.open_watch(*own, *which, request).await,
            Action::CompareWatches => {
                let revision = self.revision().await;
                self.pair.compare_watches(revision).await
            }
            Action::CancelWatch(which) => {
                let revision = self.revision().await;
                self.pair.cancel_watch(*which, revision).await
            }
            Action::Lease(id) => self.pair.lease(*id).await,
            Action::KeepAlive(id) => self.pair.keep_alive(*id).await,
            Action::Alarms => self.pair.alarms().await,
            Action::Crash => {
                // Its watches end with it.
                self.pair.streams.clear();
                self.ours.crash_and_restart().await;
                self.pair.ours = self.ours.clients();
                Ok(())
            }
        }
    }

    async fn compact(&mut self, request: &pb::CompactionRequest) -> Result<(), Mismatch> {
        let revision = self.revision().await;
        // What a watch shows of the past, compaction changes: let both have shown it.
        self.pair.compare_watches(revision).await?;
        if request.revision > self.compact_revision() && request.revision <= revision {
            self.compacted.insert(request.revision);
        }
        self.pair.command(&Command::Compact(*request), self.defect).await
    }

    fn compact_revision(&self) -> i64 {
        self.compacted.last().copied().unwrap_or(-1)
    }

    async fn end(&mut self) -> Result<(), Mismatch> {
        self.perform(&Action::CompareWatches).await?;
        self.perform(&Action::Hash(0)).await
    }
}

/// What a server must never say is asserted where it is read, and is a mismatch as well.
async fn caught(run: impl Future<Output = Result<(), Mismatch>>) -> Result<(), Mismatch> {
    AssertUnwindSafe(run).catch_unwind().await.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(text.unwrap_or_else(|| "a panic without words".to_owned()))
    })
}

/// Draws and performs actions until one is answered differently. `drawn` is given what each was drawn from, which is smaller than the action.
async fn record(setup: &Setup, seed: u64, steps: u64, drawn: &mut Vec<Histories>) -> Result<(), Mismatch> {
    let recording = async {
        let mut run = Run::begin(setup).await;
        let mut histories = Histories::new(seed);
        for step in 0..steps {
            if step % 10_000 == 9999 {
                println!("KEELSON_SEED={seed}, step {step}");
            }
            histories.revision = run.revision().await;
            histories.compact_revision = run.compact_revision();
            drawn.push(histories.clone());
            run.perform(&histories.action()).await?;
        }
        run.end().await
    };
    caught(Box::pin(recording)).await
}

async fn replay(setup: &Setup, actions: &[Action]) -> Result<(), Mismatch> {
    let replaying = async {
        let mut run = Run::begin(setup).await;
        for action in actions {
            run.perform(action).await?;
        }
        run.end().await
    };
    caught(Box::pin(replaying)).await
}

/// A history that was answered differently.
#[derive(Debug, PartialEq)]
pub(crate) struct Found {
    seed: u64,
    pub(crate) step: usize,
    mismatch: Mismatch,
    /// What is left of it when nothing more can be left out, and how that is answered.
    pub(crate) shortest: Vec<Action>,
    again: Mismatch,
}

impl fmt::Display for Found {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, step, mismatch, shortest, again } = self;
        writeln!(formatter, "KEELSON_SEED={seed}, step {step}: {mismatch}")?;
        writeln!(formatter, "the same comes of these {} on fresh servers: {again}", shortest.len())?;
        shortest.iter().try_for_each(|action| writeln!(formatter, "  {action:?}"))
    }
}

pub(crate) async fn find_mismatch(setup: &Setup, seed: u64, steps: u64) -> Option<Found> {
    let mut drawn = Vec::new();
    let mismatch = record(setup, seed, steps, &mut drawn).await.err()?;
    let step = drawn.len().saturating_sub(1);
    println!("KEELSON_SEED={seed}, step {step}: {mismatch}\nto be shortened");
    let actions = drawn.iter().map(|before| before.clone().action()).collect();
    let shortest = shrink(actions, async |actions: &[Action]| replay(setup, actions).await.is_err()).await;
    let again = replay(setup, &shortest).await.err();
    let again = again.unwrap_or_else(|| "nothing this time: it does not come of the history alone".to_owned());
    Some(Found { seed, step, mismatch, shortest, again })
}

/// `KEELSON_DIFFERENTIAL_STEPS` is the number of steps of each history, `KEELSON_DIFFERENTIAL_HISTORIES` how many run beside each other,
/// with seeds that follow on `KEELSON_SEED`.
#[tokio::test(flavor = "multi_thread")]
async fn random_history_gives_what_etcd_gives() {
    let Some(program) = etcd_program("KEELSON_ETCD") else { return };
    let seed = seed("random_history_gives_what_etcd_gives");
    let steps = count("KEELSON_DIFFERENTIAL_STEPS", 2500);
    let histories = count("KEELSON_DIFFERENTIAL_HISTORIES", 1);
    let setup = Setup { etcd: Some(program), defect: None };
    let found = join_all((0..histories).map(|number| find_mismatch(&setup, seed + number, steps))).await;
    let found: Vec<String> = found.iter().flatten().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_state_hashes_and_lists_as_etcd_does() {
    let Some(program) = etcd_program("KEELSON_ETCD") else { return };
    let (etcd, ours) = (Server::etcd(&program).await, Server::keelson(&[]).await);
    for server in [&etcd, &ours] {
        let clients = server.clients();
        for batch in 0..60_u32 {
            let put = |key: u32| {
                let request = pb::PutRequest {
                    key: format!("/registry/{:05}", (batch * 97 + key * 31) % 4000).into(),
                    value: vec![b'x'; 300].into(),
                    ..Default::default()
                };
                pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(request)) }
            };
            let request = pb::TxnRequest { success: (0..100).map(put).collect(), ..Default::default() };
            clients.kv.clone().txn(request).await.unwrap();
        }
        clients.compact(30).await;
    }
    let mut pair = Pair { etcd: etcd.clients(), ours: ours.clients(), streams: Vec::new() };
    pair.hash(0).await.unwrap();
    pair.hash(45).await.unwrap();
    let all = pb::RangeRequest { key: "/".into(), range_end: "0".into(), ..Default::default() };
    for request in [
        all.clone(),
        pb::RangeRequest { limit: 500, ..all.clone() },
        pb::RangeRequest { keys_only: true, ..all.clone() },
        pb::RangeRequest { revision: 31, ..all.clone() },
        pb::RangeRequest { count_only: true, ..all.clone() },
    ] {
        pair.range(&request).await.unwrap();
    }
    let mut alarms = ours.clients();
    wait_until("no alarm is raised", async || {
        let request = pb::AlarmRequest::default();
        alarms.maintenance.alarm(request).await.is_ok_and(|answer| answer.get_ref().alarms.is_empty())
    })
    .await;
}
