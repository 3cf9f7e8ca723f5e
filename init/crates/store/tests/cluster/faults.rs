//! Kills and stops under load: nothing that was acknowledged is lost, nothing stale is read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use keelson_etcd_api::etcdserverpb as pb;
use rustix::process::Signal;

use crate::harness::{Cluster, Member, REQUEST, get, put};
use crate::waiting::wait_until;

const CLIENTS: usize = 6;
/// What a write is told that has waited for a leader.
const OUT_OF_TIME: (tonic::Code, &str) = (tonic::Code::DeadlineExceeded, "context deadline exceeded");

/// Clients that write ever higher numbers, each to a key of its own, wherever they are answered.
struct Load {
    acknowledged: Arc<Vec<AtomicU64>>,
    stop: Arc<AtomicBool>,
    writers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(cluster: &Cluster) -> Self {
        let acknowledged: Arc<Vec<AtomicU64>> = Arc::new((0..CLIENTS).map(|_| AtomicU64::new(0)).collect());
        let stop = Arc::new(AtomicBool::new(false));
        let writers = (0..CLIENTS)
            .map(|number| {
                let mut members: Vec<_> = cluster.members.iter().map(Member::kv).collect();
                let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
                tokio::spawn(async move {
                    let mut at = number;
                    for value in 1..u64::MAX {
                        if stop.load(Ordering::SeqCst) {
                            return;
                        }
                        let count = members.len();
                        let kv = &mut members[at % count];
                        let request = put(&format!("client-{number}"), value.to_string());
                        if let Ok(Ok(_)) = tokio::time::timeout(REQUEST, kv.put(request)).await {
                            acknowledged[number].store(value, Ordering::SeqCst);
                        } else {
                            // Whether it was written is not known; a higher number will be, elsewhere.
                            at += 1;
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                    }
                })
            })
            .collect();
        Self { acknowledged, stop, writers }
    }

    fn total(&self) -> u64 {
        self.acknowledged.iter().map(|value| value.load(Ordering::SeqCst)).sum()
    }

    async fn progress(&self, what: &str) {
        let before = self.total();
        wait_until(what, async || self.total() >= before + 50).await;
    }

    async fn end(self) -> Vec<u64> {
        self.stop.store(true, Ordering::SeqCst);
        for writer in self.writers {
            writer.await.unwrap();
        }
        self.acknowledged.iter().map(|value| value.load(Ordering::SeqCst)).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_leader_under_load_loses_no_acknowledged_write() {
    let mut cluster = Cluster::founded(3, &[]).await;
    let load = Load::start(&cluster);
    for round in 0..4 {
        load.progress(&format!("writes before kill {round}")).await;
        let leader = cluster.leader().await;
        cluster.members[leader].kill();
        load.progress(&format!("writes without {}", cluster.members[leader].name)).await;
        cluster.members[leader].start();
        cluster.members[leader].wait_until_ready().await;
    }
    let acknowledged = load.end().await;
    for member in &cluster.members {
        let mut kv = member.kv();
        for (number, expected) in acknowledged.iter().enumerate() {
            let found = get(&mut kv, &format!("client-{number}"), false).await.unwrap();
            let found: u64 = found.parse().unwrap();
            assert!(found >= *expected, "{}: client {number} reads {found}, acknowledged {expected}", member.name);
        }
    }
    cluster.assert_equal_hashes().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_all_members_at_once_loses_no_acknowledged_write() {
    let mut cluster = Cluster::founded(3, &[]).await;
    for _ in 0..2 {
        let load = Load::start(&cluster);
        load.progress("writes").await;
        for member in &mut cluster.members {
            member.kill();
        }
        load.stop.store(true, Ordering::SeqCst);
        let acknowledged = load.end().await;
        for member in &mut cluster.members {
            member.start();
        }
        for member in &cluster.members {
            member.wait_until_ready().await;
        }
        let mut kv = cluster.members[0].kv();
        for (number, expected) in acknowledged.iter().enumerate() {
            let found =
                get(&mut kv, &format!("client-{number}"), false).await.map_or(0, |found| found.parse().unwrap());
            assert!(found >= *expected, "client {number} reads {found}, acknowledged {expected}");
        }
        // The next round counts from one again.
        for number in 0..CLIENTS {
            kv.put(put(&format!("client-{number}"), "0")).await.unwrap();
        }
    }
    cluster.assert_equal_hashes().await;
}

/// A leader that is stopped still thinks that it leads when it goes on. What it then answers to a linearizable read must not be old.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_stopped_reads_nothing_stale() {
    let cluster = Cluster::founded(3, &[]).await;
    for round in 0..3_u64 {
        let leader = cluster.leader().await;
        let other = (leader + 1) % 3;
        let mut old = cluster.members[leader].kv();
        old.put(put("key", format!("{round}-before"))).await.unwrap();
        cluster.members[leader].signal(Signal::STOP);
        // Asked while it is stopped, and answered when it goes on: that the answer may be what was true when it was asked is why the reads
        // that count come later.
        let value = format!("{round}-after");
        wait_until("a write without the leader", async || {
            let mut kv = cluster.members[other].kv();
            matches!(tokio::time::timeout(REQUEST, kv.put(put("key", value.clone()))).await, Ok(Ok(_)))
        })
        .await;
        // The write is acknowledged: every read from here on must see it.
        let reads: Vec<_> = (0..16)
            .map(|_| {
                let mut kv = cluster.members[leader].kv();
                tokio::spawn(async move { get(&mut kv, "key", false).await })
            })
            .collect();
        cluster.members[leader].signal(Signal::CONT);
        for read in reads {
            assert_eq!(read.await.unwrap().as_deref(), Some(value.as_str()), "round {round}");
        }
    }
    cluster.assert_equal_hashes().await;
}

/// With pre-vote, a member that was away does not depose the leader when it comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_comes_back_leaves_the_leader_alone() {
    let cluster = Cluster::founded(3, &[]).await;
    let leader = cluster.leader().await;
    let term = cluster.members[leader].status().await.unwrap().raft_term;
    let follower = (leader + 1) % 3;
    cluster.members[follower].signal(Signal::STOP);
    let mut kv = cluster.members[leader].kv();
    for number in 0..200 {
        kv.put(put("key", number.to_string())).await.unwrap();
    }
    cluster.members[follower].signal(Signal::CONT);
    let mut behind = cluster.members[follower].kv();
    assert_eq!(get(&mut behind, "key", false).await.as_deref(), Some("199"));
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(cluster.members[leader].status().await.unwrap().raft_term, term);
}

fn serializable(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), serializable: true, ..Default::default() }
}

