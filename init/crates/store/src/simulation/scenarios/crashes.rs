//! What went wrong with crashes, pauses and snapshots.

use super::*;
use crate::disk::fake::Throws;
use crate::simulation::draw;
use crate::simulation::faults::Fault;
use crate::simulation::history::{Plan, simulate};

fn histories(members: u64, faults: &'static [Fault]) {
    for seed in 1..=2 {
        let plan = Plan { members: Some(members), faults, operator: false, rounds: 6, ..Plan::default() };
        simulate(seed, plan).unwrap_or_else(|reason| panic!("seed {seed}: {reason}"));
    }
}

/// Entries were applied twice after a crash, since what was applied and how far were not written together.
#[test]
fn issue_13766_crashes_under_load_leave_the_same_revisions_everywhere() {
    histories(3, &[Fault::Kill, Fault::KillAndRestart, Fault::CutPowerInSync]);
}

/// A single member answered before the entry was durable.
#[test]
fn issue_14370_a_member_alone_loses_no_acknowledged_write() {
    histories(1, &[Fault::CutPower, Fault::CutPowerInSync]);
}

/// Members with another state of authentication applied the same entries otherwise. There is no such state here: it cannot be turned on,
/// and no entry of the log speaks of it.
#[test]
fn issue_14571_authentication_is_no_part_of_the_state() {
    run(3, |world| async move {
        let before = world.running(0).node().status().index;
        let refused = world.running(0).services.enable_authentication().await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
        assert_eq!(world.running(0).node().status().index, before, "nothing was proposed");
        world.check().await;
    });
}

/// A crash in the middle of defragmenting left a database with another revision.
#[test]
fn issue_14685_a_crash_while_defragmenting_changes_nothing() {
    run(1, |world| async move {
        for syncs in 0..12 {
            let mut revision = 0;
            for number in 0..8 {
                revision = world.put(&format!("key/{number}"), &"x".repeat(300)).await;
            }
            let slot = &world.0.slots()[0];
            let running = world.running(0);
            slot.disk.borrow().cut_after_syncs(syncs, Throws::new(draw()));
            // It may be done before power is cut.
            let defragmenting = tokio::time::timeout(Duration::from_secs(5), running.node().defragment());
            _ = defragmenting.await;
            world.cut_and_restart(slot).await;
            world.settle().await;
            assert_eq!(world.revisions(), [revision], "cut after {syncs} syncs");
        }
        world.check().await;
    });
}

/// A member that received a second snapshot while it installed the first one ended.
#[test]
fn issue_18055_snapshots_in_quick_succession_are_survived() {
    run(3, |world| async move {
        let follower = world.follower().await;
        for pause in [0, 1, 3, 10, 40, 200] {
            world.0.isolate(&follower, true, true);
            world.put_much(Some(follower.id)).await;
            world.0.network.heal();
            world.0.network.set_weather(0, 8);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            world.0.none_failed().unwrap();
        }
        world.check().await;
        world.0.none_failed().unwrap();
    });
}

/// A member that was killed between receiving a snapshot and having installed it did not start again.
#[test]
fn issue_20271_a_crash_while_a_snapshot_is_installed_is_survived() {
    run(3, |world| async move {
        for syncs in 0..6 {
            let follower = world.follower().await;
            world.0.isolate(&follower, true, true);
            world.put_much(Some(follower.id)).await;
            follower.disk.borrow().cut_after_syncs(syncs, Throws::new(draw()));
            world.0.network.heal();
            tokio::time::sleep(Duration::from_millis(400)).await;
            world.cut_and_restart(&follower).await;
            world.settle().await;
        }
        world.check().await;
    });
}

/// A leader that was stopped and went on answered reads from before, though another led by then.
#[test]
fn issue_20418_a_leader_that_was_paused_reads_nothing_stale() {
    run(3, |world| async move {
        for round in 0..5 {
            let old = world.leader().await;
            let running = old.running().unwrap();
            world.put("key", &format!("{round}-before")).await;
            running.process.stop();
            let value = format!("{round}-after");
            world.put_elsewhere(Some(old.id), "key", &value).await;
            // Asked while it is stopped, so that it is the first thing it does.
            let services = std::sync::Arc::clone(&running.services);
            let read = async move { services.range(crate::simulation::clients::range("key")).await };
            let reading = tokio::task::spawn_local(running.process.scope(read));
            tokio::task::yield_now().await;
            running.process.go_on();
            let answer = reading.await.unwrap().unwrap();
            assert_eq!(answer.kvs[0].value, value.as_bytes(), "round {round}");
        }
        world.check().await;
    });
}
