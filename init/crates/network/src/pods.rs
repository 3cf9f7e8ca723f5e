//! The ways to other nodes' pods: routes to nodes on the same link, and a VXLAN tunnel to all others. And out: what pods send
//! to elsewhere goes under the node's address ([`masquerade`]).
//!
//! keelson-cluster says which members have which ranges and where they were verified to be ([`PodRoutes`]); what follows
//! from that is a pure function ([`plan`]), and the difference to what the kernel has is made up ([`kernel`]), so that it
//! does not matter what was there before or who took something away.
//!
//! A tunnel needs no agreement between nodes: the hardware address of a node's end is made from its pod range, and so is what
//! routes lead through: for IPv4 the range's own address, which no pod gets, and for IPv6 the link-local address that the kernel
//! makes from that hardware address. There is no multicast and nothing is learnt.
//!
//! A VXLAN device sends to addresses of one family, so there are two ([`Outer`]), each only while somebody is behind it; pods'
//! packets of either family go through both. Nodes that have IPv4 addresses use those.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use keelson_config::pod_routes::{PodNode, PodRoutes, TUNNEL_OVERHEAD_IPV4, TUNNEL_OVERHEAD_IPV6};

use crate::links::{Address, Link, Links, is_global};
use crate::say::{Complaint, failed, say};

mod kernel;
mod masquerade;

/// Of the first Ethernet frame that is too large for nobody.
const MTU_DEFAULT: u32 = 1500;
/// Locally administered, RFC 7042, 2.1; then `K`.
const MAC_PREFIX: [u8; 2] = [0x02, 0x4b];

/// How often the wish is looked at: it lies in memory.
const LOOK: Duration = Duration::from_secs(1);
/// What somebody else changed is put right after this long, and links that came and went are seen.
const RESYNC: Duration = Duration::from_secs(15);

pub type Mac = [u8; 6];

/// The family of the addresses that a tunnel runs between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outer {
    Ipv4,
    Ipv6,
}

impl Outer {
    /// The preferred one first.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// At most fifteen characters, netdevice(7).
    pub fn device(self) -> &'static str {
        match self {
            Self::Ipv4 => "keelson-vxlan",
            Self::Ipv6 => "keelson-vxlan6",
        }
    }

    fn overhead(self) -> u32 {
        match self {
            Self::Ipv4 => TUNNEL_OVERHEAD_IPV4,
            Self::Ipv6 => TUNNEL_OVERHEAD_IPV6,
        }
    }
}

/// What the kernel shall have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub tunnels: BTreeMap<Outer, Tunnel>,
    pub routes: BTreeSet<PodRoute>,
    /// Nodes with pods that neither a link nor a tunnel leads to.
    pub unreachable: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    pub mac: Mac,
    /// What the node itself sends to pods under; of IPv6 it has others to choose from.
    pub address: Option<Ipv4Addr>,
    pub mtu: u32,
    /// The other ends, by hardware address.
    pub peers: BTreeMap<Mac, Peer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The addresses that routes lead through.
    pub gateways: BTreeSet<IpAddr>,
    pub remote: IpAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodRoute {
    pub destination: IpNet,
    pub gateway: IpAddr,
    pub way: Way,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// By its index.
    Link(u32),
    Tunnel(Outer),
}

/// Keeps the kernel as it is asked for in the file, for as long as the process runs.
pub async fn run(path: PathBuf) {
    let kernel = match kernel::Kernel::connect() {
        Ok(kernel) => kernel,
        Err(error) => return failed(&PodsError::Connect(error)),
    };
    let mut keeper = Keeper {
        path,
        kernel,
        done: None,
        age: Duration::ZERO,
        complaint: Complaint::default(),
        unreachable: Complaint::default(),
    };
    loop {
        if let Err(error) = keeper.look().await {
            // Tried again at the next look.
            keeper.complaint.of(&error);
        }
        tokio::time::sleep(LOOK).await;
        keeper.age += LOOK;
    }
}

struct Keeper {
    path: PathBuf,
    kernel: kernel::Kernel,
    /// The wish that the kernel has, and since when.
    done: Option<PodRoutes>,
    age: Duration,
    complaint: Complaint,
    /// About nodes that no way leads to.
    unreachable: Complaint,
}

