//! One member: identity, log, checkpoint, state and consensus put together, and what the servers ask of it.
//!
//! Recovery is the order of [`Node::start`]: the checkpoint's rows, then the log's entries up to what is known committed, then an election,
//! and only when the entry that the election adds is applied does the node answer. By then everything that was ever acknowledged is
//! applied: an acknowledged entry was durable in the log, and the new entry is behind it. With more members than one the same is asked of whoever leads.

pub mod bootstrap;
mod changes;
mod checkpoints;
mod config;
mod corruption;
mod error;
mod forward;
mod maintenance;
mod open;
mod peers;
mod reads;
mod receive;
pub mod space;
mod status;
mod succession;
mod voters;
mod watching;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::sync::{Semaphore, watch};

use crate::disk::Disk;
use crate::histogram::Histogram;
use crate::identity::Identity;
use crate::lease::LeaseService;
use crate::log::Log;
use crate::member::{Member, MemberId};
use crate::peer::traffic::Traffic;
use crate::peer::{Local, NoPeers, Transport};
use crate::raft::network::Peers;
use crate::raft::storage::LogStorage;
use crate::raft::{self, Raft, Timing};
use crate::random::Random;
use crate::state::Replicated;

pub use checkpoints::Policy as CheckpointPolicy;
pub use config::{Config, Initial};
pub use error::{ProposeError, StartError};
pub use forward::Leadership;
pub use maintenance::MaintenanceError;
pub use reads::{ReadError, ReadRounds};
pub use space::Usage;
pub use status::Status;

