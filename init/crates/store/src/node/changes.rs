//! Changes of the members.
//!
//! The leader makes them, one at a time, and other members forward them. A new member learns first, also where a voter was asked for: a voter that
//! is not there yet would count towards a quorum that it cannot help to reach, and etcd's way (a voter at once) stops a cluster of one until the second is up. Who
//! votes then is a matter of [`super::voters`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, RaftMetrics};
use tokio::time::Instant;

use super::voters::{Absences, Step};
use super::{Node, RETRY_PAUSE};
use crate::member::{MOST_LEARNERS, Member, MemberId, Membership};
use crate::peer::{Answer, CallError, Change, ChangeError, ClusterInfo, Failure, Removal, Request};
use crate::raft::{Raft, TypeConfig, to_membership};
use crate::state::Replicated;

/// How often the leader looks whether a learner is to be promoted.
const TEND_INTERVAL: Duration = Duration::from_millis(500);

pub(super) type Metrics = RaftMetrics<TypeConfig>;

impl<S: Replicated> Node<S> {
    /// Changes the members and returns what they are then.
    pub async fn change(&self, change: Change) -> Result<ClusterInfo, ChangeError> {
        let deadline = self.deadline();
        loop {
            match self.leader() {
                Some(leader) if leader != self.identity.member_id => {
                    match self.call_leader(leader, Request::Change(change.clone()), deadline).await {
                        Ok(Answer::Cluster(info)) => return Ok(info),
                        Ok(Answer::ChangeFailed(error)) => return Err(error),
                        Ok(Answer::Failed(Failure::NotLeader(_)))
                        | Err(CallError::NotSent { .. } | CallError::Refused { .. }) => {}
                        Ok(_) | Err(CallError::Lost { .. }) => return Err(ChangeError::Timeout),
                    }
                }
                Some(_) => match self.change_here(change.clone()).await {
                    Err(ChangeError::NoLeader) => {}
                    result => return result,
                },
                None => {}
            }
            if Instant::now() >= deadline {
                return Err(ChangeError::NoLeader);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    pub(super) async fn change_here(&self, change: Change) -> Result<ClusterInfo, ChangeError> {
        let deadline = self.deadline();
        let within = async {
            let _one_at_a_time = self.changes.lock().await;
            self.finish_change().await?;
            let steps = {
                let metrics = self.raft.metrics();
                let metrics = metrics.borrow_watched();
                self.plan(change, &metrics)?
            };
            let mut info = self.cluster_info();
            for step in steps {
                match self.make(&step).await {
                    // What is published elsewhere may be behind the change that was just made.
                    Ok(membership) => info.membership = membership,
                    // What was asked for is done all the same. The number of voters is even then, until the next change.
                    Err(error) if step.retain => tracing::warn!(%error, "a voter that is one too many votes on"),
                    Err(error) => return Err(error),
                }
            }
            Ok(info)
        };
        tokio::time::timeout_at(deadline, within).await.unwrap_or(Err(ChangeError::Timeout))
    }

    /// Ends a change that was begun, and waits until that is published: what comes next is planned by it.
    async fn finish_change(&self) -> Result<(), ChangeError> {
        let begun = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            Step::finish(metrics.membership_config.membership())
        };
        let Some(step) = begun else { return Ok(()) };
        self.make(&step).await?;
        let is_over = |metrics: &Metrics| metrics.membership_config.membership().get_joint_config().len() <= 1;
        let wait = self.raft.wait(Some(self.request_timeout));
        let over = wait.metrics(is_over, "the end of a change of the members");
        over.await.map(|_| ()).map_err(|_| ChangeError::Timeout)
    }

    /// Returns the members after the change.
    async fn make(&self, step: &Step) -> Result<Membership, ChangeError> {
        loop {
            match self.raft.change_membership(step.change.clone(), step.retain).await {
                Ok(changed) => {
                    let membership = changed.membership.as_ref().map(to_membership);
                    return Ok(membership.unwrap_or_else(|| self.cluster_info().membership));
                }
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => return Err(ChangeError::NoLeader),
                // Left by a leader before this one. It ends without us, or by the next step of `tend`.
                Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
                ))) => tokio::time::sleep(RETRY_PAUSE).await,
                Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
                    tracing::warn!(%error, "a change of the members");
                    return Err(ChangeError::Unhealthy);
                }
                Err(RaftError::APIError(_)) => return Err(ChangeError::Timeout),
                Err(RaftError::Fatal(_)) => return Err(ChangeError::Stopped),
            }
        }
    }

    /// What is to be done for a change, with etcd's checks; nothing if it is so already.
    fn plan(&self, change: Change, metrics: &Metrics) -> Result<Vec<Step>, ChangeError> {
        let membership = metrics.membership_config.membership();
        let member = |id: &MemberId| membership.get_node(id).cloned().ok_or(ChangeError::NotFound);
        let votes = |id: &MemberId| membership.voter_ids().any(|voter| voter == *id);
        let taken = |urls: &[String], but: Option<MemberId>| {
            let others = membership.nodes().filter(|(id, _)| Some(**id) != but);
            others.into_iter().any(|(_, member)| member.peer_urls.iter().any(|url| urls.contains(url)))
        };
        let step = match change {
            Change::Add { peer_urls, learner, id, name } => {
                let named = |member: &Member| !name.is_empty() && member.name == name;
                if membership.get_node(&id).is_some() || membership.nodes().any(|(_, member)| named(member)) {
                    return Err(ChangeError::Exists);
                }
                if taken(&peer_urls, None) {
                    return Err(ChangeError::PeerUrlsExist);
                }
                if membership.learner_ids().count() >= usize::from(MOST_LEARNERS) {
                    return Err(ChangeError::TooManyLearners);
                }
                let member = Member { peer_urls, name, wants_vote: !learner, ..Member::default() };
                ChangeMembers::AddNodes(BTreeMap::from([(id, member)]))
            }
            Change::Remove { id, how } => {
                member(&id)?;
                let steps = self.removal(id, votes(&id), how, metrics)?;
                return Ok(if how == Removal::Try { Vec::new() } else { steps });
            }
            Change::Promote(id) => {
                member(&id)?;
                if votes(&id) {
                    return Err(ChangeError::NotLearner);
                }
                if !in_sync(id, metrics) {
                    return Err(ChangeError::LearnerNotReady);
                }
                ChangeMembers::AddVoterIds(BTreeSet::from([id]))
            }
            Change::Update { id, peer_urls } => {
                let old = member(&id)?;
                if taken(&peer_urls, Some(id)) {
                    return Err(ChangeError::PeerUrlsExist);
                }
                ChangeMembers::SetNodes(BTreeMap::from([(id, Member { peer_urls, ..old })]))
            }
            Change::Publish { id, name, client_urls, store_id, level } => {
                let old = member(&id)?;
                let new = Member { name, client_urls, store_id, level, ..old.clone() };
                if old.has_started() && old.store_id != store_id {
                    return Err(ChangeError::Exists);
                }
                if new == old {
                    return Ok(Vec::new());
                }
                ChangeMembers::SetNodes(BTreeMap::from([(id, new)]))
            }
        };
        Ok(vec![Step::new(step)])
    }

    pub(super) fn is_reached(&self, id: MemberId, metrics: &Metrics) -> bool {
        let limit = 2 * self.timing.election_timeout;
        let acked = metrics.heartbeat.as_ref().and_then(|acks| acks.get(&id).copied().flatten());
        id == self.identity.member_id || acked.is_some_and(|at| at.elapsed() < limit)
    }

    /// Moves leadership to a voter. etcd's member does so only if it leads.
    pub async fn move_leader(&self, target: MemberId) -> Result<(), Failure> {
        if self.leads_in().is_none() {
            return Err(Failure::NotLeader(self.leader()));
        }
        if self.raft.voter_ids().all(|id| id != target) {
            return Err(Failure::BadTransferee);
        }
        if target == self.identity.member_id {
            return Ok(());
        }
        if self.transfer(target, self.request_timeout).await { Ok(()) } else { Err(Failure::TransferTimeout) }
    }
}