impl Keeper {
    async fn look(&mut self) -> Result<(), PodsError> {
        let read = PodRoutes::read(&self.path);
        let Some(wish) = read.map_err(|source| PodsError::Read { path: self.path.clone(), source })? else {
            return Ok(());
        };
        let news = self.done.as_ref() != Some(&wish);
        if !news && self.age < RESYNC {
            return Ok(());
        }
        self.age = Duration::ZERO;
        if self.done.as_ref().is_none_or(|done| (&done.own, &done.cluster) != (&wish.own, &wish.cluster)) {
            masquerade::apply(&wish).await?;
        }
        let plan = self.kernel.reconcile(&wish).await?;
        if plan.unreachable.is_empty() {
            self.unreachable.passed();
        } else {
            self.unreachable
                .of(&PodsError::NoWay { nodes: plan.unreachable.into_iter().collect::<Vec<_>>().join(", ") });
        }
        if news {
            say(format_args!("ways to the pods of {} other nodes", wish.nodes.len()));
        }
        self.done = Some(wish);
        self.complaint.passed();
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
enum PodsError {
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("no way leads to the pods of {nodes}: none of their addresses is of a family that this node has one of")]
    NoWay { nodes: String },
    #[error("connecting to the kernel over netlink")]
    Connect(#[source] std::io::Error),
    #[error(transparent)]
    Kernel(#[from] crate::kernel::KernelError),
    #[error(transparent)]
    Masquerade(#[from] masquerade::MasqueradeError),
}

/// What follows from a wish on a node with these links.
pub fn plan(wish: &PodRoutes, links: &Links) -> Plan {
    let mut plan = Plan::default();
    for node in &wish.nodes {
        for range in &node.ranges {
            if let Some(route) = direct(node, range, links) {
                plan.routes.insert(route);
            } else {
                tunnel(&mut plan, wish, node, range, links);
            }
        }
    }
    plan
}

/// The way to a range of a node that is on the same link.
fn direct(node: &PodNode, range: &IpNet, links: &Links) -> Option<PodRoute> {
    let same_family = |address: &&IpAddr| address.is_ipv4() == range.addr().is_ipv4();
    node.addresses.iter().filter(same_family).find_map(|address| {
        let link = links.iter().find(|link| leads_to(link, *address))?;
        Some(PodRoute { destination: range.trunc(), gateway: *address, way: Way::Link(link.index) })
    })
}

/// The way to a range of a node that is elsewhere. As long as this node has no range, there is nothing to make its end from.
fn tunnel(plan: &mut Plan, wish: &PodRoutes, node: &PodNode, range: &IpNet, links: &Links) {
    let (Some(own), Some(mac)) = (hardware_address(&wish.own), hardware_address(&node.ranges)) else { return };
    let Some(remote) = remote(node, links) else {
        plan.unreachable.insert(node.name.clone());
        return;
    };
    let (outer, gateway) = (Outer::of(remote), gateway(range, mac));
    plan.routes.insert(PodRoute { destination: range.trunc(), gateway, way: Way::Tunnel(outer) });
    let tunnel = plan.tunnels.entry(outer).or_insert_with(|| Tunnel {
        mac: own,
        address: wish.own.iter().find_map(first_address),
        mtu: mtu(links, outer),
        peers: BTreeMap::new(),
    });
    let peer = tunnel.peers.entry(mac).or_insert_with(|| Peer { gateways: BTreeSet::new(), remote });
    peer.gateways.insert(gateway);
}

/// Where the other end of a tunnel is: both nodes need an address of the family.
fn remote(node: &PodNode, links: &Links) -> Option<IpAddr> {
    let has = |outer| {
        let of_family = |address: &Address| usable(address) && Outer::of(address.net.addr()) == outer;
        links.iter().filter(|link| carries_nodes(link)).any(|link| link.addresses.iter().any(of_family))
    };
    let mut families = Outer::ALL.into_iter().filter(|outer| has(*outer));
    families.find_map(|outer| node.addresses.iter().copied().find(|address| Outer::of(*address) == outer))
}

fn mtu(links: &Links, outer: Outer) -> u32 {
    let smallest = links.iter().filter(|link| carries_nodes(link)).map(|link| link.mtu).min();
    smallest.unwrap_or(MTU_DEFAULT).saturating_sub(outer.overhead())
}

/// Of a node's end of the tunnels: from its IPv4 range, or else from the part of an IPv6 range that tells nodes apart, which is
/// the end of the prefix.
fn hardware_address(ranges: &[IpNet]) -> Option<Mac> {
    let of_ipv4 = ranges.iter().find_map(first_address).map(u32::from);
    let of_ipv6 = || ranges.iter().find_map(prefix_end);
    let ([first, second], [a, b, c, d]) = (MAC_PREFIX, of_ipv4.or_else(of_ipv6)?.to_be_bytes());
    Some([first, second, a, b, c, d])
}

fn prefix_end(range: &IpNet) -> Option<u32> {
    let IpNet::V6(range) = range else { return None };
    let prefix = u128::from(range.network()).checked_shr(128 - u32::from(range.prefix_len()))?;
    u32::try_from(prefix & u128::from(u32::MAX)).ok()
}

/// The address of the range itself.
fn first_address(range: &IpNet) -> Option<Ipv4Addr> {
    match range {
        IpNet::V4(range) => Some(range.network()),
        IpNet::V6(_) => None,
    }
}

/// What a route to the range leads through, at the end with this hardware address. The kernel looks at a link-local address on
/// the link alone, whatever else is routed elsewhere.
fn gateway(range: &IpNet, mac: Mac) -> IpAddr {
    match range {
        IpNet::V4(range) => range.network().into(),
        IpNet::V6(_) => link_local(mac).into(),
    }
}

/// RFC 4291, appendix A.
fn link_local(mac: Mac) -> Ipv6Addr {
    let [first, second, third, fourth, fifth, sixth] = mac;
    let identifier = [first ^ 2, second, third, 0xff, 0xfe, fourth, fifth, sixth];
    Ipv6Addr::from((0xfe80_u128 << 112) | u128::from(u64::from_be_bytes(identifier)))
}

/// Whether other nodes can be beyond the link: not if pods hang on it, or if it is a part of another.
fn carries_nodes(link: &Link) -> bool {
    let of_pods = ["bridge", "vxlan", "dummy", "tun"];
    link.up
        && link.controller.is_none()
        && !link.kind.as_deref().is_some_and(|kind| of_pods.contains(&kind))
        && link.addresses.iter().any(usable)
}

fn usable(address: &Address) -> bool {
    !address.unusable && is_global(address.net.addr())
}

fn leads_to(link: &Link, address: IpAddr) -> bool {
    carries_nodes(link) && link.addresses.iter().any(|own| !own.unusable && own.net.contains(&address))
}

#[cfg(test)]
mod tests;
