//! Who votes: one, three or five of the members.
//!
//! An even number of voters survives no more failures than the odd one below it, and needs one more of them for each decision. So a learner that wants
//! to vote is promoted once it has caught up, and only to an odd number. Where a voter is removed, a learner that has caught up takes its place in the
//! same change; is there none, one more voter learns from then on and is the first to be promoted again. A voter that has not answered for long, and may
//! be gone for good, is exchanged with a learner that does; should it come back, it learns.
//!
//! Who is promoted by name votes at once, as in etcd: that may make an even number, which stays until the next removal.
//!
//! A change of the voters takes two entries, and who begins it may not live to make the second. Whoever ends it then must know what becomes of voters that
//! it takes out: those that stay, and learn, want to vote; those that leave do not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use tokio::time::Instant;

use super::Node;
use super::changes::Metrics;
use crate::member::{Member, MemberId};
use crate::peer::{ChangeError, Removal};
use crate::state::Replicated;

/// More voters make each write slower, and survive failures that nobody has.
const MOST_VOTERS: usize = 5;
/// Entries that a learner may be behind to be promoted by itself.
const CAUGHT_UP_ENTRIES: u64 = 1000;

/// One change of the members, as consensus makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) change: ChangeMembers<MemberId, Member>,
    /// Whether voters that it removes stay, and learn.
    pub(super) retain: bool,
}

impl Step {
    pub(super) fn new(change: ChangeMembers<MemberId, Member>) -> Self {
        Self { change, retain: false }
    }

    /// Some voters leave the cluster, and learners vote instead, at once.
    fn leave(gone: BTreeMap<MemberId, Member>, promoted: BTreeSet<MemberId>) -> Self {
        Self::replace(gone, promoted, false)
    }

    /// Some voters learn from now on, until there is a place for them again, and learners vote instead.
    fn demote(demoted: BTreeMap<MemberId, Member>, promoted: BTreeSet<MemberId>) -> Self {
        Self::replace(demoted, promoted, true)
    }

    fn replace(out: BTreeMap<MemberId, Member>, promoted: BTreeSet<MemberId>, retain: bool) -> Self {
        let ids = out.keys().copied().collect();
        let told = out.into_iter().map(|(id, member)| (id, Member { wants_vote: retain, ..member })).collect();
        let changes =
            vec![ChangeMembers::SetNodes(told), ChangeMembers::AddVoterIds(promoted), ChangeMembers::RemoveVoters(ids)];
        Self { change: ChangeMembers::Batch(changes), retain }
    }

    /// The end of a change that whoever began it did not come to, if there is one under way.
    pub(super) fn finish(membership: &openraft::Membership<MemberId, Member>) -> Option<Self> {
        let (new, old) = membership.get_joint_config().split_last()?;
        if old.is_empty() {
            return None;
        }
        let mut out = old.iter().flatten().filter(|id| !new.contains(id));
        let retain = out.any(|id| membership.get_node(id).is_some_and(|member| member.wants_vote));
        Some(Self { change: ChangeMembers::AddVoterIds(BTreeSet::new()), retain })
    }
}

/// What makes the number of voters odd: one of the two, or nothing.
#[derive(Debug, Default, PartialEq, Eq)]
struct Balance {
    promoted: BTreeSet<MemberId>,
    demoted: BTreeSet<MemberId>,
}

/// From the voters, each with whether it answers, and the learners that may vote now. The leader is not demoted, and others that answer
/// only after those that do not.
fn balance(voters: &BTreeMap<MemberId, bool>, ready: &[MemberId], leader: MemberId) -> Balance {
    let most = (voters.len() + ready.len()).min(MOST_VOTERS);
    let odd = if most.is_multiple_of(2) { most.saturating_sub(1) } else { most };
    let mut others: Vec<_> = voters.iter().filter(|(id, _)| **id != leader).collect();
    others.sort_by_key(|(_, answers)| **answers);
    Balance {
        promoted: ready.iter().copied().take(odd.saturating_sub(voters.len())).collect(),
        demoted: others.into_iter().take(voters.len().saturating_sub(odd)).map(|(id, _)| *id).collect(),
    }
}

/// Voters that have not answered, and since when this leader knows it.
#[derive(Debug, Default)]
pub(super) struct Absences(BTreeMap<MemberId, Instant>);

