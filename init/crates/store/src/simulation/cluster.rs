//! One history of a cluster: clients that write and read, faults, and what must hold at the end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;

use super::linearizability::{Action, Operation, is_linearizable};
use super::network::{Network, Wire};
use super::{SimulatedRandom, below, draw};
use crate::disk::fake::{FakeDisk, Throws};
use crate::identity::Identity;
use crate::member::{Member, MemberId};
use crate::node::{CheckpointPolicy, Config, Initial, Node, StartError};
use crate::peer::Handler;
use crate::raft::Timing;
use crate::raft::model::Model;
use crate::random::Random;

const CLUSTER_ID: u64 = 7;
const KEYS: u64 = 3;
const CLIENTS: u64 = 4;
/// Per key; the checker takes 128.
const OPERATIONS: usize = 110;
const ROUNDS: u64 = 10;
/// Of simulated time, for a healed cluster to come together.
const SETTLE: Duration = Duration::from_secs(40);
/// How long a client waits for an answer before it goes elsewhere.
const PATIENCE_MILLIS: u64 = 1500;

/// A defect that is put in on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Reads that do not ask whether the member is up to date.
    NoReadIndex,
    /// Disks that say they synced and did not.
    SkippedSync,
    /// Members that lose their disk and come back as who they were.
    ReusedId,
}

struct Running {
    node: Arc<Node<Model>>,
    disk: FakeDisk,
}

struct Slot {
    id: MemberId,
    disk: RefCell<FakeDisk>,
    running: RefCell<Option<Running>>,
}

pub(crate) struct Simulation {
    bug: Option<Bug>,
    network: Network,
    slots: Vec<Slot>,
    clock: Cell<u64>,
    histories: RefCell<Vec<Vec<Operation>>>,
    next_value: Cell<u64>,
    stopping: Cell<bool>,
}

/// What a history came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub operations: usize,
}

/// Runs the history of a seed. The error says what did not hold.
pub(crate) fn simulate(seed: u64, bug: Option<Bug>) -> Result<Report, String> {
    super::run(seed, || async move {
        let local = tokio::task::LocalSet::new();
        local.run_until(Simulation::run(bug)).await
    })
}

/// The store id that a member had, again.
#[derive(Debug)]
struct Repeated(u64);

impl Random for Repeated {
    fn next_u64(&self) -> u64 {
        self.0
    }
}

