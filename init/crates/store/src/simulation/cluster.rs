//! Members that start, lose their power, stop, come and go.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use keelson_etcd_api::etcdserverpb::AlarmType;

use super::network::{Network, Wire};
use super::process::Process;
use super::{Bug, SimulatedRandom, below, draw, one_in};
use crate::disk::fake::{FakeDisk, Throws};
use crate::identity::Identity;
use crate::member::{Member, MemberId};
use crate::node::{CheckpointPolicy, Config, Initial, Node, StartError};
use crate::peer::Handler;
use crate::raft::Timing;
use crate::random::Random;
use crate::server::simulated::Services;
use crate::state::{Keys, Row, State};

const CLUSTER_ID: u64 = 7;
/// Below it a member takes no more writes. It is more than a checkpoint and the log's segments grow by between two looks.
const RESERVE_BYTES: u64 = 512 << 10;
/// Short, so that what follows from it happens in histories as well.
pub(crate) const VOTER_LOSS: Duration = Duration::from_secs(20);
/// Often, so that what makes members differ, or only seem to, shows.
const CORRUPT_CHECK: Duration = Duration::from_secs(3);
/// Of simulated time, for a healed cluster to come together.
const SETTLE: Duration = Duration::from_mins(1);

/// A member that runs.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub services: Arc<Services>,
    pub disk: FakeDisk,
    pub process: Process,
}

impl Running {
    pub(crate) fn node(&self) -> &Arc<Node<State>> {
        self.services.node()
    }
}

/// A machine, and the member on it.
#[derive(Debug)]
pub(crate) struct Slot {
    pub id: MemberId,
    pub joined: bool,
    pub disk: RefCell<FakeDisk>,
    pub running: RefCell<Option<Running>>,
    /// Its removal was asked for: it may stop by itself.
    pub leaving: Cell<bool>,
}

impl Slot {
    fn new(id: MemberId, joined: bool) -> Self {
        let disk = FakeDisk::new();
        if super::has(Bug::SkippedSync) {
            disk.lie_about_syncs();
        }
        Self { id, joined, disk: RefCell::new(disk), running: RefCell::default(), leaving: Cell::new(false) }
    }

    pub(crate) fn running(&self) -> Option<Running> {
        self.running.borrow().clone()
    }
}

/// The machines of one history.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub network: Network,
    slots: RefCell<Vec<std::rc::Rc<Slot>>>,
    founders: BTreeMap<MemberId, Member>,
    election_millis: u64,
}

/// The store id that a member had, again.
#[derive(Debug)]
struct Repeated(u64);

impl Random for Repeated {
    fn next_u64(&self) -> u64 {
        self.0
    }
}

fn member(id: MemberId) -> Member {
    Member { name: format!("m{id}"), peer_urls: vec![peer_url(id)], ..Member::default() }
}

pub(crate) fn peer_url(id: MemberId) -> String {
    format!("http://m{id}:2380")
}

impl Cluster {
    /// So many members, which start.
    pub(crate) async fn found(members: u64) -> Result<Self, String> {
        let ids = (1..=members).map(MemberId);
        let cluster = Self {
            network: Network::default(),
            slots: RefCell::new(ids.clone().map(|id| std::rc::Rc::new(Slot::new(id, false))).collect()),
            founders: ids.map(|id| (id, member(id))).collect(),
            election_millis: 200 + below(200),
        };
        cluster.network.heal();
        for slot in cluster.slots() {
            cluster.start(&slot).await?;
        }
        Ok(cluster)
    }

    pub(crate) fn election_timeout(&self) -> Duration {
        Duration::from_millis(self.election_millis)
    }

    pub(crate) fn slots(&self) -> Vec<std::rc::Rc<Slot>> {
        self.slots.borrow().clone()
    }

    /// Those that take part, as far as is known here.
    pub(crate) fn members(&self) -> Vec<std::rc::Rc<Slot>> {
        self.slots().into_iter().filter(|slot| !slot.leaving.get()).collect()
    }

    pub(crate) fn any(&self) -> std::rc::Rc<Slot> {
        super::pick(&self.slots())
    }

    /// A machine for a member that joins, which does not run yet.
    pub(crate) fn add_slot(&self) -> std::rc::Rc<Slot> {
        let mut slots = self.slots.borrow_mut();
        let slot = std::rc::Rc::new(Slot::new(MemberId(slots.len() as u64 + 1), true));
        slots.push(std::rc::Rc::clone(&slot));
        slot
    }

