use std::sync::atomic::{AtomicU64, Ordering};

use keelson_config::network_state::LinkState;
use keelson_pki::StandardFiles;
use time::OffsetDateTime;

use super::*;
use crate::identity::NodeUid;
use crate::membership::tests::{found_in_memory, founding};
use crate::paths::Paths;
use crate::registry::memory::Memory;
use crate::registry::records::tests::node as record;
use crate::registry::{Answer, Backend, Entry, Glance, MemberChange, NodeRecord, Revision, StoreMember};

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10));

fn identity(name: &str) -> Identity {
    let node_uid = NodeUid::from_record(&format!("uid-of-{name}"));
    Identity { name: name.to_owned(), node_uid, ..found_in_memory().identity }
}

fn contender<'a>(registry: &'a Registry, name: &str) -> Contender<'a> {
    Contender::new(registry, ADDRESS, &identity(name))
}

async fn holder(registry: &Registry) -> Option<String> {
    let stored = registry.get::<VirtualAddressRecord>(&ADDRESS.to_string()).await.unwrap();
    stored.map(|stored| stored.value.name)
}

#[tokio::test]
async fn one_has_it_until_it_gives_it_up() {
    let memory = Arc::new(Memory::default());
    let registry = Registry::new(Arc::clone(&memory) as Arc<dyn Backend>);
    let now = || memory.now();
    let (mut a, mut b) = (contender(&registry, "a"), contender(&registry, "b"));
    a.look(&now).await.unwrap();
    b.look(&now).await.unwrap();
    assert_eq!((a.claim.unwrap().until, b.claim), (TERM, None));
    assert_eq!(holder(&registry).await.as_deref(), Some("a"));
    // Long after the first lease would have ended.
    for _ in 0..20 {
        memory.advance(INTERVAL);
        a.look(&now).await.unwrap();
        b.look(&now).await.unwrap();
        assert_eq!((a.claim.unwrap().until, b.claim), (now() + TERM, None));
    }
    registry.revoke(a.claim.take().unwrap().lease).await.unwrap();
    b.look(&now).await.unwrap();
    assert_eq!(holder(&registry).await.as_deref(), Some("b"));
}

#[tokio::test]
async fn who_died_loses_it_with_its_lease_and_not_before_it_must_have_dropped_it() {
    let memory = Arc::new(Memory::default());
    let registry = Registry::new(Arc::clone(&memory) as Arc<dyn Backend>);
    let now = || memory.now();
    let (mut a, mut b) = (contender(&registry, "a"), contender(&registry, "b"));
    a.look(&now).await.unwrap();
    let until = a.claim.unwrap().until;
    while b.claim.is_none() {
        memory.advance(Duration::from_millis(100));
        b.look(&now).await.unwrap();
        assert!(now() <= Duration::from_secs(LEASE_SECONDS.into()), "nobody has it");
    }
    assert!(now() >= until + MARGIN, "{:?} is too early", now());
    a.expire(until.saturating_sub(Duration::from_millis(1)));
    assert!(a.claim.is_some());
    a.expire(until);
    assert_eq!(a.claim, None);
    a.look(&now).await.unwrap();
    assert_eq!(a.claim, None);
}

#[tokio::test]
async fn a_process_that_was_started_again_goes_on_with_its_lease() {
    let memory = Arc::new(Memory::default());
    let registry = Registry::new(Arc::clone(&memory) as Arc<dyn Backend>);
    let now = || memory.now();
    let mut before = contender(&registry, "a");
    before.look(&now).await.unwrap();
    memory.advance(Duration::from_secs(3));
    let mut after = contender(&registry, "a");
    after.look(&now).await.unwrap();
    assert_eq!(after.claim.unwrap(), Claim { lease: before.claim.unwrap().lease, until: now() + TERM });
}

/// A store that takes its time before and after it does what it is asked, and whose answers get lost.
#[derive(Debug)]
struct Distant {
    memory: Arc<Memory>,
    random: AtomicU64,
}

