use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use keelson_proxy::Settings;
use keelson_proxy::feed::{Reply, Request};
use keelson_proxy::health::State;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::Instant;

use super::api_server::{ApiServer, Mood};
use super::world::{Client, World};

/// On an idle machine a stalled server costs at most this; a machine that runs other tests beside is allowed more.
const STALL: Duration = Duration::from_secs(2);
const SLACK: Duration = Duration::from_secs(4);

fn report(what: &str, elapsed: Duration) {
    println!("{what}: {} ms", elapsed.as_millis());
    assert!(elapsed < STALL + SLACK, "{what} took {elapsed:?}");
}

#[test]
fn it_is_reachable_from_the_node_itself_only() {
    let settings = Settings::default();
    assert!(settings.listen.iter().all(|address| address.ip().is_loopback()));
    assert!(settings.listen.iter().any(SocketAddr::is_ipv4) && settings.listen.iter().any(SocketAddr::is_ipv6));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_spread_over_ready_servers_and_the_nodes_own_is_preferred() {
    let mut world = World::new().await;
    let (a, b) = (world.server("a"), world.server("b"));
    world.tell(&[a.address, b.address], false).await;
    world.wait_for_state(a.address, State::Ready).await;
    world.wait_for_state(b.address, State::Ready).await;
    let (mut first, mut second) = (world.connect().await.unwrap(), world.connect().await.unwrap());
    assert_ne!(first.who().await.unwrap(), second.who().await.unwrap());
    world.tell(&[b.address, a.address], true).await;
    world.wait_for_state(b.address, State::Ready).await;
    for _ in 0..4 {
        assert_eq!(world.who().await.unwrap(), "b");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_costs_its_clients_one_reconnection() {
    let mut world = World::new().await;
    let (mut a, b) = (world.server("a"), world.server("b"));
    world.tell(&[a.address, b.address], true).await;
    world.wait_for_state(a.address, State::Ready).await;
    let mut client = world.connect().await.unwrap();
    assert_eq!(client.who().await.unwrap(), "a");
    let begun = Instant::now();
    a.kill().await;
    client.ended().await;
    assert_eq!(world.who().await.unwrap(), "b");
    report("killed, to the next answer", begun.elapsed());
    world.wait_for_state(a.address, State::Dead).await;
    // It comes back, and after a while it is the first choice again.
    a.start_again();
    world.wait_for_state(a.address, State::Ready).await;
    assert_eq!(world.who().await.unwrap(), "a");
}

/// Two servers that are ready, the first of them the node's own, and a client that it serves.
async fn served_by_its_own(world: &mut World) -> (ApiServer, ApiServer, Client) {
    let (a, b) = (world.server("a"), world.server("b"));
    world.tell(&[a.address, b.address], true).await;
    world.wait_for_state(a.address, State::Ready).await;
    world.wait_for_state(b.address, State::Ready).await;
    let mut client = world.connect().await.unwrap();
    assert_eq!(client.who().await.unwrap(), "a");
    (a, b, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_servers_connections_are_reset_and_new_ones_go_elsewhere() {
    let mut world = World::new().await;
    let (a, _b, mut client) = served_by_its_own(&mut world).await;
    let begun = Instant::now();
    a.become_(Mood::Paused);
    client.ended().await;
    assert_eq!(world.who().await.unwrap(), "b");
    report("paused, to the next answer", begun.elapsed());
    a.become_(Mood::Ready);
    world.wait_for_state(a.address, State::Ready).await;
    assert_eq!(world.who().await.unwrap(), "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_accepts_and_is_never_ready_is_not_chosen() {
    let mut world = World::new().await;
    let (a, b) = (world.server("a"), world.server("b"));
    a.become_(Mood::NotReady);
    world.tell(&[a.address, b.address], true).await;
    world.wait_for_state(a.address, State::NotReady).await;
    assert!(world.endpoint(a.address).await.reason.contains("etcd failed"), "{:?}", world.status().await);
    for _ in 0..4 {
        assert_eq!(world.who().await.unwrap(), "b");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_to_stop_gets_no_new_connections_and_may_finish_with_those_it_has() {
    let mut world = World::new().await;
    let (mut a, _b, mut client) = served_by_its_own(&mut world).await;
    let begun = Instant::now();
    a.become_(Mood::NotReady);
    while world.who().await.unwrap() == "a" {
        assert!(begun.elapsed() < super::world::DEADLINE, "it still gets connections");
    }
    report("to stop, to the first connection that goes elsewhere", begun.elapsed());
    assert_eq!(client.who().await.unwrap(), "a");
    a.kill().await;
    client.ended().await;
    assert_eq!(world.who().await.unwrap(), "b");
}

/// An address whose handshakes are never answered: a queue that is full drops what comes (listen(2)).
async fn black_hole() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut fillers = Vec::new();
    loop {
        match tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            Ok(stream) => fillers.push(stream.unwrap()),
            Err(_) => return (listener, fillers, address),
        }
        assert!(fillers.len() < 64, "the queue does not fill");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_costs_a_new_connection_a_fraction_of_a_second_before_anybody_knows_of_it() {
    let (_listener, _fillers, hole) = black_hole().await;
    let mut world = World::new().await;
    let a = world.server("a");
    world.tell(&[hole, a.address], true).await;
    let begun = Instant::now();
    assert_eq!(world.who().await.unwrap(), "a");
    report("black hole, to the first answer", begun.elapsed());
    world.wait_for_state(hole, State::Dead).await;
    let begun = Instant::now();
    assert_eq!(world.who().await.unwrap(), "a");
    report("black hole that is known, to the answer", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_no_server_is_well_a_client_waits_and_is_served_by_the_first_that_returns() {
    let mut world = World::new().await;
    let (mut a, mut b) = (world.server("a"), world.server("b"));
    world.tell(&[a.address, b.address], false).await;
    world.wait_for_state(a.address, State::Ready).await;
    a.kill().await;
    b.kill().await;
    world.wait_for_state(a.address, State::Dead).await;
    world.wait_for_state(b.address, State::Dead).await;
    let world = Arc::new(world);
    let waiting = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.who().await }
    });
    let begun = Instant::now();
    while world.status().await.waiting == 0 {
        assert!(begun.elapsed() < super::world::DEADLINE, "nobody waits");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begun = Instant::now();
    b.start_again();
    assert_eq!(waiting.await.unwrap().unwrap(), "b");
    report("the first server back, to the answer", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_is_refused_while_the_set_changes() {
    let mut world = World::new().await;
    let (a, b) = (world.server("a"), world.server("b"));
    world.tell(&[a.address, b.address], false).await;
    world.wait_for_state(a.address, State::Ready).await;
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let address = world.address;
    let flood: Vec<_> = (0..4)
        .map(|_| {
            let (stop, made) = (Arc::clone(&stop), Arc::clone(&made));
            tokio::spawn(async move {
                while !stop.load(Ordering::Acquire) {
                    TcpStream::connect(address).await.expect("refused");
                    made.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for round in 0..50 {
        let set = if round % 2 == 0 { vec![a.address] } else { vec![b.address, a.address] };
        world.tell(&set, false).await;
        assert!(["a", "b"].contains(&world.who().await.unwrap().as_str()));
    }
    stop.store(true, Ordering::Release);
    for task in flood {
        task.await.unwrap();
    }
    assert!(made.load(Ordering::Relaxed) > 200, "only {made:?} connections");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_a_server_that_stays_outlive_a_change_and_those_to_one_that_left_are_drained() {
    let mut world = World::new().await;
    let (a, b) = (world.server("a"), world.server("b"));
    world.tell(&[a.address], false).await;
    let mut to_a = world.connect().await.unwrap();
    assert_eq!(to_a.who().await.unwrap(), "a");
    world.tell(&[b.address, a.address], true).await;
    world.wait_for_state(b.address, State::Ready).await;
    let mut to_b = world.connect().await.unwrap();
    assert_eq!(to_b.who().await.unwrap(), "b");
    world.tell(&[a.address], false).await;
    assert_eq!(to_b.who().await.unwrap(), "b", "it may finish what it began");
    to_b.ended().await;
    assert!(to_a.lives());
    assert_eq!(to_a.who().await.unwrap(), "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_set_is_there_after_a_restart_and_a_damaged_one_is_no_obstacle() {
    let mut world = World::new().await;
    let a = world.server("a");
    world.tell(&[a.address], false).await;
    world.restart().await;
    assert_eq!(world.who().await.unwrap(), "a", "nobody has told the new process anything");
    std::fs::remove_file(world.kept()).unwrap();
    std::fs::write(world.kept(), b"{\"format\":").unwrap();
    world.restart().await;
    assert!(world.status().await.endpoints.is_empty());
    world.tell(&[a.address], false).await;
    assert_eq!(world.who().await.unwrap(), "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_set_and_one_without_sense_change_nothing() {
    let mut world = World::new().await;
    let a = world.server("a");
    world.tell(&[a.address], false).await;
    world.tell(&[a.address], false).await;
    let old = world.set(1, &[], false);
    let empty = world.set(3, &[], false);
    let mut foreign = world.set(3, &[a.address], false);
    foreign.authority = "nothing".to_owned();
    let many = world.set(3, &[a.address; 65], false);
    let stale = world.set(1, &[a.address], false);
    for set in [old, empty, foreign, many, stale] {
        let reply = world.ask(&Request::Set(set)).await;
        assert!(matches!(reply, Reply::Refused { .. }), "{reply:?}");
    }
    assert_eq!(world.status().await.version, 2);
    assert_eq!(world.who().await.unwrap(), "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_one_direction_is_passed_on_and_the_other_goes_on() {
    let mut world = World::new().await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    world.tell(&[listener.local_addr().unwrap()], false).await;
    let mut client = TcpStream::connect(world.address).await.unwrap();
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    // Probes connect to the same address; theirs begin with a TLS record.
    let served = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut first = [0];
            stream.peek(&mut first).await.unwrap();
            if first == *b"q" {
                let mut text = String::new();
                stream.read_to_string(&mut text).await.unwrap();
                stream.write_all(format!("answer to {text}").as_bytes()).await.unwrap();
                return;
            }
        }
    };
    tokio::time::timeout(super::world::DEADLINE, served).await.expect("the end arrives");
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "answer to question");
}
