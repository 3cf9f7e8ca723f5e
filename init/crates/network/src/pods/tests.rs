use keelson_config::pod_routes::PodNode;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};

use super::*;

/// eth0 with 10.99.0.2/24, and a bridge of pods.
fn links() -> Links {
    links_at(&["10.99.0.2/24"])
}

/// The same with these addresses of eth0.
fn links_at(addresses: &[&str]) -> Links {
    let mut links = Links::default();
    for (index, name, kind) in [(2, "eth0", None), (3, "cni0", Some("bridge"))] {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::Mtu(if kind.is_some() { 1000 } else { 1500 }));
        if kind.is_some() {
            let info = netlink_packet_route::link::LinkInfo::Kind(netlink_packet_route::link::InfoKind::Bridge);
            message.attributes.push(LinkAttribute::LinkInfo(vec![info]));
        }
        links.link_changed(&message);
    }
    let of_eth0 = addresses.iter().map(|address| (2, *address));
    for (index, net) in of_eth0.chain([(3, "10.244.0.1/16")]) {
        let net: IpNet = net.parse().unwrap();
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.family = if net.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.prefix_len = net.prefix_len();
        message.attributes.push(AddressAttribute::Address(net.addr()));
        message.attributes.push(AddressAttribute::Local(net.addr()));
        links.address_changed(&message);
    }
    links
}

fn node(name: &str, address: &str, range: &str) -> PodNode {
    PodNode { name: name.to_owned(), addresses: vec![address.parse().unwrap()], ranges: vec![range.parse().unwrap()] }
}