impl Simulation {
    async fn run(bug: Option<Bug>) -> Result<Report, String> {
        let members = if below(4) == 0 { 5 } else { 3 };
        let slot = |number: u64| {
            let disk = FakeDisk::new();
            if bug == Some(Bug::SkippedSync) {
                disk.lie_about_syncs();
            }
            Slot { id: MemberId(number), disk: RefCell::new(disk), running: RefCell::default() }
        };
        let simulation = Rc::new(Self {
            bug,
            network: Network::default(),
            slots: (1..=members).map(slot).collect(),
            clock: Cell::new(0),
            histories: RefCell::new(vec![Vec::new(); usize::try_from(KEYS).unwrap()]),
            next_value: Cell::new(1),
            stopping: Cell::new(false),
        });
        simulation.network.heal();
        for number in 0..simulation.slots.len() {
            simulation.start(number).await?;
        }
        let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::task::spawn_local(Rc::clone(&simulation).client())).collect();
        for _ in 0..ROUNDS {
            simulation.fault();
            simulation.none_failed()?;
            tokio::time::sleep(Duration::from_millis(50 + below(1200))).await;
            simulation.restart_some(2).await?;
        }
        simulation.stopping.set(true);
        simulation.network.heal();
        simulation.restart_some(1).await?;
        for client in clients {
            client.await.map_err(|error| format!("a client: {error}"))?;
        }
        simulation.settle().await?;
        simulation.check()
    }

    fn tick(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }

    fn config(&self, id: MemberId) -> Config {
        let member = |id: MemberId| Member { name: format!("m{id}"), ..Member::default() };
        let founders = self.slots.iter().map(|slot| (slot.id, member(slot.id))).collect();
        Config {
            timing: Timing {
                heartbeat_interval: Duration::from_millis(40),
                election_timeout: Duration::from_millis(200 + below(200)),
            },
            checkpoints: CheckpointPolicy {
                every_bytes: 4 << 10,
                every: Duration::from_hours(1),
                keep_bytes: 1 << 10,
                poll: Duration::from_millis(100),
            },
            log_segment_size: 32 << 10,
            log_cache_bytes: 1 << 10,
            reserve_bytes: 0,
            initial: Initial::Found(founders),
            ..Config::new(member(id))
        }
    }

    async fn start(&self, number: usize) -> Result<(), String> {
        let slot = &self.slots[number];
        let disk = slot.disk.borrow().clone();
        // Of each member its own, and always the same.
        let store = Repeated(1000 + slot.id.0);
        let identity = match Identity::load(&disk) {
            Ok(Some(identity)) => Ok(identity),
            Ok(None) => Identity::create(&disk, &store, slot.id, CLUSTER_ID, false),
            Err(error) => Err(error),
        };
        let identity = identity.map_err(|error| format!("member {}: {error}", slot.id))?;
        let local =
            crate::peer::Local { cluster_id: CLUSTER_ID, member_id: identity.member_id, store_id: identity.store_id };
        let wire = Wire { network: self.network.clone(), local, disk: disk.clone() };
        let shared: Arc<dyn crate::disk::Disk> = Arc::new(disk.clone());
        let begun = Node::begin(
            self.config(slot.id),
            identity,
            shared,
            Arc::new(SimulatedRandom),
            Model::default(),
            Arc::new(wire),
        )
        .await;
        let node = match begun {
            Ok(node) => node,
            Err(_) if disk.is_cut() => return Ok(()),
            Err(error) => return Err(refused(slot.id, &error)),
        };
        let handler: Arc<dyn Handler> = Arc::<Node<Model>>::clone(&node);
        self.network.attach(slot.id, handler, disk.clone());
        let readying = Arc::clone(&node);
        tokio::spawn(async move { readying.ready().await.is_ok() });
        *slot.running.borrow_mut() = Some(Running { node, disk });
        Ok(())
    }

    /// One fault, of any kind.
    fn fault(&self) {
        let count = self.slots.len() as u64;
        let at = usize::try_from(below(count)).unwrap();
        let other = usize::try_from(below(count)).unwrap();
        let kind = below(8);
        match kind {
            0 | 1 => self.cut_power(at),
            2 => {
                for number in 0..self.slots.len() {
                    if below(2) == 0 {
                        self.cut_power(number);
                    }
                }
            }
            // In the middle of a batch, a checkpoint, the making of a file.
            3 => self.slots[at].disk.borrow().cut_after_syncs(below(6), Throws::new(draw())),
            4 => {
                for slot in &self.slots {
                    self.network.cut(slot.id, self.slots[at].id);
                    self.network.cut(self.slots[at].id, slot.id);
                }
            }
            5 => self.network.cut(self.slots[at].id, self.slots[other].id),
            6 => self.network.set_weather(below(300), 1 + below(80)),
            _ => self.network.heal(),
        }
    }

    /// A member stops by itself only when its disk does.
    fn none_failed(&self) -> Result<(), String> {
        for slot in &self.slots {
            if let Some(Running { node, disk }) = slot.running.borrow().as_ref()
                && let Some(failure) = node.failed().now_or_never()
                && !disk.is_cut()
            {
                return Err(format!("member {} stopped by itself: {}", slot.id, failure.0));
            }
        }
        Ok(())
    }

    fn cut_power(&self, number: usize) {
        self.slots[number].disk.borrow().cut(&mut Throws::new(draw()));
    }

    /// Starts those without power again, one in `chance` of them.
    async fn restart_some(&self, chance: u64) -> Result<(), String> {
        for (number, slot) in self.slots.iter().enumerate() {
            let after = slot.disk.borrow().after_cut();
            let Some(after) = after else { continue };
            if below(chance) != 0 {
                continue;
            }
            let gone = slot.running.borrow_mut().take();
            self.network.detach(slot.id);
            if let Some(Running { node, .. }) = gone {
                node.kill().await;
            }
            *slot.disk.borrow_mut() = if self.bug == Some(Bug::ReusedId) { FakeDisk::new() } else { after };
            self.start(number).await?;
        }
        Ok(())
    }

    async fn client(self: Rc<Self>) {
        while !self.stopping.get() {
            tokio::time::sleep(Duration::from_millis(below(60))).await;
            let number = usize::try_from(below(self.slots.len() as u64)).unwrap();
            let key = below(KEYS);
            let running = self.running(number);
            let full = self.histories.borrow()[usize::try_from(key).unwrap()].len() >= OPERATIONS;
            if let Some((node, disk)) = running
                && !full
            {
                let patience = Duration::from_millis(100 + below(PATIENCE_MILLIS));
                // A write that is given up may still be applied, and stays in the history as one.
                _ = tokio::time::timeout(patience, self.operate(key, &node, &disk)).await;
            }
        }
    }

    fn running(&self, number: usize) -> Option<(Arc<Node<Model>>, FakeDisk)> {
        let running = self.slots[number].running.borrow();
        running.as_ref().map(|running| (Arc::clone(&running.node), running.disk.clone()))
    }

    async fn operate(&self, key: u64, node: &Node<Model>, disk: &FakeDisk) {
        let name = key.to_be_bytes().to_vec();
        let called = self.tick();
        let history = usize::try_from(key).unwrap();
        if below(2) == 0 {
            let value = self.next_value.get();
            self.next_value.set(value + 1);
            // It is part of the history from now on: what is applied may be read before it is answered.
            let place = {
                let mut histories = self.histories.borrow_mut();
                histories[history].push(Operation { action: Action::Write(value), called, returned: None });
                histories[history].len() - 1
            };
            let written = node.propose(Model::put(name, value.to_be_bytes().to_vec())).await;
            if written.is_ok() && !disk.is_cut() {
                self.histories.borrow_mut()[history][place].returned = Some(self.tick());
            }
            return;
        }
        if self.bug != Some(Bug::NoReadIndex) && node.read_index().await.is_err() {
            return;
        }
        if disk.is_cut() {
            return;
        }
        let value = read(node, &name);
        let read = Operation { action: Action::Read(value), called, returned: Some(self.tick()) };
        self.histories.borrow_mut()[history].push(read);
    }

    /// Waits until all members are up, and have applied the same.
    async fn settle(&self) -> Result<(), String> {
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

    async fn agree(&self) -> Result<(), String> {
        let mut states = Vec::new();
        for slot in &self.slots {
            let node = slot.running.borrow().as_ref().map(|running| Arc::clone(&running.node));
            let node = node.ok_or_else(|| format!("member {} is down", slot.id))?;
            node.read_index().await.map_err(|error| format!("member {}: {error}", slot.id))?;
            states.push((slot.id, node.status().applied, node.state().count(), node.state().pairs()));
        }
        let same = states.iter().all(|state| (state.1, state.2, &state.3) == (states[0].1, states[0].2, &states[0].3));
        if same { Ok(()) } else { Err(format!("members differ: {states:?}")) }
    }

    fn check(&self) -> Result<Report, String> {
        let mut operations = 0;
        for (key, history) in self.histories.borrow().iter().enumerate() {
            let mut history = history.clone();
            // The last word of the state is a read like any other.
            let running = self.slots[0].running.borrow();
            let node = &running.as_ref().ok_or("a member is down")?.node;
            let value = read(node, &(key as u64).to_be_bytes());
            let called = self.tick();
            history.push(Operation { action: Action::Read(value), called, returned: Some(self.tick()) });
            operations += history.len();
            if !is_linearizable(&history) {
                return Err(format!("key {key} is not linearizable: {history:?}"));
            }
        }
        Ok(Report { operations })
    }
}

fn read(node: &Node<Model>, key: &[u8]) -> u64 {
    node.state().pairs().get(key).map_or(0, |value| u64::from_be_bytes(value.as_ref().try_into().unwrap()))
}

fn refused(id: MemberId, error: &StartError) -> String {
    format!("member {id} does not start: {}", crate::logging::chain(error))
}
