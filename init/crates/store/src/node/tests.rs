//! A member over a disk that loses and fails, with a state that is simple enough to be right.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::*;
use crate::checkpoint::Checkpoint;
use crate::command::{Command, Encoded};
use crate::disk::fake::{FakeDisk, Throws};
use crate::log::LogId;
use crate::raft::model::Model;
use crate::random::SystemRandom;
use crate::state::Response;

mod peers;
mod space;

fn config() -> Config {
    let member = Member { name: "test".to_owned(), ..Member::default() };
    Config {
        checkpoints: CheckpointPolicy {
            every_bytes: 8 << 10,
            every: Duration::from_hours(1),
            keep_bytes: 4 << 10,
            poll: Duration::from_millis(5),
        },
        log_segment_size: 32 << 10,
        log_cache_bytes: 1 << 10,
        reserve_bytes: 0,
        ..Config::new(member)
    }
}

async fn start(disk: &FakeDisk) -> Result<Arc<Node<Model>>, StartError> {
    Node::start(config(), Arc::new(disk.clone()), Arc::new(SystemRandom), Model::default()).await
}

/// Waits for a condition with a deadline.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "timed out waiting for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn put(node: &Node<Model>, key: u64, value: &str) -> Result<Response, ProposeError> {
    node.propose(Model::put(key.to_be_bytes().to_vec(), value.as_bytes().to_vec())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_after_its_first_start_and_after_a_stop() {
    let disk = FakeDisk::new();
    let (member_id, cluster_id) = {
        let node = start(&disk).await.unwrap();
        for key in 0..50 {
            put(&node, key, "first").await.unwrap();
        }
        node.read_index().await.unwrap();
        assert_eq!(node.state().count(), 50);
        let status = node.status();
        assert!(status.is_leader && !status.is_learner, "{status:?}");
        node.stop().await;
        (node.member_id(), node.cluster_id())
    };
    let node = start(&disk).await.unwrap();
    assert_eq!((node.member_id(), node.cluster_id()), (member_id, cluster_id));
    assert_eq!(node.members().len(), 1);
    assert_eq!(node.state().count(), 50);
    put(&node, 1, "second").await.unwrap();
    assert_eq!(node.state().pairs().len(), 50);
    assert_eq!(node.status().term, 2, "each start is an election");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_purge_the_log_and_survive_with_it() {
    let disk = FakeDisk::new();
    let node = start(&disk).await.unwrap();
    let mut model = BTreeMap::new();
    for round in 0..400_u64 {
        let key = round % 37;
        let value = format!("{round}-{}", "x".repeat(200));
        put(&node, key, &value).await.unwrap();
        model.insert(Bytes::copy_from_slice(&key.to_be_bytes()), Bytes::from(value));
    }
    let log = node.log.clone();
    until("a purge", || log.marks().purged.is_some_and(|id| id.index > 100)).await;
    // Killed, not stopped: the disk as it is.
    let image = disk.crash(&mut Throws::new(5));
    drop(node);
    let node = start(&image).await.unwrap();
    assert_eq!(node.state().pairs(), model);
    assert_eq!(node.state().count(), 400);
}

/// Clients write while power is cut at some moment; every acknowledged write must be there after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_under_load_loses_no_acknowledged_write() {
    for seed in 0..12 {
        let mut throws = Throws::new(seed);
        let mut disk = FakeDisk::new();
        let mut acknowledged: BTreeMap<u64, u64> = BTreeMap::new();
        for life in 1..4_u64 {
            let node = start(&disk).await.unwrap();
            for (key, value) in &acknowledged {
                let pairs = node.state().pairs();
                let found =
                    pairs.get(key.to_be_bytes().as_slice()).map(|value| String::from_utf8_lossy(value).into_owned());
                let found = found.and_then(|value| value.trim_end().parse::<u64>().ok());
                assert!(found >= Some(*value), "seed {seed}, life {life}, key {key}: {found:?} < {value}");
            }
            let answers: Arc<Vec<AtomicU64>> = Arc::new((0..8).map(|_| AtomicU64::new(0)).collect());
            let clients: Vec<_> = (0..8_u64)
                .map(|key| {
                    let (node, answers) = (Arc::clone(&node), Arc::clone(&answers));
                    tokio::spawn(async move {
                        for number in 1.. {
                            let value = life * 1_000_000 + number;
                            if put(&node, key, &format!("{value:<100}")).await.is_err() {
                                return;
                            }
                            answers[usize::try_from(key).unwrap()].store(value, Ordering::SeqCst);
                        }
                    })
                })
                .collect();
            let target = 20 + throws.below(300);
            until("writes", || node.state().count() >= target).await;
            // What was answered before the cut must be in the image.
            let before: Vec<u64> = answers.iter().map(|answer| answer.load(Ordering::SeqCst)).collect();
            let image = disk.crash(&mut throws);
            for client in clients {
                client.abort();
            }
            node.stop().await;
            for (key, value) in before.into_iter().enumerate().filter(|(_, value)| *value > 0) {
                acknowledged.insert(key as u64, value);
            }
            disk = image;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_of_the_log_ends_the_node_without_an_answer() {
    let disk = FakeDisk::new();
    let node = start(&disk).await.unwrap();
    put(&node, 1, "a").await.unwrap();
    disk.fail_after_syncs(0);
    assert!(put(&node, 2, "b").await.is_err());
    let failure = tokio::time::timeout(Duration::from_secs(10), node.failed()).await.unwrap();
    assert!(failure.0.contains("injected"), "{failure:?}");
    assert!(put(&node, 3, "c").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_checkpoint_ends_the_node() {
    let disk = FakeDisk::new();
    let node = start(&disk).await.unwrap();
    put(&node, 1, "a").await.unwrap();
    // The log's batches sync as well, so let some pass.
    disk.fail_after_syncs(1);
    node.raft.trigger().snapshot().await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), node.failed()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_watermark_growing_writes_are_refused_and_others_pass() {
    let disk = FakeDisk::new();
    let mut config = config();
    config.quota_bytes = 20 << 10;
    let node = Node::start(config, Arc::new(disk.clone()), Arc::new(SystemRandom), Model::default()).await.unwrap();
    let mut refused = None;
    for key in 0..10_000 {
        match put(&node, key, &"x".repeat(500)).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    assert_eq!(refused, Some(ProposeError::NoSpace));
    node.propose(Model::delete(0_u64.to_be_bytes().to_vec())).await.unwrap();
    node.read_index().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn little_free_space_refuses_writes_before_the_disk_is_full() {
    let disk = FakeDisk::new();
    let mut config = config();
    config.reserve_bytes = 1 << 20;
    let node = Node::start(config, Arc::new(disk.clone()), Arc::new(SystemRandom), Model::default()).await.unwrap();
    put(&node, 1, "a").await.unwrap();
    disk.set_capacity(1 << 10);
    until("the watermark", || node.space.exhausted()).await;
    assert!(matches!(put(&node, 2, "b").await, Err(ProposeError::NoSpace)));
    disk.set_capacity(1 << 30);
    until("space again", || !node.space.exhausted()).await;
    let answer = put(&node, 2, "b").await;
    assert!(answer.is_ok(), "{answer:?}, {:?}", *node.failure.borrow());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clusters_own_writes_go_on_without_space_until_their_reserve_is_taken() {
    let disk = FakeDisk::new();
    let config = Config { reserve_bytes: 1 << 20, cluster_reserve_bytes: 3500, ..config() };
    let node = Node::start(config, Arc::new(disk.clone()), Arc::new(SystemRandom), Model::default()).await.unwrap();
    let own = |key: u64| Command::Cluster(Box::new(Model::put(key.to_be_bytes().to_vec(), "x".repeat(1000))));
    disk.set_capacity(disk.used() + (512 << 10));
    until("the watermark", || node.space.exhausted()).await;
    assert_eq!(put(&node, 1, "a").await.unwrap_err(), ProposeError::NoSpace);
    for key in 0..3 {
        node.propose(own(key)).await.unwrap();
    }
    assert_eq!(node.propose(own(3)).await.unwrap_err(), ProposeError::NoSpace);
    disk.set_capacity(1 << 30);
    until("space again", || !node.space.exhausted()).await;
    disk.set_capacity(disk.used() + (512 << 10));
    until("the watermark", || node.space.exhausted()).await;
    node.propose(own(4)).await.unwrap();
}

/// Proposals that wait for the disk are bounded in bytes. Whoever comes then waits, and is turned away in the end without a trace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_backlog_turns_proposals_away() {
    let node = start(&FakeDisk::new()).await.unwrap();
    put(&node, 1, "a").await.unwrap();
    until("no proposal is under way", || node.backlog.available_permits() == BACKLOG_BYTES).await;
    let all = u32::try_from(BACKLOG_BYTES).unwrap();
    let taken = Arc::clone(&node.backlog).try_acquire_many_owned(all).unwrap();
    let command = || Encoded::new(&Model::put("k", "v")).unwrap();
    let soon = tokio::time::Instant::now() + Duration::from_millis(50);
    let refused = node.propose_here(command(), soon, None).await.err();
    assert_eq!(refused, Some(ProposeError::TooManyRequests));
    assert_eq!(node.state().count(), 1, "it was not proposed");
    drop(taken);
    put(&node, 2, "b").await.unwrap();
    assert_eq!(node.state().count(), 2);
    until("the share is given back", || node.backlog.available_permits() == BACKLOG_BYTES).await;
}

/// What a new release adds to messages and entries is used only once all members run it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_tells_what_its_release_understands_and_again_after_an_upgrade() {
    let disk = FakeDisk::new();
    let old = config();
    let old = Config { member: Member { level: 0, ..old.member.clone() }, ..old };
    let node = Node::start(old, Arc::new(disk.clone()), Arc::new(SystemRandom), Model::default()).await.unwrap();
    put(&node, 1, "a").await.unwrap();
    assert_eq!(node.lowest_level(), 0);
    node.stop().await;
    drop(node);
    let node = start(&disk.copy()).await.unwrap();
    until("it has told", || node.lowest_level() == crate::member::LEVEL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_log_or_checkpoint_is_refused() {
    let disk = FakeDisk::new();
    let node = start(&disk).await.unwrap();
    for key in 0..300 {
        put(&node, key, &"x".repeat(300)).await.unwrap();
    }
    let log = node.log.clone();
    until("a purge", || log.marks().purged.is_some()).await;
    node.stop().await;
    drop((node, log));

    let lost = disk.copy();
    for name in lost.list().unwrap().into_iter().filter(|name| name.starts_with("log-")) {
        lost.remove(&name).unwrap();
    }
    assert!(matches!(start(&lost).await, Err(StartError::LogLost)));

    let lost = disk.copy();
    lost.remove("state.redb").unwrap();
    let error = start(&lost).await.unwrap_err();
    assert!(matches!(error, StartError::Hole { .. }) && error.to_string().contains("join as a new member"), "{error}");
    start(&disk).await.unwrap();
}

/// A follower applies before its own log is durable, so its checkpoint may be ahead of what the log holds after a crash: two others of three have
/// committed it. Without those it cannot be, and what is missing was lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_ahead_of_the_log_is_survived_where_others_committed_it() {
    let disk = FakeDisk::new();
    let node = start(&disk).await.unwrap();
    for key in 0..5 {
        put(&node, key, "a").await.unwrap();
    }
    let last = LogId { term: node.status().term, index: 1000 };
    node.stop().await;
    drop(node);
    // Tasks of the dropped node may be closing their database still: a process that starts again has the disk to itself.
    let disk = disk.copy();
    let identity = Identity::load_or_create(&disk, &SystemRandom).unwrap();
    let checkpoint_with = |others: &[MemberId]| {
        let checkpoint = Checkpoint::open(&disk, identity.store_id).unwrap();
        let (mut applied, _) = checkpoint.applied().unwrap();
        applied.last = Some(last);
        applied.membership.voters[0].extend(others);
        applied.membership.members.extend(others.iter().map(|id| (*id, Member::default())));
        checkpoint.commit(&crate::state::Delta::default(), &applied).unwrap();
    };
    let others = [MemberId(2), MemberId(3)];
    for others in [&[][..], &others[..1]] {
        checkpoint_with(others);
        let started = start(&disk.copy()).await;
        assert!(matches!(started, Err(StartError::EndLost { checkpoint: 1000, .. })), "{started:?}");
    }
    checkpoint_with(&others);
    let node = Node::begin(
        config(),
        identity,
        Arc::new(disk.clone()),
        Arc::new(SystemRandom),
        Model::default(),
        Arc::new(NoPeers),
    );
    let node = node.await.unwrap();
    assert_eq!(node.log.marks().last, Some(last));
    assert_eq!(node.state().pairs().len(), 5);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_larger_than_the_log_takes_is_refused() {
    let node = start(&FakeDisk::new()).await.unwrap();
    assert!(matches!(put(&node, 1, &"x".repeat(16 << 10)).await, Err(ProposeError::TooLarge)));
    put(&node, 1, "small").await.unwrap();
}
