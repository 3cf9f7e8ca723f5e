//! One member: identity, log, checkpoint, state and consensus put together, and what the servers ask of it.
//!
//! Recovery is the order of [`Node::start`]: the checkpoint's rows, then the log's entries up to what is known committed, then an election,
//! and only when the entry that the election adds is applied does the node answer. By then everything that was ever acknowledged is
//! applied: an acknowledged entry was durable in the log, and the new entry is behind it.

mod checkpoints;
mod maintenance;
mod reads;
pub mod space;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::ClientWriteError;
use tokio::sync::{Semaphore, watch};

use crate::checkpoint::writer::Writer;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::command::{Command, Encoded};
use crate::disk::Disk;
use crate::histogram::Histogram;
use crate::identity::{Identity, IdentityError};
use crate::log::{Log, OpenError};
use crate::member::{Member, MemberId};
use crate::raft::machine::Machine;
use crate::raft::network::Peers;
use crate::raft::storage::LogStorage;
use crate::raft::{self, Proposal, Raft, Timing, Waiter};
use crate::random::Random;
use crate::state::{LoadError, Replicated, Response};

pub use checkpoints::Policy as CheckpointPolicy;
pub use maintenance::MaintenanceError;
pub use reads::ReadError;
pub use space::Usage;

/// Bytes of proposals that may be under way. Each is in memory several times over; beyond it clients wait, then are turned away.
const BACKLOG_BYTES: usize = 64 << 20;
/// How long a stop may wait for its checkpoint: the log has everything anyway.
const STOP_CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the first election and the replay behind it may take before the start is given up.
const RECOVERY_TIMEOUT: Duration = Duration::from_mins(2);

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
    #[error("set up threads")]
    Thread(#[source] io::Error),
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
    raft: Raft<S>,
    state: S,
    log: Log,
    space: Arc<space::Space>,
    reads: Arc<reads::Rounds>,
    backlog: Arc<Semaphore>,
    largest_command: usize,
    request_timeout: Duration,
    failure: watch::Receiver<Option<Failure>>,
    tasks: Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

impl<S: Replicated> Node<S> {
    /// Recovers the member from its disk and returns once it serves.
    pub async fn start(
        config: Config,
        disk: Arc<dyn Disk>,
        random: Arc<dyn Random>,
        state: S,
    ) -> Result<Arc<Self>, StartError> {
        let (fail, failure) = watch::channel(None);
        let fail = Arc::new(fail);
        let identity = Identity::load_or_create(disk.as_ref(), random.as_ref())?;
        let parts = open(&config, identity, &disk, &random, &state, Arc::clone(&fail)).await?;
        let Parts { log, checkpoint, machine } = parts;
        let backlog = Arc::new(Semaphore::new(BACKLOG_BYTES));
        let space = space::Space::new(&config, Arc::clone(&disk), checkpoint, log.clone(), Arc::clone(&backlog));
        let raft_config = Arc::new(raft::config(config.timing).map_err(StartError::Config)?);
        let raft = Raft::new(identity.member_id, raft_config, Peers, LogStorage::new(log.clone()), machine)
            .await
            .map_err(|error| StartError::Raft(error.to_string()))?;
        let node = Arc::new(Self {
            identity,
            state,
            log,
            space: Arc::new(space),
            reads: Arc::default(),
            backlog,
            // A batch must fit into a segment, with its header and whatever was in it before.
            largest_command: config.log_segment_size as usize / 4,
            request_timeout: config.request_timeout(),
            raft,
            failure,
            tasks: Mutex::default(),
        });
        node.join_cluster(&config, disk.as_ref()).await?;
        node.spawn_tasks(&config, fail);
        Ok(node)
    }

    /// Becomes the first member of a new cluster, or takes up its place again.
    async fn join_cluster(&self, config: &Config, disk: &dyn Disk) -> Result<(), StartError> {
        let failed = |error: &dyn std::fmt::Display| StartError::Raft(error.to_string());
        if self.log.marks().last.is_none() {
            let members = raft::first_members(self.identity.member_id, config.member.clone());
            self.raft.initialize(members).await.map_err(|error| failed(&error))?;
        }
        if !self.identity.in_use {
            let mut identity = self.identity;
            identity.mark_in_use(disk)?;
        }
        if self.raft.voter_ids().eq([self.identity.member_id]) {
            // Nobody else can lead; there is nothing to wait for.
            self.raft.trigger().elect(false).await.map_err(|error| failed(&error))?;
        }
        let leads = |metrics: &openraft::RaftMetrics<raft::TypeConfig>| metrics.current_leader.is_some();
        let wait = self.raft.wait(Some(RECOVERY_TIMEOUT));
        wait.metrics(leads, "a leader").await.map_err(|error| failed(&error))?;
        self.raft.wait_for_recovery(Some(RECOVERY_TIMEOUT)).await.map_err(|error| failed(&error))?;
        Ok(())
    }

    fn spawn_tasks(self: &Arc<Self>, config: &Config, fail: Arc<watch::Sender<Option<Failure>>>) {
        let tasks = vec![
            tokio::spawn(Arc::clone(&self.reads).run(self.raft.clone())),
            tokio::spawn(checkpoints::run(config.checkpoints, self.raft.clone(), self.log.clone())),
            tokio::spawn(space::watch(Arc::downgrade(self))),
            tokio::spawn(watch_consensus(self.raft.clone(), fail)),
        ];
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).extend(tasks);
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
        Status {
            leader: metrics.current_leader,
            term: metrics.current_term,
            index: metrics.last_log_index.unwrap_or(0),
            applied: metrics.last_applied.as_ref().map_or(0, |id| id.index),
            is_leader: metrics.current_leader == Some(self.identity.member_id),
            is_learner: !metrics.membership_config.voter_ids().any(|id| id == self.identity.member_id),
        }
    }

    /// Members by id, each with whether it learns only.
    pub fn members(&self) -> Vec<(MemberId, Member, bool)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let learns = |id: &MemberId| !membership.voter_ids().any(|voter| voter == *id);
        membership.nodes().map(|(id, member)| (*id, member.clone(), learns(id))).collect()
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

    /// Puts a command into the log and returns what applying it answered.
    pub async fn propose(&self, command: Command) -> Result<Response, ProposeError> {
        if self.space.exhausted() && space::grows(&command) {
            // An alarm grows nothing, so this goes one level deep.
            Box::pin(space::raise_alarm(self)).await;
            return Err(ProposeError::NoSpace);
        }
        let deadline = tokio::time::Instant::now() + self.request_timeout;
        let waiter = self.enqueue(command, deadline).await?;
        match tokio::time::timeout_at(deadline, waiter).await {
            Ok(Ok(Ok(written))) => Ok(written.data),
            Ok(Ok(Err(ClientWriteError::ForwardToLeader(_)))) => Err(ProposeError::NoLeader),
            // In the second case another leader may have committed it, or not.
            Err(_) | Ok(Ok(Err(_))) => Err(ProposeError::Timeout),
            Ok(Err(_)) => Err(ProposeError::Stopped),
        }
    }

    async fn enqueue(
        &self,
        command: Command,
        deadline: tokio::time::Instant,
    ) -> Result<tokio::sync::oneshot::Receiver<openraft::raft::ClientWriteResult<raft::TypeConfig>>, ProposeError> {
        // What we encoded decodes; were it not so, no member could apply it.
        let command = Encoded::new(&command).map_err(|_| ProposeError::TooLarge)?;
        let size = command.bytes().len();
        if size > self.largest_command {
            return Err(ProposeError::TooLarge);
        }
        self.space.proposing(size);
        let share = u32::try_from(size).map_err(|_| ProposeError::TooLarge)?;
        let share = Arc::clone(&self.backlog).acquire_many_owned(share);
        let share = match tokio::time::timeout_at(deadline, share).await {
            Ok(share) => share.map_err(|_| ProposeError::Stopped)?,
            Err(_) => return Err(ProposeError::TooManyRequests),
        };
        let (waiter, receiver) = Waiter::new(Some(share));
        let sent = self.raft.client_write_ff(Proposal(command), Some(waiter)).await;
        sent.map_err(|_| ProposeError::Stopped)?;
        Ok(receiver)
    }

    /// Returns once this member's state holds all that was acknowledged before the call.
    pub async fn read_index(&self) -> Result<(), ReadError> {
        match tokio::time::timeout(self.request_timeout, self.reads.join()).await {
            Ok(result) => result,
            Err(_) => Err(ReadError::Timeout),
        }
    }

    /// Waits until the node can go on no longer.
    pub async fn failed(&self) -> Failure {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await {
            Ok(failure) => failure.clone().unwrap_or_else(|| Failure("stopped".to_owned())),
            Err(_) => Failure("stopped".to_owned()),
        }
    }

    /// Stops with a checkpoint, so that the next start has little to replay.
    pub async fn stop(&self) {
        self.backlog.close();
        checkpoints::last(&self.raft, STOP_CHECKPOINT_TIMEOUT).await;
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "consensus did not stop in order");
        }
        let (done, flushed) = tokio::sync::oneshot::channel();
        self.log.flush(Box::new(move |result| drop(done.send(result))));
        if !matches!(flushed.await, Ok(Ok(()))) {
            tracing::warn!("the log's commit mark was not flushed");
        }
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
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