fn assert_no_leader(refused: &tonic::Status) {
    assert_eq!((refused.code(), refused.message()), (tonic::Code::Unavailable, "etcdserver: no leader"));
}

/// A watch of the key, which exists; `hasleader` is etcd's word for one that is not to outlive the leader.
async fn watch(member: &Member, has_leader: bool) -> Result<tonic::Streaming<pb::WatchResponse>, tonic::Status> {
    let create = pb::WatchCreateRequest { key: "key".into(), ..Default::default() };
    let create = pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
    // The stream of requests stays open.
    let requests = futures::stream::iter([create]).chain(futures::stream::pending());
    let mut request = tonic::Request::new(requests);
    if has_leader {
        request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    }
    let mut answers = member.watch().watch(request).await?.into_inner();
    let created = answers.message().await?.unwrap();
    assert!(created.created && !created.canceled, "{created:?}");
    Ok(answers)
}

/// Alone, a member of three says that nobody leads, and answers serializable reads only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_there_is_no_leader_and_no_linearizable_read() {
    let mut cluster = Cluster::founded(3, &[]).await;
    let leader = cluster.leader().await;
    cluster.members[leader].kv().put(put("key", "value")).await.unwrap();
    let (first, second) = ((leader + 1) % 3, (leader + 2) % 3);
    // Two watches, one of which is to end with the leader.
    let mut ending = watch(&cluster.members[leader], true).await.unwrap();
    let mut lasting = watch(&cluster.members[leader], false).await.unwrap();
    cluster.members[first].kill();
    cluster.members[second].kill();
    let alone = &cluster.members[leader];
    wait_until("the loss of the leader is noticed", async || {
        alone.status().await.is_some_and(|status| status.leader == 0 && !status.errors.is_empty())
    })
    .await;
    assert_eq!(get(&mut alone.kv(), "key", true).await.as_deref(), Some("value"));
    let request = keelson_etcd_api::etcdserverpb::RangeRequest { key: "key".into(), ..Default::default() };
    let refused = alone.kv().range(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    // In the log of a member that does not know yet that it leads no more, or waiting for one that does: its time is over, as etcd says either.
    let refused = alone.kv().put(put("key", "other")).await.unwrap_err();
    let told = [(tonic::Code::Unavailable, "etcdserver: request timed out"), OUT_OF_TIME];
    assert!(told.contains(&(refused.code(), refused.message())), "{refused}");
    // Whoever asks for a leader learns at once that there is none, also where it would be answered without one.
    let asked = std::time::Instant::now();
    let mut request = tonic::Request::new(serializable("key"));
    request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    assert_no_leader(&alone.kv().range(request).await.unwrap_err());
    assert_no_leader(&watch(alone, true).await.unwrap_err());
    assert!(asked.elapsed() < Duration::from_secs(4), "not after the time limit of a request");
    let ended = tokio::time::timeout(REQUEST, ending.message()).await.expect("the watch ends");
    assert_no_leader(&ended.unwrap_err());
    let waiting = tokio::time::timeout(Duration::from_millis(100), lasting.message()).await;
    assert!(waiting.is_err(), "it did not ask for one: {waiting:?}");

    cluster.members[first].start();
    cluster.members[first].wait_until_ready().await;
    let mut kv = cluster.members[leader].kv();
    kv.put(put("key", "again")).await.unwrap();
    loop {
        let told = tokio::time::timeout(REQUEST, lasting.message()).await.expect("the watch goes on");
        // What was refused for lack of time may have been written in the end.
        if told.unwrap().unwrap().events.iter().any(|event| event.kv.as_ref().unwrap().value == "again") {
            break;
        }
    }
    wait_until("a watch that asks for a leader is taken again", async || {
        watch(&cluster.members[leader], true).await.is_ok()
    })
    .await;
    assert_eq!(get(&mut cluster.members[first].kv(), "key", false).await.as_deref(), Some("again"));
}

