//! One member: identity, log, checkpoint, state and consensus put together, and what the servers ask of it.
//!
//! Recovery is the order of [`Node::start`]: the checkpoint's rows, then the log's entries up to what is known committed, then an election,
//! and only when the entry that the election adds is applied does the node answer. By then everything that was ever acknowledged is
//! applied: an acknowledged entry was durable in the log, and the new entry is behind it. With more members than one the same is asked of whoever leads.

pub mod bootstrap;
mod changes;
mod checkpoints;
mod forward;
mod maintenance;
mod open;
mod peers;
mod reads;
mod receive;
pub mod space;
mod succession;
mod watching;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::{Semaphore, watch};

use crate::checkpoint::CheckpointError;
use crate::disk::Disk;
use crate::histogram::Histogram;
use crate::identity::{Identity, IdentityError};
use crate::lease::LeaseService;
use crate::log::{Log, OpenError};
use crate::member::{Member, MemberId};
use crate::peer::{Local, NoPeers, Transport};
use crate::raft::network::Peers;
use crate::raft::storage::LogStorage;
use crate::raft::{self, Raft, Timing};
use crate::random::Random;
use crate::state::{LoadError, Replicated};

pub use checkpoints::Policy as CheckpointPolicy;
pub use maintenance::MaintenanceError;
pub use reads::ReadError;
pub use space::Usage;

/// Bytes of proposals that may be under way. Each is in memory several times over; beyond it clients wait, then are turned away.
const BACKLOG_BYTES: usize = 64 << 20;
/// How long a stop may wait for its checkpoint: the log has everything anyway.
const STOP_CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a member may wait for others before it says so, and again.
const TELL_INTERVAL: Duration = Duration::from_secs(30);
/// Between two tries at what another leader, or the same one later, may do.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// What a node is told.
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

impl Config {
    pub fn new(member: Member) -> Self {
        let log = crate::log::Options::default();
        Self {
            member,
            timing: Timing { heartbeat_interval: Duration::from_millis(100), election_timeout: Duration::from_secs(1) },
            quota_bytes: space::DEFAULT_QUOTA_BYTES,
            checkpoints: CheckpointPolicy::default(),
            log_segment_size: log.segment_size,
            log_cache_bytes: log.cache_bytes,
            reserve_bytes: space::DEFAULT_RESERVE_BYTES,
            initial: Initial::Alone,
            consensus: None,
            certificates_name_members: false,
        }
    }

