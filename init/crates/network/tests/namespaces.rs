//! The real program in a network namespace, with a DHCP server on the other end of the cable.
//!
//! Needs root. Each test has namespaces of its own and removes them; nothing outside of them is touched.
#![forbid(unsafe_code)]
#![cfg(test)]

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, MessageType};

#[path = "namespaces/cut.rs"]
mod cut;
#[path = "namespaces/pods.rs"]
mod pods;
#[path = "namespaces/router.rs"]
mod router;
#[path = "namespaces/server.rs"]
mod server;
#[path = "namespaces/server6.rs"]
mod server6;
#[path = "namespaces/virtual_address.rs"]
mod virtual_address;
#[path = "namespaces/world.rs"]
mod world;

use router::Router;
use server::{Behaviour, SERVER, Server};
use server6::Server6;
use world::{World, is_root};

/// A node that asks on eth0, and the server that it asks.
fn node_and_server(behaviour: Behaviour) -> (World, Server) {
    let world = World::new("ip=eth0:dhcp");
    let server = Server::start(&world.network, "srv0", behaviour);
    (world, server)
}

fn leased(world: &World, address: &str) {
    world.wait(&format!("the address {address}"), || {
        world.has_address(address)
            && world.state().node_address().is_some_and(|node| address.starts_with(&format!("{node}/")))
    });
}

#[test]
fn leases_an_address_and_tells_everyone() {
    if !is_root() {
        return;
    }
    let (mut world, server) = node_and_server(Behaviour::default());
    world.start();
    world.wait("readiness", || world.is_ready());
    let addresses = world.in_node("ip -4 -o addr show dev eth0");
    assert!(addresses.contains("10.99.0.50/24") && addresses.contains("valid_lft 3"), "{addresses}");
    assert!(world.in_node("ip -o addr show dev lo").contains("127.0.0.1/8"), "loopback is down");
    let routes = world.in_node("ip route show default");
    assert!(routes.contains("via 10.99.0.1 dev eth0 proto dhcp src 10.99.0.50"), "{routes}");
    assert_eq!(
        world.resolv_conf(),
        "# Written by keelson-network.\nnameserver 10.99.0.1\nnameserver 10.99.0.2\nsearch test.example\n"
    );
    let state = world.state();
    assert_eq!(state.node_addresses[0], Ipv4Addr::new(10, 99, 0, 50));
    let link = state.links.iter().find(|link| link.name == "eth0").unwrap();
    assert_eq!(link.gateway, Some(SERVER.into()));
    assert!(link.carrier && link.mac.is_some() && link.mtu == 1500, "{link:?}");
    let lease = link.lease.as_ref().unwrap();
    assert_eq!((lease.state.as_str(), lease.server), ("BOUND", SERVER.into()));
    assert_eq!(lease.expires.unwrap() - lease.obtained, 3600);
    let mut kinds: Vec<MessageType> = server.asked().iter().map(|asked| asked.kind).collect();
    // On a busy machine the answer may come after the question was repeated.
    kinds.dedup();
    assert_eq!(kinds, [MessageType::Discover, MessageType::Request]);
    assert!(
        world.output().contains("eth0: 10.99.0.50/24 from 10.99.0.1 for 3600 s, gateway 10.99.0.1"),
        "{}",
        world.output()
    );
}

#[test]
fn renews_a_lease_before_it_ends() {
    if !is_root() {
        return;
    }
    let (mut world, server) = node_and_server(Behaviour { lease_seconds: 6, ..Behaviour::default() });
    world.start();
    leased(&world, "10.99.0.50/24");
    world.hold("the address is gone", Duration::from_secs(9), || world.has_address("10.99.0.50/24"));
    let asked = server.asked();
    let renewals: Vec<_> = asked.iter().filter(|asked| asked.is_renewal()).collect();
    assert!(renewals.len() >= 2, "{asked:#?}");
    for renewal in renewals {
        assert_eq!(renewal.from, Ipv4Addr::new(10, 99, 0, 50), "a renewal comes from the address itself");
        assert_eq!(renewal.requested(), None);
    }
    // On a busy machine the first answer may come after the question was repeated; after that nothing is looked for.
    let since_lease = asked.iter().skip_while(|asked| asked.kind == MessageType::Discover);
    assert!(since_lease.clone().all(|asked| asked.kind == MessageType::Request), "{asked:#?}");
}

