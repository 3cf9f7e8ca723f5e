//! Succession: a leader whose process has died is followed at once, one that lives is left alone.

use tokio::time::Instant;

use super::*;
use crate::simulation::Bug;

/// A follower stands for election after one and a half timeouts at the earliest.
fn earliest_election(world: &World) -> Duration {
    world.0.election_timeout() * 3 / 2
}

/// Kills the leader a few times, and returns the longest time until the next write was acknowledged.
async fn longest_gap(world: &World, kill: fn(&World, &Slot)) -> Duration {
    let mut longest = Duration::ZERO;
    for round in 0..4 {
        world.put("key", &format!("{round}-before")).await;
        let leader = world.leader().await;
        let killed = Instant::now();
        kill(world, &leader);
        world.put_elsewhere(Some(leader.id), "key", &format!("{round}-after")).await;
        longest = longest.max(killed.elapsed());
        world.0.restart(&leader).await.unwrap();
        world.settle().await;
    }
    longest
}

#[test]
fn a_killed_leader_is_succeeded_before_an_election_is_due() {
    for members in [3, 5] {
        run(members, |world| async move {
            let gap = longest_gap(&world, |world, leader| world.0.kill(leader)).await;
            assert!(gap < world.0.election_timeout() / 2, "{members} members: {gap:?}");
            world.check().await;
        });
    }
}

/// The end of a connection may be lost. Then the silence is asked about.
#[test]
fn a_leader_that_died_without_a_word_is_succeeded_too() {
    run(3, |world| async move {
        let gap = longest_gap(&world, |_, leader| leader.disk.borrow().kill()).await;
        assert!(gap < earliest_election(&world), "{gap:?}");
        world.check().await;
    });
}

/// Does to a leader and its connections what it survives as leader. Returns the term before and after.
async fn disturb(world: &World) -> (u64, u64) {
    let term = |slot: &Slot| slot.running().unwrap().node().status().term;
    let leader = world.leader().await;
    let before = term(&leader);
    for millis in 0..20 {
        world.0.network.hang_up(leader.id);
        tokio::time::sleep(Duration::from_millis(millis * 7)).await;
        world.put("key", &format!("{millis}")).await;
    }
    for follower in world.0.slots().iter().filter(|slot| slot.id != leader.id) {
        for (hears, is_heard) in [(false, false), (false, true), (true, false)] {
            world.0.network.hang_up(leader.id);
            if !hears {
                world.0.network.cut(leader.id, follower.id);
            }
            if !is_heard {
                world.0.network.cut(follower.id, leader.id);
            }
            tokio::time::sleep(world.0.election_timeout() * 5).await;
            world.0.network.heal();
            world.put("key", "healed").await;
        }
    }
    let process = leader.running().unwrap().process;
    process.stop();
    world.0.network.hang_up(leader.id);
    tokio::time::sleep(world.0.election_timeout() / 2).await;
    process.go_on();
    world.put("key", "went on").await;
    (before, term(&leader))
}

#[test]
fn a_leader_that_lives_is_not_succeeded() {
    run(3, |world| async move {
        let (before, after) = disturb(&world).await;
        assert_eq!(before, after);
        world.check().await;
    });
}

/// The test above sees what it is to see.
#[test]
fn a_hasty_succession_is_noticed() {
    crate::simulation::run(1, Some(Bug::HastySuccession), || async {
        let world = World(Cluster::found(3).await.unwrap());
        world.settle().await;
        let (before, after) = disturb(&world).await;
        assert!(after > before, "term {before}");
        // A needless election is one all the same.
        world.check().await;
    });
}
