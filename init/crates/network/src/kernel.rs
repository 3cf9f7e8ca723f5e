//! What this process tells the kernel, and what the kernel tells it, over rtnetlink(7). Each method is one request.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures::channel::mpsc::UnboundedReceiver;
use futures::{StreamExt as _, TryStreamExt as _};
use ipnet::IpNet;
use keelson_config::{Bond, Vlan};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, CacheInfo};
use netlink_packet_route::link::{BondLacpRate, BondMode, BondXmitHashPolicy, LinkMessage};
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, LinkBond, LinkMessageBuilder, LinkUnspec, LinkVlan, MulticastGroup, RouteMessageBuilder};

use crate::links::Links;

/// How often the kernel looks at a bond's members if nobody says it; without looking it would never fail over.
const MIIMON_MILLISECONDS: u32 = 100;

#[derive(Debug, thiserror::Error)]
#[error("the kernel refused to {operation}")]
pub struct KernelError {
    operation: String,
    source: io::Error,
}

/// What became different, in the order in which the kernel says it.
#[derive(Debug)]
pub enum Change {
    Link(LinkMessage),
    LinkRemoved(LinkMessage),
    Address(AddressMessage),
    AddressRemoved(AddressMessage),
    /// Messages were lost: only a fresh look tells what is.
    Overrun,
}

/// A route, as far as this process makes any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub link: u32,
    pub destination: IpNet,
    pub gateway: Option<IpAddr>,
    /// The gateway is on the link although no prefix says so.
    pub onlink: bool,
    pub source: Option<IpAddr>,
    pub metric: u32,
    pub from_dhcp: bool,
}

#[derive(Debug)]
pub struct Changes(UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>);

impl Changes {
    /// The next change; `None` when the netlink connection is gone.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            let (message, _) = self.0.next().await?;
            if let Some(change) = change(message.payload) {
                return Some(change);
            }
        }
    }
}