impl Distant {
    fn random(&self, below: u64) -> u64 {
        // xorshift64*: any generator that a printed seed can repeat will do.
        let mut random = self.random.load(Ordering::Relaxed);
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        self.random.store(random, Ordering::Relaxed);
        (random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }

    /// Up to a second and a half; now and then longer than a lease.
    fn pass_time(&self) {
        let milliseconds = if self.random(20) == 0 { self.random(9000) } else { self.random(1500) };
        self.memory.advance(Duration::from_millis(milliseconds));
    }

    async fn ask<T>(&self, question: Answer<'_, T>) -> Result<T, RegistryError> {
        let lost = || Err(RegistryError::Unavailable("lost".into()));
        self.pass_time();
        if self.random(10) == 0 {
            return lost();
        }
        let answer = question.await;
        self.pass_time();
        if self.random(10) == 0 { lost() } else { answer }
    }
}

impl Backend for Distant {
    fn get(&self, key: String) -> Answer<'_, Option<Entry>> {
        Box::pin(self.ask(self.memory.get(key)))
    }

    fn list(&self, prefix: String) -> Answer<'_, Vec<Entry>> {
        Box::pin(self.ask(self.memory.list(prefix)))
    }

    fn kubernetes_page(&self, prefix: String, after: String, limit: u32) -> Answer<'_, Vec<Entry>> {
        Box::pin(self.ask(self.memory.kubernetes_page(prefix, after, limit)))
    }

    fn glance(&self, prefix: String, after: Revision) -> Answer<'_, Glance> {
        Box::pin(self.ask(self.memory.glance(prefix, after)))
    }

    fn commit(&self, change: Change) -> Answer<'_, bool> {
        Box::pin(self.ask(self.memory.commit(change)))
    }

    fn grant(&self, seconds: u32) -> Answer<'_, LeaseId> {
        Box::pin(self.ask(self.memory.grant(seconds)))
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, bool> {
        Box::pin(self.ask(self.memory.keep_alive(lease)))
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        Box::pin(self.ask(self.memory.revoke(lease)))
    }

    fn members(&self) -> Answer<'_, Vec<StoreMember>> {
        self.memory.members()
    }

    fn leader(&self) -> Answer<'_, Option<u64>> {
        self.memory.leader()
    }

    fn change_members(&self, change: MemberChange) -> Answer<'_, Vec<StoreMember>> {
        self.memory.change_members(change)
    }
}

/// Whatever is lost, late, started again or given up: at no moment do two nodes have the address, by what they were told last.
#[tokio::test]
async fn two_never_have_it_however_late_or_lost_the_stores_answers_are() {
    for seed in 1..=50_u64 {
        let memory = Arc::new(Memory::default());
        let random = AtomicU64::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let store = Arc::new(Distant { memory: Arc::clone(&memory), random });
        let registry = Registry::new(Arc::clone(&store) as Arc<dyn Backend>);
        let now = || memory.now();
        let names = ["a", "b", "c"];
        let mut contenders = names.map(|name| contender(&registry, name));
        // What keelson-network of each was told.
        let mut told = [Duration::ZERO; 3];
        let (mut had, mut last) = (0, None);
        for step in 0..300 {
            let at = usize::try_from(store.random(3)).unwrap();
            match store.random(12) {
                0 => contenders[at] = contender(&registry, names[at]),
                1 => {
                    if let Some(claim) = contenders[at].claim.take() {
                        told[at] = Duration::ZERO;
                        let _ = registry.revoke(claim.lease).await;
                    }
                }
                _ => {
                    contenders[at].expire(now());
                    let _ = contenders[at].look(&now).await;
                    if let Some(claim) = contenders[at].claim {
                        told[at] = claim.until;
                    }
                }
            }
            let holders: Vec<_> = (0..3).filter(|at| told[*at] > now()).collect();
            assert!(holders.len() <= 1, "seed {seed}, step {step}: {holders:?} have it");
            if holders.first().copied() != last && !holders.is_empty() {
                had += 1;
                last = holders.first().copied();
            }
        }
        assert!(had > 3, "seed {seed}: it moved {had} times only");
    }
}

struct World {
    _directory: tempfile::TempDir,
    node: Node,
    files: Arc<dyn Files>,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("run/keelson/cluster")).unwrap();
        let paths = Paths::below(directory.path());
        let node = Node::new(paths, founding(), "a".to_owned(), OffsetDateTime::UNIX_EPOCH);
        node.set_network(network(&["192.0.2.1/24"], true));
        Self { _directory: directory, node, files: Arc::new(StandardFiles) }
    }

    fn keeper<'a>(&'a self, registry: &'a Registry) -> Keeper<'a> {
        Keeper {
            contender: contender(registry, "a"),
            node: &self.node,
            files: &self.files,
            written: None,
            complaint: report::Complaint::default(),
        }
    }

    fn told(&self) -> Option<VirtualAddress> {
        VirtualAddress::read(&self.node.paths.virtual_address()).unwrap()
    }
}

