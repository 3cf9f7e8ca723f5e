//! The cluster's virtual address: one control plane that is well has it, and the others wait for it.
//!
//! Who has it says a record in the store that lasts as long as a lease ([`VirtualAddressRecord`]): it is written only where there is none,
//! so there is one holder at most. The holder renews the lease every second, and says to keelson-network until when the address is sure to be
//! its own: a little less than the lease's life, counted from before the store was asked. So the address leaves a node that is cut off, or
//! whose keelson-cluster is gone, before another one can get it. What cannot be ruled out is a machine whose clocks stand still, as those of
//! a paused virtual machine do: it has the address for those few seconds more when it goes on, and the other announces it again and again.
//!
//! A node whose API server is not ready, that shuts down or has no link in the address' network does not compete, and gives the address up.
//! Nobody takes it from a holder that is well: a move breaks connections.
//!
//! A process that was started again finds the record of the one before, and goes on with its lease.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use keelson_api::Phase;
use keelson_config::network_state::NetworkState;
use keelson_config::virtual_address::{LOOK, VirtualAddress};
use keelson_pki::{Files, Mode, Owner};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::identity::Identity;
use crate::node::Node;
use crate::proxy_feed::changed;
use crate::registry::{Change, LeaseId, Registry, RegistryError, View, VirtualAddressRecord};
use crate::report;

/// How long a holder that has died keeps others from the address. The store's least is two seconds.
const LEASE_SECONDS: u32 = 6;
/// The address goes by so much earlier than the lease. Clocks of machines differ by far less in a few seconds, and keelson-network takes
/// milliseconds.
const MARGIN: Duration = Duration::from_secs(1);
/// Between two renewals, or two looks whether the address is free.
const INTERVAL: Duration = Duration::from_secs(1);
/// A renewal that takes longer is tried again: the store that was asked may have lost its leader meanwhile, and found another.
const RENEWAL_DEADLINE: Duration = Duration::from_millis(2500);
/// What a look may take while there is no deadline to keep.
const LOOK_DEADLINE: Duration = Duration::from_secs(10);

/// For how long the address is sure after the store was asked.
const TERM: Duration = Duration::from_secs(LEASE_SECONDS as u64).saturating_sub(MARGIN);

/// For ever; returns at once if the cluster has no such address.
pub async fn keep(
    node: Arc<Node>,
    files: Arc<dyn Files>,
    registry: Arc<Registry>,
    identity: Identity,
    mut ready: watch::Receiver<bool>,
) {
    let Some(address) = node.cluster().virtual_address else { return };
    let mut status = node.status.watch();
    let mut network = node.network();
    let mut views = registry.view();
    let mut keeper = Keeper {
        contender: Contender::new(&registry, address, &identity),
        node: &node,
        files: &files,
        written: None,
        complaint: report::Complaint::default(),
    };
    loop {
        let is_ready = *ready.borrow_and_update();
        let next = keeper.look(is_ready).await;
        tokio::select! {
            // Who has it, and who was removed.
            () = changed(Some(&mut views)) => {}
            () = changed(Some(&mut ready)) => {}
            () = changed(Some(&mut network)) => {}
            // The machine may be about to end.
            () = changed(Some(&mut status)) => {}
            () = tokio::time::sleep(INTERVAL), if next == Next::Soon => {}
        }
    }
}

/// When there is something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Soon,
    /// What it waits for is watched.
    News,
}

/// Whose the address is, as this node knows.
pub fn shown(node: &Node) -> Option<keelson_api::VirtualAddress> {
    let address = node.cluster().virtual_address?.to_string();
    let member = node.member_now();
    let mut shown = keelson_api::VirtualAddress { address, holder: None, here: false };
    let Some(member) = member else { return Some(shown) };
    if let Some(worker) = &member.worker {
        shown.holder.clone_from(&worker.settings_now().virtual_address_holder);
    }
    // A record that was read before its lease can have ended.
    let registry = member.registry.as_ref().filter(|registry| !registry.is_silent_for(TERM));
    let view = registry.and_then(|registry| registry.view_now());
    if let Some(record) = view.as_ref().and_then(|view| view.virtual_addresses.get(&shown.address)) {
        shown.holder = Some(record.name.clone());
        shown.here = record.uid == member.identity.node_uid.as_str();
    }
    Some(shown)
}