struct Parts<S> {
    log: Log,
    checkpoint: Arc<Writer>,
    machine: Machine<S>,
}

/// Opens what is on disk. It reads much and blocks, so it runs where that is allowed.
async fn open<S: Replicated>(
    config: &Config,
    identity: Identity,
    disk: &Arc<dyn Disk>,
    random: &Arc<dyn Random>,
    state: &S,
    fail: Arc<watch::Sender<Option<Failure>>>,
) -> Result<Parts<S>, StartError> {
    let options = crate::log::Options {
        segment_size: config.log_segment_size,
        cache_bytes: config.log_cache_bytes,
        store_id: identity.store_id,
    };
    let (disk, random, state) = (Arc::clone(disk), Arc::clone(random), state.clone());
    let opened = tokio::task::spawn_blocking(move || {
        let checkpoint = Arc::new(Checkpoint::open(disk.as_ref(), identity.store_id)?);
        let mut rows = checkpoint.rows()?;
        let applied = rows.applied().clone();
        state.load(&mut rows)?;
        drop(rows);
        let on_failure = move |error: &io::Error| {
            report(&fail, format!("the log cannot be written: {error}"));
        };
        let log = Log::open(disk, &random, options, Box::new(on_failure)).map_err(StartError::Log)?;
        let marks = log.marks();
        if identity.in_use && marks.last.is_none() {
            return Err(StartError::LogLost);
        }
        if let Some(purged) = marks.purged {
            let checkpoint = applied.last.map_or(0, |id| id.index);
            if checkpoint < purged.index {
                return Err(StartError::Hole { checkpoint, purged: purged.index });
            }
        }
        let checkpoint = Arc::new(Writer::start(checkpoint)?);
        let machine = Machine::new(state, Arc::clone(&checkpoint), &applied).map_err(StartError::Thread)?;
        Ok(Parts { log, checkpoint, machine })
    });
    opened.await.map_err(|error| StartError::Thread(io::Error::other(error)))?
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
        let running = raft.metrics().borrow_watched().running_state.clone();
        if let Err(error) = running {
            if !matches!(error, openraft::errors::Fatal::Stopped) {
                report(&fail, format!("consensus has stopped: {error}"));
            }
            return;
        }
    }
}
