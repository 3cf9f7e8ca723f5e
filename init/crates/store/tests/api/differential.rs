//! The same random history on a real etcd and on ours; every answer, every watched event and every hash must be the same.

use std::collections::BTreeSet;

use futures::future::join_all;
use keelson_etcd_api::etcdserverpb as pb;
use keelson_store::command::Command;

use crate::compare::{Seen, seen, settle_ties, settle_txn, strip};
use crate::histories::{Histories, Step, count, seed};
use crate::servers::{Clients, Server, etcd_program, wait_until};
use crate::streams::Streams;

struct Pair {
    etcd: Clients,
    ours: Clients,
    streams: Vec<Streams>,
    context: String,
}

impl Pair {
    fn same<T: std::fmt::Debug + PartialEq>(&self, what: &dyn std::fmt::Debug, etcd: &T, ours: &T) {
        assert_eq!(ours, etcd, "ours, then etcd's; {}: {what:?}", self.context);
    }

    async fn command(&mut self, command: &Command) {
        match command {
            Command::Put(request) => {
                let (etcd, ours) = (self.etcd.kv.put(request.clone()).await, self.ours.kv.put(request.clone()).await);
                self.same(request, &seen(etcd), &seen(ours));
            }
            Command::DeleteRange(request) => {
                let etcd = self.etcd.kv.delete_range(request.clone()).await;
                let ours = self.ours.kv.delete_range(request.clone()).await;
                self.same(request, &seen(etcd), &seen(ours));
            }
            Command::Txn(request) => {
                let (etcd, ours) = (self.etcd.kv.txn(request.clone()).await, self.ours.kv.txn(request.clone()).await);
                let settle = |mut answer: Seen<pb::TxnResponse>| {
                    if let Ok(response) = &mut answer {
                        settle_txn(request, response);
                    }
                    answer
                };
                self.same(request, &settle(seen(etcd)), &settle(seen(ours)));
            }
            Command::Compact(request) => {
                let (etcd, ours) = (self.etcd.kv.compact(*request).await, self.ours.kv.compact(*request).await);
                self.same(request, &seen(etcd), &seen(ours));
            }
            Command::LeaseGrant(request) => {
                let etcd = self.etcd.lease.lease_grant(*request).await;
                let ours = self.ours.lease.lease_grant(*request).await;
                self.same(request, &seen(etcd), &seen(ours));
            }
            Command::LeaseRevoke(request) => {
                let etcd = self.etcd.lease.lease_revoke(*request).await;
                let ours = self.ours.lease.lease_revoke(*request).await;
                self.same(request, &seen(etcd), &seen(ours));
            }
            other => panic!("{other:?} is not drawn"),
        }
    }

    async fn range(&mut self, request: &pb::RangeRequest) {
        let (etcd, ours) = (self.etcd.kv.range(request.clone()).await, self.ours.kv.range(request.clone()).await);
        let settle = |mut answer: Seen<pb::RangeResponse>| {
            if let Ok(response) = &mut answer {
                settle_ties(request, response);
            }
            answer
        };
        self.same(request, &settle(seen(etcd)), &settle(seen(ours)));
        let etcd = streamed(&mut self.etcd, request).await;
        let ours = streamed(&mut self.ours, request).await;
        self.same(&("streamed", request), &etcd, &ours);
    }

    async fn lease(&mut self, id: i64) {
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
        self.same(&request, &etcd, &ours);
        let settle = |mut answer: Seen<pb::LeaseLeasesResponse>| {
            if let Ok(response) = &mut answer {
                response.leases.sort_by_key(|lease| lease.id);
            }
            answer
        };
        let etcd = settle(seen(self.etcd.lease.lease_leases(pb::LeaseLeasesRequest {}).await));
        let ours = settle(seen(self.ours.lease.lease_leases(pb::LeaseLeasesRequest {}).await));
        self.same(&"leases", &etcd, &ours);
    }

    async fn hash(&mut self, revision: i64) {
        let request = pb::HashKvRequest { revision };
        let etcd = self.etcd.maintenance.hash_kv(request).await;
        let ours = self.ours.maintenance.hash_kv(request).await;
        self.same(&request, &seen(etcd), &seen(ours));
    }

    async fn alarms(&mut self) {
        let etcd = self.etcd.maintenance.alarm(pb::AlarmRequest::default()).await;
        let ours = self.ours.maintenance.alarm(pb::AlarmRequest::default()).await;
        self.same(&"alarms", &seen(etcd), &seen(ours));
    }

    async fn keep_alive(&mut self, id: i64) {
        let request = pb::LeaseKeepAliveRequest { id };
        let mut answers = Vec::new();
        for clients in [&mut self.etcd, &mut self.ours] {
            let requests = tokio_stream::iter([request]);
            let mut stream = clients.lease.lease_keep_alive(requests).await.unwrap().into_inner();
            let mut answer = stream.message().await.unwrap().expect("an answer to each request");
            strip(&mut answer.header);
            answers.push(answer);
        }
        self.same(&request, &answers[0], &answers[1]);
    }

    /// A new watch, on a stream of its own or on one that has others.
    async fn open_watch(&mut self, own: bool, which: usize, request: pb::WatchCreateRequest) {
        if own || self.streams.is_empty() {
            self.streams.push(Streams::open(&self.etcd, &self.ours).await);
        }
        let which = if own { self.streams.len() - 1 } else { which % self.streams.len() };
        let context = self.context.clone();
        self.streams[which].create(&request, &context).await;
        self.streams.retain(|streams| !streams.ended());
    }

