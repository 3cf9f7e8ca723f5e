//! What a node is told.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{CheckpointPolicy, space};
use crate::member::{self, Member, MemberId};
use crate::raft::Timing;

#[derive(Clone, Debug)]
pub struct Config {
    pub member: Member,
    pub timing: Timing,
    pub quota_bytes: u64,
    pub checkpoints: CheckpointPolicy,
    pub log_segment_size: u32,
    pub log_cache_bytes: usize,
    /// Free space below which writes that grow the store are refused.
    pub reserve_bytes: u64,
    /// What the cluster may write of its own beyond that and beyond the quota ([`crate::cluster_keys`]).
    pub cluster_reserve_bytes: u64,
    /// How long a voter may be away before a learner takes its place.
    pub voter_loss: Duration,
    /// How often the leader compares the members' states, if it does.
    pub corrupt_check: Option<Duration>,
    pub initial: Initial,
    /// A runtime of one thread for consensus, the log's writer and apply; none to have them where the node is begun.
    pub consensus: Option<tokio::runtime::Handle>,
    /// Whether members' certificates name the members; hosts otherwise.
    pub certificates_name_members: bool,
}

/// What a member whose log is empty does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Initial {
    /// Founds a cluster of one.
    Alone,
    /// Founds a cluster with others, who do the same.
    Found(BTreeMap<MemberId, Member>),
    /// Waits for the leader of a cluster that it was added to.
    Join,
}

/// Longer than a machine takes to be installed anew, an upgrade included: who comes back after it has lost its vote to another.
const VOTER_LOSS: Duration = Duration::from_mins(10);

impl Config {
    pub fn new(member: Member) -> Self {
        let log = crate::log::Options::default();
        Self {
            member: Member { level: member::LEVEL, ..member },
            timing: Timing { heartbeat_interval: Duration::from_millis(100), election_timeout: Duration::from_secs(1) },
            quota_bytes: space::DEFAULT_QUOTA_BYTES,
            checkpoints: CheckpointPolicy::default(),
            log_segment_size: log.segment_size,
            log_cache_bytes: log.cache_bytes,
            reserve_bytes: space::DEFAULT_RESERVE_BYTES,
            cluster_reserve_bytes: 0,
            voter_loss: VOTER_LOSS,
            corrupt_check: None,
            initial: Initial::Alone,
            consensus: None,
            certificates_name_members: false,
        }
    }

    /// etcd's time limit of a request: what a client may wait while a leader is lost and another found.
    pub(super) fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.timing.election_timeout
    }
}
