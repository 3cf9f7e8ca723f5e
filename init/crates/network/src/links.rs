//! The kernel's links and addresses as this process last heard of them: a view that netlink messages change.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use keelson_config::MacAddress;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol,
};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, Inet6IfaceFlags, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

use crate::advertisements::RouterFlags;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mac: Option<MacAddress>,
    pub mtu: u32,
    pub up: bool,
    pub carrier: bool,
    pub layer: LinkLayerType,
    /// The driver's name for virtual links (`veth`, `bridge`, `vlan`, …); hardware has none.
    pub kind: Option<String>,
    /// The bridge or bond it belongs to.
    pub controller: Option<u32>,
    pub addresses: Vec<Address>,
    /// What its routers say.
    pub routers: RouterFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub net: IpNet,
    /// Not to be used yet, or any more, for something new.
    pub unusable: bool,
    /// The cluster's, which this node has for the time being ([`crate::virtual_address`]).
    pub is_virtual: bool,
}

/// What marks it in the kernel, so that it is found again (rtnetlink(7), `IFA_PROTO`): `K`.
pub const VIRTUAL: AddressProtocol = AddressProtocol::Other(75);

impl Link {
    /// Hardware, or what a hypervisor shows as such; what pods and bridges are made of is none of it.
    pub fn is_physical(&self) -> bool {
        self.layer == LinkLayerType::Ether && self.kind.is_none()
    }

    pub fn is_loopback(&self) -> bool {
        self.layer == LinkLayerType::Loopback
    }

    pub fn has(&self, net: IpNet) -> bool {
        self.addresses.iter().any(|address| address.net == net)
    }
}

#[derive(Debug, Default)]
pub struct Links {
    by_index: BTreeMap<u32, Link>,
}

impl Links {
    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.by_index.values()
    }

    pub fn get(&self, index: u32) -> Option<&Link> {
        self.by_index.get(&index)
    }

    pub fn by_name(&self, name: &str) -> Option<&Link> {
        self.iter().find(|link| link.name == name)
    }

    /// Forgets everything, before a fresh dump.
    pub fn clear(&mut self) {
        self.by_index.clear();
    }

    #[cfg(test)]
    pub(crate) fn insert(&mut self, link: Link) {
        self.by_index.insert(link.index, link);
    }

    pub fn link_changed(&mut self, message: &LinkMessage) {
        let index = message.header.index;
        let addresses = self.by_index.remove(&index).map(|link| link.addresses).unwrap_or_default();
        self.by_index.insert(index, Link { addresses, ..link(message) });
    }

    pub fn routers_said(&mut self, index: u32, flags: RouterFlags) {
        if let Some(link) = self.by_index.get_mut(&index) {
            link.routers = flags;
        }
    }

    pub fn link_removed(&mut self, message: &LinkMessage) {
        self.by_index.remove(&message.header.index);
    }

    pub fn address_changed(&mut self, message: &AddressMessage) {
        let Some((link, address)) = self.address(message) else { return };
        match link.addresses.iter_mut().find(|known| known.net == address.net) {
            Some(known) => *known = address,
            None => link.addresses.push(address),
        }
    }

    pub fn address_removed(&mut self, message: &AddressMessage) {
        if let Some((link, address)) = self.address(message) {
            link.addresses.retain(|known| known.net != address.net);
        }
    }

    fn address(&mut self, message: &AddressMessage) -> Option<(&mut Link, Address)> {
        let link = self.by_index.get_mut(&message.header.index)?;
        let family_known = matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6);
        // On a point-to-point link IFA_ADDRESS is the peer's, and IFA_LOCAL ours.
        let local = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        let any = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        });
        let address = local.or(any).filter(|_| family_known)?;
        let net = IpNet::new(address, message.header.prefix_len).ok()?;
        let is_virtual = message.attributes.contains(&AddressAttribute::Protocol(VIRTUAL));
        Some((link, Address { net, unusable: unusable(message), is_virtual }))
    }
}

fn routers(families: &[AfSpecUnspec]) -> RouterFlags {
    let inet6 = families.iter().find_map(|family| match family {
        AfSpecUnspec::Inet6(attributes) => attributes.iter().find_map(|attribute| match attribute {
            AfSpecInet6::Flags(flags) => Some(*flags),
            _ => None,
        }),
        _ => None,
    });
    let flags = inet6.unwrap_or(Inet6IfaceFlags::empty());
    RouterFlags {
        managed: flags.contains(Inet6IfaceFlags::RaManaged),
        other: flags.contains(Inet6IfaceFlags::Otherconf),
    }
}

fn unusable(message: &AddressMessage) -> bool {
    let short = message.header.flags;
    let long = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    short.intersects(AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed | AddressHeaderFlags::Deprecated)
        || long.is_some_and(|long| {
            long.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated)
        })
}

fn link(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::Up) && flags.contains(LinkFlags::LowerUp),
        layer: message.header.link_layer_type,
        kind: None,
        controller: None,
        addresses: Vec::new(),
        routers: RouterFlags::default(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(MacAddress),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::AfSpecUnspec(families) => link.routers = routers(families),
            LinkAttribute::Controller(index) => link.controller = Some(*index).filter(|index| *index != 0),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link
}

/// Whether an address can be the node's: it must mean the same to everyone who may speak to the node.
pub fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !(address.is_loopback() || address.is_link_local() || address.is_unspecified() || address.is_multicast())
        }
        IpAddr::V6(address) => {
            !(address.is_loopback()
                || address.is_unicast_link_local()
                || address.is_unspecified()
                || address.is_multicast())
        }
    }
}
