//! A member whose state is not that of the others is named, and nothing is written any more.

use super::*;

/// Waits until the alarm names somebody on every member.
async fn named(world: &World) -> Vec<u64> {
    let corrupt = i32::from(pb::AlarmType::Corrupt);
    let waiting = async {
        loop {
            let named: Vec<Vec<u64>> = (0..3)
                .map(|number| world.running(number).node().state().alarms())
                .map(|alarms| {
                    alarms.iter().filter(|alarm| alarm.alarm == corrupt).map(|alarm| alarm.member_id).collect()
                })
                .collect();
            if named.iter().all(|named| !named.is_empty()) {
                return named[0].clone();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.expect("the alarm is raised")
}

async fn corrupt_one(world: World, leads: bool) {
    world.put("key", "value").await;
    world.put("other", "value").await;
    world.settle().await;
    let slot = if leads { world.leader().await } else { world.follower().await };
    let running = slot.running().unwrap();
    running.node().state().corrupt(b"key");
    assert_eq!(named(&world).await, [slot.id.0]);
    for number in 0..3 {
        let refused = world.running(number).services.put(put("key", "more")).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::DataLoss, "{refused}");
    }
}

#[test]
fn a_follower_that_differs_is_named() {
    run(3, |world| corrupt_one(world, false));
}

#[test]
fn a_leader_that_differs_is_named_by_itself() {
    run(3, |world| corrupt_one(world, true));
}

/// Members are at different places most of the time, and were compacted at different moments.
#[test]
fn members_that_are_behind_do_not_differ() {
    run(3, |world| async move {
        for round in 0..40 {
            let revision = world.put("key", &format!("{round}")).await;
            let slot = if round % 2 == 0 { world.leader().await } else { world.follower().await };
            if round % 5 == 0 {
                // Another may have done it already.
                _ = slot.running().unwrap().services.compact(revision - 3).await;
            }
            if round % 10 == 3 {
                let follower = world.follower().await;
                world.0.isolate(&follower, true, true);
            }
            if round % 10 == 8 {
                world.0.network.heal();
            }
            tokio::time::sleep(Duration::from_millis(700)).await;
            world.0.none_failed().unwrap();
        }
        world.check().await;
    });
}
