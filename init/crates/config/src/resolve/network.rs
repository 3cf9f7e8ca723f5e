//! Links, VLANs, bonds, routes and resolvers; and the networks that must not overlap.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::error::shown;
use crate::ip_argument::{BOND_FORMS, IP_FORMS, ROUTE_FORMS, VLAN_FORMS};
use crate::node::{
    AddressMethod, Bond, LinkConfig, LinkSelector, NetworkConfig, NodeConfig, StaticAddressing, StaticRoute, Vlan,
};
use crate::raw::{RawAddressing, RawBond, RawConfig, RawLink, RawRoute, RawVlan, Said};
use crate::resolve::check::Checker;
use crate::resolve::syntax;
use crate::source::Source;

/// What keelson-network sets on a bond.
pub(super) const BOND_OPTIONS: [&str; 6] = ["mode", "miimon", "updelay", "downdelay", "lacp_rate", "xmit_hash_policy"];
pub(super) const BOND_MODES: [&str; 7] =
    ["balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"];
const HASH_POLICIES: [&str; 6] = ["layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac"];

pub(super) fn network(check: &mut Checker, raw: &RawConfig) -> NetworkConfig {
    let address = |text: &str| text.parse::<IpAddr>().ok().filter(|address| !address.is_unspecified());
    let domain = |text: &str| syntax::is_domain(text).then(|| text.to_owned());
    NetworkConfig {
        links: links(check, raw.links.as_ref()),
        vlans: raw.vlans.iter().flat_map(|said| &said.value).filter_map(|said| vlan(check, said)).collect(),
        bonds: raw.bonds.iter().flat_map(|said| &said.value).filter_map(|said| bond(check, said)).collect(),
        routes: raw.routes.iter().flat_map(|said| &said.value).filter_map(|said| route(check, said)).collect(),
        nameservers: check.each(raw.nameservers.as_ref(), "nameserver", syntax::ADDRESS, address),
        search: check.each(raw.search.as_ref(), "search", syntax::DOMAIN, domain),
        node_subnets: check.each(raw.node_subnets.as_ref(), "nodeSubnets", syntax::CIDR, syntax::cidr),
    }
}

fn links(check: &mut Checker, said: Option<&Said<Vec<Said<RawLink>>>>) -> Vec<LinkConfig> {
    let mut links: Vec<LinkConfig> = Vec::new();
    for said in said.iter().flat_map(|said| &said.value) {
        let Some(link) = link(check, said) else { continue };
        if links.iter().any(|other| other.link == link.link) {
            check.fault(&said.source, "ip", "the link was configured before", "one entry for each link");
        }
        links.push(link);
    }
    links
}

fn link(check: &mut Checker, Said { value, source }: &Said<RawLink>) -> Option<LinkConfig> {
    let selector = selector(check, source, "ip", &value.link);
    let method = method(check, source, value);
    let mtu = mtu(check, source, value.mtu.as_deref());
    let nameservers = Said::new(value.nameservers.clone(), source.part(".nameservers"));
    let nameservers = check.each(Some(&nameservers), "ip", syntax::ADDRESS, |text| text.parse::<IpAddr>().ok());
    Some(LinkConfig { link: selector?, method: method?, mtu, nameservers })
}

fn selector(check: &mut Checker, source: &Source, field: &str, text: &str) -> Option<LinkSelector> {
    check.parsed(&source.part(".link"), field, text, syntax::LINK_NAME, |text| match text.parse() {
        Ok(mac) => Some(LinkSelector::Mac(mac)),
        Err(_) if text.is_empty() => Some(LinkSelector::Any),
        Err(_) => syntax::is_link_name(text).then(|| LinkSelector::Name(text.to_owned())),
    })
}

fn mtu(check: &mut Checker, source: &Source, text: Option<&str>) -> Option<u32> {
    check.parsed(&source.part(".mtu"), "ip", text?, syntax::MTU, syntax::mtu)
}

