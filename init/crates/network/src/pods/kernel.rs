//! Makes up the difference between a plan and what the kernel has.
//!
//! Routes carry a protocol number of their own (rtnetlink(7), `rtm_protocol`), so that ours are told from everybody else's;
//! neighbours and forwarding entries are ours because the tunnels are.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use futures::TryStreamExt as _;
use ipnet::IpNet;
use keelson_config::pod_routes::PodRoutes;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::{Handle, LinkUnspec, LinkVxlan, RouteMessageBuilder};

use super::{Mac, Outer, Plan, PodRoute, Tunnel, Way, plan};
use crate::kernel::{self, KernelError, impossible, to};
use crate::links::Links;

/// `K`: no routing daemon's number (iproute2's `rt_protos`).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(75);
/// RFC 7348, 8.
const PORT: u16 = 4789;
const IDENTIFIER: u32 = 1;

pub(super) struct Kernel {
    handle: Handle,
}

impl Kernel {
    pub(super) fn connect() -> io::Result<Self> {
        Ok(Self { handle: kernel::connect()? })
    }

    /// What it made of the wish.
    pub(super) async fn reconcile(&self, wish: &PodRoutes) -> Result<Plan, KernelError> {
        let links = kernel::links(&self.handle).await?;
        let plan = plan(wish, &links);
        let mut devices = BTreeMap::new();
        for outer in Outer::ALL {
            let device = self.settle_tunnel(outer, plan.tunnels.get(&outer), &links).await?;
            devices.extend(device.map(|index| (outer, index)));
        }
        self.settle_routes(&plan, &devices).await?;
        Ok(plan)
    }

    /// The device, if the tunnel is wanted.
    async fn settle_tunnel(
        &self,
        outer: Outer,
        wanted: Option<&Tunnel>,
        links: &Links,
    ) -> Result<Option<u32>, KernelError> {
        let present = links.by_name(outer.device());
        let Some(tunnel) = wanted else {
            if let Some(link) = present {
                // Nobody is left on the other side.
                self.handle.link().del(link.index).execute().await.map_err(to("remove the tunnel"))?;
            }
            return Ok(None);
        };
        let index = match present {
            Some(link) if link.mac.map(|mac| mac.0) == Some(tunnel.mac) => Some(link.index),
            _ => self.make_tunnel(outer, tunnel, present.map(|link| link.index)).await?,
        };
        if let Some(index) = index {
            self.fill_tunnel(index, tunnel).await?;
        }
        Ok(index)
    }

    /// One for another range is in the way: its hardware address is what the others send to.
    async fn make_tunnel(
        &self,
        outer: Outer,
        tunnel: &Tunnel,
        present: Option<u32>,
    ) -> Result<Option<u32>, KernelError> {
        if let Some(index) = present {
            self.handle.link().del(index).execute().await.map_err(to("remove the tunnel of another range"))?;
        }
        let message = LinkVxlan::new(outer.device(), IDENTIFIER)
            .port(PORT)
            .learning(false)
            .address(tunnel.mac.to_vec())
            .mtu(tunnel.mtu);
        // No address in particular, but of this family.
        let message = match outer {
            Outer::Ipv4 => message,
            Outer::Ipv6 => message.local6(Ipv6Addr::UNSPECIFIED),
        };
        self.handle.link().add(message.build()).execute().await.map_err(to("make the tunnel"))?;
        let links = kernel::links(&self.handle).await?;
        Ok(links.by_name(outer.device()).map(|link| link.index))
    }

