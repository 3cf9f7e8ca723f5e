//! The ways to other nodes' pods: routes to nodes on the same link, and a VXLAN tunnel to all others. And out: what pods send
//! to elsewhere goes under the node's address ([`masquerade`]).
//!
//! keelson-cluster says which members have which ranges and where they were verified to be ([`PodRoutes`]); what follows
//! from that is a pure function ([`plan`]), and the difference to what the kernel has is made up ([`kernel`]), so that it
//! does not matter what was there before or who took something away.
//!
//! The tunnel needs no agreement between nodes: the hardware address of a node's end is made from its pod range, and so is
//! the address that routes lead through (the range's own, which no pod gets). There is no multicast and nothing is learnt.
//!
//! Not here: tunnels for IPv6 ranges or between IPv6 addresses; both are routed between nodes of the same link only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use keelson_config::pod_routes::{PodRoutes, TUNNEL_OVERHEAD};

use crate::links::{Address, Link, Links, is_global};
use crate::say::{Complaint, failed, say};

mod kernel;
mod masquerade;

/// At most fifteen characters, netdevice(7).
pub const TUNNEL: &str = "keelson-vxlan";
/// Of the first Ethernet frame that is too large for nobody.
const MTU_DEFAULT: u32 = 1500;
/// Locally administered, RFC 7042, 2.1; then `K`.
const MAC_PREFIX: [u8; 2] = [0x02, 0x4b];

/// How often the wish is looked at: it lies in memory.
const LOOK: Duration = Duration::from_secs(1);
/// What somebody else changed is put right after this long, and links that came and went are seen.
const RESYNC: Duration = Duration::from_secs(15);

pub type Mac = [u8; 6];

/// What the kernel shall have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub tunnel: Option<Tunnel>,
    pub routes: BTreeSet<PodRoute>,
    /// The other ends of the tunnel: the address that routes lead through, by hardware address with where it is.
    pub peers: BTreeMap<Mac, Peer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    pub mac: Mac,
    pub address: Ipv4Addr,
    pub mtu: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub gateway: Ipv4Addr,
    pub remote: IpAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodRoute {
    pub destination: IpNet,
    pub gateway: IpAddr,
    /// The link that leads there; `None` is the tunnel.
    pub link: Option<u32>,
}

/// Keeps the kernel as it is asked for in the file, for as long as the process runs.
pub async fn run(path: PathBuf) {
    let kernel = match kernel::Kernel::connect() {
        Ok(kernel) => kernel,
        Err(error) => return failed(&PodsError::Connect(error)),
    };
    let mut keeper = Keeper { path, kernel, done: None, age: Duration::ZERO, complaint: Complaint::default() };
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
        self.kernel.reconcile(&wish).await?;
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
    let own = wish.own.iter().find_map(first_address);
    for node in &wish.nodes {
        for range in &node.ranges {
            let same_family = |address: &&IpAddr| address.is_ipv4() == range.addr().is_ipv4();
            let direct = node.addresses.iter().filter(same_family).find_map(|address| {
                let link = links.iter().find(|link| leads_to(link, *address))?;
                Some(PodRoute { destination: range.trunc(), gateway: *address, link: Some(link.index) })
            });
            if let Some(route) = direct {
                plan.routes.insert(route);
                continue;
            }
            let remote = node.addresses.iter().find(|address| address.is_ipv4());
            if let (Some(_), Some(gateway), Some(remote)) = (own, first_address(range), remote) {
                let through = PodRoute { destination: range.trunc(), gateway: gateway.into(), link: None };
                plan.routes.insert(through);
                plan.peers.insert(mac(gateway), Peer { gateway, remote: *remote });
            }
        }
    }
    if !plan.peers.is_empty() {
        let mtu = links.iter().filter(|link| carries_nodes(link)).map(|link| link.mtu).min().unwrap_or(MTU_DEFAULT);
        let mtu = mtu.saturating_sub(TUNNEL_OVERHEAD);
        plan.tunnel = own.map(|address| Tunnel { mac: mac(address), address, mtu });
    }
    plan
}

/// The address of the range itself; tunnels are for IPv4 ranges.
fn first_address(range: &IpNet) -> Option<Ipv4Addr> {
    match range {
        IpNet::V4(range) => Some(range.network()),
        IpNet::V6(_) => None,
    }
}

fn mac(address: Ipv4Addr) -> Mac {
    let ([first, second], [a, b, c, d]) = (MAC_PREFIX, address.octets());
    [first, second, a, b, c, d]
}

/// Whether other nodes can be beyond the link: not if pods hang on it, or if it is a part of another.
fn carries_nodes(link: &Link) -> bool {
    let of_pods = ["bridge", "vxlan", "dummy", "tun"];
    let own = |address: &Address| !address.unusable && is_global(address.net.addr());
    link.up
        && link.controller.is_none()
        && !link.kind.as_deref().is_some_and(|kind| of_pods.contains(&kind))
        && link.addresses.iter().any(own)
}

fn leads_to(link: &Link, address: IpAddr) -> bool {
    carries_nodes(link) && link.addresses.iter().any(|own| !own.unusable && own.net.contains(&address))
}

#[cfg(test)]
mod tests;