/// As etcd: a write waits for a leader until its time is over; whoever has to ask the leader itself is told that there is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_leader_writes_run_out_of_time_and_leases_have_nobody_to_ask() {
    let mut cluster = Cluster::founded(3, &[]).await;
    let leader = cluster.leader().await;
    let grant = pb::LeaseGrantRequest { id: 7, ttl: 600 };
    cluster.members[leader].lease().lease_grant(grant).await.unwrap();
    let (left, other) = ((leader + 1) % 3, (leader + 2) % 3);
    // The leader last, so that no other is elected.
    cluster.members[other].kill();
    cluster.members[leader].kill();
    let left = &cluster.members[left];
    wait_until("the loss of the leader is noticed", async || {
        left.status().await.is_some_and(|status| status.leader == 0)
    })
    .await;
    let (mut kv, mut lease, mut lease_too) = (left.kv(), left.lease(), left.lease());
    let renewed = async {
        let requests = futures::stream::iter([pb::LeaseKeepAliveRequest { id: 7 }]).chain(futures::stream::pending());
        lease.lease_keep_alive(requests).await?.into_inner().message().await
    };
    let (written, renewed, told) = tokio::join!(
        kv.put(put("key", "value")),
        renewed,
        lease_too.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 7, keys: false }),
    );
    let written = written.unwrap_err();
    assert_eq!((written.code(), written.message()), OUT_OF_TIME);
    assert_no_leader(&renewed.unwrap_err());
    assert_no_leader(&told.unwrap_err());
}