impl Absences {
    /// Takes note of who is absent. Returns the one that has been for longest, if that is as long as `limit`.
    fn note(&mut self, absent: &BTreeSet<MemberId>, limit: Duration) -> Option<MemberId> {
        self.0.retain(|id, _| absent.contains(id));
        for id in absent {
            self.0.entry(*id).or_insert_with(Instant::now);
        }
        let longest = self.0.iter().min_by_key(|(_, since)| **since)?;
        (longest.1.elapsed() >= limit).then_some(*longest.0)
    }
}

/// The steps in which voters leave. Each of them has a quorum among those that answer, if the whole has: so those that do not answer leave first, and the
/// leader, which makes the steps, last.
fn departure(
    gone: &BTreeSet<MemberId>,
    left: &BTreeMap<MemberId, bool>,
    ready: &[MemberId],
    leader: MemberId,
    member: impl Fn(MemberId) -> Member,
) -> Vec<Step> {
    let Balance { promoted, demoted } = balance(left, ready, leader);
    let with_members = |ids: BTreeSet<MemberId>| ids.into_iter().map(|id| (id, member(id))).collect();
    if demoted.is_empty() {
        return vec![Step::leave(with_members(gone.clone()), promoted)];
    }
    let (own, others): (BTreeSet<_>, BTreeSet<_>) = gone.iter().copied().partition(|id| *id == leader);
    let leave = |ids: BTreeSet<MemberId>| (!ids.is_empty()).then(|| Step::leave(with_members(ids), BTreeSet::new()));
    let steps = [leave(others), Some(Step::demote(with_members(demoted), promoted)), leave(own)];
    steps.into_iter().flatten().collect()
}

impl<S: Replicated> Node<S> {
    /// What a removal takes.
    pub(super) fn removal(
        &self,
        id: MemberId,
        is_voter: bool,
        how: Removal,
        metrics: &Metrics,
    ) -> Result<Vec<Step>, ChangeError> {
        if !is_voter {
            return Ok(vec![Step::new(ChangeMembers::RemoveNodes(BTreeSet::from([id])))]);
        }
        let membership = metrics.membership_config.membership();
        let voters: BTreeMap<_, _> = membership.voter_ids().map(|id| (id, self.is_reached(id, metrics))).collect();
        let ready = self.candidates(metrics);
        let mut gone = BTreeSet::from([id]);
        match (self.may_remove(id, &ready, metrics), how) {
            (Ok(()), _) => {}
            // What is left must have somebody who answers; those who do not would keep it from ever deciding anything.
            (Err(ChangeError::Unhealthy), Removal::Force) => {
                gone.extend(voters.iter().filter(|(_, answers)| !**answers).map(|(id, _)| *id));
                if voters.len() == gone.len() {
                    return Err(ChangeError::Unhealthy);
                }
            }
            (Err(error), _) => return Err(error),
        }
        let left: BTreeMap<_, _> = voters.into_iter().filter(|(id, _)| !gone.contains(id)).collect();
        let member = |id| membership.get_node(&id).cloned().unwrap_or_default();
        Ok(departure(&gone, &left, &ready, self.identity.member_id, member))
    }

    /// etcd's check: those that stay must have a quorum of what is left, and be there. Where nobody is left, a learner takes over.
    fn may_remove(&self, id: MemberId, ready: &[MemberId], metrics: &Metrics) -> Result<(), ChangeError> {
        let membership = metrics.membership_config.membership();
        let has_started = |id: &MemberId| membership.get_node(id).is_some_and(Member::has_started);
        let left: Vec<MemberId> = membership.voter_ids().filter(|voter| *voter != id).collect();
        if left.is_empty() && !ready.is_empty() {
            return Ok(());
        }
        let quorum = left.len() / 2 + 1;
        if left.iter().filter(|id| has_started(id)).count() < quorum {
            let wants = |id: &MemberId| membership.get_node(id).is_some_and(|member| member.wants_vote);
            let takes_over = left.is_empty() && membership.learner_ids().any(|id| has_started(&id) && wants(&id));
            return Err(if takes_over { ChangeError::Unhealthy } else { ChangeError::NotEnoughStarted });
        }
        let reached = left.iter().filter(|id| self.is_reached(**id, metrics)).count();
        if reached < quorum { Err(ChangeError::Unhealthy) } else { Ok(()) }
    }