struct Keeper<'a> {
    contender: Contender<'a>,
    node: &'a Node,
    files: &'a Arc<dyn Files>,
    /// What keelson-network was told by this process.
    written: Option<VirtualAddress>,
    complaint: report::Complaint,
}

impl Keeper<'_> {
    async fn look(&mut self, is_ready: bool) -> Next {
        let view = self.contender.registry.view_now();
        let obstacle = obstacle(self.node, view.as_deref(), self.contender.address, &self.contender.uid, is_ready);
        if let Some(obstacle) = obstacle {
            self.give_up(&obstacle).await;
            return Next::News;
        }
        if self.contender.claim.is_none() && view.is_some_and(|view| self.contender.is_beaten(&view)) {
            return Next::News;
        }
        let had_it = self.contender.claim.is_some();
        let left = self.contender.claim.map(|claim| claim.until.saturating_sub(since_boot()).min(RENEWAL_DEADLINE));
        match timeout(left.unwrap_or(LOOK_DEADLINE), self.contender.look(&since_boot)).await {
            Ok(Ok(())) => self.complaint.passed(),
            // The registry's own keeper says when the store does not answer.
            Ok(Err(RegistryError::Unavailable(_))) | Err(_) => {}
            Ok(Err(error)) => self.complaint.of(report::chain(&error)),
        }
        self.contender.expire(since_boot());
        let address = self.contender.address;
        match (had_it, self.contender.claim.is_some()) {
            (false, true) => report::info(format!("the virtual address {address} is this node's")),
            (true, false) => {
                report::info(format!("the virtual address {address} is lost: its lease could not be renewed in time"));
            }
            _ => {}
        }
        self.tell().await;
        Next::Soon
    }

    /// First the address goes, then the record: nobody takes it before.
    async fn give_up(&mut self, obstacle: &Obstacle) {
        if let Obstacle::Lasting(reason) = obstacle {
            self.complaint
                .of(format!("the virtual address {} cannot be this node's: {reason}", self.contender.address));
        }
        let Some(claim) = self.contender.claim.take() else { return };
        report::info(format!("the virtual address {} is given up: {}", self.contender.address, obstacle.reason()));
        self.tell().await;
        tokio::time::sleep(LOOK * 2).await;
        // Else the lease ends by itself.
        if let Ok(Err(error)) = timeout(TERM, self.contender.registry.revoke(claim.lease)).await {
            self.complaint.of(report::chain(&error));
        }
    }

    /// Says nothing before there is something to say: what an earlier process wrote has an end by itself.
    async fn tell(&mut self) {
        let until = self.contender.claim.map(|claim| u64::try_from(claim.until.as_millis()).unwrap_or(u64::MAX));
        let wish = VirtualAddress { address: self.contender.address, until_milliseconds: until };
        if self.written == Some(wish) || (self.written.is_none() && until.is_none()) {
            return;
        }
        match write(self.node, self.files, wish).await {
            Ok(()) => self.written = Some(wish),
            Err(reason) => self.complaint.of(format!("telling keelson-network of the virtual address: {reason}")),
        }
    }
}

async fn write(node: &Node, files: &Arc<dyn Files>, wish: VirtualAddress) -> Result<(), String> {
    let content = serde_json::to_vec(&wish).map_err(|error| error.to_string())?;
    let (files, path) = (Arc::clone(files), node.paths.virtual_address());
    let write = move || files.update(&path, &content, Mode::PUBLIC, Owner::ROOT);
    match tokio::task::spawn_blocking(write).await {
        Ok(result) => result.map(drop).map_err(|error| report::chain(&error)),
        Err(error) => Err(error.to_string()),
    }
}

/// Why the address cannot be this node's.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Obstacle {
    /// Others tell of it already.
    Passing(&'static str),
    /// It takes somebody to mend it.
    Lasting(String),
}

impl Obstacle {
    fn reason(&self) -> &str {
        match self {
            Self::Passing(reason) => reason,
            Self::Lasting(reason) => reason,
        }
    }
}

