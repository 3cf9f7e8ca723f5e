//! What clients of the others see when the leader's process dies, or is told to stop. How long that takes is printed and not judged: the
//! machine has other work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keelson_etcd_api::etcdserverpb::kv_client::KvClient;
use rustix::process::Signal;
use tokio::sync::mpsc;
use tonic::transport::Channel;

use crate::harness::{Cluster, DEADLINE, REQUEST, get, put};

const KILLS: usize = 5;
const STOPS: usize = 5;
/// Without other flags.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Acknowledged before each kill or stop, so that it comes amid writes.
const WRITES: usize = 50;
/// What a member says that does not wait for an election timeout.
const SUCCEEDS: &str = "stands to succeed it";
/// What one says that has stopped in order.
const HANDED_OVER: &str = "leadership was handed over before the stop";

/// What became of a client's writes: the last one that was acknowledged, and why others were not.
#[derive(Debug, Default)]
struct Written {
    acknowledged: u64,
    failed: Vec<String>,
}

/// A client that writes ever higher numbers to one key, one after the other.
struct Writer {
    /// When each acknowledged one was begun and acknowledged.
    told: mpsc::UnboundedReceiver<(Instant, Instant)>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Written>,
}

impl Writer {
    /// One of a member that does not lead, in the middle of its writes.
    async fn start(cluster: &Cluster, leader: usize, next: &Arc<AtomicU64>) -> Self {
        let (sender, mut told) = mpsc::unbounded_channel();
        let stop = Arc::new(AtomicBool::new(false));
        let kv = cluster.members[(leader + 1) % 3].kv();
        let task = tokio::spawn(write(kv, Arc::clone(next), Arc::clone(&stop), sender));
        for _ in 0..WRITES {
            told.recv().await.unwrap();
        }
        Self { told, stop, task }
    }

    async fn next(&mut self) -> (Instant, Instant) {
        self.told.recv().await.unwrap()
    }

    /// Ends it, and starts the member that led: nothing is lost.
    async fn end(self, cluster: &mut Cluster, leader: usize) -> Written {
        self.stop.store(true, Ordering::SeqCst);
        let written = self.task.await.unwrap();
        cluster.members[leader].start();
        cluster.members[leader].wait_until_ready().await;
        assert_nothing_lost(cluster, written.acknowledged).await;
        written
    }
}

async fn write(
    mut kv: KvClient<Channel>,
    next: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    told: mpsc::UnboundedSender<(Instant, Instant)>,
) -> Written {
    let mut written = Written::default();
    while !stop.load(Ordering::SeqCst) {
        let value = next.fetch_add(1, Ordering::SeqCst) + 1;
        let begun = Instant::now();
        match tokio::time::timeout(REQUEST, kv.put(put("key", value.to_string()))).await {
            Ok(Ok(_)) => {
                written.acknowledged = value;
                if told.send((begun, Instant::now())).is_err() {
                    break;
                }
            }
            Ok(Err(status)) => written.failed.push(format!("{value}: {status}")),
            Err(_) => written.failed.push(format!("{value}: no answer")),
        }
    }
    written
}

/// Every member has what was acknowledged, or something later.
async fn assert_nothing_lost(cluster: &Cluster, acknowledged: u64) {
    for member in &cluster.members {
        let found: u64 = get(&mut member.kv(), "key", false).await.unwrap().parse().unwrap();
        assert!(found >= acknowledged, "{} reads {found}, acknowledged {acknowledged}", member.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_succeeded_without_an_election_timeout() {
    let mut cluster = Cluster::founded(3, &[]).await;
    let next = Arc::new(AtomicU64::new(0));
    let mut gaps: Vec<Duration> = Vec::new();
    for _ in 0..KILLS {
        let leader = cluster.leader().await;
        let within = async {
            let mut writer = Writer::start(&cluster, leader, &next).await;
            let killed = Instant::now();
            cluster.members[leader].kill();
            loop {
                let (begun, acknowledged) = writer.next().await;
                if begun >= killed {
                    return (acknowledged - killed, writer);
                }
            }
        };
        let (gap, writer) = tokio::time::timeout(DEADLINE, within).await.expect("a write after the leader was killed");
        gaps.push(gap);
        writer.end(&mut cluster, leader).await;
    }
    println!("from the kill to the first write that was begun after it and acknowledged: {gaps:?}");
    let successions: usize = cluster.members.iter().map(|member| member.log().matches(SUCCEEDS).count()).sum();
    println!("{successions} of {KILLS} without an election timeout");
    assert!(successions > 0, "each of {KILLS} took an election timeout");
    cluster.assert_equal_hashes().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_told_to_stop_hands_over_and_no_write_fails() {
    let mut cluster = Cluster::founded(3, &[]).await;
    let next = Arc::new(AtomicU64::new(0));
    let mut gaps: Vec<Duration> = Vec::new();
    for _ in 0..STOPS {
        let leader = cluster.leader().await;
        let within = async {
            let mut writer = Writer::start(&cluster, leader, &next).await;
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            cluster.members[leader].signal(Signal::TERM);
            assert_eq!(cluster.members[leader].wait().await, Some(0), "it did not end in order");
            let ended = Instant::now();
            loop {
                let (begun, acknowledged) = writer.next().await;
                longest = longest.max(acknowledged.saturating_duration_since(last));
                last = last.max(acknowledged);
                if begun >= ended {
                    return (longest, writer);
                }
            }
        };
        let (gap, writer) = tokio::time::timeout(DEADLINE, within).await.expect("a write after the leader has stopped");
        gaps.push(gap);
        assert_ne!(cluster.leader().await, leader);
        let written = writer.end(&mut cluster, leader).await;
        assert_eq!(written.failed, Vec::<String>::new());
    }
    println!("the longest time between two acknowledged writes while the leader stopped: {gaps:?}");
    let handed_over: usize = cluster.members.iter().map(|member| member.log().matches(HANDED_OVER).count()).sum();
    assert_eq!(handed_over, STOPS, "a leader has ended without a successor");
    assert!(gaps.iter().min() < Some(&ELECTION_TIMEOUT), "each of {STOPS} took an election timeout");
    cluster.assert_equal_hashes().await;
}
