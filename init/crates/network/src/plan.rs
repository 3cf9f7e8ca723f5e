//! Which link is to be configured how: the configuration's entries laid over the links there are. Pure.

use std::net::IpAddr;

use keelson_config::{AddressMethod, LinkConfig, LinkSelector, NetworkConfig, StaticRoute};

use crate::links::{Link, Links};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub method: AddressMethod,
    pub mtu: Option<u32>,
    pub nameservers: Vec<IpAddr>,
    /// Those that name the link, and those that go wherever their gateway is.
    pub routes: Vec<StaticRoute>,
}

impl Plan {
    fn of(entry: &LinkConfig) -> Self {
        Self { nameservers: entry.nameservers.clone(), ..Self::by(entry.method.clone(), entry.mtu) }
    }

    fn by(method: AddressMethod, mtu: Option<u32>) -> Self {
        Self { method, mtu, nameservers: Vec::new(), routes: Vec::new() }
    }
}

/// How `link` is to be configured; `None` for links that are not ours to touch, such as those of pods.
///
/// `any_static` is the link that was chosen for a static address without a link's name ([`choose_any_static`]).
pub fn plan(config: &NetworkConfig, link: &Link, any_static: Option<u32>) -> Option<Plan> {
    let plan = addressing(config, link, any_static)?;
    let routes = config.routes.iter().filter(|route| route.link == LinkSelector::Any || selects(&route.link, link));
    Some(Plan { routes: routes.cloned().collect(), ..plan })
}

fn addressing(config: &NetworkConfig, link: &Link, any_static: Option<u32>) -> Option<Plan> {
    if link.is_loopback() {
        return None;
    }
    if config.bonds.iter().any(|bond| bond.members.contains(&link.name)) {
        let mtu = config.bonds.iter().find(|bond| bond.members.contains(&link.name)).and_then(|bond| bond.mtu);
        return Some(Plan::by(AddressMethod::Off, mtu));
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
        _ => Plan::by(AddressMethod::Dhcp, None),
    };
    plan.mtu = plan.mtu.or_else(|| bond.and_then(|bond| bond.mtu));
    Some(plan)
}

/// The entry that selects the link by MAC address or name.
fn named<'a>(config: &'a NetworkConfig, link: &Link) -> Option<&'a LinkConfig> {
    config.links.iter().find(|entry| selects(&entry.link, link))
}

