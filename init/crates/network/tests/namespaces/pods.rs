//! The ways to other nodes' pods, as the kernel has them, and traffic through the tunnel.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use crate::world::{World, is_root};

fn ask(world: &World, nodes: &str) {
    let text = format!("{{\"cluster\":[\"10.244.0.0/16\"],\"own\":[\"10.244.0.0/24\"],\"nodes\":[{nodes}]}}");
    world.ask("routes.json", &text);
}

/// Of a cluster whose pods have addresses of both families.
fn ask_dual(world: &World, nodes: &[String]) {
    let text = format!(
        "{{\"cluster\":[\"10.244.0.0/16\",\"fd44::/56\"],\"own\":[\"10.244.0.0/24\",\"fd44::/64\"],\"nodes\":[{}]}}",
        nodes.join(",")
    );
    world.ask("routes.json", &text);
}

/// The node with this number has 10.244.NUMBER.0/24 and `fd44:0:0:NUMBER::/64`.
fn dual_node(number: u8, address: &str) -> String {
    format!(
        "{{\"name\":\"n{number}\",\"addresses\":[\"{address}\"],\
         \"ranges\":[\"10.244.{number}.0/24\",\"fd44:0:0:{number}::/64\"]}}"
    )
}

/// The other end of a tunnel in the network, made by hand as node 2's daemon makes it: pods of both families behind it, and
/// ways back to node 0, which is at `node`.
fn far_end(world: &World, own: &str, node: &str) {
    for command in [
        "ip link set lo up",
        &format!("ip link add vx address 02:4b:0a:f4:02:00 type vxlan id 1 local {own} dstport 4789 nolearning"),
        "ip addr add 10.244.2.0/32 dev vx",
        "ip addr add 10.244.2.5/32 dev lo",
        "ip addr add fd44:0:0:2::5/128 dev lo nodad",
        "ip link set vx up",
        "ip neigh add 10.244.0.0 lladdr 02:4b:0a:f4:00:00 dev vx nud permanent",
        "ip neigh add fe80::4b:aff:fef4:0 lladdr 02:4b:0a:f4:00:00 dev vx nud permanent",
        &format!("bridge fdb append 02:4b:0a:f4:00:00 dev vx dst {node}"),
        "ip route add 10.244.0.0/24 via 10.244.0.0 dev vx onlink",
        "ip -6 route add fd44::/64 via fe80::4b:aff:fef4:0 dev vx",
    ] {
        world.in_network(command);
    }
}

/// A pod of each family on the node.
fn pods(world: &World) -> [UdpSocket; 2] {
    for command in ["ip link set lo up", "ip addr add 10.244.0.7/32 dev lo", "ip addr add fd44::7/128 dev lo nodad"] {
        world.in_node(command);
    }
    [socket(&world.node, "10.244.0.7:0"), socket(&world.node, "[fd44::7]:0")]
}

fn node(name: &str, address: &str, range: &str) -> String {
    format!("{{\"name\":\"{name}\",\"addresses\":[\"{address}\"],\"ranges\":[\"{range}\"]}}")
}