    /// Learners that want to vote and may: they answer, and have caught up.
    fn candidates(&self, metrics: &Metrics) -> Vec<MemberId> {
        let membership = metrics.membership_config.membership();
        let last = metrics.last_log_index.unwrap_or(0);
        let behind = |id: &MemberId| {
            let progress = metrics.replication.as_ref().and_then(|progress| progress.get(id).copied().flatten());
            progress.map(|id| last.saturating_sub(id.index))
        };
        let wants = |id: &MemberId| membership.get_node(id).is_some_and(|one| one.wants_vote && one.has_started());
        membership
            .learner_ids()
            .filter(wants)
            .filter(|id| behind(id).is_some_and(|entries| entries <= CAUGHT_UP_ENTRIES))
            .filter(|id| self.is_reached(*id, metrics))
            .collect()
    }

    /// The learners that are to be promoted now, if any.
    pub(super) fn promotion(&self, metrics: &Metrics) -> Option<Step> {
        let voters = metrics.membership_config.membership().voter_ids().map(|id| (id, true)).collect();
        let promoted = balance(&voters, &self.candidates(metrics), self.identity.member_id).promoted;
        (!promoted.is_empty()).then(|| Step::new(ChangeMembers::AddVoterIds(promoted)))
    }

    /// A learner for a voter that is lost, if there are both.
    pub(super) fn exchange(&self, metrics: &Metrics, absences: &mut Absences) -> Option<Step> {
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<MemberId> = membership.voter_ids().collect();
        let absent: BTreeSet<_> = voters.iter().copied().filter(|id| !self.is_reached(*id, metrics)).collect();
        let lost = absences.note(&absent, self.voter_loss)?;
        if absent.len() >= voters.len() - voters.len() / 2 {
            // Nothing can be decided, a change of the voters least of all.
            return None;
        }
        let taker = *self.candidates(metrics).first()?;
        tracing::warn!(%lost, %taker, "a voter does not answer for long: a learner takes its place");
        let member = membership.get_node(&lost).cloned().unwrap_or_default();
        Some(Step::demote(BTreeMap::from([(lost, member)]), BTreeSet::from([taker])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: MemberId = MemberId(1);

    fn ids(numbers: &[u64]) -> BTreeSet<MemberId> {
        numbers.iter().copied().map(MemberId).collect()
    }

    /// Voters from 1 on, some of which do not answer.
    fn voters(count: u64, silent: &[u64]) -> BTreeMap<MemberId, bool> {
        (1..=count).map(|id| (MemberId(id), !silent.contains(&id))).collect()
    }

    fn balanced(count: u64, silent: &[u64], ready: &[u64]) -> (BTreeSet<MemberId>, BTreeSet<MemberId>) {
        let ready: Vec<_> = ready.iter().copied().map(MemberId).collect();
        let Balance { promoted, demoted } = balance(&voters(count, silent), &ready, LEADER);
        (promoted, demoted)
    }

    #[test]
    fn as_many_learners_are_promoted_as_make_the_largest_odd_number() {
        assert_eq!(balanced(1, &[], &[7]), (ids(&[]), ids(&[])));
        assert_eq!(balanced(1, &[], &[7, 8]), (ids(&[7, 8]), ids(&[])));
        assert_eq!(balanced(3, &[], &[7, 8, 9]), (ids(&[7, 8]), ids(&[])));
        assert_eq!(balanced(5, &[], &[7, 8]), (ids(&[]), ids(&[])));
        assert_eq!(balanced(2, &[], &[7]), (ids(&[7]), ids(&[])));
        assert_eq!(balanced(0, &[], &[7, 8]), (ids(&[7]), ids(&[])));
        assert_eq!(balanced(0, &[], &[]), (ids(&[]), ids(&[])));
    }

    #[test]
    fn with_nobody_to_promote_one_is_demoted_who_does_not_answer_if_there_is_such_a_one() {
        assert_eq!(balanced(2, &[], &[]), (ids(&[]), ids(&[2])));
        assert_eq!(balanced(4, &[], &[]), (ids(&[]), ids(&[2])));
        assert_eq!(balanced(4, &[3], &[]), (ids(&[]), ids(&[3])));
        assert_eq!(balanced(6, &[], &[7]), (ids(&[]), ids(&[2])));
        assert_eq!(balanced(3, &[2], &[]), (ids(&[]), ids(&[])));
    }

    /// The voters after each step.
    fn after(mut voters: BTreeSet<MemberId>, steps: &[Step]) -> Vec<BTreeSet<MemberId>> {
        let mut all = Vec::new();
        for step in steps {
            let ChangeMembers::Batch(changes) = &step.change else { panic!("{step:?}") };
            for change in changes {
                match change {
                    ChangeMembers::AddVoterIds(more) => voters.extend(more),
                    ChangeMembers::RemoveVoters(gone) => voters.retain(|id| !gone.contains(id)),
                    ChangeMembers::SetNodes(members) => {
                        assert!(members.values().all(|member| member.wants_vote == step.retain));
                    }
                    other => panic!("{other:?}"),
                }
            }
            all.push(voters.clone());
        }
        all
    }

    fn leaving(count: u64, gone: &[u64], silent: &[u64], ready: &[u64]) -> Vec<BTreeSet<MemberId>> {
        let (gone, all) = (ids(gone), voters(count, silent));
        let left = all.clone().into_iter().filter(|(id, _)| !gone.contains(id)).collect();
        let ready: Vec<_> = ready.iter().copied().map(MemberId).collect();
        let steps = departure(&gone, &left, &ready, LEADER, |_| Member::default());
        let retained = steps.iter().filter(|step| step.retain).count();
        assert_eq!(retained, usize::from(steps.len() > 1), "{steps:?}");
        let sets = after(all.keys().copied().collect(), &steps);
        let quorum = |set: &BTreeSet<MemberId>| {
            let answering = set.iter().filter(|id| !silent.contains(&id.0)).count();
            answering > set.len() / 2
        };
        assert!(sets.iter().all(quorum), "{sets:?}");
        sets
    }

    #[test]
    fn voters_leave_by_steps_each_of_which_can_decide() {
        assert_eq!(leaving(2, &[2], &[], &[]), [ids(&[1])]);
        assert_eq!(leaving(3, &[3], &[3], &[]), [ids(&[1, 2]), ids(&[1])]);
        assert_eq!(leaving(3, &[3], &[3], &[7]), [ids(&[1, 2, 7])]);
        assert_eq!(leaving(5, &[5], &[4], &[]), [ids(&[1, 2, 3, 4]), ids(&[1, 2, 3])]);
        assert_eq!(leaving(5, &[5], &[], &[7, 8]), [ids(&[1, 2, 3, 4, 7])]);
    }

    #[test]
    fn the_leader_leaves_last_and_the_only_voter_for_a_learner() {
        assert_eq!(leaving(3, &[1], &[], &[]), [ids(&[1, 3]), ids(&[3])]);
        assert_eq!(leaving(1, &[1], &[], &[7, 8]), [ids(&[7])]);
        // By force, together with those that do not answer.
        assert_eq!(leaving(5, &[1, 4, 5], &[4, 5], &[]), [ids(&[1, 2, 3]), ids(&[1, 3]), ids(&[3])]);
    }

    #[test]
    fn a_change_is_ended_as_it_was_begun() {
        let membership = |sets: &[&[u64]], wants_vote| {
            let member = Member { wants_vote, ..Member::default() };
            let nodes: BTreeMap<_, _> = (1..=4).map(|id| (MemberId(id), member.clone())).collect();
            openraft::Membership::new(sets.iter().map(|set| ids(set)).collect(), nodes).unwrap()
        };
        let retains = |sets: &[&[u64]], wants_vote| Step::finish(&membership(sets, wants_vote)).map(|step| step.retain);
        assert_eq!(retains(&[&[1, 2, 3]], true), None);
        assert_eq!(retains(&[&[1, 2, 3], &[1, 2]], true), Some(true), "3 is to learn");
        assert_eq!(retains(&[&[1, 2, 3], &[1, 2]], false), Some(false), "3 is to leave");
        assert_eq!(retains(&[&[1], &[1, 2, 3]], true), Some(false), "nobody is taken out");
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_absence_that_lasts_counts() {
        let mut absences = Absences::default();
        let (minute, limit) = (Duration::from_mins(1), Duration::from_mins(10));
        assert_eq!(absences.note(&ids(&[2]), limit), None);
        tokio::time::advance(5 * minute).await;
        assert_eq!(absences.note(&ids(&[2, 3]), limit), None);
        tokio::time::advance(5 * minute).await;
        assert_eq!(absences.note(&ids(&[2, 3]), limit), Some(MemberId(2)));
        assert_eq!(absences.note(&ids(&[3]), limit), None, "one of them answers again");
        assert_eq!(absences.note(&ids(&[2, 3]), limit), None);
        tokio::time::advance(5 * minute).await;
        assert_eq!(absences.note(&ids(&[2, 3]), limit), Some(MemberId(3)));
    }
}
