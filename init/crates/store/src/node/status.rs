//! Who leads, and who the members are, as far as this one knows.

use std::sync::PoisonError;

use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::alias::LogIdOf;

use super::Node;
use crate::member::{Member, MemberId};
use crate::raft::TypeConfig;
use crate::state::Replicated;

/// A member's place in consensus, as of now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub leader: Option<MemberId>,
    pub term: u64,
    /// The last entry in the log.
    pub index: u64,
    /// The last entry that this member knows to be committed.
    pub committed: u64,
    pub applied: u64,
    pub is_leader: bool,
    pub is_learner: bool,
}

impl<S: Replicated> Node<S> {
    pub fn status(&self) -> Status {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader.filter(|leader| self.is_fresh(*leader, &metrics));
        let index = |id: Option<&LogIdOf<TypeConfig>>| id.map_or(0, |id| id.index);
        let applied = index(metrics.last_applied.as_ref());
        Status {
            leader,
            term: metrics.current_term,
            index: metrics.last_log_index.unwrap_or(0),
            // What a snapshot brought is applied and was never in this member's log.
            committed: index(metrics.local_committed.as_ref()).max(applied),
            applied,
            is_leader: leader == Some(self.identity.member_id),
            is_learner: !votes(metrics.committed_membership_config.membership(), self.identity.member_id),
        }
    }

    /// Consensus keeps naming the last leader, also on a member that is cut off: for a leader, ask when a quorum answered last; for
    /// another, when the leader was heard last.
    pub(super) fn is_fresh(&self, leader: MemberId, metrics: &openraft::RaftMetrics<TypeConfig>) -> bool {
        // When a follower that hears nothing has certainly begun an election.
        let limit = 2 * self.timing.election_timeout;
        if leader == self.identity.member_id {
            let alone = metrics.membership_config.voter_ids().eq([leader]);
            return alone || metrics.last_quorum_acked.as_ref().is_some_and(|at| at.elapsed() < limit);
        }
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.is_some_and(|at| at.elapsed() < limit)
    }

    /// Members by id, each with whether it learns only. What is not committed yet is not told: the cluster cannot rely on it.
    pub fn members(&self) -> Vec<(MemberId, Member, bool)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.committed_membership_config.membership();
        membership.nodes().map(|(id, member)| (*id, member.clone(), !votes(membership, *id))).collect()
    }
}

/// Whether a member votes. While a change is under way that is a matter of the old voters: without a quorum of them it does not come to an end, so the
/// new ones make up for the loss of none of them yet.
fn votes(membership: &openraft::Membership<MemberId, Member>, id: MemberId) -> bool {
    membership.get_joint_config().first().is_some_and(|voters| voters.contains(&id))
}