    fn config(&self, slot: &Slot) -> Config {
        let initial = if slot.joined { Initial::Join } else { Initial::Found(self.founders.clone()) };
        Config {
            timing: Timing { heartbeat_interval: Duration::from_millis(40), election_timeout: self.election_timeout() },
            checkpoints: CheckpointPolicy {
                every_bytes: 4 << 10,
                every: Duration::from_secs(20),
                keep_bytes: 1 << 10,
                poll: Duration::from_millis(100),
            },
            log_segment_size: 32 << 10,
            log_cache_bytes: 1 << 10,
            reserve_bytes: RESERVE_BYTES,
            voter_loss: VOTER_LOSS,
            corrupt_check: Some(CORRUPT_CHECK),
            initial,
            ..Config::new(member(slot.id))
        }
    }

    pub(crate) async fn start(&self, slot: &Slot) -> Result<(), String> {
        let disk = slot.disk.borrow().clone();
        // Of each member its own, and always the same.
        let store = Repeated(1000 + slot.id.0);
        let identity = match Identity::load(&disk) {
            Ok(Some(identity)) => Ok(identity),
            Ok(None) => Identity::create(&disk, &store, slot.id, CLUSTER_ID, slot.joined),
            Err(error) => Err(error),
        };
        let identity = match identity {
            Ok(identity) => identity,
            Err(_) if disk.is_cut() => return Ok(()),
            Err(error) => return Err(format!("member {}: {error}", slot.id)),
        };
        let local =
            crate::peer::Local { cluster_id: CLUSTER_ID, member_id: identity.member_id, store_id: identity.store_id };
        let process = Process::new(slot.id);
        let wire = Wire { network: self.network.clone(), local, disk: disk.clone() };
        let shared: Arc<dyn crate::disk::Disk> = Arc::new(disk.clone());
        let random: Arc<dyn Random> = Arc::new(SimulatedRandom);
        let begun =
            Node::begin(self.config(slot), identity, shared, Arc::clone(&random), State::default(), Arc::new(wire));
        let node = match process.scope(begun).await {
            Ok(node) => node,
            Err(_) if disk.is_cut() => return Ok(()),
            Err(error) => return Err(refused(slot.id, &error)),
        };
        let handler: Arc<dyn Handler> = Arc::<Node<State>>::clone(&node);
        self.network.attach(slot.id, handler, disk.clone(), process.clone());
        let readying = Arc::clone(&node);
        tokio::spawn(process.scope(async move { readying.ready().await.is_ok() }));
        let timeout = self.election_timeout();
        let services = process.scope(async { Services::start(node, timeout, random) }).await;
        *slot.running.borrow_mut() = Some(Running { services: Arc::new(services), disk, process });
        Ok(())
    }

    pub(crate) fn cut_power(&self, slot: &Slot) {
        slot.disk.borrow().cut(&mut Throws::new(draw()));
        // The machine is up again before long, and says that nobody listens yet.
        self.network.hang_up(slot.id);
    }

    /// kill -9: the disk has all that was written, synced or not.
    pub(crate) fn kill(&self, slot: &Slot) {
        slot.disk.borrow().kill();
        self.network.hang_up(slot.id);
    }

    /// Starts those without power again, one in `chance` of them.
    pub(crate) async fn restart_some(&self, chance: u64) -> Result<(), String> {
        for slot in self.slots() {
            if slot.disk.borrow().is_cut() && one_in(chance) {
                self.restart(&slot).await?;
            }
        }
        Ok(())
    }

    /// Starts one without power on what its disk has.
    pub(crate) async fn restart(&self, slot: &Slot) -> Result<(), String> {
        let Some(after) = slot.disk.borrow().after_cut() else { return Ok(()) };
        self.end(slot).await;
        *slot.disk.borrow_mut() = if super::has(Bug::ReusedId) { FakeDisk::new() } else { after };
        self.start(slot).await
    }

    /// Ends a member for good.
    pub(crate) async fn end(&self, slot: &Slot) {
        let gone = slot.running.borrow_mut().take();
        self.network.detach(slot.id);
        if let Some(Running { services, process, .. }) = gone {
            process.go_on();
            services.kill().await;
        }
    }