    /// etcd's time limit of a request: what a client may wait while a leader is lost and another found.
    fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.timing.election_timeout
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("open the log")]
    Log(#[source] OpenError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("load the state from the checkpoint")]
    Load(#[from] LoadError),
    #[error(
        "this data directory was in use and its log is gone: what this member promised to others is lost. Remove it from the cluster, \
         empty its data directory and let it join as a new member"
    )]
    LogLost,
    #[error(
        "the checkpoint ends at entry {checkpoint}, and the log begins after {purged}: entries between them are lost"
    )]
    Hole { checkpoint: u64, purged: u64 },
    #[error("consensus settings")]
    Config(#[source] openraft::ConfigError),
    #[error("start consensus: {0}")]
    Raft(String),
    #[error("tidy the data directory up")]
    Disk(#[source] io::Error),
    #[error("set up threads")]
    Thread(#[source] io::Error),
    #[error("consensus stopped before this member served")]
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It may still take effect: never try again without looking.
    #[error("request timed out")]
    Timeout,
    #[error("no leader")]
    NoLeader,
    #[error("database space exceeded")]
    NoSpace,
    #[error("request is too large")]
    TooLarge,
    #[error("too many requests")]
    TooManyRequests,
    #[error("server stopped")]
    Stopped,
}

/// A member's place in consensus, as of now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub leader: Option<MemberId>,
    pub term: u64,
    /// The last entry in the log.
    pub index: u64,
    pub applied: u64,
    pub is_leader: bool,
    pub is_learner: bool,
}

/// Why a node can go on no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

/// A running member.
#[derive(Debug)]
pub struct Node<S: Replicated> {
    identity: Identity,
    /// What this member says of itself.
    member: Member,
    initial: Initial,
    certificates_name_members: bool,
    disk: Arc<dyn Disk>,
    transport: Arc<dyn Transport>,
    timing: Timing,
    raft: Raft<S>,
    state: S,
    log: Log,
    space: Arc<space::Space>,
    reads: Arc<reads::Rounds>,
    backlog: Arc<Semaphore>,
    largest_command: usize,
    request_timeout: Duration,
    /// When the leader was heard last.
    heard: Mutex<Option<tokio::time::Instant>>,
    succession: Arc<succession::Succession>,
    /// One change of the members at a time.
    changes: tokio::sync::Mutex<()>,
    receiving: tokio::sync::Mutex<Option<receive::Receiving>>,
    leases: OnceLock<Weak<dyn LeaseService>>,
    /// Whether this member has seen itself among the members.
    was_member: AtomicBool,
    fail: Arc<watch::Sender<Option<Failure>>>,
    failure: watch::Receiver<Option<Failure>>,
    tasks: Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

impl<S: Replicated> Node<S> {
    /// Recovers a member that has no others from its disk and returns once it serves.
    pub async fn start(
        config: Config,
        disk: Arc<dyn Disk>,
        random: Arc<dyn Random>,
        state: S,
    ) -> Result<Arc<Self>, StartError> {
        let identity = Identity::load_or_create(disk.as_ref(), random.as_ref())?;
        let node = Self::begin(config, identity, disk, random, state, Arc::new(NoPeers)).await?;
        node.ready().await?;
        Ok(node)
    }

    /// Recovers the member from its disk. It takes part in consensus from here on, and serves once it is [`Node::ready`].
    pub async fn begin(
        config: Config,
        identity: Identity,
        disk: Arc<dyn Disk>,
        random: Arc<dyn Random>,
        state: S,
        transport: Arc<dyn Transport>,
    ) -> Result<Arc<Self>, StartError> {
        let (fail, failure) = watch::channel(None);
        let fail = Arc::new(fail);
        let parts = open::open(&config, identity, &disk, &random, &state, Arc::clone(&fail)).await?;
        let open::Parts { log, checkpoint, machine } = parts;
        let backlog = Arc::new(Semaphore::new(BACKLOG_BYTES));
        let space = space::Space::new(&config, Arc::clone(&disk), checkpoint, log.clone(), Arc::clone(&backlog));
        let raft_config = Arc::new(raft::config(config.timing).map_err(StartError::Config)?);
        let peers = Peers::new(Arc::clone(&transport), random, config.timing.election_timeout);
        let raft = Raft::new(identity.member_id, raft_config, peers, LogStorage::new(log.clone()), machine);
        // Its tasks are where it is made.
        let raft = match &config.consensus {
            Some(runtime) => runtime.spawn(raft).await.map_err(|error| StartError::Raft(error.to_string()))?,
            None => raft.await,
        };
        let raft = raft.map_err(|error| StartError::Raft(error.to_string()))?;
        let node = Arc::new(Self {
            identity,
            request_timeout: config.request_timeout(),
            member: Member { store_id: identity.store_id, ..config.member },
            initial: config.initial,
            certificates_name_members: config.certificates_name_members,
            disk,
            transport,
            timing: config.timing,
            state,
            log,
            space: Arc::new(space),
            reads: Arc::default(),
            backlog,
            // A batch must fit into a segment, with its header and whatever was in it before.
            largest_command: config.log_segment_size as usize / 4,
            heard: Mutex::default(),
            succession: Arc::default(),
            changes: tokio::sync::Mutex::default(),
            receiving: tokio::sync::Mutex::default(),
            leases: OnceLock::new(),
            was_member: AtomicBool::new(false),
            raft,
            fail,
            failure,
            tasks: Mutex::default(),
        });
        node.spawn_tasks(config.checkpoints);
        Ok(node)
    }

    /// Returns once this member's state holds all that was ever acknowledged. With others this may take as long as it takes
    /// until enough of them are there.
    pub async fn ready(self: &Arc<Self>) -> Result<(), StartError> {
        let failed = |error: &dyn std::fmt::Display| StartError::Raft(error.to_string());
        if self.log.marks().last.is_none()
            && !self.identity.joined
            && let Some(members) = self.founders()
        {
            self.raft.initialize(members).await.map_err(|error| failed(&error))?;
        }
        if !self.identity.in_use {
            self.raft
                .wait(None)
                .metrics(|metrics| metrics.last_log_index.is_some(), "the first entry")
                .await
                .map_err(|error| failed(&error))?;
            let mut identity = self.identity;
            identity.mark_in_use(self.disk.as_ref())?;
        }
        if self.raft.voter_ids().eq([self.identity.member_id]) {
            // Nobody else can lead; there is nothing to wait for.
            self.raft.trigger().elect(false).await.map_err(|error| failed(&error))?;
        }
        let mut told = tokio::time::Instant::now();
        loop {
            match self.read_index().await {
                Ok(()) => return Ok(()),
                Err(ReadError::Stopped) => return Err(StartError::Stopped),
                Err(error) if told.elapsed() >= TELL_INTERVAL => {
                    told = tokio::time::Instant::now();
                    tracing::warn!(%error, "not serving yet: too few members of the cluster can be reached");
                }
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    fn founders(&self) -> Option<BTreeMap<MemberId, Member>> {
        let id = self.identity.member_id;
        match &self.initial {
            Initial::Alone => Some(BTreeMap::from([(id, self.member.clone())])),
            // The same list on each of them, or they would found different clusters: nothing in it that only one knows.
            Initial::Found(members) if members.contains_key(&id) => Some(members.clone()),
            Initial::Found(_) | Initial::Join => None,
        }
    }

    fn spawn_tasks(self: &Arc<Self>, checkpoints: CheckpointPolicy) {
        let tasks = vec![
            crate::blocking::spawn(reads::Rounds::run(Arc::clone(&self.reads), Arc::downgrade(self))),
            crate::blocking::spawn(checkpoints::run(
                checkpoints,
                self.raft.clone(),
                Arc::clone(self.space.checkpoint()),
                self.log.clone(),
            )),
            crate::blocking::spawn(space::watch(Arc::downgrade(self))),
            crate::blocking::spawn(watch_consensus(self.raft.clone(), Arc::clone(&self.fail))),
            crate::blocking::spawn(watching::follow_members(self.raft.clone(), Arc::clone(&self.transport))),
            crate::blocking::spawn(watching::watch_removal(Arc::downgrade(self))),
            crate::blocking::spawn(changes::publish(Arc::downgrade(self))),
            crate::blocking::spawn(changes::tend(Arc::downgrade(self))),
            crate::blocking::spawn(succession::run(Arc::downgrade(self), Arc::clone(&self.succession))),
        ];
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).extend(tasks);
    }

    /// Says who answers for leases when this member leads.
    pub fn set_leases(&self, leases: Weak<dyn LeaseService>) {
        // The first stays.
        _ = self.leases.set(leases);
    }

    /// Whom this member is to others.
    pub fn local(&self) -> Local {
        let Identity { cluster_id, member_id, store_id, .. } = self.identity;
        Local { cluster_id, member_id, store_id }
    }

    /// The size of the largest entry.
    pub fn largest_command(&self) -> usize {
        self.largest_command
    }

    pub fn member_id(&self) -> MemberId {
        self.identity.member_id
    }

    pub fn cluster_id(&self) -> u64 {
        self.identity.cluster_id
    }

    /// The state as far as it is applied here. For a linearizable read call [`Node::read_index`] first.
    pub fn state(&self) -> &S {
        &self.state
    }

    pub fn status(&self) -> Status {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader.filter(|leader| self.is_fresh(*leader, &metrics));
        Status {
            leader,
            term: metrics.current_term,
            index: metrics.last_log_index.unwrap_or(0),
            applied: metrics.last_applied.as_ref().map_or(0, |id| id.index),
            is_leader: leader == Some(self.identity.member_id),
            is_learner: !votes(metrics.committed_membership_config.membership(), self.identity.member_id),
        }
    }

    /// Consensus keeps naming the last leader, also on a member that is cut off: for a leader, ask when a quorum answered last; for
    /// another, when the leader was heard last.
    fn is_fresh(&self, leader: MemberId, metrics: &openraft::RaftMetrics<raft::TypeConfig>) -> bool {
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

    /// How long the log's batches took to become durable.
    pub fn log_sync_times(&self) -> &Histogram {
        self.log.sync_times()
    }

    /// How long checkpoints took to commit.
    pub fn checkpoint_commit_times(&self) -> &Histogram {
        self.space.checkpoint().commit_times()
    }

    pub fn usage(&self) -> Usage {
        self.space.usage()
    }

    /// Waits until the node can go on no longer.
    pub async fn failed(&self) -> Failure {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await {
            Ok(failure) => failure.clone().unwrap_or_else(|| Failure("stopped".to_owned())),
            Err(_) => Failure("stopped".to_owned()),
        }
    }

    /// Ends it where it is, as a loss of power does.
    #[cfg(test)]
    pub(crate) async fn kill(&self) {
        self.end_tasks().await;
        _ = self.raft.shutdown().await;
    }

    /// Stops with a checkpoint, so that the next start has little to replay.
    pub async fn stop(&self) {
        self.hand_over().await;
        self.backlog.close();
        checkpoints::last(&self.raft, self.space.checkpoint(), STOP_CHECKPOINT_TIMEOUT).await;
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "consensus did not stop in order");
        }
        let (done, flushed) = tokio::sync::oneshot::channel();
        self.log.flush(Box::new(move |result| drop(done.send(result))));
        if !matches!(flushed.await, Ok(Ok(()))) {
            tracing::warn!("the log's commit mark was not flushed");
        }
        self.end_tasks().await;
    }

    /// Ends them, and waits until they are gone: they hold what is open on the disk.
    async fn end_tasks(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            task.abort();
            // It was aborted, or had ended.
            _ = task.await;
        }
    }
}

/// A node that is dropped without a stop is one that was killed: its tasks end where they are.
impl<S: Replicated> Drop for Node<S> {
    fn drop(&mut self) {
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}

/// Whether a member votes. While a change is under way that is a matter of the old voters: without a quorum of them it does not come to an end, so the
/// new ones make up for the loss of none of them yet.
fn votes(membership: &openraft::Membership<MemberId, Member>, id: MemberId) -> bool {
    membership.get_joint_config().first().is_some_and(|voters| voters.contains(&id))
}

/// The first failure is the cause; what follows from it is not told.
fn report(fail: &watch::Sender<Option<Failure>>, reason: String) {
    fail.send_if_modified(|failure| {
        let first = failure.is_none();
        failure.get_or_insert(Failure(reason));
        first
    });
}

/// How often to look whether consensus still runs. Its metrics change with every write; waiting on them would cost each write a wake-up.
const CONSENSUS_POLL: Duration = Duration::from_millis(250);

/// Reports that consensus has stopped by itself: a checkpoint failed, an entry could not be read, a defect.
async fn watch_consensus<S: Replicated>(raft: Raft<S>, fail: Arc<watch::Sender<Option<Failure>>>) {
    let mut poll = tokio::time::interval(CONSENSUS_POLL);
    loop {
        poll.tick().await;
        // Asked, not read: one that panicked has left metrics that say that it runs.
        if let Err(error) = raft.is_initialized().await {
            if !matches!(error, openraft::errors::Fatal::Stopped) {
                report(&fail, format!("consensus has stopped: {error}"));
            }
            return;
        }
    }
}
