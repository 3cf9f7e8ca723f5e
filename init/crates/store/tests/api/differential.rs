//! The same random history on a real etcd and on ours; every answer, every watched event and every hash must be the same.

use std::collections::BTreeSet;

use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::watch_request::RequestUnion;
use keelson_etcd_api::mvccpb::Event;
use keelson_store::command::Command;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::compare::{Seen, seen, settle_ties, settle_txn, strip};
use crate::histories::{Histories, Step, count, seed};
use crate::servers::{Clients, Server, etcd_program, wait_until, within};

/// One watch, on a stream of its own, on one server.
#[derive(Debug)]
struct Watcher {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
    fragment: bool,
    ended: bool,
}

/// What a watch was told since the last time.
#[derive(Debug, Default, PartialEq)]
struct Told {
    events: Vec<Event>,
    canceled: Option<(i64, String, i64)>,
}

fn watch_request(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(union) }
}

impl Watcher {
    async fn open(clients: &Clients, request: pb::WatchCreateRequest) -> (Self, pb::WatchResponse) {
        let (requests, receiver) = mpsc::channel(16);
        let fragment = request.fragment;
        requests.send(watch_request(RequestUnion::CreateRequest(request))).await.unwrap();
        let answers = clients.watch.clone().watch(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        let mut watcher = Self { requests, answers, fragment, ended: false };
        let mut created = watcher.answer().await;
        strip(&mut created.header);
        assert!(created.created, "{created:?}");
        watcher.ended = created.canceled;
        (watcher, created)
    }

    async fn answer(&mut self) -> pb::WatchResponse {
        within("a watch's answer", self.answers.message()).await.unwrap().expect("the stream goes on")
    }

    /// Reads until the server says that there is no more up to `revision`.
    async fn told(&mut self, revision: i64) -> Told {
        let mut told = Told::default();
        let mut last = (0, false);
        while !self.ended {
            let progress = watch_request(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
            self.requests.send(progress).await.unwrap();
            // etcd says nothing to a stream that is behind: ask again.
            let pause = std::time::Duration::from_millis(150);
            let Ok(answer) = tokio::time::timeout(pause, self.answers.message()).await else { continue };
            let mut answer = answer.unwrap().expect("the stream goes on");
            strip(&mut answer.header);
            let header = answer.header.unwrap().revision;
            if answer.canceled {
                told.canceled = Some((answer.compact_revision, answer.cancel_reason, header));
                self.ended = true;
            } else if answer.events.is_empty() {
                assert!(header >= last.0, "progress does not go back: {header} after {}", last.0);
                if header >= revision {
                    break;
                }
            } else {
                let first = answer.events[0].kv.as_ref().unwrap().mod_revision;
                assert!(first > last.0 || (self.fragment && last.1), "revision {first} comes in two answers");
                last = (answer.events.last().unwrap().kv.as_ref().unwrap().mod_revision, answer.fragment);
                assert!(header >= last.0, "the header is behind the events");
                told.events.extend(answer.events);
            }
        }
        told
    }
}

struct Pair {
    etcd: Clients,
    ours: Clients,
    watchers: Vec<(pb::WatchCreateRequest, Watcher, Watcher)>,
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

    async fn open_watch(&mut self, request: pb::WatchCreateRequest) {
        let (etcd, created) = Watcher::open(&self.etcd, request.clone()).await;
        let (ours, also_created) = Watcher::open(&self.ours, request.clone()).await;
        self.same(&request, &created, &also_created);
        self.watchers.push((request, etcd, ours));
    }

    async fn compare_watches(&mut self, revision: i64) {
        let mut watchers = std::mem::take(&mut self.watchers);
        for (request, etcd, ours) in &mut watchers {
            if request.start_revision > revision {
                // It has not begun, and progress is not told before.
                continue;
            }
            let (etcd, ours) = (etcd.told(revision).await, ours.told(revision).await);
            self.same(request, &etcd, &ours);
        }
        watchers.retain(|(_, etcd, _)| !etcd.ended);
        self.watchers = watchers;
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
            progress_notify: false,
            filters,
            prev_kv: self.dice.one_in(2),
            watch_id: if self.dice.one_in(3) { 7 } else { 0 },
            fragment: self.dice.one_in(4),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_history_gives_what_etcd_gives() {
    let Some(program) = etcd_program("KEELSON_ETCD") else { return };
    let seed = seed("random_history_gives_what_etcd_gives");
    let steps = count("KEELSON_DIFFERENTIAL_STEPS", 2500);
    let (etcd, mut ours) = (Server::etcd(&program).await, Server::keelson(&[]).await);
    let (etcd_clients, clients) = (etcd.clients(), ours.clients());
    let mut pair = Pair { etcd: etcd_clients, ours: clients, watchers: Vec::new(), context: String::new() };
    let mut histories = Histories::new(seed);
    let mut compacted = BTreeSet::new();
    for step in 0..steps {
        pair.context = format!("KEELSON_SEED={seed}, step {step}");
        let status = pair.ours.maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
        histories.revision = status.header.unwrap().revision;
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
            Step::Checkpoint => match histories.dice.below(8) {
                0..=3 if pair.watchers.len() < 12 => {
                    let request = histories.watch();
                    pair.open_watch(request).await;
                }
                0..=4 => pair.compare_watches(histories.revision).await,
                5 => pair.lease(1).await,
                6 if histories.dice.one_in(8) => {
                    // Ours must come back with everything; its watches end with it.
                    pair.watchers.clear();
                    ours.crash_and_restart().await;
                    pair.ours = ours.clients();
                }
                _ => {
                    let revision = histories.some_revision();
                    // For a revision that was compacted to, etcd tells the hash that it made then, of another range of rows.
                    if !compacted.contains(&revision) {
                        pair.hash(revision.max(0)).await;
                    }
                }
            },
        }
    }
    pair.compare_watches(histories.revision).await;
    pair.hash(0).await;
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
        Pair { etcd: etcd.clients(), ours: ours.clients(), watchers: Vec::new(), context: "large".to_owned() };
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