#[test]
fn asks_for_the_same_address_after_the_carrier_returns() {
    if !is_root() {
        return;
    }
    let (mut world, server) = node_and_server(Behaviour::default());
    world.start();
    leased(&world, "10.99.0.50/24");
    server.forget();
    world.in_network("ip link set srv0 down");
    world.wait("the loss of carrier", || !world.state().links[0].carrier);
    assert!(world.has_address("10.99.0.50/24"), "the address went with the carrier");
    world.in_network("ip link set srv0 up");
    world.wait("a request for the same address", || server.asked().iter().any(server::Asked::is_reboot));
    world.wait("the bound state", || world.state().links[0].lease.as_ref().is_some_and(|lease| lease.state == "BOUND"));
    assert_eq!(server.asked()[0].requested(), Some(Ipv4Addr::new(10, 99, 0, 50)));
    assert!(world.in_node("ip route show default").contains("via 10.99.0.1"));
    assert!(!server.asked().iter().any(|asked| asked.kind == MessageType::Discover));
}

#[test]
fn keeps_asking_a_silent_server_and_says_so() {
    if !is_root() {
        return;
    }
    let (mut world, server) = node_and_server(Behaviour { silent: true, ..Behaviour::default() });
    world.start();
    world.wait("the line about the silence", || {
        world.output().contains("no DHCP answer on eth0 for 10 s, still asking")
    });
    // The line comes first; the state is written after it.
    world.wait("the problem in the state", || {
        world.state().problems.iter().any(|problem| problem.starts_with("no DHCP answer on eth0"))
    });
    assert!(server.asked().len() >= 3, "{:?}", server.asked());
    assert!(!world.is_ready());
    server.set(|behaviour| behaviour.silent = false);
    leased(&world, "10.99.0.50/24");
    world.wait("readiness", || world.is_ready());
    world.wait("the end of the problem", || world.state().problems.is_empty());
}

#[test]
fn gives_a_lease_up_when_it_ends_and_gets_another() {
    if !is_root() {
        return;
    }
    let (mut world, server) = node_and_server(Behaviour { lease_seconds: 4, ..Behaviour::default() });
    world.start();
    leased(&world, "10.99.0.50/24");
    server.set(|behaviour| behaviour.silent = true);
    world.wait("the end of the lease", || !world.has_address("10.99.0.50/24"));
    world.wait("a state without address", || world.state().node_addresses.is_empty());
    assert!(!world.in_node("ip route show").contains("default"), "a route outlived its lease");
    world.wait("the line", || world.output().contains("giving up 10.99.0.50/24: the lease has expired"));
    server.set(|behaviour| {
        *behaviour = Behaviour { address: Ipv4Addr::new(10, 99, 0, 51), ..Behaviour::default() };
    });
    leased(&world, "10.99.0.51/24");
}

#[test]
fn moves_to_another_address_when_the_server_refuses_the_old() {
    if !is_root() {
        return;
    }
    let (mut world, server) = node_and_server(Behaviour::default());
    world.start();
    leased(&world, "10.99.0.50/24");
    server.set(|behaviour| behaviour.address = Ipv4Addr::new(10, 99, 0, 60));
    world.in_network("ip link set srv0 down");
    world.wait("the loss of carrier", || !world.state().links[0].carrier);
    world.in_network("ip link set srv0 up");
    leased(&world, "10.99.0.60/24");
    assert!(!world.has_address("10.99.0.50/24"));
    assert!(world.in_node("ip route show default").contains("src 10.99.0.60"));
}

#[test]
fn a_restart_of_the_daemon_cuts_nothing() {
    if !is_root() {
        return;
    }
    let (mut world, server) = node_and_server(Behaviour::default());
    world.start();
    leased(&world, "10.99.0.50/24");
    world.wait("readiness", || world.is_ready());
    world.stop();
    assert!(world.has_address("10.99.0.50/24"), "the address went with the daemon");
    assert!(world.in_node("ip route show default").contains("via 10.99.0.1"));
    server.forget();
    world.start();
    let mut ready = false;
    world.wait("readiness and a request for the address that is held", || {
        assert!(world.has_address("10.99.0.50/24"), "the address was away for a moment: {}", world.output());
        ready |= world.is_ready();
        ready && server.asked().iter().any(server::Asked::is_reboot)
    });
    assert!(!server.asked().iter().any(|asked| asked.kind == MessageType::Discover));
}