fn obstacle(node: &Node, view: Option<&View>, address: IpAddr, uid: &str, is_ready: bool) -> Option<Obstacle> {
    if node.status.phase() == Phase::ShuttingDown {
        return Some(Obstacle::Passing("the machine ends"));
    }
    if !is_ready {
        return Some(Obstacle::Passing("its API server is not ready"));
    }
    if view.is_some_and(|view| view.removed.contains_key(uid)) {
        return Some(Obstacle::Passing("the node was removed"));
    }
    if node.addresses().contains(&address) {
        return Some(Obstacle::Lasting("it is the node's own".to_owned()));
    }
    let text = address.to_string();
    let owner = view.and_then(|view| view.nodes.values().find(|record| record.addresses.contains(&text)));
    if let Some(owner) = owner {
        return Some(Obstacle::Lasting(format!("it is an address of the node {}", owner.name)));
    }
    let reaches = reaches(&node.network().borrow(), address);
    (!reaches).then(|| Obstacle::Lasting("no link that works is in its network".to_owned()))
}

/// Where keelson-network would put it (`keelson_network::virtual_address::place`), if there is a cable.
fn reaches(network: &NetworkState, address: IpAddr) -> bool {
    let links = network.links.iter().filter(|link| link.carrier);
    links.flat_map(|link| &link.addresses).any(|net| net.prefix_len() < net.max_prefix_len() && net.contains(&address))
}

/// One control plane that wants the address.
#[derive(Debug)]
struct Contender<'a> {
    registry: &'a Registry,
    address: IpAddr,
    name: String,
    uid: String,
    claim: Option<Claim>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Claim {
    lease: LeaseId,
    /// Since boot. Until then nobody else can have the address.
    until: Duration,
}

impl<'a> Contender<'a> {
    fn new(registry: &'a Registry, address: IpAddr, identity: &Identity) -> Self {
        let (name, uid) = (identity.name.clone(), identity.node_uid.as_str().to_owned());
        Self { registry, address, name, uid, claim: None }
    }

    /// Whether somebody else has it. That ends with the record.
    fn is_beaten(&self, view: &View) -> bool {
        view.virtual_addresses.get(&self.address.to_string()).is_some_and(|record| record.uid != self.uid)
    }

    /// Renews what this node has, or takes what nobody has.
    async fn look(&mut self, now: &(impl Fn() -> Duration + Sync)) -> Result<(), RegistryError> {
        match self.claim {
            Some(claim) => self.renew(claim.lease, now).await,
            None => self.compete(now).await,
        }
    }

    async fn renew(&mut self, lease: LeaseId, now: &(impl Fn() -> Duration + Sync)) -> Result<(), RegistryError> {
        let asked = now();
        let lasts = self.registry.keep_alive(lease).await?;
        self.claim = lasts.then_some(Claim { lease, until: asked + TERM });
        Ok(())
    }

    async fn compete(&mut self, now: &(impl Fn() -> Duration + Sync)) -> Result<(), RegistryError> {
        let id = self.address.to_string();
        match self.registry.get::<VirtualAddressRecord>(&id).await? {
            // An earlier process of this node, or an answer that got lost.
            Some(stored) if stored.value.uid == self.uid => self.renew(stored.value.lease, now).await,
            Some(_) => Ok(()),
            None => self.take(id, now).await,
        }
    }

    async fn take(&mut self, address: String, now: &(impl Fn() -> Duration + Sync)) -> Result<(), RegistryError> {
        let asked = now();
        let lease = self.registry.grant(LEASE_SECONDS).await?;
        let record =
            VirtualAddressRecord { version: 1, address, name: self.name.clone(), uid: self.uid.clone(), lease };
        let change = Change::default().expect::<VirtualAddressRecord>(&record.address, 0).put(&record)?;
        if self.registry.commit(change.for_as_long_as(lease)).await? {
            self.claim = Some(Claim { lease, until: asked + TERM });
            return Ok(());
        }
        // Somebody was faster.
        self.registry.revoke(lease).await
    }

    /// What could not be renewed in time is this node's no longer.
    fn expire(&mut self, now: Duration) {
        self.claim = self.claim.filter(|claim| now < claim.until);
    }
}

/// Suspension included: a lease runs on while a machine sleeps.
fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests;
