//! What is published: one pure function from what the daemon knows to [`NetworkState`].

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use keelson_config::network_state::{LeaseState, LinkState, NetworkState, TimeState};
use keelson_config::{AddressMethod, NodeConfig};

use crate::advertisements::Advertised;
use crate::dhcp::{Client, Lease};
use crate::dhcp6::Information;
use crate::links::{Address, Link, is_global};
use crate::plan::Plan;
use crate::port::PortV6;
use crate::resolver;

/// A link that is ours to configure, as the daemon sees it now.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub link: &'a Link,
    pub plan: &'a Plan,
    pub client: Option<&'a Client>,
    pub v6: Option<SeenV6<'a>>,
}

/// What IPv6's servers and routers say.
#[derive(Debug, Clone, Copy)]
pub struct SeenV6<'a> {
    pub information: &'a Information,
    pub advertised: &'a Advertised,
}

impl<'a> From<&'a PortV6> for SeenV6<'a> {
    fn from(port: &'a PortV6) -> Self {
        Self { information: port.client.information(), advertised: &port.advertised }
    }
}

impl<'a> Seen<'a> {
    fn lease(&self) -> Option<&'a Lease> {
        self.client.and_then(Client::lease)
    }

    fn gateway(&self) -> Option<IpAddr> {
        match (&self.plan.method, self.lease()) {
            (AddressMethod::Static(addressing), _) => addressing.gateway,
            (_, Some(lease)) => lease.gateway().map(IpAddr::V4),
            _ => None,
        }
    }

    fn nameservers(&self) -> impl Iterator<Item = IpAddr> + 'a {
        let leased = self.lease().into_iter().flat_map(|lease| lease.nameservers.iter().copied().map(IpAddr::V4));
        let by_server = self.v6.into_iter().flat_map(|v6| v6.information.nameservers.iter().copied());
        let by_router = self.v6.into_iter().flat_map(|v6| v6.advertised.servers());
        self.plan.nameservers.iter().copied().chain(leased).chain(by_server.chain(by_router).map(IpAddr::V6))
    }

    fn search(&self) -> impl Iterator<Item = String> + 'a {
        let leased = self.lease().into_iter().flat_map(|lease| lease.search.iter());
        let by_server = self.v6.into_iter().flat_map(|v6| v6.information.search.iter());
        let by_router = self.v6.into_iter().flat_map(|v6| v6.advertised.domains());
        leased.chain(by_server).chain(by_router).cloned()
    }

    fn ntp_servers(&self) -> impl Iterator<Item = IpAddr> + 'a {
        let leased = self.lease().into_iter().flat_map(|lease| lease.ntp_servers.iter().copied().map(IpAddr::V4));
        let by_server = self.v6.into_iter().flat_map(|v6| v6.information.ntp_servers.iter().copied().map(IpAddr::V6));
        leased.chain(by_server)
    }

    /// Addresses that others can reach the node by, on a link that works.
    fn usable(&self) -> impl Iterator<Item = IpAddr> + 'a {
        let link = self.link;
        let own = |address: &&Address| !address.unusable && !address.is_virtual && is_global(address.net.addr());
        link.addresses.iter().filter(own).map(|address| address.net.addr())
    }
}

/// The clocks at the moment of publishing.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub since_boot: Duration,
    /// Since the epoch.
    pub wall: Duration,
}

/// Composes what is to be published. `before` is what was published last: the node keeps its address while it can.
pub fn compose(
    config: &NodeConfig,
    seen: &[Seen<'_>],
    time: TimeState,
    problems: Vec<String>,
    before: &NetworkState,
    now: Now,
) -> NetworkState {
    let nameservers = config.network.nameservers.iter().copied().chain(seen.iter().flat_map(Seen::nameservers));
    let leased = seen.iter().flat_map(Seen::search);
    NetworkState {
        node_addresses: node_addresses(config, seen, &before.node_addresses),
        links: seen.iter().map(|seen| link_state(seen, now, before)).collect(),
        nameservers: resolver::nameservers(nameservers),
        search: resolver::search(config.network.search.iter().cloned().chain(leased)),
        time,
        problems,
    }
}

/// At most one address of each family, that of the pod network first.
fn node_addresses(config: &NodeConfig, seen: &[Seen<'_>], before: &[IpAddr]) -> Vec<IpAddr> {
    let preferred = config.cluster.pod_cidr.first().addr().is_ipv4();
    let of_family = |v4: bool| {
        let candidates = candidates(config, seen).into_iter().filter(|address| address.is_ipv4() == v4);
        let candidates: Vec<IpAddr> = candidates.collect();
        let kept = before.iter().copied().find(|address| candidates.contains(address));
        kept.or(candidates.first().copied())
    };
    [of_family(preferred), of_family(!preferred)].into_iter().flatten().collect()
}

/// Addresses that may be the node's, the best first: by the order of the subnets where they are configured; else by
/// the default route, and then by the order of the links.
fn candidates(config: &NodeConfig, seen: &[Seen<'_>]) -> Vec<IpAddr> {
    let subnets = &config.network.node_subnets;
    let mut links: Vec<&Seen<'_>> = seen.iter().collect();
    links.sort_by_key(|seen| (seen.gateway().is_none(), seen.link.index));
    let addresses: Vec<IpAddr> = links.into_iter().flat_map(Seen::usable).collect();
    if subnets.is_empty() {
        return addresses;
    }
    let inside =
        |subnet: &IpNet| addresses.iter().copied().filter(|address| subnet.contains(address)).collect::<Vec<_>>();
    subnets.iter().flat_map(inside).collect()
}

fn link_state(seen: &Seen<'_>, now: Now, before: &NetworkState) -> LinkState {
    let link = seen.link;
    let lease = seen.lease();
    let published = before.links.iter().find(|known| known.index == link.index).and_then(|known| known.lease.as_ref());
    LinkState {
        name: link.name.clone(),
        index: link.index,
        mac: link.mac,
        mtu: link.mtu,
        carrier: link.carrier,
        addresses: link.addresses.iter().map(|address| address.net).collect(),
        gateway: seen.gateway(),
        nameservers: seen.nameservers().collect(),
        search: seen.search().collect(),
        ntp_servers: seen.ntp_servers().collect(),
        lease: lease.map(|lease| lease_state(lease, seen.client.map_or("", Client::state), now, published)),
    }
}

/// Wall-clock times are computed when the lease changes and then kept: computed anew each time they would differ by
/// a second now and then, and the file would change for nothing.
fn lease_state(lease: &Lease, state: &str, now: Now, published: Option<&LeaseState>) -> LeaseState {
    let wall = |at: Duration| (now.wall + at).saturating_sub(now.since_boot).as_secs();
    let fresh = LeaseState {
        server: IpAddr::V4(lease.server),
        address: IpNet::V4(lease.address),
        obtained: wall(lease.obtained),
        expires: lease.expires().map(wall),
        state: state.to_owned(),
        hostname: lease.hostname.clone(),
    };
    match published {
        Some(known) if known.address == fresh.address && known.obtained.abs_diff(fresh.obtained) <= 1 => {
            LeaseState { obtained: known.obtained, expires: known.expires, ..fresh }
        }
        _ => fresh,
    }
}

#[cfg(test)]
mod tests;
