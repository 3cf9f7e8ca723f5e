//! The alarm, and what counts towards it.

use keelson_etcd_api::etcdserverpb as pb;

use super::*;
use crate::state::State;

/// What was refused when it was applied, and what deletes nothing, leaves as many rows as there were; a checkpoint counts all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_change_no_row_do_not_count_beyond_the_next_checkpoint() {
    let hourly = CheckpointPolicy { every_bytes: u64::MAX, ..config().checkpoints };
    let config = Config { quota_bytes: 20 << 10, checkpoints: hourly, ..config() };
    let disk = Arc::new(FakeDisk::new());
    let node = Node::start(config, disk, Arc::new(SystemRandom), Model::default()).await.unwrap();
    put(&node, 1, "a").await.unwrap();
    node.checkpoint().await.unwrap();
    let before = node.usage().in_use_bytes;
    for _ in 0..20 {
        node.propose(Model::delete(vec![b'x'; 2 << 10])).await.unwrap();
        assert!(node.usage().in_use_bytes > before, "the log until then");
        node.checkpoint().await.unwrap();
        assert_eq!(node.usage().in_use_bytes, before);
    }
    put(&node, 2, "b").await.unwrap();
}

fn alarm(action: pb::alarm_request::AlarmAction, member: MemberId) -> Command {
    Command::Alarm(pb::AlarmRequest {
        action: action.into(),
        member_id: member.0,
        alarm: pb::AlarmType::Nospace.into(),
    })
}

async fn start_real(config: Config, disk: &FakeDisk) -> Arc<Node<State>> {
    Node::start(config, Arc::new(disk.clone()), Arc::new(SystemRandom), State::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_that_is_disarmed_too_early_is_raised_again() {
    use pb::alarm_request::AlarmAction::Deactivate;
    let disk = FakeDisk::new();
    let node = start_real(Config { reserve_bytes: 1 << 20, ..config() }, &disk).await;
    let id = node.member_id();
    let raised = || node.state().tells_no_space(id);
    disk.set_capacity(disk.used() + (512 << 10));
    until("the alarm", raised).await;
    for _ in 0..2 {
        node.propose(alarm(Deactivate, id)).await.unwrap();
        until("the alarm again", raised).await;
        assert_eq!(node.propose(Model::put("k", "v")).await.unwrap_err(), ProposeError::NoSpace);
    }
    disk.set_capacity(1 << 30);
    until("space again", || !node.space.exhausted()).await;
    node.propose(alarm(Deactivate, id)).await.unwrap();
    let answer = node.propose(Model::put("k", "v")).await.unwrap();
    assert!(matches!(answer, Response::Put(_)) && !raised(), "{answer:?}");
}

/// Whoever disarms it has asked one member, which then knows what is in use. Each other one finds out before it raises the alarm again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_is_not_raised_for_what_was_deleted_since_the_last_checkpoint() {
    use pb::alarm_request::AlarmAction::{Activate, Deactivate};
    let hourly = CheckpointPolicy { every_bytes: u64::MAX, ..config().checkpoints };
    let node = start_real(Config { quota_bytes: 20 << 10, checkpoints: hourly, ..config() }, &FakeDisk::new()).await;
    let id = node.member_id();
    // As if it had been raised; else it would be found out before that.
    node.propose(alarm(Activate, id)).await.unwrap();
    while !node.space.exhausted() {
        node.propose(Model::delete(vec![b'x'; 2 << 10])).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    node.propose(alarm(Deactivate, id)).await.unwrap();
    until("it is found out", || !node.space.exhausted()).await;
    let answer = node.propose(Model::put("k", "v")).await.unwrap();
    assert!(matches!(answer, Response::Put(_)) && !node.state().tells_no_space(id), "{answer:?}");
}