    /// A member stops by itself only when its disk does, or when it was removed.
    pub(crate) fn none_failed(&self) -> Result<(), String> {
        for slot in self.slots() {
            if let Some(running) = slot.running()
                && let Some(failure) = running.node().failed().now_or_never()
                && !running.disk.is_cut()
                && !slot.leaving.get()
            {
                return Err(format!("member {} stopped by itself: {}", slot.id, failure.0));
            }
            let corrupt = i32::from(AlarmType::Corrupt);
            if let Some(running) = slot.running()
                && let Some(alarm) = running.node().state().alarms().iter().find(|alarm| alarm.alarm == corrupt)
            {
                return Err(format!("the state of member {:x} differs from that of the others", alarm.member_id));
            }
        }
        Ok(())
    }

    /// Ends all faults.
    pub(crate) async fn heal(&self) -> Result<(), String> {
        self.network.heal();
        for slot in self.slots() {
            slot.disk.borrow().set_capacity(None);
            if let Some(running) = slot.running() {
                running.process.set_slowest_micros(0);
                running.process.go_on();
            }
        }
        self.restart_some(1).await
    }

    /// Waits until all members of a healed cluster are up and agree.
    pub(crate) async fn settle(&self) -> Result<(), String> {
        let together = async {
            loop {
                if let Ok(()) = self.agree().await {
                    return Ok(());
                }
                self.none_failed()?;
                // What failed may have lost its power in the last moment.
                self.restart_some(1).await?;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        match tokio::time::timeout(SETTLE, together).await {
            Ok(result) => result,
            Err(_) => Err(format!("the cluster does not come together: {:?}", self.agree().await)),
        }
    }

    /// Once nobody changes anything any more: a removal that was asked for and never answered has been made, or will not be.
    pub(crate) async fn note_members(&self) -> Result<(), String> {
        let ids = self.voters_and_learners().await?;
        self.slots().iter().for_each(|slot| slot.leaving.set(!ids.contains(&slot.id)));
        Ok(())
    }

    /// Whether all who are members have applied the same, and have the same hash of it.
    async fn agree(&self) -> Result<(), String> {
        let mut states = Vec::new();
        let ids = self.voters_and_learners().await?;
        // One whose addition was not answered may be no member.
        self.slots().iter().filter(|slot| !ids.contains(&slot.id)).for_each(|slot| slot.leaving.set(true));
        for slot in self.slots().iter().filter(|slot| ids.contains(&slot.id)) {
            let running = slot.running().ok_or_else(|| format!("member {} is down", slot.id))?;
            let failed = |error: &dyn std::fmt::Display| format!("member {}: {error}", slot.id);
            running.node().read_index().await.map_err(|error| failed(&error))?;
            running.services.disarm().await.map_err(|error| failed(&error))?;
            let hash = running.services.hash(0).await.map_err(|error| failed(&error))?;
            let state = running.node().state();
            let own = state.of(Keys::Cluster).hash_at(0).await.map_err(|error| format!("{error:?}"))?;
            let rows = state.snapshot().rows(usize::MAX).map(Result::unwrap);
            let others: Vec<Row> = rows.filter(|row| row.table != row.table.keys().tables().revisions).collect();
            states.push((slot.id, running.node().status().applied, (hash, own), others));
        }
        let facts = |state: &(MemberId, u64, _, _)| (state.1, format!("{:?} {:?}", state.2, state.3));
        let same = states.iter().all(|state| facts(state) == facts(&states[0]));
        if same { Ok(()) } else { Err(format!("members differ: {states:?}")) }
    }

    /// Who is a member, as whoever leads says.
    async fn voters_and_learners(&self) -> Result<Vec<MemberId>, String> {
        let mut errors = Vec::new();
        for slot in self.slots() {
            let Some(running) = slot.running() else { continue };
            if running.node().status().is_leader {
                match running.node().read_index().await {
                    Ok(()) => return Ok(running.node().members().into_iter().map(|(id, ..)| id).collect()),
                    Err(error) => errors.push(format!("member {}: {error}", slot.id)),
                }
            } else {
                errors.push(format!("member {}: {:?}", slot.id, running.node().status()));
            }
        }
        Err(format!("nobody leads: {errors:?}"))
    }
}

fn refused(id: MemberId, error: &StartError) -> String {
    format!("member {id} does not start: {}", crate::logging::chain(error))
}
