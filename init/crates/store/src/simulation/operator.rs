//! Changes of the members, as an operator makes them.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::cluster::{Cluster, Running, Slot, peer_url};
use super::{below, one_in, pick};
use crate::member::MemberId;
use crate::peer::{Change, ChangeError, Removal};

/// How long an operator waits for an answer.
const PATIENCE: Duration = Duration::from_secs(8);
/// Machines of one history.
const MOST_SLOTS: usize = 9;

#[derive(Debug, Default)]
pub(crate) struct Operator {
    pub stopping: Cell<bool>,
    pub changes: Cell<usize>,
}

impl Operator {
    /// One operator, until it is told to stop.
    pub(crate) async fn run(self: Rc<Self>, cluster: Rc<Cluster>) -> Result<(), String> {
        while !self.stopping.get() {
            tokio::time::sleep(Duration::from_millis(300 + below(1500))).await;
            if self.stopping.get() {
                break;
            }
            self.step(&cluster).await?;
        }
        Ok(())
    }

    async fn step(&self, cluster: &Cluster) -> Result<(), String> {
        let slots = cluster.members();
        match below(6) {
            0 | 1 if cluster.slots().len() < MOST_SLOTS => self.add(cluster, one_in(2)).await,
            2 => {
                let id = pick(&slots).id;
                self.change(cluster, Change::Promote(id)).await;
                Ok(())
            }
            3 => {
                let slot = pick(&slots);
                self.remove(cluster, &slot).await;
                Ok(())
            }
            4 => {
                if let Some(leader) = leader(cluster) {
                    self.remove(cluster, &leader).await;
                }
                Ok(())
            }
            _ => {
                let target = pick(&slots).id;
                if let Some(running) = leader(cluster).and_then(|slot| slot.running()) {
                    let moving = running.process.scope(running.node().move_leader(target));
                    // Whether it came about shows.
                    _ = tokio::time::timeout(PATIENCE, moving).await;
                }
                Ok(())
            }
        }
    }

    /// Asks any member for a change. None if it is not known whether it was made.
    pub(crate) async fn change(&self, cluster: &Cluster, change: Change) -> Option<Result<(), ChangeError>> {
        let running: Vec<Running> = cluster.members().iter().filter_map(|slot| slot.running()).collect();
        if running.is_empty() {
            return Some(Err(ChangeError::NoLeader));
        }
        let running = pick(&running);
        let changing = running.process.scope(running.node().change(change));
        let changed = tokio::time::timeout(PATIENCE, changing).await.ok()?;
        if running.disk.is_cut() {
            return None;
        }
        match changed {
            Ok(_) => {
                self.changes.set(self.changes.get() + 1);
                Some(Ok(()))
            }
            Err(ChangeError::Timeout | ChangeError::Stopped) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// A new member on a new machine.
    pub(crate) async fn add(&self, cluster: &Cluster, learner: bool) -> Result<(), String> {
        let id = MemberId(cluster.slots().len() as u64 + 1);
        let added =
            self.change(cluster, Change::Add { peer_urls: vec![peer_url(id)], learner, id, name: String::new() }).await;
        let slot = cluster.add_slot();
        if matches!(added, Some(Err(_))) {
            // The machine is not used, nor its id again.
            slot.leaving.set(true);
            return Ok(());
        }
        cluster.start(&slot).await
    }

    pub(crate) async fn remove(&self, cluster: &Cluster, slot: &Slot) {
        let before = slot.leaving.replace(true);
        // If it is not known whether it was removed, it may be.
        if let Some(Err(_)) = self.change(cluster, Change::Remove { id: slot.id, how: Removal::Safe }).await {
            slot.leaving.set(before);
        }
    }
}

/// Who leads, as far as it says so itself.
pub(crate) fn leader(cluster: &Cluster) -> Option<Rc<Slot>> {
    cluster
        .slots()
        .into_iter()
        .find(|slot| slot.running().is_some_and(|running| !running.disk.is_cut() && running.node().status().is_leader))
}