#[test]
fn a_held_lease_outlasts_a_silent_server() {
    if !is_root() {
        return;
    }
    let (mut world, server) = node_and_server(Behaviour::default());
    world.start();
    leased(&world, "10.99.0.50/24");
    world.stop();
    server.set(|behaviour| behaviour.silent = true);
    server.forget();
    world.start();
    world.wait("the search for another server", || {
        assert!(world.has_address("10.99.0.50/24"), "{}", world.output());
        server.asked().iter().any(|asked| asked.kind == MessageType::Discover)
    });
    assert_eq!(world.state().node_addresses[0], Ipv4Addr::new(10, 99, 0, 50));
}

#[test]
fn takes_what_the_options_say() {
    if !is_root() {
        return;
    }
    let gateway = Ipv4Addr::new(10, 99, 7, 1);
    let behaviour = Behaviour {
        mask: Ipv4Addr::BROADCAST,
        options: vec![
            DhcpOption::InterfaceMtu(1400),
            DhcpOption::Router(vec![Ipv4Addr::new(10, 99, 0, 9)]),
            DhcpOption::ClasslessStaticRoute(vec![
                ("0.0.0.0/0".parse().unwrap(), gateway),
                ("192.168.7.0/24".parse().unwrap(), Ipv4Addr::UNSPECIFIED),
            ]),
        ],
        ..Behaviour::default()
    };
    let (mut world, _server) = node_and_server(behaviour);
    world.start();
    leased(&world, "10.99.0.50/32");
    world.wait("the routes", || world.in_node("ip route show").lines().count() == 2);
    let routes = world.in_node("ip route show");
    assert!(routes.contains("default via 10.99.7.1 dev eth0 proto dhcp src 10.99.0.50"), "{routes}");
    assert!(routes.contains("192.168.7.0/24 dev eth0 proto dhcp scope link"), "{routes}");
    world.wait("the MTU", || world.state().links[0].mtu == 1400);
}

#[test]
fn configures_what_the_command_line_says() {
    if !is_root() {
        return;
    }
    let mut world = World::new("ip=10.99.0.7::10.99.0.1:255.255.255.0::eth0:none:10.99.0.3 nameserver=10.99.0.4");
    let server = Server::start(&world.network, "srv0", Behaviour::default());
    world.start();
    leased(&world, "10.99.0.7/24");
    world.wait("readiness", || world.is_ready());
    world.wait("the route", || world.in_node("ip route show default").contains("via 10.99.0.1 dev eth0 proto static"));
    assert_eq!(world.resolv_conf(), "# Written by keelson-network.\nnameserver 10.99.0.4\nnameserver 10.99.0.3\n");
    assert!(server.asked().is_empty(), "it asked for a lease all the same");
    // The kernel drops routes of a link that goes down.
    world.in_node("ip link set eth0 down");
    world.wait("the way back", || {
        world.in_node("ip route show default").contains("via 10.99.0.1") && world.state().links[0].carrier
    });
}

#[test]
fn routes_go_to_the_link_that_reaches_their_gateway_and_come_back_with_it() {
    if !is_root() {
        return;
    }
    let mut world = World::new("");
    world.plug("eth1", "srv1");
    world.configure_network(
        "{links: [{link: eth0, method: dhcp}, {link: eth1, addresses: [10.98.0.7/24, 'fd98::7/64']}], \
         routes: [{to: 192.168.0.0/16, via: 10.98.0.1}, {to: 172.20.0.0/14, via: 10.99.0.9, metric: 7}, \
         {to: 'fd44::/32', via: 'fe80::1', link: eth1}, {to: 172.24.0.0/16, via: 10.97.0.1}]}",
    );
    let server = Server::start(&world.network, "srv0", Behaviour::default());
    world.start();
    let static_routes =
        |world: &World| world.in_node("ip route show proto static") + &world.in_node("ip -6 route show proto static");
    let expected = |world: &World| {
        let routes = static_routes(world);
        routes.lines().count() == 3
            && routes.contains("192.168.0.0/16 via 10.98.0.1 dev eth1")
            && routes.contains("172.20.0.0/14 via 10.99.0.9 dev eth0 metric 7")
            && routes.contains("fd44::/32 via fe80::1 dev eth1")
    };
    world.wait("the three routes that can be", || expected(&world));
    world.in_node("ip link set eth1 down");
    world.wait("the way back", || expected(&world));
    // Another network: the gateway is no longer on the link.
    server.set(|behaviour| {
        *behaviour = Behaviour { address: Ipv4Addr::new(10, 97, 0, 50), ..Behaviour::default() };
    });
    world.in_network("ip link set srv0 down");
    world.wait("the loss of carrier", || !world.state().links[0].carrier);
    world.in_network("ip link set srv0 up");
    world.wait("the routes of the new network alone", || {
        let routes = static_routes(&world);
        routes.contains("172.24.0.0/16 via 10.97.0.1 dev eth0") && !routes.contains("172.20.0.0/14")
    });
}