fn network(addresses: &[&str], carrier: bool) -> NetworkState {
    let addresses: Vec<ipnet::IpNet> = addresses.iter().map(|net| net.parse().unwrap()).collect();
    let link = LinkState {
        name: "eth0".to_owned(),
        index: 2,
        mac: None,
        mtu: 1500,
        carrier,
        addresses: addresses.clone(),
        gateway: None,
        nameservers: Vec::new(),
        search: Vec::new(),
        ntp_servers: Vec::new(),
        lease: None,
    };
    NetworkState { node_addresses: vec![addresses[0].addr()], links: vec![link], ..NetworkState::default() }
}

#[tokio::test]
async fn the_network_is_told_until_when_and_before_the_record_goes() {
    let world = World::new();
    let registry = Registry::new(Arc::new(Memory::default()));
    let mut keeper = world.keeper(&registry);
    keeper.look(false).await;
    assert_eq!((world.told(), holder(&registry).await), (None, None), "a node that is not ready does not compete");

    let before = since_boot();
    keeper.look(true).await;
    let told = world.told().unwrap();
    assert_eq!((told.address, holder(&registry).await.as_deref()), (ADDRESS, Some("a")));
    let left = told.left(before).unwrap();
    assert!(left + Duration::from_millis(1) >= TERM && left <= TERM + since_boot().saturating_sub(before), "{left:?}");

    let watching = async {
        while world.told().is_some_and(|told| told.until_milliseconds.is_some()) {
            tokio::task::yield_now().await;
        }
        assert_eq!(holder(&registry).await.as_deref(), Some("a"), "the record goes second");
    };
    tokio::join!(keeper.look(false), watching);
    assert_eq!((world.told().unwrap().left(since_boot()), holder(&registry).await), (None, None));
}

#[tokio::test]
async fn who_sees_that_another_has_it_waits_for_news_and_takes_it_when_that_is_gone() {
    let (world, memory) = (World::new(), Arc::new(Memory::default()));
    let registry = Registry::new(Arc::clone(&memory) as Arc<dyn Backend>);
    let now = || memory.now();
    let mut other = contender(&registry, "b");
    other.look(&now).await.unwrap();
    let mut keeper = world.keeper(&registry);
    assert_eq!(keeper.look(true).await, Next::Soon, "it has not seen it yet");
    registry.refresh().await.unwrap();
    assert_eq!(keeper.look(true).await, Next::News);
    memory.advance(Duration::from_secs(LEASE_SECONDS.into()));
    assert_eq!(keeper.look(true).await, Next::News, "it has not seen it go");
    registry.refresh().await.unwrap();
    assert_eq!((keeper.look(true).await, holder(&registry).await.as_deref()), (Next::Soon, Some("a")));
    // Its own record is nobody else's, and has to be renewed.
    registry.refresh().await.unwrap();
    assert_eq!(keeper.look(true).await, Next::Soon);
    assert_eq!(keeper.look(false).await, Next::News);
}

#[test]
fn the_address_is_for_a_node_that_is_well_and_in_its_network() {
    let world = World::new();
    let mut view = View::default();
    let obstacle = |view: &View, ready| obstacle(&world.node, Some(view), ADDRESS, "uid-of-a", ready);
    let lasting = |found: Option<Obstacle>| matches!(found, Some(Obstacle::Lasting(_)));
    assert_eq!(obstacle(&view, true), None);
    assert_eq!(obstacle(&view, false), Some(Obstacle::Passing("its API server is not ready")));

    world.node.set_network(network(&["192.0.2.1/24"], false));
    assert!(lasting(obstacle(&view, true)), "there is no cable");
    // What it had a moment ago is no network.
    world.node.set_network(network(&["198.51.100.1/24", "192.0.2.10/32"], true));
    assert!(lasting(obstacle(&view, true)), "the address is in no network");
    world.node.set_network(network(&["192.0.2.10/24"], true));
    assert!(lasting(obstacle(&view, true)), "it is the node's own");
    world.node.set_network(network(&["192.0.2.1/24"], true));

    view.nodes.insert("w".to_owned(), NodeRecord { addresses: vec![ADDRESS.to_string()], ..record("w") });
    assert!(lasting(obstacle(&view, true)), "it is another node's");
    view.nodes.clear();
    assert_eq!(obstacle(&view, true), None);
    world.node.status.shutting_down();
    assert_eq!(obstacle(&view, true), Some(Obstacle::Passing("the machine ends")));
}
