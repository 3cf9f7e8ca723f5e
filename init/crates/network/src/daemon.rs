//! The daemon: one loop over everything that can happen, which ends each turn by publishing what has become of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use keelson_config::network_state::{NetworkState, TimeState};
use keelson_config::{AddressMethod, LinkSelector, NodeConfig};
use keelson_control::notify;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::advertisements::Heard;
use crate::advertisements::socket::Ears;
use crate::dhcp::machine::Random;
use crate::dhcp::{Client, Event};
use crate::dhcp6;
use crate::kernel::{Change, Changes, Kernel, KernelError};
use crate::links::{Link, Links};
use crate::plan::{choose_any_static, plan};
use crate::port::{Context, Packet, Port, Received, tell};
use crate::say::{failed, say};
use crate::sntp::{self, Servers};
use crate::state::{self, Seen};
use crate::waiting::{Awaited, Waiting};
use crate::{cut, files, pods, resolver, virtual_address};

/// DHCP answers on their way to the loop; more at once is a flood, which the socket's buffer then bounds.
const PACKETS_QUEUED: usize = 64;
/// The loop turns at least this often, if only to see that the clock went on while the machine was suspended.
const TURN_MAX: Duration = Duration::from_mins(1);

/// Where the daemon reads and writes.
#[derive(Debug, Clone)]
pub struct Paths {
    pub node_config: PathBuf,
    pub clock_floor: PathBuf,
    /// `state.json`, `resolv.conf` and the leases.
    pub run: PathBuf,
    /// What keelson-cluster asks for.
    pub pod_routes: PathBuf,
    pub departed: PathBuf,
    pub virtual_address: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            node_config: keelson_config::NODE_CONFIG_PATH.into(),
            clock_floor: keelson_config::CLOCK_FLOOR_PATH.into(),
            run: "/run/keelson/network".into(),
            pod_routes: keelson_config::pod_routes::POD_ROUTES_PATH.into(),
            departed: keelson_config::departed::DEPARTED_PATH.into(),
            virtual_address: keelson_config::virtual_address::VIRTUAL_ADDRESS_PATH.into(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("cannot read {path}")]
    ReadConfig { path: String, source: io::Error },
    #[error("{path} is not a node's configuration")]
    ParseConfig { path: String, source: serde_json::Error },
    #[error("cannot connect to the kernel over netlink")]
    Connect(#[source] io::Error),
    #[error("cannot learn what links there are")]
    Load(#[source] KernelError),
    #[error("cannot listen for what routers advertise")]
    Listen(#[source] io::Error),
    #[error("the netlink connection ended")]
    Disconnected,
    #[error("cannot catch signals")]
    Signals(#[source] io::Error),
}

/// Runs until SIGTERM. Addresses, routes and leases stay, so that a restart of the daemon cuts nothing.
pub async fn run(paths: Paths) -> Result<(), DaemonError> {
    let config = read_config(&paths)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Signals)?;
    let (kernel, changes) = Kernel::connect().map_err(DaemonError::Connect)?;
    // Before the links are looked at, so that no advertisement is missed.
    let ears = Ears::open().map_err(DaemonError::Listen)?;
    let (servers, servers_seen) = watch::channel(Servers::default());
    // What an earlier daemon of this boot published: the node keeps its address, and a set clock stays set.
    let published = NetworkState::read(&paths.run.join("state.json")).ok().flatten().unwrap_or_default();
    let (time, time_seen) = watch::channel(published.time.clone());
    tokio::spawn(sntp::run(servers_seen, time, sntp::clock::SystemClock, paths.clock_floor.clone(), None));
    tokio::spawn(pods::run(paths.pod_routes.clone()));
    tokio::spawn(cut::run(paths.departed.clone()));
    tokio::spawn(virtual_address::run(paths.virtual_address.clone()));
    let (packets, incoming) = mpsc::channel(PACKETS_QUEUED);
    let context = Context { kernel, packets, hostname: hostname(), directory: paths.run.clone() };
    let mut daemon = Daemon {
        config,
        context,
        links: Links::default(),
        ports: BTreeMap::new(),
        any_static: None,
        waiting: Waiting::default(),
        without_links_since: keelson_sys::clock::since_boot(),
        servers,
        time: time_seen,
        published,
        resolver_text: None,
        written: false,
        ready: false,
        enslaved: BTreeSet::new(),
        paths,
    };
    daemon.start().await?;
    daemon.turn(changes, incoming, &ears, &mut terminate).await
}

fn read_config(paths: &Paths) -> Result<NodeConfig, DaemonError> {
    let path = paths.node_config.display().to_string();
    let bytes =
        std::fs::read(&paths.node_config).map_err(|source| DaemonError::ReadConfig { path: path.clone(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| DaemonError::ParseConfig { path, source })
}

/// The name that PID 1 gave the machine, for the DHCP server's books.
fn hostname() -> Option<String> {
    let name = rustix::system::uname().nodename().to_str().ok()?.to_owned();
    (!name.is_empty() && name != "(none)" && name != "localhost").then_some(name)
}

struct Daemon {
    config: NodeConfig,
    context: Context,
    links: Links,
    ports: BTreeMap<u32, Port>,
    /// The link that was chosen for a static address without a link's name. The choice holds while the link exists.
    any_static: Option<u32>,
    waiting: Waiting,
    without_links_since: Duration,
    servers: watch::Sender<Servers>,
    time: watch::Receiver<TimeState>,
    published: NetworkState,
    resolver_text: Option<String>,
    /// Whether `published` was written by this daemon.
    written: bool,
    ready: bool,
    /// Members that were added to their bond, or could not be: trying again would take the link down each time.
    enslaved: BTreeSet<u32>,
    paths: Paths,
}

/// From the kernel's generator; transaction ids should not be guessed.
struct KernelRandom;

impl Random for KernelRandom {
    fn next(&mut self) -> u32 {
        let mut bytes = [0; 4];
        // It cannot fail for so few bytes once the pool is ready; if it did, an id of zero works as well.
        let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        u32::from_ne_bytes(bytes)
    }
}

impl Daemon {
    async fn start(&mut self) -> Result<(), DaemonError> {
        for bond in &self.config.network.bonds {
            self.context.kernel.load(&mut self.links).await.map_err(DaemonError::Load)?;
            if self.links.by_name(&bond.name).is_none() {
                tell(self.context.kernel.create_bond(bond).await);
            }
        }
        self.reload().await?;
        self.publish();
        Ok(())
    }

    async fn turn(
        &mut self,
        mut changes: Changes,
        mut incoming: mpsc::Receiver<Packet>,
        ears: &Ears,
        terminate: &mut Signal,
    ) -> Result<(), DaemonError> {
        loop {
            let wait = self.next_turn();
            tokio::select! {
                change = changes.next() => self.changed(change.ok_or(DaemonError::Disconnected)?).await?,
                Some(packet) = incoming.recv() => self.received(packet).await,
                heard = ears.next() => self.hear(heard.map_err(DaemonError::Listen)?).await,
                // An error would mean that the time client is gone; then nothing changes any more.
                Ok(()) = self.time.changed() => {}
                () = tokio::time::sleep(wait) => self.tick().await,
                _ = terminate.recv() => {
                    say("stopping; addresses and routes stay");
                    return Ok(());
                }
            }
            self.publish();
        }
    }

    fn next_turn(&self) -> Duration {
        let clients = self.ports.values().filter_map(|port| port.client.as_ref()).filter_map(Client::deadline);
        let v6 = self.ports.values().filter_map(|port| port.v6.as_ref()?.deadline());
        let deadline = clients.chain(v6).chain(self.waiting.deadline()).min();
        deadline.map_or(TURN_MAX, |deadline| deadline.saturating_sub(now()).min(TURN_MAX))
    }

    async fn changed(&mut self, change: Change) -> Result<(), DaemonError> {
        match change {
            Change::Link(message) => {
                self.links.link_changed(&message);
                self.settle(message.header.index).await;
            }
            Change::LinkRemoved(message) => {
                self.links.link_removed(&message);
                self.forget(message.header.index);
            }
            Change::Address(message) => {
                self.links.address_changed(&message);
                self.settle(message.header.index).await;
            }
            Change::AddressRemoved(message) => {
                self.links.address_removed(&message);
                self.settle(message.header.index).await;
            }
            Change::Overrun => self.reload().await?,
        }
        Ok(())
    }

    async fn reload(&mut self) -> Result<(), DaemonError> {
        self.context.kernel.load(&mut self.links).await.map_err(DaemonError::Load)?;
        let gone: Vec<u32> = self.ports.keys().copied().filter(|index| self.links.get(*index).is_none()).collect();
        for index in gone {
            self.forget(index);
        }
        let all: Vec<u32> = self.links.iter().map(|link| link.index).collect();
        for index in all {
            self.settle(index).await;
        }
        Ok(())
    }

    fn forget(&mut self, index: u32) {
        self.ports.remove(&index);
        self.enslaved.remove(&index);
        if self.any_static == Some(index) {
            self.any_static = None;
        }
    }

    /// Brings about what is planned for a link, and what depends on it.
    async fn settle(&mut self, index: u32) {
        let Some(link) = self.links.get(index).cloned() else { return };
        if link.is_loopback() && !link.up {
            tell(self.context.kernel.set_up(index).await);
        }
        if self.any_static.is_none()
            && let Some(chosen) = choose_any_static(&self.config.network, &self.links)
        {
            self.any_static = Some(chosen);
        }
        self.make_dependants(&link).await;
        let Some(plan) = plan(&self.config.network, &link, self.any_static) else {
            self.ports.remove(&index);
            return;
        };
        let now = now();
        if self.ports.get(&index).is_some_and(|port| !port.fits(&link, &plan)) {
            self.ports.remove(&index);
        }
        let mut port = match self.ports.remove(&index) {
            Some(port) => port,
            None => Port::adopt(&self.context, &link, plan, now).await,
        };
        let had_carrier = port.carrier;
        port.settle(&self.context, &link, now, &mut KernelRandom).await;
        if port.carrier && !had_carrier {
            self.network_is_back();
        }
        self.ports.insert(index, port);
    }

    /// VLANs on the link, and the bond that it belongs to.
    async fn make_dependants(&mut self, link: &Link) {
        for vlan in self.config.network.vlans.iter().filter(|vlan| vlan.parent == link.name) {
            if self.links.by_name(&vlan.name).is_none() {
                tell(self.context.kernel.create_vlan(vlan, link.index).await);
            }
        }
        for bond in self.config.network.bonds.iter().filter(|bond| bond.members.contains(&link.name)) {
            if let Some(controller) = self.links.by_name(&bond.name)
                && link.controller != Some(controller.index)
                && self.enslaved.insert(link.index)
            {
                tell(self.context.kernel.enslave(link.index, controller.index).await);
            }
        }
    }

    async fn received(&mut self, packet: Packet) {
        let Some(port) = self.ports.get_mut(&packet.link) else { return };
        match (packet.message, &mut port.v6) {
            (Received::V4(message), _) => {
                port.handle(&self.context, now(), &mut KernelRandom, Event::Received(message)).await;
            }
            (Received::V6(message), Some(v6)) => {
                v6.handle(&self.context, now(), &mut KernelRandom, dhcp6::Event::Received(message)).await;
            }
            (Received::V6(_), None) => {}
        }
    }

    /// What routers said. Of a link that is not configured by others it is not believed.
    async fn hear(&mut self, heard: Vec<Heard>) {
        for heard in heard {
            let (Heard::Resolvers { link, .. } | Heard::Search { link, .. } | Heard::Flags { link, .. }) = &heard;
            let link = *link;
            if let Heard::Flags { flags, .. } = heard {
                self.links.routers_said(link, flags);
                self.settle(link).await;
                continue;
            }
            let Some(v6) = self.ports.get_mut(&link).and_then(|port| port.v6.as_mut()) else { continue };
            match heard {
                Heard::Resolvers { servers, lifetime, .. } => v6.advertised.hear_servers(servers, lifetime, now()),
                Heard::Search { domains, lifetime, .. } => v6.advertised.hear_domains(domains, lifetime, now()),
                Heard::Flags { .. } => {}
            }
        }
    }

    async fn tick(&mut self) {
        for port in self.ports.values_mut() {
            port.handle(&self.context, now(), &mut KernelRandom, Event::Timer).await;
            if let Some(v6) = &mut port.v6 {
                v6.advertised.expire(now());
                v6.handle(&self.context, now(), &mut KernelRandom, dhcp6::Event::Timer).await;
            }
        }
    }

    fn network_is_back(&self) {
        self.servers.send_modify(|servers| servers.generation += 1);
    }

    fn awaited(&self) -> Vec<Awaited> {
        let mut awaited = Vec::new();
        if self.ports.is_empty() {
            let since = self.without_links_since;
            awaited.push(Awaited {
                what: "no network link to configure".to_owned(),
                since,
                meanwhile: "still looking",
            });
        }
        for (index, port) in &self.ports {
            let Some(link) = self.links.get(*index) else { continue };
            let named = self.config.network.links.iter().any(|entry| match &entry.link {
                LinkSelector::Any => false,
                LinkSelector::Name(name) => *name == link.name,
                LinkSelector::Mac(mac) => link.mac == Some(*mac),
            });
            // An unused socket of the machine is nothing to complain of once the node has an address.
            let wanted = named || self.published.node_addresses.is_empty();
            if !port.carrier && wanted && port.plan.method != AddressMethod::Off {
                let what = format!("no carrier on {}", link.name);
                awaited.push(Awaited { what, since: port.without_carrier_since, meanwhile: "still waiting" });
            }
            if let Some(since) = port.client.as_ref().and_then(Client::unanswered_since) {
                let what = format!("no DHCP answer on {}", link.name);
                awaited.push(Awaited { what, since, meanwhile: "still asking" });
            }
        }
        awaited
    }

    /// Writes what has changed and tells whom it concerns.
    fn publish(&mut self) {
        let now = now();
        for line in self.waiting.update(now, self.awaited()) {
            say(&line);
            if let Err(error) = notify::status(&line) {
                say(format_args!("cannot tell the supervisor: {error}"));
            }
        }
        let seen: Vec<Seen<'_>> = self
            .ports
            .iter()
            .filter_map(|(index, port)| {
                let link = self.links.get(*index)?;
                Some(Seen {
                    link,
                    plan: &port.plan,
                    client: port.client.as_ref(),
                    v6: port.v6.as_ref().map(Into::into),
                })
            })
            .collect();
        let time = self.time.borrow_and_update().clone();
        let clocks = state::Now { since_boot: now, wall: keelson_sys::clock::wall() };
        let state = state::compose(&self.config, &seen, time, self.waiting.problems(), &self.published, clocks);
        self.write_resolver(&state);
        self.tell_time_servers(&state);
        if state != self.published || !self.written {
            self.write_state(state);
        }
        self.tell_supervisor();
    }

    fn write_resolver(&mut self, state: &NetworkState) {
        let text = resolver::text(&state.nameservers, &state.search);
        if self.resolver_text.as_ref() == Some(&text) {
            return;
        }
        match files::replace(&self.paths.run.join("resolv.conf"), text.as_bytes()) {
            Ok(()) => self.resolver_text = Some(text),
            Err(error) => failed(&error),
        }
    }

    /// The configured time servers, or those of the leases. A new address of the node is a reason to ask again.
    fn tell_time_servers(&self, state: &NetworkState) {
        let names = if self.config.ntp_servers.is_empty() {
            let leased = state.links.iter().flat_map(|link| link.ntp_servers.iter().map(ToString::to_string));
            resolver::limit(leased, usize::MAX)
        } else {
            self.config.ntp_servers.clone()
        };
        let readdressed = state.node_addresses != self.published.node_addresses;
        // Without an address nobody can be asked.
        let names = if state.node_addresses.is_empty() { Vec::new() } else { names };
        self.servers.send_if_modified(|servers| {
            let changed = servers.names != names || readdressed;
            servers.names = names;
            servers.generation += u64::from(changed);
            changed
        });
    }

    fn write_state(&mut self, state: NetworkState) {
        match files::replace_json(&self.paths.run.join("state.json"), &state) {
            Ok(()) => {
                self.published = state;
                self.written = true;
            }
            Err(error) => failed(&error),
        }
    }

    /// The network is up with the node's first address; what comes later is told in the state alone.
    fn tell_supervisor(&mut self) {
        if !self.ready && !self.published.node_addresses.is_empty() {
            let addresses: Vec<String> = self.published.node_addresses.iter().map(ToString::to_string).collect();
            let status = format!("node address {}", addresses.join(", "));
            say(format_args!("network up, {status}"));
            match notify::ready_with_status(&status) {
                Ok(()) => self.ready = true,
                Err(error) => say(format_args!("cannot tell the supervisor: {error}")),
            }
        }
    }
}

/// Since boot, suspension included: leases run on while a machine sleeps.
fn now() -> Duration {
    keelson_sys::clock::since_boot()
}