fn method(check: &mut Checker, source: &Source, link: &RawLink) -> Option<AddressMethod> {
    match &link.addressing {
        RawAddressing::Dhcp => Some(AddressMethod::Dhcp),
        RawAddressing::Off => Some(AddressMethod::Off),
        RawAddressing::Unsupported(method) => {
            check.fault(&source.part(".method"), "ip", format!("{} is not offered", shown(method)), IP_FORMS);
            None
        }
        RawAddressing::Static { addresses, gateway } => {
            let form = "ADDRESS/LENGTH, or a netmask for the length";
            let texts = Said::new(addresses.clone(), source.part(".addresses"));
            let parsed = check.each(Some(&texts), "ip", form, syntax::interface_address);
            if addresses.is_empty() {
                check.fault(&source.part(".addresses"), "ip", "there is no address", form);
            }
            let gateway = gateway.as_deref().map(|text| gateway_of(check, &source.part(".gateway"), text, &parsed));
            let complete = parsed.len() == addresses.len() && !parsed.is_empty();
            let gateway = match gateway {
                None => None,
                Some(gateway) => Some(gateway?),
            };
            complete.then_some(AddressMethod::Static(StaticAddressing { addresses: parsed, gateway }))
        }
    }
}

/// A gateway outside every prefix would need a route of its own, and is a typing error far more often.
fn gateway_of(check: &mut Checker, source: &Source, text: &str, addresses: &[IpNet]) -> Option<IpAddr> {
    let parse = |text: &str| text.parse::<IpAddr>().ok();
    let gateway = check.parsed(source, "ip", text, syntax::ADDRESS, parse)?;
    let link_local = matches!(gateway, IpAddr::V6(address) if address.is_unicast_link_local());
    if !link_local && !addresses.is_empty() && !addresses.iter().any(|net| net.contains(&gateway)) {
        check.fault(source, "ip", format!("{gateway} is in none of the link's networks"), "an address in one of them");
        return None;
    }
    Some(gateway)
}

fn vlan(check: &mut Checker, Said { value, source }: &Said<RawVlan>) -> Option<Vlan> {
    // `eth0.5`, `eth0.0005`, `vlan5`, `vlan0005`: dracut's four ways to name the id.
    let tail = value.name.rsplit_once('.').map(|(_, id)| id).or_else(|| value.name.strip_prefix("vlan"));
    let id = if value.id.is_empty() { tail.unwrap_or_default() } else { &value.id };
    let id = id.parse::<u16>().ok().filter(|id| (1..=4094).contains(id));
    let valid = syntax::is_link_name(&value.name) && syntax::is_link_name(&value.parent) && value.name != value.parent;
    match id {
        Some(id) if valid => Some(Vlan { name: value.name.clone(), parent: value.parent.clone(), id }),
        _ => {
            let problem = format!("{} is not a VLAN with an id from 1 to 4094", shown(&value.name));
            check.fault(source, "vlan", problem, VLAN_FORMS);
            None
        }
    }
}

fn bond(check: &mut Checker, Said { value, source }: &Said<RawBond>) -> Option<Bond> {
    let names_ok = syntax::is_link_name(&value.name) && value.members.iter().all(|name| syntax::is_link_name(name));
    if !names_ok || value.members.is_empty() || value.members.contains(&value.name) {
        check.fault(source, "bond", format!("{} is not a bond of other links", shown(&value.name)), BOND_FORMS);
        return None;
    }
    for (option, setting) in &value.options {
        let valid = match option.as_str() {
            "mode" => BOND_MODES.contains(&setting.as_str()),
            "lacp_rate" => matches!(setting.as_str(), "slow" | "fast"),
            "xmit_hash_policy" => HASH_POLICIES.contains(&setting.as_str()),
            "miimon" | "updelay" | "downdelay" => setting.parse::<u32>().is_ok_and(|time| time <= 60_000),
            _ => false,
        };
        if !valid {
            let allowed = format!(
                "{} (milliseconds for miimon, updelay, downdelay; slow or fast; {}; {})",
                BOND_OPTIONS.join(", "),
                BOND_MODES.join(", "),
                HASH_POLICIES.join(", ")
            );
            check.fault(source, "bond", format!("{} is not offered", shown(&format!("{option}={setting}"))), &allowed);
        }
    }
    let mtu = mtu(check, source, value.mtu.as_deref());
    Some(Bond { name: value.name.clone(), members: value.members.clone(), options: value.options.clone(), mtu })
}

