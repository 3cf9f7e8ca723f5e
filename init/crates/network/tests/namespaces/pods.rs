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
