//! Which link is to be configured how: the configuration's entries laid over the links there are. Pure.

use std::net::IpAddr;

use keelson_config::{AddressMethod, LinkConfig, LinkSelector, NetworkConfig};

use crate::links::{Link, Links};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub method: AddressMethod,
    pub mtu: Option<u32>,
    pub nameservers: Vec<IpAddr>,
}

impl Plan {
    fn of(entry: &LinkConfig) -> Self {
        Self { method: entry.method.clone(), mtu: entry.mtu, nameservers: entry.nameservers.clone() }
    }

    fn dhcp() -> Self {
        Self { method: AddressMethod::Dhcp, mtu: None, nameservers: Vec::new() }
    }
}

/// How `link` is to be configured; `None` for links that are not ours to touch, such as those of pods.
///
/// `any_static` is the link that was chosen for a static address without a link's name ([`choose_any_static`]).
pub fn plan(config: &NetworkConfig, link: &Link, any_static: Option<u32>) -> Option<Plan> {
    if link.is_loopback() {
        return None;
    }
    if config.bonds.iter().any(|bond| bond.members.contains(&link.name)) {
        let mtu = config.bonds.iter().find(|bond| bond.members.contains(&link.name)).and_then(|bond| bond.mtu);
        return Some(Plan { method: AddressMethod::Off, mtu, nameservers: Vec::new() });
    }
    if let Some(entry) = named(config, link) {
        return Some(Plan::of(entry));
    }
    let bond = config.bonds.iter().find(|bond| bond.name == link.name);
    let made_by_us = bond.is_some() || config.vlans.iter().any(|vlan| vlan.name == link.name);
    if !made_by_us && !link.is_physical() {
        return None;
    }
    let mut plan = match config.links.iter().find(|entry| entry.link == LinkSelector::Any) {
        Some(entry) if !matches!(entry.method, AddressMethod::Static(_)) || any_static == Some(link.index) => {
            Plan::of(entry)
        }
        _ => Plan::dhcp(),
    };
    plan.mtu = plan.mtu.or_else(|| bond.and_then(|bond| bond.mtu));
    Some(plan)
}

/// The entry that selects the link by MAC address or name. VLANs share their parent's MAC address, so that selects
/// hardware only.
fn named<'a>(config: &'a NetworkConfig, link: &Link) -> Option<&'a LinkConfig> {
    config.links.iter().find(|entry| match &entry.link {
        LinkSelector::Any => false,
        LinkSelector::Name(name) => *name == link.name,
        LinkSelector::Mac(mac) => link.is_physical() && link.mac == Some(*mac),
    })
}

/// The link for a static address without a link's name: the first with a carrier that no other entry selects.
pub fn choose_any_static(config: &NetworkConfig, links: &Links) -> Option<u32> {
    config
        .links
        .iter()
        .find(|entry| entry.link == LinkSelector::Any && matches!(entry.method, AddressMethod::Static(_)))?;
    let free = |link: &&Link| {
        link.carrier
            && link.is_physical()
            && named(config, link).is_none()
            && !config.bonds.iter().any(|bond| bond.members.contains(&link.name))
    };
    links.iter().find(free).map(|link| link.index)
}