/// Whether the link is selected by MAC address or name. VLANs share their parent's MAC address, so that selects hardware only.
fn selects(selector: &LinkSelector, link: &Link) -> bool {
    match selector {
        LinkSelector::Any => false,
        LinkSelector::Name(name) => *name == link.name,
        LinkSelector::Mac(mac) => link.is_physical() && link.mac == Some(*mac),
    }
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

#[cfg(test)]
mod tests {
    use keelson_config::{Inputs, MacAddress, NodeConfig, Remembered, resolve};
    use netlink_packet_route::link::LinkLayerType;

    use super::*;
    use crate::advertisements::RouterFlags;

    fn config(words: &str) -> NodeConfig {
        let command_line = format!("keelson.role=worker {words}").into_bytes();
        resolve(&Inputs { command_line, ..Inputs::default() }, &Remembered::default()).unwrap().node
    }

    fn link(index: u32, name: &str, kind: Option<&str>) -> Link {
        Link {
            index,
            name: name.to_owned(),
            mac: Some(MacAddress([0x52, 0x54, 0, 0, 0, u8::try_from(index).unwrap()])),
            mtu: 1500,
            up: true,
            carrier: true,
            layer: LinkLayerType::Ether,
            kind: kind.map(str::to_owned),
            controller: None,
            addresses: Vec::new(),
            routers: RouterFlags::default(),
        }
    }

    fn method(words: &str, link: &Link) -> Option<AddressMethod> {
        plan(&config(words).network, link, None).map(|plan| plan.method)
    }

    #[test]
    fn hardware_is_configured_by_dhcp_and_the_links_of_pods_are_left_alone() {
        assert_eq!(method("", &link(2, "eth0", None)), Some(AddressMethod::Dhcp));
        for kind in ["veth", "bridge", "vxlan", "dummy", "tun"] {
            assert_eq!(method("", &link(2, "x", Some(kind))), None, "{kind}");
        }
        let loopback = Link { layer: LinkLayerType::Loopback, ..link(1, "lo", None) };
        assert_eq!(method("", &loopback), None);
        assert_eq!(method("", &Link { layer: LinkLayerType::Ipgre, ..link(2, "gre0", None) }), None);
    }

    #[test]
    fn entries_select_by_name_by_mac_address_or_all() {
        assert_eq!(method("ip=eth0:off", &link(2, "eth0", None)), Some(AddressMethod::Off));
        assert_eq!(method("ip=eth0:off", &link(3, "eth1", None)), Some(AddressMethod::Dhcp));
        assert_eq!(method("ip=off", &link(3, "eth1", None)), Some(AddressMethod::Off));
        assert_eq!(method("ip=eth0:dhcp ip=off", &link(2, "eth0", None)), Some(AddressMethod::Dhcp));
        let document = "apiVersion: keelson.dev/v1alpha1\nkind: NodeConfiguration\nspec: {role: worker, network: \
                        {links: [{link: '52:54:00:00:00:02', method: 'off'}]}}\n";
        let fw_cfg = [("opt/keelson/document".to_owned(), document.as_bytes().to_vec())].into();
        let by_mac = resolve(&Inputs { fw_cfg, ..Inputs::default() }, &Remembered::default()).unwrap().node.network;
        assert_eq!(plan(&by_mac, &link(2, "eth0", None), None).unwrap().method, AddressMethod::Off);
        assert_eq!(plan(&by_mac, &link(3, "eth1", None), None).unwrap().method, AddressMethod::Dhcp);
        assert_eq!(plan(&by_mac, &link(2, "eth0.5", Some("vlan")), None), None, "a VLAN has its parent's address");
    }

    #[test]
    fn a_static_address_without_a_link_goes_to_the_first_with_a_carrier() {
        let network = config("ip=10.0.0.5:::24 ip=eth0:dhcp").network;
        let mut links = Links::default();
        assert_eq!(choose_any_static(&network, &links), None);
        for (index, name, carrier) in [(2, "eth0", true), (3, "eth1", false), (4, "eth2", true), (5, "eth3", true)] {
            links.insert(Link { carrier, ..link(index, name, None) });
        }
        assert_eq!(choose_any_static(&network, &links), Some(4));
        let method = |index| plan(&network, links.get(index).unwrap(), Some(4)).unwrap().method;
        assert!(matches!(method(4), AddressMethod::Static(_)));
        assert_eq!(method(5), AddressMethod::Dhcp);
        assert_eq!(choose_any_static(&config("ip=dhcp").network, &links), None);
    }

    #[test]
    fn routes_are_with_the_link_they_name_or_with_all() {
        let network = config("rd.route=10.8.0.0/16:10.0.0.9:eth1 rd.route=10.9.0.0/16:10.0.0.9").network;
        let routes = |name: &str| -> Vec<String> {
            plan(&network, &link(2, name, None), None)
                .unwrap()
                .routes
                .iter()
                .map(|route| route.to.to_string())
                .collect()
        };
        assert_eq!(routes("eth0"), ["10.9.0.0/16"]);
        assert_eq!(routes("eth1"), ["10.8.0.0/16", "10.9.0.0/16"]);
    }

    #[test]
    fn vlans_and_bonds_of_ours_are_configured_and_members_only_brought_up() {
        let words = "vlan=eth0.5:eth0 bond=bond0:eth1,eth2:mode=active-backup:9000";
        assert_eq!(method(words, &link(7, "eth0.5", Some("vlan"))), Some(AddressMethod::Dhcp));
        assert_eq!(method(words, &link(8, "eth0.6", Some("vlan"))), None);
        assert_eq!(method(words, &link(3, "eth1", None)), Some(AddressMethod::Off));
        let bond = plan(&config(words).network, &link(9, "bond0", Some("bond")), None).unwrap();
        assert_eq!((bond.method, bond.mtu), (AddressMethod::Dhcp, Some(9000)));
    }
}
