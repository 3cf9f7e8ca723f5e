//! The cluster's virtual address: two nodes on one Ethernet, each with the real program, and a machine that knows the address from before.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use keelson_config::virtual_address::VirtualAddress;

use crate::world::{World, in_namespace, is_root, sh};

const PORT: u16 = 6443;
const LONG: Duration = Duration::from_mins(5);

/// As keelson-cluster writes it: for so long from now, or not at all.
fn tell(world: &World, address: IpAddr, time: Option<Duration>) {
    let until = |time| u64::try_from((keelson_sys::clock::since_boot() + time).as_millis()).unwrap();
    let wish = VirtualAddress { address, until_milliseconds: time.map(until) };
    world.ask("virtual-address.json", &serde_json::to_string(&wish).unwrap());
}

/// As `ip` shows it on a link.
fn single(address: IpAddr) -> String {
    let length = if address.is_ipv4() { 32 } else { 128 };
    format!("{address}/{length}")
}

fn node(words: &str, own: &str) -> World {
    let mut world = World::new(words);
    world.start();
    world.wait("the node's own address", || world.state().node_address() == Some(own.parse().unwrap()));
    world
}

/// Two nodes whose cables end in bridges that are connected, and the first one's bridge is a machine besides.
fn nodes_on_one_ethernet(words: [&str; 2], own: [&str; 2], machine: &str) -> [World; 2] {
    let nodes = [node(words[0], own[0]), node(words[1], own[1])];
    sh(&format!("ip link add up0 netns {} type veth peer name up0 netns {}", nodes[0].network, nodes[1].network));
    for node in &nodes {
        node.in_network("ip addr flush dev srv0");
        node.in_network("ip link add br0 type bridge");
        for port in ["srv0", "up0"] {
            node.in_network(&format!("ip link set {port} master br0 up"));
        }
        node.in_network("ip link set br0 up");
    }
    let nodad = if machine.contains(':') { " nodad" } else { "" };
    nodes[0].in_network(&format!("ip addr add {machine} dev br0{nodad}"));
    nodes
}

/// Answers each connection with a word, for as long as the test runs.
fn serve(world: &World, banner: &'static [u8]) {
    let listener = in_namespace(&world.node, || TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // A client that has gone learns nothing.
            let _ = stream.write_all(banner);
        }
    });
}

/// What answers at the address, for the machine on the first node's bridge.
fn answer(world: &World, address: IpAddr) -> String {
    in_namespace(&world.network, move || {
        let to = SocketAddr::new(address, PORT);
        let mut answer = String::new();
        if let Ok(mut stream) = TcpStream::connect_timeout(&to, Duration::from_secs(5)) {
            let _ = stream.read_to_string(&mut answer);
        }
        answer
    })
}

fn mac(world: &World) -> String {
    let link = world.in_node("cat /sys/class/net/eth0/address");
    link.trim().to_owned()
}

/// Where the machine believes the address to be.
fn known(world: &World, address: IpAddr) -> String {
    world.in_network(&format!("ip neigh show {address} dev br0"))
}

fn moves_and_takes_its_traffic_along(nodes: &[World; 2], address: IpAddr) {
    let [first, second] = nodes;
    serve(first, b"the first");
    serve(second, b"the second");
    let own = first.state().node_addresses;
    tell(first, address, Some(LONG));
    tell(second, address, None);
    first.wait("the address on the first node", || first.has_address(&single(address)));
    assert_eq!(answer(first, address), "the first");
    assert!(known(first, address).contains(&mac(first)), "{}", known(first, address));

    // It is no address of the node's own, and nothing goes out under it.
    first.wait("its being reported", || {
        first.state().links.iter().any(|link| link.addresses.iter().any(|net| net.addr() == address))
    });
    assert_eq!(first.state().node_addresses, own);
    let machine = if address.is_ipv4() { "10.99.0.1" } else { "fd99::1" };
    let route = first.in_node(&format!("ip route get {machine}"));
    assert!(route.contains(&format!("src {} ", own[0])), "{route}");

    // Nobody asks for it meanwhile: what the machine learns it learns from the announcement.
    tell(first, address, None);
    tell(second, address, Some(LONG));
    second.wait("the address on the second node", || second.has_address(&single(address)));
    first.wait("its leaving the first", || !first.has_address(&single(address)));
    first.wait("the machine's knowing", || known(first, address).contains(&mac(second)));
    assert_eq!(answer(first, address), "the second");
}