/// What a message means to us. A bridge tells of its ports in messages of its own family to the same group: they lack most
/// of what a link is, and one port's leaving reads like the link's end.
fn change(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<Change> {
    let of_the_link = |link: &LinkMessage| link.header.interface_family == AddressFamily::Unspec;
    match payload {
        NetlinkPayload::InnerMessage(message) => match message {
            RouteNetlinkMessage::NewLink(link) if of_the_link(&link) => Some(Change::Link(link)),
            RouteNetlinkMessage::DelLink(link) if of_the_link(&link) => Some(Change::LinkRemoved(link)),
            RouteNetlinkMessage::NewAddress(address) => Some(Change::Address(address)),
            RouteNetlinkMessage::DelAddress(address) => Some(Change::AddressRemoved(address)),
            _ => None,
        },
        NetlinkPayload::Overrun(_) => Some(Change::Overrun),
        _ => None,
    }
}

#[derive(Debug, Clone)]
pub struct Kernel {
    handle: Handle,
}

/// Connects, with a socket to ask on.
pub(crate) fn connect() -> io::Result<Handle> {
    let (asking, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(asking);
    Ok(handle)
}

/// The links and addresses that there are now.
pub(crate) async fn links(handle: &Handle) -> Result<Links, KernelError> {
    let mut links = Links::default();
    look(handle, &mut links).await?;
    Ok(links)
}

/// Takes in what links and addresses there are now.
async fn look(handle: &Handle, links: &mut Links) -> Result<(), KernelError> {
    links.clear();
    let dump: Vec<LinkMessage> = handle.link().get().execute().try_collect().await.map_err(to("list links"))?;
    for link in &dump {
        links.link_changed(link);
    }
    let dump: Vec<AddressMessage> =
        handle.address().get().execute().try_collect().await.map_err(to("list addresses"))?;
    for address in &dump {
        links.address_changed(address);
    }
    Ok(())
}

impl Kernel {
    /// Connects, with a socket to ask on and another to listen on: the kernel does not tell a change to the socket that
    /// made it. Changes are heard of from now on, so that none is missed between a later dump and the first event.
    pub fn connect() -> io::Result<(Self, Changes)> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (listening, _, messages) = rtnetlink::new_multicast_connection(&groups)?;
        let handle = connect()?;
        tokio::spawn(listening);
        Ok((Self { handle }, Changes(messages)))
    }

    /// Looks at everything afresh.
    pub async fn load(&self, links: &mut Links) -> Result<(), KernelError> {
        look(&self.handle, links).await
    }

    pub async fn set_up(&self, link: u32) -> Result<(), KernelError> {
        self.change(LinkUnspec::new_with_index(link).up().build(), "bring a link up").await
    }

    pub async fn set_mtu(&self, link: u32, mtu: u32) -> Result<(), KernelError> {
        self.change(LinkUnspec::new_with_index(link).mtu(mtu).build(), &format!("set an MTU of {mtu}")).await
    }

    /// Makes the link a member of a bond, for which it must be down.
    pub async fn enslave(&self, link: u32, bond: u32) -> Result<(), KernelError> {
        self.change(LinkUnspec::new_with_index(link).down().build(), "take a link down").await?;
        self.change(LinkUnspec::new_with_index(link).controller(bond).build(), "add a link to a bond").await
    }

    async fn change(&self, message: LinkMessage, operation: &str) -> Result<(), KernelError> {
        self.handle.link().change(message).execute().await.map_err(to(operation))
    }

    pub async fn create_vlan(&self, vlan: &Vlan, parent: u32) -> Result<(), KernelError> {
        let message = LinkVlan::new(&vlan.name, parent, vlan.id).up().build();
        self.handle.link().add(message).execute().await.map_err(to(&format!("make VLAN {}", vlan.name)))
    }

    pub async fn create_bond(&self, bond: &Bond) -> Result<(), KernelError> {
        let message = bond_options(LinkBond::new(&bond.name), bond).build();
        self.handle.link().add(message).execute().await.map_err(to(&format!("make bond {}", bond.name)))
    }

    /// Adds an address or prolongs it. The kernel removes it by itself after `lifetime`, should this process be gone by
    /// then.
    pub async fn add_address(&self, link: u32, net: IpNet, lifetime: Option<Duration>) -> Result<(), KernelError> {
        let mut request = self.handle.address().add(link, net.addr(), net.prefix_len()).replace();
        if let Some(lifetime) = lifetime {
            // All ones would mean "for ever".
            let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX - 1).clamp(1, u32::MAX - 1);
            let mut validity = CacheInfo::default();
            validity.ifa_preferred = seconds;
            validity.ifa_valid = seconds;
            request.message_mut().attributes.push(AddressAttribute::CacheInfo(validity));
        }
        request.execute().await.map_err(to(&format!("add the address {net}")))
    }

    /// Removing an address that is gone already is no failure.
    pub async fn delete_address(&self, link: u32, net: IpNet) -> Result<(), KernelError> {
        delete_address(&self.handle, link, net).await
    }

    pub async fn add_route(&self, route: &Route) -> Result<(), KernelError> {
        let message = route_message(route)?;
        let outcome = self.handle.route().add(message).replace().execute().await;
        outcome.map_err(to(&format!("add the route to {}", route.destination)))
    }

    /// Removing a route that is gone already is no failure.
    pub async fn delete_route(&self, route: &Route) -> Result<(), KernelError> {
        let outcome = self.handle.route().del(route_message(route)?).execute().await;
        gone_is_fine(outcome.map_err(to(&format!("remove the route to {}", route.destination))))
    }
}

pub(crate) fn to(operation: &str) -> impl Fn(rtnetlink::Error) -> KernelError {
    move |error| KernelError {
        operation: operation.to_owned(),
        source: match error {
            rtnetlink::Error::NetlinkError(error) => error.to_io(),
            other => io::Error::other(other),
        },
    }
}

