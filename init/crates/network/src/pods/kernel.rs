//! Makes up the difference between a plan and what the kernel has.
//!
//! Routes carry a protocol number of their own (rtnetlink(7), `rtm_protocol`), so that ours are told from everybody else's;
//! neighbours and forwarding entries are ours because the tunnel is.

use std::io;
use std::net::IpAddr;

use futures::TryStreamExt as _;
use ipnet::IpNet;
use keelson_config::pod_routes::PodRoutes;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::{Handle, LinkUnspec, LinkVxlan, RouteMessageBuilder};

use super::{Mac, Plan, PodRoute, TUNNEL, Tunnel, plan};
use crate::kernel::{self, KernelError, impossible, to};

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

    pub(super) async fn reconcile(&self, wish: &PodRoutes) -> Result<(), KernelError> {
        let mut links = kernel::links(&self.handle).await?;
        let plan = plan(wish, &links);
        if let Some(tunnel) = &plan.tunnel
            && links.by_name(TUNNEL).is_none_or(|link| link.mac.map(|mac| mac.0) != Some(tunnel.mac))
        {
            self.make_tunnel(tunnel, links.by_name(TUNNEL).map(|link| link.index)).await?;
            links = kernel::links(&self.handle).await?;
        }
        let tunnel = links.by_name(TUNNEL).map(|link| link.index);
        if let Some(index) = tunnel {
            self.settle_tunnel(index, &plan).await?;
        }
        self.settle_routes(&plan, tunnel).await
    }

    /// One for another range is in the way: its hardware address is what the others send to.
    async fn make_tunnel(&self, tunnel: &Tunnel, present: Option<u32>) -> Result<(), KernelError> {
        if let Some(index) = present {
            self.handle.link().del(index).execute().await.map_err(to("remove the tunnel of another range"))?;
        }
        let message = LinkVxlan::new(TUNNEL, IDENTIFIER)
            .port(PORT)
            .learning(false)
            .address(tunnel.mac.to_vec())
            .mtu(tunnel.mtu)
            .build();
        self.handle.link().add(message).execute().await.map_err(to("make the tunnel"))
    }

    async fn settle_tunnel(&self, index: u32, plan: &Plan) -> Result<(), KernelError> {
        let Some(tunnel) = &plan.tunnel else {
            // Nobody is left on the other side.
            return self.handle.link().del(index).execute().await.map_err(to("remove the tunnel"));
        };
        let up = LinkUnspec::new_with_index(index).mtu(tunnel.mtu).up().build();
        self.handle.link().change(up).execute().await.map_err(to("bring the tunnel up"))?;
        let address = self.handle.address().add(index, IpAddr::V4(tunnel.address), 32).replace();
        address.execute().await.map_err(to("give the tunnel its address"))?;
        for family in [AddressFamily::Bridge, AddressFamily::Inet] {
            self.forget_peers(index, family, plan).await?;
        }
        for (mac, peer) in &plan.peers {
            let neighbour = self.handle.neighbours().add(index, IpAddr::V4(peer.gateway));
            let neighbour = neighbour.link_layer_address(mac).replace();
            neighbour.execute().await.map_err(to(&format!("say where {} is", peer.gateway)))?;
            let entry = self.handle.neighbours().add_bridge(index, mac).destination(peer.remote);
            let entry = entry.flags(NeighbourFlags::Own).replace();
            entry.execute().await.map_err(to(&format!("send frames for {} to {}", peer.gateway, peer.remote)))?;
        }
        Ok(())
    }

    /// Entries for ends of the tunnel that are no more.
    async fn forget_peers(&self, index: u32, family: AddressFamily, plan: &Plan) -> Result<(), KernelError> {
        let request = self.handle.neighbours().get().set_address_family(family);
        let dump: Vec<NeighbourMessage> = request.execute().try_collect().await.map_err(to("list neighbours"))?;
        for message in dump.into_iter().filter(|message| message.header.ifindex == index) {
            let known = mac_of(&message).is_some_and(|mac| plan.peers.contains_key(&mac));
            // Multicast groups that the kernel keeps by itself have no such address.
            if known || mac_of(&message).is_none_or(|[first, ..]| first & 1 == 1) {
                continue;
            }
            self.handle.neighbours().del(message).execute().await.map_err(to("forget a neighbour"))?;
        }
        Ok(())
    }

    async fn settle_routes(&self, plan: &Plan, tunnel: Option<u32>) -> Result<(), KernelError> {
        let mut wanted: Vec<_> = plan.routes.iter().filter_map(|route| resolved(route, tunnel)).collect();
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

fn resolved(route: &PodRoute, tunnel: Option<u32>) -> Option<Resolved> {
    Some((route.destination, route.gateway, route.link.or(tunnel)?))
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
