//! What a member watches besides its own work: who the members are, and whether it is still one.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use openraft::async_runtime::watch::WatchReceiver;

use super::{Node, report};
use crate::member::MemberId;
use crate::peer::{Answer, CallError, Lane, Refusal, Request, Transport};
use crate::raft::{Raft, to_log_id, to_membership};
use crate::state::Replicated;

const REMOVED: &str = "this member was removed from the cluster, and stops. To let the machine join again, empty the data directory and add it as a new member";

/// Who the members are, as committed, and who was one since this one started. Ids are not used again, so there they stay.
#[derive(Debug, Default)]
pub(super) struct Roll {
    pub(super) members: BTreeSet<MemberId>,
    pub(super) removed: BTreeSet<MemberId>,
}

impl Roll {
    fn note(&mut self, members: BTreeSet<MemberId>) {
        self.removed.extend(self.members.difference(&members));
        self.members = members;
    }
}

/// Tells the transport where members are, at each change, and notes who is none any more.
pub(super) async fn follow_members<S: Replicated>(
    raft: Raft<S>,
    transport: Arc<dyn Transport>,
    roll: Arc<Mutex<Roll>>,
) {
    let mut metrics = raft.server_metrics();
    let mut known = None;
    loop {
        let (membership, committed) = {
            let metrics = metrics.borrow_watched();
            // What is not committed may be taken back.
            let committed = metrics.committed_membership_config.nodes().map(|(id, _)| *id).collect();
            (to_membership(metrics.membership_config.membership()), committed)
        };
        roll.lock().unwrap_or_else(PoisonError::into_inner).note(committed);
        if known.as_ref() != Some(&membership) {
            transport.set_members(membership.members.clone().into_iter().collect());
            known = Some(membership);
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Consensus looks many times in each heartbeat whether one is due, or an election. Whoever leads alone needs neither.
pub(super) async fn rest_alone<S: Replicated>(raft: Raft<S>, own: MemberId) {
    let mut metrics = raft.server_metrics();
    loop {
        let is_alone = {
            let metrics = metrics.borrow_watched();
            let mut lists = [&metrics.membership_config, &metrics.committed_membership_config].into_iter();
            metrics.state == openraft::ServerState::Leader
                && lists.all(|list| list.nodes().map(|(id, _)| *id).eq([own]))
        };
        raft.runtime_config().tick(!is_alone);
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// A member that was removed may never be sent the entry that says so: the others stop speaking to it. So one that hears of no leader asks them.
pub(super) async fn watch_removal<S: Replicated>(node: Weak<Node<S>>) {
    loop {
        let Some(node) = node.upgrade() else { return };
        let pause = node.timing.election_timeout;
        if let Some(reason) = node.is_out().await {
            report(&node.fail, reason.to_owned());
            return;
        }
        drop(node);
        tokio::time::sleep(pause).await;
    }
}

impl<S: Replicated> Node<S> {
    /// Why this member must not go on, if so.
    ///
    /// A list of members without this one means that it was removed only if it is newer than one with it: a member that joins is sent the
    /// log from long before it was added, and for a while knows the lists of then.
    async fn is_out(&self) -> Option<&'static str> {
        let own = self.identity.member_id;
        let (known, others, removed) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let effective = &metrics.membership_config;
            let committed = &metrics.committed_membership_config;
            // It leads on for a moment, to hand over; that it led is named as the leader for longer.
            let leads = metrics.state == openraft::ServerState::Leader;
            let is_in = |membership: &openraft::Membership<_, _>| membership.get_node(&own).is_some();
            if is_in(committed.membership()) || is_in(effective.membership()) {
                self.was_member.store(true, Ordering::Relaxed);
            }
            let removed = self.was_member.load(Ordering::Relaxed)
                && !is_in(committed.membership())
                && !is_in(effective.membership())
                && !leads;
            let known = effective.log_id().as_ref().map(to_log_id);
            let others: Vec<_> = effective.membership().nodes().map(|(id, _)| *id).filter(|id| *id != own).collect();
            (known, others, removed)
        };
        if removed {
            return Some(REMOVED);
        }
        if self.status().leader.is_some() {
            return None;
        }
        let was_member = self.was_member.load(Ordering::Relaxed);
        for other in others {
            let asked = self.transport.call(other, Lane::Control, Request::ClusterInfo, self.timing.election_timeout);
            match asked.await {
                Ok(Answer::Cluster(info)) => {
                    // One that never saw itself listed believes only the leader: another may be as far behind.
                    let newer = if was_member { info.membership_id > known } else { info.leader == Some(other) };
                    if known.is_some() && newer && !info.membership.members.contains_key(&own) {
                        return Some(REMOVED);
                    }
                }
                Err(CallError::Refused { refusal: Refusal::Reborn, .. }) => {
                    return Some(
                        "this member's id is known with another data directory, whose promises are lost here. Remove the member, empty the \
                         data directory and add it as a new member",
                    );
                }
                _ => {}
            }
        }
        None
    }
}
