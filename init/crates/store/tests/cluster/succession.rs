//! What clients of the others see when the leader's process dies. How long that takes is printed and not judged: the machine has other work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keelson_etcd_api::etcdserverpb::kv_client::KvClient;
use tokio::sync::mpsc;
use tonic::transport::Channel;

use crate::harness::{Cluster, DEADLINE, REQUEST, get, put};

const KILLS: usize = 5;
/// Acknowledged before each kill, so that it comes in the middle of writes.
const WRITES: usize = 50;
/// What a member says that does not wait for an election timeout.
const SUCCEEDS: &str = "stands to succeed it";

/// A client that writes ever higher numbers to one key, one after the other, and tells when each acknowledged one was begun and acknowledged.
fn write(
    mut kv: KvClient<Channel>,
    next: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    told: mpsc::UnboundedSender<(Instant, Instant)>,
) -> tokio::task::JoinHandle<u64> {
    tokio::spawn(async move {
        let mut acknowledged = 0;
        while !stop.load(Ordering::SeqCst) {
            let value = next.fetch_add(1, Ordering::SeqCst) + 1;
            let begun = Instant::now();
            if let Ok(Ok(_)) = tokio::time::timeout(REQUEST, kv.put(put("key", value.to_string()))).await {
                acknowledged = value;
                if told.send((begun, Instant::now())).is_err() {
                    break;
                }
            }
        }
        acknowledged
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_succeeded_without_an_election_timeout() {
    let mut cluster = Cluster::founded(3, &[]).await;
    let next = Arc::new(AtomicU64::new(0));
    let mut gaps: Vec<Duration> = Vec::new();
    for _ in 0..KILLS {
        let leader = cluster.leader().await;
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, mut told) = mpsc::unbounded_channel();
        let client = cluster.members[(leader + 1) % 3].kv();
        let writer = write(client, Arc::clone(&next), Arc::clone(&stop), sender);
        let within = async {
            for _ in 0..WRITES {
                told.recv().await.unwrap();
            }
            let killed = Instant::now();
            cluster.members[leader].kill();
            loop {
                let (begun, acknowledged) = told.recv().await.unwrap();
                if begun >= killed {
                    return acknowledged - killed;
                }
            }
        };
        gaps.push(tokio::time::timeout(DEADLINE, within).await.expect("a write after the leader was killed"));
        stop.store(true, Ordering::SeqCst);
        let acknowledged = writer.await.unwrap();
        cluster.members[leader].start();
        cluster.members[leader].wait_until_ready().await;
        for member in &cluster.members {
            let found: u64 = get(&mut member.kv(), "key", false).await.unwrap().parse().unwrap();
            assert!(found >= acknowledged, "{} reads {found}, acknowledged {acknowledged}", member.name);
        }
    }
    println!("from the kill to the first write that was begun after it and acknowledged: {gaps:?}");
    let successions: usize = cluster.members.iter().map(|member| member.log().matches(SUCCEEDS).count()).sum();
    println!("{successions} of {KILLS} without an election timeout");
    assert!(successions > 0, "each of {KILLS} took an election timeout");
    cluster.assert_equal_hashes().await;
}