/// With a range of each family.
fn dual(name: &str, addresses: &[&str], number: u8) -> PodNode {
    PodNode {
        name: name.to_owned(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        ranges: ranges_of(number),
    }
}

fn ranges_of(number: u8) -> Vec<IpNet> {
    [format!("10.244.{number}.0/24"), format!("fd44:0:0:{number}::/64")].map(|range| range.parse().unwrap()).to_vec()
}

fn dual_wish(nodes: Vec<PodNode>) -> PodRoutes {
    PodRoutes { cluster: Vec::new(), own: ranges_of(0), nodes }
}

/// Destination, gateway and way of each route.
fn ways(plan: &Plan) -> Vec<(String, String, Way)> {
    let shown = |route: &PodRoute| (route.destination.to_string(), route.gateway.to_string(), route.way);
    plan.routes.iter().map(shown).collect()
}

fn way(destination: &str, gateway: &str, way: Way) -> (String, String, Way) {
    (destination.to_owned(), gateway.to_owned(), way)
}

fn wish(nodes: Vec<PodNode>) -> PodRoutes {
    PodRoutes { cluster: Vec::new(), own: vec!["10.244.0.0/24".parse().unwrap()], nodes }
}

#[test]
fn a_node_on_the_same_link_is_reached_without_a_tunnel() {
    let plan = plan(&wish(vec![node("b", "10.99.0.3", "10.244.1.0/24")]), &links());
    let route = PodRoute {
        destination: "10.244.1.0/24".parse().unwrap(),
        gateway: "10.99.0.3".parse().unwrap(),
        way: Way::Link(2),
    };
    assert_eq!(plan, Plan { routes: [route].into(), ..Plan::default() });
}

#[test]
fn a_node_elsewhere_is_reached_through_the_tunnel_under_an_address_that_both_sides_know() {
    let plan = plan(&wish(vec![node("c", "192.0.2.9", "10.244.2.0/24")]), &links());
    let mac = [0x02, 0x4b, 10, 244, 2, 0];
    let gateway = IpAddr::from([10, 244, 2, 0]);
    let peer = Peer { gateways: [gateway].into(), remote: "192.0.2.9".parse().unwrap() };
    let tunnel = Tunnel {
        mac: [0x02, 0x4b, 10, 244, 0, 0],
        address: Some(Ipv4Addr::new(10, 244, 0, 0)),
        mtu: 1450,
        peers: [(mac, peer)].into(),
    };
    assert_eq!(plan.tunnels, [(Outer::Ipv4, tunnel)].into());
    assert_eq!(ways(&plan), [way("10.244.2.0/24", "10.244.2.0", Way::Tunnel(Outer::Ipv4))]);
}

#[test]
fn both_families_of_a_nodes_pods_go_through_the_same_tunnel() {
    let plan = plan(&dual_wish(vec![dual("c", &["192.0.2.9"], 2)]), &links());
    let through = Way::Tunnel(Outer::Ipv4);
    let link_local = "fe80::4b:aff:fef4:200";
    assert_eq!(
        ways(&plan),
        [way("10.244.2.0/24", "10.244.2.0", through), way("fd44:0:0:2::/64", link_local, through),]
    );
    let tunnel = &plan.tunnels[&Outer::Ipv4];
    let mac: Mac = [0x02, 0x4b, 10, 244, 2, 0];
    let peer = &tunnel.peers[&mac];
    assert_eq!(peer.gateways, ["10.244.2.0".parse().unwrap(), link_local.parse().unwrap()].into());
    assert_eq!((plan.tunnels.len(), tunnel.peers.len(), tunnel.mtu), (1, 1, 1450));
}

#[test]
fn each_family_takes_the_link_if_it_can_and_the_tunnel_between_ipv6_addresses_costs_more() {
    let links = links_at(&["fd99::2/64"]);
    let nodes = vec![dual("b", &["fd99::3"], 1), dual("c", &["192.0.2.9", "fd98::9"], 2)];
    let plan = plan(&dual_wish(nodes), &links);
    let through = Way::Tunnel(Outer::Ipv6);
    assert_eq!(
        ways(&plan),
        [
            way("10.244.1.0/24", "10.244.1.0", through),
            way("10.244.2.0/24", "10.244.2.0", through),
            way("fd44:0:0:1::/64", "fd99::3", Way::Link(2)),
            way("fd44:0:0:2::/64", "fe80::4b:aff:fef4:200", through),
        ]
    );
    let tunnel = &plan.tunnels[&Outer::Ipv6];
    let remotes: Vec<_> = tunnel.peers.values().map(|peer| peer.remote.to_string()).collect();
    assert_eq!((remotes, tunnel.mtu), (vec!["fd99::3".to_owned(), "fd98::9".to_owned()], 1430));
    assert!(plan.unreachable.is_empty());
}

#[test]
fn nodes_with_both_families_use_the_tunnel_between_ipv4_addresses() {
    let plan =
        plan(&dual_wish(vec![dual("c", &["fd98::9", "192.0.2.9"], 2)]), &links_at(&["10.99.0.2/24", "fd99::2/64"]));
    assert_eq!(plan.tunnels.keys().collect::<Vec<_>>(), [&Outer::Ipv4]);
}

#[test]
fn without_an_address_of_the_same_family_a_node_is_named_as_out_of_reach() {
    let plan = plan(&dual_wish(vec![dual("c", &["fd98::9"], 2), dual("d", &["10.99.0.4"], 3)]), &links());
    assert_eq!(plan.unreachable, ["c".to_owned()].into());
    assert_eq!(ways(&plan).len(), 2, "those of the other one");
}

#[test]
fn where_pods_have_ipv6_alone_the_end_of_the_prefix_tells_nodes_apart() {
    let node = node("c", "fd98::9", "fd44:0:0:2::/64");
    let wish = PodRoutes { cluster: Vec::new(), own: vec!["fd44::/64".parse().unwrap()], nodes: vec![node] };
    let plan = plan(&wish, &links_at(&["fd99::2/64"]));
    let tunnel = &plan.tunnels[&Outer::Ipv6];
    assert_eq!((tunnel.mac, tunnel.address), ([0x02, 0x4b, 0, 0, 0, 0], None));
    let mac: Mac = [0x02, 0x4b, 0, 0, 0, 2];
    assert_eq!(tunnel.peers.keys().collect::<Vec<_>>(), [&mac]);
    assert_eq!(ways(&plan), [way("fd44:0:0:2::/64", "fe80::4b:ff:fe00:2", Way::Tunnel(Outer::Ipv6))]);
}

#[test]
fn a_bridge_of_pods_is_no_way_to_a_node() {
    // Its prefix contains the address.
    let plan = plan(&wish(vec![node("d", "10.244.7.7", "10.244.3.0/24")]), &links());
    assert_eq!(plan.routes.first().map(|route| route.way), Some(Way::Tunnel(Outer::Ipv4)));
}

#[test]
fn before_the_node_has_a_range_of_its_own_there_is_no_tunnel() {
    let wish = PodRoutes { cluster: Vec::new(), own: Vec::new(), nodes: vec![node("c", "192.0.2.9", "10.244.2.0/24")] };
    assert_eq!(plan(&wish, &links()), Plan::default());
}