fn route(check: &mut Checker, Said { value, source }: &Said<RawRoute>) -> Option<StaticRoute> {
    const FIELD: &str = "rd.route";
    let to = check.parsed(&source.part(".to"), FIELD, &value.to, syntax::CIDR, syntax::network);
    let usable = |text: &str| {
        let address: IpAddr = text.parse().ok()?;
        (!address.is_unspecified() && !address.is_loopback() && !address.is_multicast()).then_some(address)
    };
    let via = check.parsed(&source.part(".via"), FIELD, &value.via, syntax::ADDRESS, usable);
    let link = selector(check, source, FIELD, &value.link);
    if value.metric == Some(0) {
        check.fault(&source.part(".metric"), FIELD, "0 is not a metric", "a number from 1 to 4294967295");
    }
    let (to, via) = (to?, via?);
    if to.addr().is_ipv4() != via.is_ipv4() {
        check.fault(
            source,
            FIELD,
            format!("{via} cannot be the gateway to {to}"),
            "a network and a gateway of one family",
        );
        return None;
    }
    // Every link has that network.
    let link_local = matches!(via, IpAddr::V6(address) if address.is_unicast_link_local());
    if link_local && link == Some(LinkSelector::Any) {
        check.fault(source, FIELD, format!("{via} may be on any link"), ROUTE_FORMS);
    }
    Some(StaticRoute { to, via, link: link?, metric: value.metric })
}

const APART: &str = "networks that are apart; spec.cluster.podCIDR and spec.cluster.serviceCIDR set the cluster's";

/// The cluster's networks must be apart, and no node may be inside one of them. A node's network may well hold them, as
/// 10.0.0.0/8 does: their routes are the longer ones.
///
/// A node that joins has its cluster's networks, whatever the defaults are: the control plane that takes it looks at them, and
/// so does the node itself from then on, also at addresses that nobody has configured.
pub(super) fn overlaps(check: &mut Checker, config: &NodeConfig, raw: &RawConfig) {
    let cluster = &config.cluster;
    let pods = ("the pod network", cluster.pod_cidr, raw.pod_cidr.as_ref().map(|said| &said.source));
    let services = ("the service network", cluster.service_cidr, raw.service_cidr.as_ref().map(|said| &said.source));
    let pairs = pods.1.all().flat_map(|pods| services.1.all().map(move |services| (pods, services)));
    for (of_pods, of_services) in pairs.filter(|(of_pods, of_services)| overlap(*of_pods, *of_services)) {
        let problem = format!("{} {of_pods} overlaps {} {of_services}", pods.0, services.0);
        match pods.2.or(services.2) {
            Some(source) => check.fault(source, "network", problem, APART),
            None => check.unsaid("network", &problem, APART),
        }
    }
    let mut outside = |source: &Source, what: &str, net: IpNet| {
        let own = [pods, services].into_iter().filter(|(_, _, said)| config.bootstrap || said.is_some());
        for (name, cluster) in own.flat_map(|(name, ranges, _)| ranges.all().map(move |range| (name, range))) {
            if cluster.contains(&net) {
                check.fault(source, "network", format!("{what} {net} is inside {name} {cluster}"), APART);
            }
        }
    };
    for link in raw.links.iter().flat_map(|said| &said.value) {
        if let RawAddressing::Static { addresses, .. } = &link.value.addressing {
            for address in addresses.iter().filter_map(|text| syntax::interface_address(text)) {
                outside(&link.source.part(".addresses"), "the address", address.addr().into());
            }
        }
    }
    for (index, said) in
        raw.node_subnets.iter().flat_map(|said| said.value.iter().map(move |text| (text, &said.source))).enumerate()
    {
        if let Some(subnet) = syntax::cidr(said.0) {
            outside(&said.1.part(&format!("[{index}]")), "the node subnet", subnet);
        }
    }
}

/// Networks nest or are apart.
fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}