/// Bytes of proposals that may be under way. Each is in memory several times over; beyond it clients wait, then are turned away.
const BACKLOG_BYTES: usize = 64 << 20;
/// How long a stop may wait for its checkpoint: the log has everything anyway.
const STOP_CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a member may wait for others before it says so, and again.
const TELL_INTERVAL: Duration = Duration::from_secs(30);
/// Between two tries at what another leader, or the same one later, may do.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

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
    slow_applies: Arc<AtomicU64>,
    backlog: Arc<Semaphore>,
    /// Leadership is about to be another's: nothing more is proposed here.
    handing_over: AtomicBool,
    largest_command: usize,
    request_timeout: Duration,
    voter_loss: Duration,
    /// When the leader was heard last.
    heard: Mutex<Option<tokio::time::Instant>>,
    succession: Arc<succession::Succession>,
    /// One change of the members at a time.
    changes: tokio::sync::Mutex<()>,
    receiving: tokio::sync::Mutex<Option<receive::Receiving>>,
    leases: OnceLock<Weak<dyn LeaseService>>,
    /// Whether this member has seen itself among the members.
    was_member: AtomicBool,
    roll: Arc<Mutex<watching::Roll>>,
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
        let slow_applies = machine.slow_applies();
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
            voter_loss: config.voter_loss,
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
            slow_applies,
            backlog,
            handing_over: AtomicBool::new(false),
            // A batch must fit into a segment, with its header and whatever was in it before.
            largest_command: config.log_segment_size as usize / 4,
            heard: Mutex::default(),
            succession: Arc::default(),
            changes: tokio::sync::Mutex::default(),
            receiving: tokio::sync::Mutex::default(),
            leases: OnceLock::new(),
            was_member: AtomicBool::new(false),
            roll: Arc::default(),
            raft,
            fail,
            failure,
            tasks: Mutex::default(),
        });
        node.found().await?;
        node.spawn_tasks(config.checkpoints, config.corrupt_check);
        Ok(node)
    }

    /// Gives a founder its first entry, which says who the members are. Another founder may ask for its vote as soon as it can be
    /// reached, and consensus takes no first entry from a member that has voted: this comes before.
    async fn found(&self) -> Result<(), StartError> {
        if self.log.marks().last.is_none()
            && !self.identity.joined
            && let Some(members) = self.founders()
        {
            self.raft.initialize(members).await.map_err(|error| StartError::Raft(error.to_string()))?;
        }
        Ok(())
    }

    /// Returns once this member's state holds all that was ever acknowledged. With others this may take as long as it takes
    /// until enough of them are there.
    pub async fn ready(self: &Arc<Self>) -> Result<(), StartError> {
        let failed = |error: &dyn std::fmt::Display| StartError::Raft(error.to_string());
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

    fn spawn_tasks(self: &Arc<Self>, checkpoints: CheckpointPolicy, corrupt_check: Option<Duration>) {
        let mut tasks = vec![
            crate::blocking::spawn(reads::Rounds::run(Arc::clone(&self.reads), Arc::downgrade(self))),
            crate::blocking::spawn(checkpoints::run(checkpoints, self.raft.clone(), Arc::clone(&self.space))),
            crate::blocking::spawn(space::watch(Arc::downgrade(self))),
            crate::blocking::spawn(watch_consensus(self.raft.clone(), Arc::clone(&self.fail))),
            crate::blocking::spawn(watching::follow_members(
                self.raft.clone(),
                Arc::clone(&self.transport),
                Arc::clone(&self.roll),
            )),
            crate::blocking::spawn(watching::rest_alone(self.raft.clone(), self.identity.member_id)),
            crate::blocking::spawn(watching::watch_removal(Arc::downgrade(self))),
            crate::blocking::spawn(changes::publish(Arc::downgrade(self))),
            crate::blocking::spawn(changes::tend(Arc::downgrade(self), self.raft.clone())),
            crate::blocking::spawn(succession::run(
                Arc::downgrade(self),
                self.raft.clone(),
                Arc::clone(&self.succession),
            )),
        ];
        if let Some(every) = corrupt_check {
            tasks.push(crate::blocking::spawn(corruption::watch(Arc::downgrade(self), every)));
        }
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

    /// What every member understands ([`crate::member::LEVEL`]), as far as this one knows.
    pub fn lowest_level(&self) -> u32 {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.committed_membership_config.membership();
        crate::member::lowest_level(membership.nodes().map(|(_, member)| member))
    }

    /// The state as far as it is applied here. For a linearizable read call [`Node::read_index`] first.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// How long the log's batches took to become durable.
    pub fn log_sync_times(&self) -> &Histogram {
        self.log.sync_times()
    }

    /// Bytes of entries that the log has or had.
    pub fn log_bytes(&self) -> u64 {
        self.log.appended_bytes()
    }

    /// How often applying entries took long.
    pub fn slow_applies(&self) -> u64 {
        self.slow_applies.load(Ordering::Relaxed)
    }

    /// What is exchanged with other members, if there are any.
    pub fn traffic(&self) -> Option<&Traffic> {
        self.transport.traffic()
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
        checkpoints::last(&self.raft, &self.space, STOP_CHECKPOINT_TIMEOUT).await;
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

/// The first failure is the cause; what follows from it is not told.
fn report(fail: &watch::Sender<Option<Failure>>, reason: String) {
    fail.send_if_modified(|failure| {
        let first = failure.is_none();
        failure.get_or_insert(Failure(reason));
        first
    });
}

/// Reports that consensus has stopped by itself: a checkpoint failed, an entry could not be read, a defect.
///
/// Whatever way it ends, the metrics' sender goes with it. Those that are waited for here do not change with every write.
async fn watch_consensus<S: Replicated>(raft: Raft<S>, fail: Arc<watch::Sender<Option<Failure>>>) {
    let mut metrics = raft.server_metrics();
    while metrics.changed().await.is_ok() {}
    // Asked, not read: one that panicked has left metrics that say that it runs.
    if let Err(error) = raft.is_initialized().await
        && !matches!(error, openraft::errors::Fatal::Stopped)
    {
        report(&fail, format!("consensus has stopped: {error}"));
    }
}