#[test]
fn finds_links_that_come_late_and_leaves_those_of_pods_alone() {
    if !is_root() {
        return;
    }
    let mut world = World::new("ip=eth0:dhcp ip=eth1:dhcp");
    let server = Server::start(&world.network, "srv0", Behaviour::default());
    world.plug("pod0", "other0");
    world.start();
    leased(&world, "10.99.0.50/24");
    let behaviour = Behaviour { address: Ipv4Addr::new(10, 98, 0, 9), options: Vec::new(), ..Behaviour::default() };
    world.plug("eth1", "srv1");
    world.in_network("ip addr add 10.98.0.1/24 dev srv1");
    let second = Server::start(&world.network, "srv1", behaviour);
    world.wait("the second address", || world.has_address("10.98.0.9/24"));
    assert_eq!(world.state().node_addresses[0], Ipv4Addr::new(10, 99, 0, 50), "the node's address moved");
    assert!(world.in_node("ip -o link show pod0").contains("state DOWN"), "a link of a pod was touched");
    assert!(!world.state().links.iter().any(|link| link.name == "pod0"));
    drop((server, second));
    world.in_node("ip link del eth1");
    world.wait("the end of eth1", || world.state().links.len() == 1);
}

#[test]
fn configures_ipv6_addresses_and_their_gateway() {
    if !is_root() {
        return;
    }
    let mut world = World::new("ip=[fd99::7]::[fd99::1]:64::eth0:none:[fd99::53]");
    world.in_network("ip addr add fd99::1/64 dev srv0");
    world.start();
    // Usable only once the kernel has found nobody else with it.
    world.wait("readiness", || world.is_ready());
    assert_eq!(world.state().node_addresses, ["fd99::7".parse::<std::net::IpAddr>().unwrap()]);
    world.wait("the route", || world.in_node("ip -6 route show default").contains("via fd99::1 dev eth0 proto static"));
    assert!(world.resolv_conf().contains("nameserver fd99::53"));
}

/// The network's end of the cable, with a router that advertises a prefix; the node forwards, as PID 1 sets it.
fn advertising_router(world: &World, flags: u8, options: &[u8]) -> Router {
    world.in_node("sysctl -q -w net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.forwarding=1");
    Router::start(&world.network, networks_link(world), flags, options)
}

fn networks_link(world: &World) -> u32 {
    let link = world.in_network("ip -o link show dev srv0");
    link.split(':').next().unwrap().trim().parse().unwrap()
}

#[test]
fn takes_address_and_route_from_a_router_although_it_forwards() {
    if !is_root() {
        return;
    }
    let mut world = World::new("ip=eth0:dhcp");
    let _router = advertising_router(&world, 0, &[]);
    world.start();
    world.wait("an address with the router's prefix", || {
        world.in_node("ip -6 -o addr show dev eth0").contains("2001:db8:99:")
    });
    world.wait("the router's route", || world.in_node("ip -6 route show default").contains("proto ra"));
    // Nobody answers DHCP here: the address by advertisement is enough to be a node.
    world.wait("the node's address", || {
        world.state().node_addresses.iter().any(|address| address.to_string().starts_with("2001:db8:99:"))
    });
    world.wait("readiness", || world.is_ready());
}