pub(crate) async fn delete_address(handle: &Handle, link: u32, net: IpNet) -> Result<(), KernelError> {
    let mut message = AddressMessage::default();
    message.header.index = link;
    message.header.prefix_len = net.prefix_len();
    message.header.family = match net {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.attributes.push(AddressAttribute::Local(net.addr()));
    let outcome = handle.address().del(message).execute().await;
    gone_is_fine(outcome.map_err(to(&format!("remove the address {net}"))))
}

fn gone_is_fine(outcome: Result<(), KernelError>) -> Result<(), KernelError> {
    const ESRCH: i32 = 3;
    const ENODEV: i32 = 19;
    const EADDRNOTAVAIL: i32 = 99;
    match outcome {
        Err(error) if matches!(error.source.raw_os_error(), Some(ESRCH | ENODEV | EADDRNOTAVAIL)) => Ok(()),
        other => other,
    }
}

fn route_message(route: &Route) -> Result<RouteMessage, KernelError> {
    let net = route.destination.trunc();
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .output_interface(route.link)
        .priority(route.metric)
        .protocol(if route.from_dhcp { RouteProtocol::Dhcp } else { RouteProtocol::Static })
        .destination_prefix(net.addr(), net.prefix_len())
        .map_err(|error| impossible(route.destination, error))?;
    builder = match route.gateway {
        Some(gateway) => builder.gateway(gateway).map_err(|error| impossible(route.destination, error))?,
        None => builder.scope(RouteScope::Link),
    };
    if let Some(source) = route.source {
        builder = builder.pref_source(source).map_err(|error| impossible(route.destination, error))?;
    }
    if route.onlink {
        builder = builder.onlink();
    }
    Ok(builder.build())
}

/// A route that mixes address families.
pub(crate) fn impossible(destination: IpNet, error: impl std::error::Error + Send + Sync + 'static) -> KernelError {
    KernelError { operation: format!("make sense of the route to {destination}"), source: io::Error::other(error) }
}

/// The values were checked when the configuration was; what is not known here is left at the driver's own.
fn bond_options(builder: LinkMessageBuilder<LinkBond>, bond: &Bond) -> LinkMessageBuilder<LinkBond> {
    // The driver wants the mode first.
    let option = |name: &str| bond.options.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let mut builder = match option("mode") {
        None | Some("balance-rr") => builder.mode(BondMode::BalanceRr),
        Some("active-backup") => builder.mode(BondMode::ActiveBackup),
        Some("balance-xor") => builder.mode(BondMode::BalanceXor),
        Some("broadcast") => builder.mode(BondMode::Broadcast),
        Some("802.3ad") => builder.mode(BondMode::Ieee8023Ad),
        Some("balance-tlb") => builder.mode(BondMode::BalanceTlb),
        Some(_) => builder.mode(BondMode::BalanceAlb),
    };
    let time = |name: &str| option(name).and_then(|value| value.parse::<u32>().ok());
    builder = builder.miimon(time("miimon").unwrap_or(MIIMON_MILLISECONDS));
    if let Some(delay) = time("updelay") {
        builder = builder.updelay(delay);
    }
    if let Some(delay) = time("downdelay") {
        builder = builder.downdelay(delay);
    }
    if let Some(rate) = option("lacp_rate") {
        builder = builder.ad_lacp_rate(if rate == "fast" { BondLacpRate::Fast } else { BondLacpRate::Slow });
    }
    match option("xmit_hash_policy") {
        Some("layer2") => builder.xmit_hash_policy(BondXmitHashPolicy::Layer2),
        Some("layer3+4") => builder.xmit_hash_policy(BondXmitHashPolicy::Layer34),
        Some("layer2+3") => builder.xmit_hash_policy(BondXmitHashPolicy::Layer23),
        Some("encap2+3") => builder.xmit_hash_policy(BondXmitHashPolicy::Encap23),
        Some("encap3+4") => builder.xmit_hash_policy(BondXmitHashPolicy::Encap34),
        Some("vlan+srcmac") => builder.xmit_hash_policy(BondXmitHashPolicy::VlanSrcMac),
        _ => builder,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_speaking_of_a_port_changes_no_link() {
        let message = |family| {
            let mut link = LinkMessage::default();
            link.header.interface_family = family;
            link
        };
        let of = |message| change(NetlinkPayload::InnerMessage(message));
        assert!(matches!(of(RouteNetlinkMessage::NewLink(message(AddressFamily::Unspec))), Some(Change::Link(_))));
        assert!(of(RouteNetlinkMessage::NewLink(message(AddressFamily::Bridge))).is_none());
        assert!(of(RouteNetlinkMessage::DelLink(message(AddressFamily::Bridge))).is_none());
    }
}