    async fn fill_tunnel(&self, index: u32, tunnel: &Tunnel) -> Result<(), KernelError> {
        let up = LinkUnspec::new_with_index(index).mtu(tunnel.mtu).up().build();
        self.handle.link().change(up).execute().await.map_err(to("bring the tunnel up"))?;
        if let Some(address) = tunnel.address {
            let address = self.handle.address().add(index, IpAddr::V4(address), 32).replace();
            address.execute().await.map_err(to("give the tunnel its address"))?;
        }
        for family in [AddressFamily::Bridge, AddressFamily::Inet, AddressFamily::Inet6] {
            self.forget_peers(index, family, tunnel).await?;
        }
        for (mac, peer) in &tunnel.peers {
            for gateway in &peer.gateways {
                let neighbour = self.handle.neighbours().add(index, *gateway).link_layer_address(mac).replace();
                neighbour.execute().await.map_err(to(&format!("say where {gateway} is")))?;
            }
            let entry = self.handle.neighbours().add_bridge(index, mac).destination(peer.remote);
            let entry = entry.flags(NeighbourFlags::Own).replace();
            entry.execute().await.map_err(to(&format!("send frames through the tunnel to {}", peer.remote)))?;
        }
        Ok(())
    }

    /// Entries for ends of the tunnel that are no more.
    async fn forget_peers(&self, index: u32, family: AddressFamily, tunnel: &Tunnel) -> Result<(), KernelError> {
        let request = self.handle.neighbours().get().set_address_family(family);
        let dump: Vec<NeighbourMessage> = request.execute().try_collect().await.map_err(to("list neighbours"))?;
        for message in dump.into_iter().filter(|message| message.header.ifindex == index) {
            let known = mac_of(&message).is_some_and(|mac| tunnel.peers.contains_key(&mac));
            // Multicast groups that the kernel keeps by itself have no such address.
            if known || mac_of(&message).is_none_or(|[first, ..]| first & 1 == 1) {
                continue;
            }
            self.handle.neighbours().del(message).execute().await.map_err(to("forget a neighbour"))?;
        }
        Ok(())
    }

    async fn settle_routes(&self, plan: &Plan, devices: &BTreeMap<Outer, u32>) -> Result<(), KernelError> {
        let mut wanted: Vec<_> = plan.routes.iter().filter_map(|route| resolved(route, devices)).collect();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let dump: Vec<RouteMessage> =
                self.handle.route().get(request).execute().try_collect().await.map_err(to("list routes"))?;
            for message in dump.into_iter().filter(|message| message.header.protocol == PROTOCOL) {
                let present = read(&message);
                match wanted.iter().position(|route| Some(*route) == present) {
                    Some(position) => drop(wanted.swap_remove(position)),
                    None => self.handle.route().del(message).execute().await.map_err(to("remove a route"))?,
                }
            }
        }
        for (destination, gateway, link) in wanted {
            let message = RouteMessageBuilder::<IpAddr>::new()
                .output_interface(link)
                .protocol(PROTOCOL)
                .destination_prefix(destination.addr(), destination.prefix_len())
                .map_err(|error| impossible(destination, error))?
                .gateway(gateway)
                .map_err(|error| impossible(destination, error))?
                // What the tunnel leads to is on no prefix of it.
                .onlink()
                .build();
            let added = self.handle.route().add(message).replace().execute().await;
            added.map_err(to(&format!("add the route to {destination}")))?;
        }
        Ok(())
    }
}

type Resolved = (IpNet, IpAddr, u32);

fn resolved(route: &PodRoute, devices: &BTreeMap<Outer, u32>) -> Option<Resolved> {
    let link = match route.way {
        Way::Link(index) => index,
        Way::Tunnel(outer) => *devices.get(&outer)?,
    };
    Some((route.destination, route.gateway, link))
}

fn read(message: &RouteMessage) -> Option<Resolved> {
    let (mut destination, mut gateway, mut link) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = to_ip(address),
            RouteAttribute::Gateway(address) => gateway = to_ip(address),
            RouteAttribute::Oif(index) => link = Some(*index),
            _ => {}
        }
    }
    Some((IpNet::new(destination?, message.header.destination_prefix_length).ok()?, gateway?, link?))
}

fn to_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn mac_of(message: &NeighbourMessage) -> Option<Mac> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => Mac::try_from(bytes.as_slice()).ok(),
        _ => None,
    })
}
