//! Connections of nodes that were removed, and of those that were not.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::world::{World, in_namespace, is_root};

/// Both ends of a connection from `from` to the node's listener.
fn connection(world: &World, listener: &TcpListener, from: &str) -> (TcpStream, TcpStream) {
    let from: SocketAddr = format!("{from}:0").parse().unwrap();
    let to: SocketAddr = format!("10.99.0.2:{}", listener.local_addr().unwrap().port()).parse().unwrap();
    let client: TcpStream = in_namespace(&world.network, move || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&from.into()).unwrap();
        socket.connect(&to.into()).unwrap();
        socket.into()
    });
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (client, listener.accept().unwrap().0)
}

/// What the node sends still arrives.
fn goes_on((client, server): &mut (TcpStream, TcpStream)) -> bool {
    server.write_all(b"event").is_ok() && client.read_exact(&mut [0; 5]).is_ok()
}

#[test]
fn connections_of_a_removed_node_are_cut_and_no_others() {
    if !is_root() {
        return;
    }
    let mut world = World::new("ip=10.99.0.2:::255.255.255.0::eth0:off");
    world.in_network("ip addr add 10.99.0.8/24 dev srv0");
    world.in_network("ip addr add 10.99.0.9/24 dev srv0");
    world.start();
    world.wait("the address", || world.has_address("10.99.0.2/24"));
    // As kube-apiserver does: one socket for both families.
    let (api, other) =
        in_namespace(&world.node, || ["[::]:6443", "[::]:6400"].map(|at| TcpListener::bind(at).unwrap())).into();
    let mut removed = connection(&world, &api, "10.99.0.9");
    let mut to_another_port = connection(&world, &other, "10.99.0.9");
    let mut of_a_member = connection(&world, &api, "10.99.0.8");
    assert!(goes_on(&mut removed));

    world.ask("departed.json", r#"{"addresses":["10.99.0.9"],"ports":[6443]}"#);
    let error = removed.0.read(&mut [0; 5]).expect_err("the connection goes on");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(removed.1.read(&mut [0; 5]).expect_err("nor does it for the node").kind(), ErrorKind::ConnectionAborted);
    assert!(goes_on(&mut to_another_port) && goes_on(&mut of_a_member));
    world.wait("the line", || {
        world.output().contains("10.99.0.9 was removed from the cluster: 1 of its connections are cut")
    });

    // For as long as it is named, and no longer.
    let again = connection(&world, &api, "10.99.0.9").0.read(&mut [0; 5]).expect_err("it stays");
    assert_eq!(again.kind(), ErrorKind::ConnectionReset);
    world.ask("departed.json", r#"{"addresses":[],"ports":[]}"#);
    let (mut joined_again, mut since) = (connection(&world, &api, "10.99.0.9"), Instant::now());
    world.wait("a connection that stays", || {
        if !goes_on(&mut joined_again) {
            (joined_again, since) = (connection(&world, &api, "10.99.0.9"), Instant::now());
        }
        since.elapsed() > Duration::from_secs(3)
    });
}
