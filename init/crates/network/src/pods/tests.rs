use keelson_config::pod_routes::PodNode;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};

use super::*;

/// eth0 with 10.99.0.2/24, and a bridge of pods.
fn links() -> Links {
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
    for (index, address, length) in [(2, [10, 99, 0, 2], 24), (3, [10, 244, 0, 1], 16)] {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = length;
        message.attributes.push(AddressAttribute::Address(IpAddr::from(address)));
        message.attributes.push(AddressAttribute::Local(IpAddr::from(address)));
        links.address_changed(&message);
    }
    links
}

fn node(name: &str, address: &str, range: &str) -> PodNode {
    PodNode { name: name.to_owned(), addresses: vec![address.parse().unwrap()], ranges: vec![range.parse().unwrap()] }
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
        link: Some(2),
    };
    assert_eq!(plan, Plan { routes: [route].into(), ..Plan::default() });
}

#[test]
fn a_node_elsewhere_is_reached_through_the_tunnel_under_an_address_that_both_sides_know() {
    let plan = plan(&wish(vec![node("c", "192.0.2.9", "10.244.2.0/24")]), &links());
    let mac = [0x02, 0x4b, 10, 244, 2, 0];
    let peer = Peer { gateway: Ipv4Addr::new(10, 244, 2, 0), remote: "192.0.2.9".parse().unwrap() };
    assert_eq!(plan.peers, [(mac, peer)].into());
    let tunnel = Tunnel { mac: [0x02, 0x4b, 10, 244, 0, 0], address: Ipv4Addr::new(10, 244, 0, 0), mtu: 1450 };
    assert_eq!(plan.tunnel, Some(tunnel));
    assert_eq!(plan.routes.first().map(|route| (route.link, route.gateway)), Some((None, peer.gateway.into())));
}

#[test]
fn a_bridge_of_pods_is_no_way_to_a_node() {
    // Its prefix contains the address.
    let plan = plan(&wish(vec![node("d", "10.244.7.7", "10.244.3.0/24")]), &links());
    assert_eq!(plan.routes.first().map(|route| route.link), Some(None));
}

#[test]
fn before_the_node_has_a_range_of_its_own_there_is_no_tunnel() {
    let wish = PodRoutes { cluster: Vec::new(), own: Vec::new(), nodes: vec![node("c", "192.0.2.9", "10.244.2.0/24")] };
    assert_eq!(plan(&wish, &links()), Plan::default());
}