#[test]
fn link_that_is_off_takes_nothing_from_a_router() {
    if !is_root() {
        return;
    }
    let mut world = World::new("ip=eth0:off");
    let _router = advertising_router(&world, 0, &[]);
    world.start();
    world.wait("the link-local address", || world.in_node("ip -6 -o addr show dev eth0").contains("fe80:"));
    world.hold("no address of the router's prefix", Duration::from_secs(3), || {
        !world.in_node("ip -6 -o addr show dev eth0").contains("2001:db8:99:")
    });
}

/// Two networks, and the default route by the one that is not the cluster's.
#[test]
fn node_is_addressed_in_the_subnet_that_was_asked_for_whatever_has_the_default_route() {
    if !is_root() {
        return;
    }
    let mut world = World::new("");
    world.plug("eth1", "srv1");
    world.configure_network(
        "{links: [{link: eth0, method: dhcp}, {link: eth1, method: static, addresses: [10.98.0.7/24]}], \
         nodeSubnets: [10.98.0.0/16]}",
    );
    let _server = Server::start(&world.network, "srv0", Behaviour::default());
    world.start();
    world.wait("both addresses", || world.has_address("10.99.0.50/24") && world.has_address("10.98.0.7/24"));
    assert!(world.in_node("ip route show default").contains("via 10.99.0.1 dev eth0"));
    world.wait("the node's address", || world.state().node_addresses == [Ipv4Addr::new(10, 98, 0, 7)]);
}

/// Flags of an advertisement (RFC 4861, 4.2): addresses by DHCPv6, and all else by it.
const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;

#[test]
fn resolvers_of_a_router_are_used_for_as_long_as_it_says() {
    if !is_root() {
        return;
    }
    let mut world = World::new("ip=eth0:dhcp");
    let options = router::resolver("2001:db8:99::53", b"\x04test\x07example\0", 3);
    let router = advertising_router(&world, 0, &options);
    world.start();
    world.wait("the router's resolver", || world.resolv_conf().contains("nameserver 2001:db8:99::53"));
    world.wait("its search domain", || world.resolv_conf().contains("search test.example"));
    drop(router);
    world.wait("the end of both", || world.resolv_conf() == "# Written by keelson-network.\n");
}

#[test]
fn a_restarted_daemon_asks_routers_for_their_resolvers() {
    if !is_root() {
        return;
    }
    let mut world = World::new("ip=eth0:dhcp");
    let options = router::resolver("2001:db8:99::53", b"\x04test\x07example\0", 600);
    world.in_node("sysctl -q -w net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.forwarding=1");
    let _router = Router::start_reticent(&world.network, networks_link(&world), 0, &options);
    for _ in 0..2 {
        world.start();
        world.wait("the router's resolver", || world.resolv_conf().contains("nameserver 2001:db8:99::53"));
        world.stop();
        // Else the next daemon would seem to know what the last one wrote.
        world.forget_resolvers();
    }
}

#[test]
fn address_is_had_by_dhcpv6_where_routers_ask_for_it_and_goes_with_its_lease() {
    if !is_root() {
        return;
    }
    let mut world = World::new("ip=eth0:dhcp");
    let server = Server6::start(&world.network, networks_link(&world), 10);
    let _router = advertising_router(&world, MANAGED | OTHER, &[]);
    world.start();
    world.wait("the leased address", || world.has_address("2001:db8:99::50/128"));
    world.wait("the server's resolver", || world.resolv_conf().contains("nameserver 2001:db8:99::53"));
    // SOLICIT and REQUEST, and then a RENEW.
    world.wait("a renewal", || server.asked().contains(&5));
    assert!(server.asked().starts_with(&[1]) && server.asked().contains(&3), "{:?}", server.asked());
    server.fall_silent();
    world.wait("a question to all servers", || server.asked().contains(&6));
    world.wait("the end of the lease", || !world.has_address("2001:db8:99::50/128"));
}

#[test]
fn information_alone_is_asked_for_where_routers_give_the_addresses() {
    if !is_root() {
        return;
    }
    let mut world = World::new("ip=eth0:dhcp");
    let server = Server6::start(&world.network, networks_link(&world), 600);
    let _router = advertising_router(&world, OTHER, &[]);
    world.start();
    world.wait("the server's resolver", || world.resolv_conf().contains("nameserver 2001:db8:99::53"));
    assert!(server.asked().iter().all(|kind| *kind == 11), "{:?}", server.asked());
    assert!(!world.has_address("2001:db8:99::50/128"));
}
