//! Consensus: openraft over our log, our checkpoint and our state.
//!
//! The modules here translate and nothing else: [`storage`] gives the log to openraft, [`machine`] the state and the checkpoint,
//! [`network`] the other members. openraft's types stop here; what is on disk is encoded by `log`, `checkpoint` and `member`.
//!
//! How openraft is set up, and why:
//! - leader ids are the standard ones: with the default kind there can be two leaders in one term
//! - a restarted leader does not lead on without an election: its state is that of its last checkpoint, and it would answer
//!   linearizable reads from it
//! - a snapshot is a checkpoint, built when we say so, by bytes and time; the default policy counts entries, and would make a follower that
//!   was away for half a second take the whole state. The log is purged by us too, by bytes
//! - log reversion is never allowed: a member whose disk forgot what it promised comes back under a new id

pub mod machine;
pub mod network;
pub mod storage;

#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use openraft::entry::EntryPayload;
use openraft::impls::leader_id_std;
use openraft::raft::responder::Responder;
use openraft::type_config::alias::{EntryOf, LogIdOf, StoredMembershipOf, VoteOf};
use openraft::{OptionalSend, RaftTypeConfig, SnapshotPolicy};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::command::Encoded;
use crate::log::{self, Vote};
use crate::member::{Member, MemberId, Membership};
use crate::state::Response;

/// openraft's parameters. The traits it must have are those of a plain value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = Proposal;
    type R = Response;
    type NodeId = MemberId;
    type Node = Member;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, MemberId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Proposal, MemberId, Member>;
    type Entry = openraft::impls::Entry<CommittedLeaderId, Self::Payload>;
    #[cfg(not(test))]
    type AsyncRuntime = openraft_rt_tokio::TokioRuntime;
    #[cfg(test)]
    type AsyncRuntime = crate::simulation::runtime::SimulatedRuntime;
    type Responder<T>
        = Waiter<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

type CommittedLeaderId = <leader_id_std::LeaderId<u64, MemberId> as openraft::vote::RaftLeaderId>::Committed;

/// The consensus of one member, over some state.
pub type Raft<S> = openraft::Raft<TypeConfig, machine::Machine<S>>;

/// A command on its way into the log. Shared, because log, cache and apply all hold it.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal(pub Encoded);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys and values are no business of anybody who reads logs.
        write!(f, "command of {} bytes", self.0.bytes().len())
    }
}

/// Whoever waits for a proposal's answer. It holds the proposal's share of the backlog until then, also when the client has gone: the proposal has not.
#[derive(Debug)]
pub struct Waiter<T> {
    sender: oneshot::Sender<T>,
    _share: Option<OwnedSemaphorePermit>,
}

impl<T> Waiter<T> {
    pub fn new(share: Option<OwnedSemaphorePermit>) -> (Self, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Self { sender, _share: share }, receiver)
    }
}

impl<T: OptionalSend + 'static> Responder<TypeConfig, T> for Waiter<T> {
    fn on_complete(self, result: T) {
        // Whoever waited may have timed out.
        drop(self.sender.send(result));
    }
}

/// Times of consensus, under etcd's flag names.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub heartbeat_interval: Duration,
    pub election_timeout: Duration,
}

/// openraft's configuration.
pub fn config(timing: Timing) -> Result<openraft::Config, openraft::ConfigError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let election = millis(timing.election_timeout);
    let config = openraft::Config {
        cluster_name: "keelson-store".to_owned(),
        heartbeat_interval: millis(timing.heartbeat_interval),
        // A leader is given up after the longest of these times and, again, one of them at random: together one and a half to two
        // times the timeout, as etcd's members wait between one and two.
        election_timeout_min: election / 2,
        election_timeout_max: election,
        snapshot_policy: SnapshotPolicy::Never,
        // Purging is ours, by bytes.
        max_in_snapshot_log_to_keep: u64::MAX,
        // Beyond what is purged a snapshot is needed anyway, and before it never.
        replication_lag_threshold: u64::MAX,
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        enable_pre_vote: Some(true),
        ..openraft::Config::default()
    };
    #[cfg(test)]
    let config = crate::simulation::spoil(config);
    config.validate()
}

pub(crate) fn to_log_id(id: &LogIdOf<TypeConfig>) -> log::LogId {
    log::LogId { term: id.leader_id.term, index: id.index }
}

pub(crate) fn from_log_id(id: log::LogId) -> LogIdOf<TypeConfig> {
    openraft::LogId { leader_id: CommittedLeaderId::new(id.term), index: id.index }
}

pub(crate) fn to_vote(vote: &VoteOf<TypeConfig>) -> Vote {
    Vote { term: vote.leader_id.term, member: vote.leader_id.voted_for, committed: vote.committed }
}

pub(crate) fn from_vote(vote: Vote) -> VoteOf<TypeConfig> {
    if vote.committed {
        openraft::impls::Vote::new_committed(vote.term, vote.member)
    } else {
        openraft::impls::Vote::new(vote.term, vote.member)
    }
}

pub(crate) fn to_membership(membership: &openraft::Membership<MemberId, Member>) -> Membership {
    Membership {
        voters: membership.get_joint_config().clone(),
        members: membership.nodes().map(|(id, member)| (*id, member.clone())).collect(),
    }
}

/// An empty membership is the one before a cluster's first entry, which openraft will not build by its checked constructor.
fn from_membership(
    membership: &Membership,
) -> Result<openraft::Membership<MemberId, Member>, openraft::errors::MembershipError<MemberId>> {
    if membership.voters.is_empty() && membership.members.is_empty() {
        return Ok(openraft::Membership::default());
    }
    openraft::Membership::new(membership.voters.clone(), membership.members.clone())
}

fn to_entry(entry: EntryOf<TypeConfig>) -> log::Entry {
    let payload = match entry.payload {
        EntryPayload::Blank => log::Payload::Blank,
        EntryPayload::Normal(Proposal(command)) => log::Payload::Command(command),
        EntryPayload::Membership(membership) => log::Payload::Membership(Arc::new(to_membership(&membership))),
    };
    log::Entry { id: to_log_id(&entry.log_id), payload }
}

pub(crate) fn from_entry(entry: log::Entry) -> std::io::Result<EntryOf<TypeConfig>> {
    let payload = match entry.payload {
        log::Payload::Blank => EntryPayload::Blank,
        log::Payload::Command(command) => EntryPayload::Normal(Proposal(command)),
        log::Payload::Membership(membership) => {
            EntryPayload::Membership(from_membership(&membership).map_err(std::io::Error::other)?)
        }
    };
    Ok(openraft::impls::Entry { log_id: from_log_id(entry.id), payload })
}

pub(crate) fn from_stored(
    id: Option<log::LogId>,
    membership: &Membership,
) -> std::io::Result<StoredMembershipOf<TypeConfig>> {
    let membership = from_membership(membership).map_err(std::io::Error::other)?;
    Ok(StoredMembershipOf::<TypeConfig>::new(id.map(from_log_id), membership))
}
