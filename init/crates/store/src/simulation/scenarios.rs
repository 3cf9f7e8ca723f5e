//! etcd's own record of what went wrong with it (the table in its tests/robustness/README.md, and the reports named there): for each entry what
//! happened there, and that it does not happen here. A number is that of an issue of etcd-io/etcd. Beside them, what histories of random faults would not
//! see: that a dead leader is succeeded soon and a living one is not ([`succession`]), that who votes alone asks nobody ([`reads`]), that an odd number votes and
//! who is lost is replaced ([`voters`]), what becomes of leases that outlive their leaders ([`leases`]), and that a member whose state differs is named
//! ([`corruption`]).

mod compaction;
mod corruption;
mod crashes;
mod leases;
mod reads;
mod succession;
mod voters;
mod watches;

use std::rc::Rc;
use std::time::Duration;

use futures::channel::mpsc::{UnboundedSender, unbounded};
use futures::stream::StreamExt as _;
use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::watch_request::RequestUnion;

use super::check::truth;
use super::cluster::{Cluster, Running, Slot};
use super::operator::leader;
use super::watch_check;
use super::watchers::Session;
use crate::member::MemberId;
use crate::server::simulated::Answers;

/// How long anything may take that is not kept from happening.
const DEADLINE: Duration = Duration::from_secs(30);

/// A cluster that does what a test says.
struct World(Cluster);

/// Runs a scenario on clusters of several seeds.
fn run<F: Future<Output = ()>>(members: u64, scenario: impl Fn(World) -> F) {
    for seed in 1..=2 {
        super::run(seed, None, || async {
            let world = World(Cluster::found(members).await.unwrap());
            world.settle().await;
            scenario(world).await;
        });
    }
}

impl World {
    async fn settle(&self) {
        self.0.heal().await.unwrap();
        self.0.settle().await.unwrap();
    }

    fn running(&self, number: usize) -> Running {
        self.0.slots()[number].running().unwrap()
    }

    async fn leader(&self) -> Rc<Slot> {
        let found = async {
            loop {
                if let Some(slot) = leader(&self.0) {
                    return slot;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(DEADLINE, found).await.expect("somebody leads")
    }

    async fn follower(&self) -> Rc<Slot> {
        let leader = self.leader().await.id;
        self.0.slots().into_iter().find(|slot| slot.id != leader).unwrap()
    }

    /// Writes on whichever member answers, but not on `but`.
    async fn put_elsewhere(&self, but: Option<MemberId>, key: &str, value: &str) -> i64 {
        let written = async {
            loop {
                for slot in self.0.slots().iter().filter(|slot| Some(slot.id) != but) {
                    let Some(running) = slot.running() else { continue };
                    let answer = tokio::time::timeout(Duration::from_secs(2), running.services.put(put(key, value)));
                    if let Ok(Ok(answer)) = answer.await {
                        return answer.header.unwrap().revision;
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(DEADLINE, written).await.expect("a write is answered")
    }

    async fn put(&self, key: &str, value: &str) -> i64 {
        self.put_elsewhere(None, key, value).await
    }

    /// Writes so much that who missed it needs a snapshot.
    async fn put_much(&self, but: Option<MemberId>) -> i64 {
        let mut revision = 0;
        for number in 0..60 {
            revision = self.put_elsewhere(but, &format!("much/{}", number % 7), &"x".repeat(400)).await;
        }
        revision
    }

    /// Cuts a member's power and starts it again.
    async fn cut_and_restart(&self, slot: &Slot) {
        self.0.cut_power(slot);
        self.0.restart(slot).await.unwrap();
    }

    /// All members agree, and what was answered is what the naive model answers.
    async fn check(&self) {
        self.settle().await;
        truth().unwrap();
    }

    fn revisions(&self) -> Vec<i64> {
        self.0
            .slots()
            .iter()
            .filter_map(|slot| slot.running())
            .map(|running| running.node().state().public().revision())
            .collect()
    }
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..pb::PutRequest::default() }
}

fn delete(key: &str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: key.to_owned().into(), ..pb::DeleteRangeRequest::default() }
}

/// A watch of everything.
fn from(start_revision: i64, watch_id: i64) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        start_revision,
        watch_id,
        ..pb::WatchCreateRequest::default()
    }
}

/// A stream of watches that is read when the test says so.
struct Watching {
    session: Session,
    requests: UnboundedSender<pb::WatchRequest>,
    answers: Answers<pb::WatchResponse>,
}

impl Watching {
    fn open(running: &Running, watches: Vec<pb::WatchCreateRequest>) -> Self {
        let (requests, receiver) = unbounded();
        let answers = running.services.watch(receiver);
        let mut session = Session { member: running.process.member(), ..Session::default() };
        for watch in watches {
            session.watches.insert(watch.watch_id, watch.clone());
            send(&requests, RequestUnion::CreateRequest(watch));
        }
        Self { session, requests, answers }
    }

    fn ask_for_progress(&self) {
        send(&self.requests, RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
    }

    /// The next answer, if there is one before long.
    async fn next(&mut self, patience: Duration) -> Option<pb::WatchResponse> {
        let answer = tokio::time::timeout(patience, self.answers.next()).await.ok()??.unwrap();
        self.session.answers.push(answer.clone());
        Some(answer)
    }

    /// Reads until all watches were told of everything up to a revision.
    async fn read_until(&mut self, revision: i64) {
        let reading = async {
            self.ask_for_progress();
            loop {
                let Some(answer) = self.next(Duration::from_secs(1)).await else {
                    self.ask_for_progress();
                    continue;
                };
                if answer.watch_id == -1 && answer.header.unwrap().revision >= revision {
                    return;
                }
            }
        };
        tokio::time::timeout(DEADLINE, reading).await.expect("a mark of the revision");
        self.session.complete = true;
    }

    /// What was told is what was to be told.
    fn check(&self) {
        watch_check::check(&truth().unwrap(), &self.session).unwrap();
    }

    fn events(&self) -> usize {
        self.session.answers.iter().map(|answer| answer.events.len()).sum()
    }
}

fn send(requests: &UnboundedSender<pb::WatchRequest>, union: RequestUnion) {
    requests.unbounded_send(pb::WatchRequest { request_union: Some(union) }).unwrap();
}