    /// All streams at once: etcd tells those that are behind no sooner than its next look at them.
    async fn compare_watches(&mut self, revision: i64) {
        let context = self.context.clone();
        join_all(self.streams.iter_mut().map(|streams| streams.compare(revision, &context))).await;
        self.streams.retain(|streams| !streams.ended());
    }

    /// Cancels a watch of a stream that is told everything.
    async fn cancel_watch(&mut self, which: usize, revision: i64) {
        self.compare_watches(revision).await;
        if self.streams.is_empty() {
            return;
        }
        let (which, context) = (which % self.streams.len(), self.context.clone());
        self.streams[which].cancel(revision, &context).await;
        self.streams.retain(|streams| !streams.ended());
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

impl Histories {
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

/// `KEELSON_DIFFERENTIAL_STEPS` is the number of steps of each history, `KEELSON_DIFFERENTIAL_HISTORIES` how many run beside each other,
/// with seeds that follow on `KEELSON_SEED`.
#[tokio::test(flavor = "multi_thread")]
async fn random_history_gives_what_etcd_gives() {
    let Some(program) = etcd_program("KEELSON_ETCD") else { return };
    let seed = seed("random_history_gives_what_etcd_gives");
    let steps = count("KEELSON_DIFFERENTIAL_STEPS", 2500);
    let histories = count("KEELSON_DIFFERENTIAL_HISTORIES", 1);
    join_all((0..histories).map(|number| history(&program, seed + number, steps))).await;
}

async fn history(program: &std::path::Path, seed: u64, steps: u64) {
    const PROGRESS: &str = "--watch-progress-notify-interval=300ms";
    let (etcd, mut ours) = (Server::etcd_with(program, &[PROGRESS]).await, Server::keelson(&[PROGRESS]).await);
    let mut pair = Pair { etcd: etcd.clients(), ours: ours.clients(), streams: Vec::new(), context: String::new() };
    let mut histories = Histories::new(seed);
    let mut compacted = BTreeSet::new();
    for step in 0..steps {
        pair.context = format!("KEELSON_SEED={seed}, step {step}");
        if step % 10_000 == 9999 {
            println!("{}", pair.context);
        }
        let status = pair.ours.maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
        histories.revision = status.header.unwrap().revision;
        if histories.dice.one_in(25) {
            more(&mut pair, &mut histories, &mut ours).await;
        }
        match histories.step() {
            // etcd keeps a hash of every compaction under its revision, and answers any request that names no revision with
            // that of a compaction to 0.
            Step::Command(Command::Compact(request)) if request.revision == 0 => {}
            Step::Command(command) => {
                if let Command::Compact(request) = &command {
                    // What a watch shows of the past, compaction changes: let both have shown it.
                    pair.compare_watches(histories.revision).await;
                    if request.revision > histories.compact_revision && request.revision <= histories.revision {
                        histories.compact_revision = request.revision;
                        compacted.insert(request.revision);
                    }
                }
                pair.command(&command).await;
            }
            Step::Range(request) => pair.range(&request).await,
            Step::Checkpoint => {
                let revision = histories.some_revision();
                // For a revision that was compacted to, etcd tells the hash that it made then, of another range of rows.
                if !compacted.contains(&revision) {
                    pair.hash(revision.max(0)).await;
                }
            }
        }
    }
    pair.compare_watches(histories.revision).await;
    pair.hash(0).await;
}

/// What is no request for keys: watches, leases, alarms, a crash of ours.
async fn more(pair: &mut Pair, histories: &mut Histories, ours: &mut Server) {
    const MOST_WATCHES: usize = 16;
    let which = usize::try_from(histories.dice.below(64)).unwrap();
    match histories.dice.below(16) {
        0..=6 if pair.streams.iter().map(Streams::watches).sum::<usize>() < MOST_WATCHES => {
            let own = histories.dice.one_in(2);
            let request = histories.watch();
            pair.open_watch(own, which, request).await;
        }
        0..=8 => pair.compare_watches(histories.revision).await,
        9 => pair.cancel_watch(which, histories.revision).await,
        10..=11 => pair.lease(histories.lease_id()).await,
        12..=13 => pair.keep_alive(histories.lease_id()).await,
        14 => pair.alarms().await,
        _ if histories.dice.one_in(4) => {
            // Ours must come back with everything; its watches end with it.
            pair.streams.clear();
            ours.crash_and_restart().await;
            pair.ours = ours.clients();
        }
        _ => {}
    }
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
    let mut pair =
        Pair { etcd: etcd.clients(), ours: ours.clients(), streams: Vec::new(), context: "large".to_owned() };
    pair.hash(0).await;
    pair.hash(45).await;
    let all = pb::RangeRequest { key: "/".into(), range_end: "0".into(), ..Default::default() };
    for request in [
        all.clone(),
        pb::RangeRequest { limit: 500, ..all.clone() },
        pb::RangeRequest { keys_only: true, ..all.clone() },
        pb::RangeRequest { revision: 31, ..all.clone() },
        pb::RangeRequest { count_only: true, ..all.clone() },
    ] {
        pair.range(&request).await;
    }
    let mut alarms = ours.clients();
    wait_until("no alarm is raised", async || {
        let request = pb::AlarmRequest::default();
        alarms.maintenance.alarm(request).await.is_ok_and(|answer| answer.get_ref().alarms.is_empty())
    })
    .await;
}
