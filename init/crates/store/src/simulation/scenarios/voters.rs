//! Who votes: an odd number, and a learner in the place of a voter that is lost.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::*;
use crate::peer::{Change, Removal};
use crate::simulation::cluster::VOTER_LOSS;
use crate::simulation::operator::Operator;

impl World {
    /// Voters and learners, as whoever leads knows them.
    async fn voters_and_learners(&self) -> (BTreeSet<u64>, BTreeSet<u64>) {
        let leader = self.leader().await.running().unwrap();
        let members = leader.node().members();
        let ids = |learns: bool| members.iter().filter(|one| one.2 == learns).map(|(id, ..)| id.0).collect();
        (ids(false), ids(true))
    }

    async fn wait_for_voters(&self, what: &str, are: impl Fn(&BTreeSet<u64>, &BTreeSet<u64>) -> bool) {
        let waiting = async {
            loop {
                let (voters, learners) = self.voters_and_learners().await;
                if are(&voters, &learners) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let result = tokio::time::timeout(4 * VOTER_LOSS, waiting).await;
        assert!(result.is_ok(), "{what}: {:?}", self.voters_and_learners().await);
    }

    /// Has a member removed, as often as it takes.
    async fn remove(&self, slot: &Slot) {
        slot.leaving.set(true);
        let removing = async {
            let operator = Operator::default();
            while operator.change(&self.0, Change::Remove { id: slot.id, how: Removal::Safe }).await != Some(Ok(())) {
                let (voters, learners) = self.voters_and_learners().await;
                if !voters.contains(&slot.id.0) && !learners.contains(&slot.id.0) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(DEADLINE, removing).await.expect("the removal");
    }

    async fn follower_that_stays(&self) -> Rc<Slot> {
        let leader = self.leader().await.id;
        self.0.members().into_iter().find(|slot| slot.id != leader).unwrap()
    }
}

#[test]
fn each_removal_leaves_an_odd_number_of_voters() {
    run(5, |world| async move {
        world.wait_for_voters("all vote", |voters, _| voters.len() == 5).await;
        for (round, voting) in [(0, 3), (1, 3), (2, 1), (3, 1)] {
            // The leader goes, and once another. The last leader votes alone: a learner takes its place.
            let slot = if round == 1 { world.follower_that_stays().await } else { world.leader().await };
            world.remove(&slot).await;
            let what = format!("{voting} voters after removal {round}");
            world.wait_for_voters(&what, |voters, _| voters.len() == voting && !voters.contains(&slot.id.0)).await;
            world.put_elsewhere(Some(slot.id), "key", &format!("{round}")).await;
            world.0.end(&slot).await;
        }
        assert_eq!(world.voters_and_learners().await.1.len(), 0);
        world.check().await;
    });
}

/// Whoever ends the change that the leader has begun must not take out who was only to learn.
#[test]
fn a_removal_that_loses_its_leader_in_the_middle_removes_nobody_else() {
    let reached = RefCell::new(BTreeSet::new());
    for millis in (0..120).step_by(6) {
        crate::simulation::run(millis + 1, None, || async {
            let world = World(Cluster::found(3).await.unwrap());
            world.settle().await;
            let (leader, gone) = (world.leader().await, world.follower().await);
            gone.leaving.set(true);
            let running = leader.running().unwrap();
            let change = Change::Remove { id: gone.id, how: Removal::Safe };
            let changing = running.process.scope(running.node().change(change));
            // It may have come to an end by then.
            _ = tokio::time::timeout(Duration::from_millis(millis), changing).await;
            world.cut_and_restart(&leader).await;
            world.settle().await;
            let stays = |ids: &BTreeSet<u64>| world.0.members().iter().all(|slot| ids.contains(&slot.id.0));
            let everybody =
                |voters: &BTreeSet<u64>, learners: &BTreeSet<u64>| voters.union(learners).copied().collect();
            world.wait_for_voters("both stay", |voters, learners| stays(&everybody(voters, learners))).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            let (voters, learners) = world.voters_and_learners().await;
            assert!(stays(&everybody(&voters, &learners)), "after {millis} ms {voters:?} vote and {learners:?} learn");
            reached.borrow_mut().insert(voters.len() + learners.len());
            world.0.none_failed().unwrap();
            world.check().await;
        });
    }
    assert_eq!(reached.into_inner(), BTreeSet::from([2, 3]), "cut before the removal and after it");
}

#[test]
fn a_learner_takes_the_place_of_a_voter_that_is_lost() {
    run(3, |world| async move {
        Operator::default().add(&world.0, false).await.unwrap();
        world.settle().await;
        world.wait_for_voters("one learns", |voters, learners| voters.len() == 3 && learners.len() == 1).await;
        let lost = world.follower_that_stays().await;
        world.0.kill(&lost);
        world.put("key", "without it").await;
        tokio::time::sleep(VOTER_LOSS / 2).await;
        assert!(world.voters_and_learners().await.0.contains(&lost.id.0), "it may come back yet");
        world
            .wait_for_voters("the learner votes", |voters, learners| {
                voters.len() == 3 && !voters.contains(&lost.id.0) && learners.iter().eq([&lost.id.0])
            })
            .await;
        // So the loss of one more costs nothing.
        let second = world.leader().await;
        world.0.kill(&second);
        world.put_elsewhere(Some(second.id), "key", "without two of four").await;
        world.0.restart(&second).await.unwrap();
        // What comes back learns, and waits for a place.
        world.0.restart(&lost).await.unwrap();
        world.settle().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let (voters, learners) = world.voters_and_learners().await;
        assert!(voters.len() == 3 && learners.len() == 1, "{voters:?} {learners:?}");
        world.check().await;
    });
}

/// Where nobody can take its place a voter stays one, however long it is away.
#[test]
fn a_voter_is_not_given_up_for_nobody() {
    run(3, |world| async move {
        let lost = world.follower().await;
        world.0.kill(&lost);
        tokio::time::sleep(3 * VOTER_LOSS).await;
        assert_eq!(world.voters_and_learners().await.0.len(), 3);
        world.0.restart(&lost).await.unwrap();
        world.check().await;
    });
}