const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 100));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 0x100));

#[test]
fn virtual_address_moves_from_node_to_node_and_neighbours_know_at_once() {
    if !is_root() {
        return;
    }
    let words = ["ip=10.99.0.2:::255.255.255.0::eth0:off", "ip=10.99.0.3:::255.255.255.0::eth0:off"];
    let nodes = nodes_on_one_ethernet(words, ["10.99.0.2", "10.99.0.3"], "10.99.0.1/24");
    moves_and_takes_its_traffic_along(&nodes, V4);
}

#[test]
fn virtual_address_moves_by_ipv6_too() {
    if !is_root() {
        return;
    }
    let words = ["ip=[fd99::2]:::64::eth0:none", "ip=[fd99::3]:::64::eth0:none"];
    let nodes = nodes_on_one_ethernet(words, ["fd99::2", "fd99::3"], "fd99::1/64");
    moves_and_takes_its_traffic_along(&nodes, V6);
}

fn times_on_the_link(world: &World, address: IpAddr) -> usize {
    world.in_node("ip -o addr show").matches(&format!(" {} ", single(address))).count()
}

#[test]
fn virtual_address_goes_at_its_deadline_and_stays_while_that_is_moved() {
    if !is_root() {
        return;
    }
    let world = node("ip=10.99.0.2:::255.255.255.0::eth0:off", "10.99.0.2");
    tell(&world, V4, Some(Duration::from_secs(6)));
    world.wait("the address", || world.has_address(&single(V4)));
    // Longer than the first deadline, and without a gap.
    let mut told = std::time::Instant::now();
    world.hold("the address is gone", Duration::from_secs(8), || {
        if told.elapsed() > Duration::from_secs(1) {
            tell(&world, V4, Some(Duration::from_secs(6)));
            told = std::time::Instant::now();
        }
        times_on_the_link(&world, V4) == 1
    });
    world.wait("its end", || !world.has_address(&single(V4)));
    world.wait("the line", || world.output().contains("the virtual address 10.99.0.100 has left this node"));
    assert!(world.has_address("10.99.0.2/24"), "the node's own address went with it");
}

#[test]
fn virtual_address_outlives_a_restart_of_the_daemon_and_not_its_absence() {
    if !is_root() {
        return;
    }
    for (words, own, address) in
        [("ip=10.99.0.2:::255.255.255.0::eth0:off", "10.99.0.2", V4), ("ip=[fd99::2]:::64::eth0:none", "fd99::2", V6)]
    {
        let mut world = node(words, own);
        tell(&world, address, Some(LONG));
        world.wait("the address", || world.has_address(&single(address)));
        world.stop();
        assert_eq!(times_on_the_link(&world, address), 1, "the address went with the daemon");
        // Whatever is asked for is the newest word.
        tell(&world, address, Some(Duration::from_secs(10)));
        world.start();
        let lines = || world.output().matches("is on this node").count();
        world.wait("the daemon's finding it", || lines() == 2);
        assert_eq!(times_on_the_link(&world, address), 1);
        assert_eq!(world.state().node_address(), Some(own.parse().unwrap()));
        world.stop();
        assert_eq!(times_on_the_link(&world, address), 1);
        world.wait("its end by the kernel", || times_on_the_link(&world, address) == 0);
    }
}

#[test]
fn an_address_of_the_nodes_own_and_one_of_no_link_are_left_alone() {
    if !is_root() {
        return;
    }
    let world = node("ip=10.99.0.2:::255.255.255.0::eth0:off", "10.99.0.2");
    tell(&world, Ipv4Addr::new(10, 99, 0, 2).into(), Some(LONG));
    world.wait("the refusal", || world.output().contains("the virtual address 10.99.0.2 is this node's own"));
    tell(&world, Ipv4Addr::new(192, 0, 2, 10).into(), Some(LONG));
    world.wait("the complaint", || {
        world.output().contains("the virtual address 192.0.2.10 is in the network of no link")
    });
    tell(&world, V4, None);
    assert!(world.has_address("10.99.0.2/24") && !world.in_node("ip addr show").contains("192.0.2.10"));
}