/// It belongs to the namespace in which it was made.
fn socket(namespace: &str, address: &'static str) -> UdpSocket {
    let file = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
    let in_namespace = move || {
        setns(file.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    };
    std::thread::spawn(in_namespace).join().unwrap()
}

/// The address that a datagram comes from, for whom it is sent to.
fn seen_from(sender: &UdpSocket, receiver: &UdpSocket) -> IpAddr {
    sender.send_to(b"who am I?", receiver.local_addr().unwrap()).unwrap();
    receiver.recv_from(&mut [0; 16]).expect("the datagram arrives").1.ip()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn pods_of_both_families_reach_others_through_a_tunnel_between_ipv6_addresses() {
    if !is_root() {
        return;
    }
    let mut world = World::new("ip=[fd99::2]::[fd99::1]:64::eth0:none");
    world.in_network("ip addr add fd99::1/64 dev srv0 nodad");
    world.in_network("ip addr add fd98::9/128 dev lo nodad");
    far_end(&world, "fd98::9", "fd99::2");
    world.start();
    world.wait("the address", || {
        world.has_address("fd99::2/64") && !world.in_node("ip -6 addr show dev eth0 tentative").contains("fd99::2")
    });

    let (near, far) = (dual_node(1, "fd99::3"), dual_node(2, "fd98::9"));
    ask_dual(&world, &[near.clone(), far]);
    let (v4, v6) = (|| world.in_node("ip route show proto 75"), || world.in_node("ip -6 route show proto 75"));
    world.wait("all ways", || v4().lines().count() == 2 && v6().lines().count() == 2);
    assert!(v4().contains("10.244.1.0/24 via 10.244.1.0 dev keelson-vxlan6"), "{}", v4());
    assert!(v4().contains("10.244.2.0/24 via 10.244.2.0 dev keelson-vxlan6"), "{}", v4());
    assert!(v6().contains("fd44:0:0:1::/64 via fd99::3 dev eth0"), "{}", v6());
    assert!(v6().contains("fd44:0:0:2::/64 via fe80::4b:aff:fef4:200 dev keelson-vxlan6"), "{}", v6());
    let tunnel = world.in_node("ip -d link show keelson-vxlan6");
    assert!(
        tunnel.contains("mtu 1430") && tunnel.contains("nolearning") && tunnel.contains("dstport 4789"),
        "{tunnel}"
    );
    assert!(!world.in_node("ip link").contains("keelson-vxlan:"), "nobody is behind the other one");

    // Between pods nothing is translated; what goes elsewhere is.
    let [pod4, pod6] = pods(&world);
    assert_eq!(seen_from(&pod4, &socket(&world.network, "10.244.2.5:0")), ip("10.244.0.7"));
    assert_eq!(seen_from(&pod6, &socket(&world.network, "[fd44:0:0:2::5]:0")), ip("fd44::7"));
    assert_eq!(seen_from(&pod6, &socket(&world.network, "[fd99::1]:0")), ip("fd99::2"));

    // A node that was removed leaves nothing.
    ask_dual(&world, &[near]);
    world.wait("its ways are gone", || v4().lines().count() == 1 && v6().lines().count() == 1);
    let entries = world.in_node("bridge fdb show dev keelson-vxlan6");
    assert!(entries.contains("fd99::3") && !entries.contains("fd98::9"), "{entries}");
    let neighbours = world.in_node("ip -6 neigh show dev keelson-vxlan6");
    assert!(!neighbours.contains("fe80::4b:aff:fef4:200"), "{neighbours}");
    ask_dual(&world, &[]);
    world.wait("no way is left", || v4().is_empty() && v6().is_empty());
    assert!(!world.in_node("ip link").contains("keelson-vxlan"), "nobody is left behind a tunnel");
}

#[test]
fn pods_of_both_families_reach_others_through_a_tunnel_between_ipv4_addresses() {
    if !is_root() {
        return;
    }
    let mut world = World::new("ip=10.99.0.2::10.99.0.1:255.255.255.0::eth0:off");
    world.in_network("ip addr add 192.0.2.9/32 dev lo");
    far_end(&world, "192.0.2.9", "10.99.0.2");
    world.start();
    world.wait("the address", || world.has_address("10.99.0.2/24"));

    ask_dual(&world, &[dual_node(1, "fd98::9"), dual_node(2, "192.0.2.9")]);
    let (v4, v6) = (|| world.in_node("ip route show proto 75"), || world.in_node("ip -6 route show proto 75"));
    world.wait("both ways", || v4().lines().count() == 1 && v6().lines().count() == 1);
    assert!(v4().contains("10.244.2.0/24 via 10.244.2.0 dev keelson-vxlan "), "{}", v4());
    assert!(v6().contains("fd44:0:0:2::/64 via fe80::4b:aff:fef4:200 dev keelson-vxlan "), "{}", v6());
    assert!(world.in_node("ip -d link show keelson-vxlan").contains("mtu 1450"));
    let [pod4, pod6] = pods(&world);
    assert_eq!(seen_from(&pod4, &socket(&world.network, "10.244.2.5:0")), ip("10.244.0.7"));
    assert_eq!(seen_from(&pod6, &socket(&world.network, "[fd44:0:0:2::5]:0")), ip("fd44::7"));
    // The other one has an address of a family only that this node has none of.
    world.wait("the complaint", || world.output().contains("no way leads to the pods of n1"));
}

#[test]
fn routes_and_tunnel_follow_the_members_and_traffic_goes_through() {
    if !is_root() {
        return;
    }
    let mut world = World::new("ip=10.99.0.2::10.99.0.1:255.255.255.0::eth0:off");
    // The other node is behind the router: its end of the tunnel, made by hand as another node's daemon makes it.
    world.in_network("ip addr add 192.0.2.9/32 dev lo");
    world.in_network("ip link set lo up");
    world.in_network("ip link add vx address 02:4b:0a:f4:02:00 type vxlan id 1 dstport 4789 nolearning");
    world.in_network("ip addr add 10.244.2.0/32 dev vx");
    world.in_network("ip addr add 10.244.2.5/32 dev lo");
    world.in_network("ip link set vx up");
    world.in_network("ip neigh add 10.244.0.0 lladdr 02:4b:0a:f4:00:00 dev vx nud permanent");
    world.in_network("bridge fdb append 02:4b:0a:f4:00:00 dev vx dst 10.99.0.2");
    world.in_network("ip route add 10.244.0.0/24 via 10.244.0.0 dev vx onlink");
    world.start();
    world.wait("the address", || world.has_address("10.99.0.2/24"));

    let (near, far) = (node("b", "10.99.0.3", "10.244.1.0/24"), node("c", "192.0.2.9", "10.244.2.0/24"));
    ask(&world, &format!("{near},{far}"));
    let routes = || world.in_node("ip route show proto 75");
    world.wait("both ways", || routes().lines().count() == 2);
    assert!(routes().contains("10.244.1.0/24 via 10.99.0.3 dev eth0"), "{}", routes());
    assert!(routes().contains("10.244.2.0/24 via 10.244.2.0 dev keelson-vxlan"), "{}", routes());
    let tunnel = world.in_node("ip -d link show keelson-vxlan");
    assert!(
        tunnel.contains("mtu 1450") && tunnel.contains("nolearning") && tunnel.contains("dstport 4789"),
        "{tunnel}"
    );

    // Between pods nothing is translated; what goes elsewhere is.
    world.in_node("ip addr add 10.244.0.7/32 dev lo");
    let pod = socket(&world.node, "10.244.0.7:0");
    assert_eq!(seen_from(&pod, &socket(&world.network, "10.244.2.5:0")), "10.244.0.7".parse::<IpAddr>().unwrap());
    assert_eq!(seen_from(&pod, &socket(&world.network, "10.99.0.1:0")), "10.99.0.2".parse::<IpAddr>().unwrap());

    // A node that was removed leaves nothing.
    ask(&world, &near);
    world.wait("its way is gone", || routes().lines().count() == 1);
    assert!(!world.in_node("ip link").contains("keelson-vxlan"), "nobody is left behind the tunnel");

    // What somebody else takes away comes back, and nothing is touched when nothing changed.
    world.in_node("ip route del 10.244.1.0/24");
    world.wait("the route is back", || routes().lines().count() == 1);
}