/// etcd's measure for a learner that is promoted by name: nine tenths of the leader's log.
fn in_sync(id: MemberId, metrics: &Metrics) -> bool {
    let matched = metrics.replication.as_ref().and_then(|progress| progress.get(&id).copied().flatten());
    let last = metrics.last_log_index.unwrap_or(0);
    matched.is_some_and(|matched| matched.index.saturating_mul(10) >= last.saturating_mul(9))
}

/// Tells the cluster what only this member knows of itself, once it can.
pub(super) async fn publish<S: Replicated>(node: Weak<Node<S>>) {
    loop {
        let Some(node) = node.upgrade() else { return };
        let id = node.identity.member_id;
        let own = &node.member;
        let known = node.members().into_iter().find(|(member, ..)| *member == id);
        let is_known = known.is_some_and(|(_, member, _)| {
            (&member.name, &member.client_urls, member.store_id, member.level)
                == (&own.name, &own.client_urls, own.store_id, own.level)
        });
        if is_known {
            return;
        }
        let change = Change::Publish {
            id,
            name: own.name.clone(),
            client_urls: own.client_urls.clone(),
            store_id: own.store_id,
            level: own.level,
        };
        match node.change(change).await {
            Ok(_) | Err(ChangeError::Stopped) => return,
            Err(error) => tracing::debug!(%error, "this member cannot be published yet"),
        }
        let pause = node.timing.election_timeout;
        drop(node);
        tokio::time::sleep(pause).await;
    }
}

/// What a leader does for the members by itself.
pub(super) async fn tend<S: Replicated>(node: Weak<Node<S>>, raft: Raft<S>) {
    let mut metrics = raft.server_metrics();
    let mut absences = Absences::default();
    loop {
        let has_to_tend = {
            let metrics = metrics.borrow_watched();
            let membership = metrics.membership_config.membership();
            let changes = membership.get_joint_config().len() > 1 || membership.learner_ids().next().is_some();
            changes && metrics.current_leader == Some(metrics.id)
        };
        if !has_to_tend {
            absences = Absences::default();
            if metrics.changed().await.is_err() {
                return;
            }
            continue;
        }
        tokio::time::sleep(TEND_INTERVAL).await;
        let Some(node) = node.upgrade() else { return };
        if node.leads_in().is_some() {
            node.tend(&mut absences).await;
        }
    }
}

impl<S: Replicated> Node<S> {
    async fn tend(self: Arc<Self>, absences: &mut Absences) {
        let step = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            Step::finish(metrics.membership_config.membership())
                .or_else(|| self.promotion(&metrics))
                .or_else(|| self.exchange(&metrics, absences))
        };
        let Some(step) = step else { return };
        let Ok(_one_at_a_time) = self.changes.try_lock() else { return };
        let made = self.raft.change_membership(step.change.clone(), step.retain);
        match tokio::time::timeout(self.request_timeout, made).await {
            Ok(Ok(_)) => tracing::info!(change = %step.change, "who votes has changed"),
            Ok(Err(error)) => tracing::debug!(%error, "a change of the members"),
            Err(_) => tracing::warn!("a change of the members does not come to an end: too few of them answer"),
        }
    }
}
