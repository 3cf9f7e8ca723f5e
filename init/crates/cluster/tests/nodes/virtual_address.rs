//! The cluster's virtual address among three control planes with a real store: who has it, by what keelson-network is told.

use std::net::IpAddr;
use std::time::Duration;

use hyper::Method;
use keelson_api::paths;
use keelson_config::virtual_address::VirtualAddress;
use keelson_pki::Pair;
use serde_json::{Value, json};

use super::control_planes::wait_for_voters;
use super::power::token;
use super::world::{Node, wait_until, world_without_kubernetes};

const FOUNDER: &str = "keelson.role=control-plane keelson.bootstrap keelson.peers=none";
const JOINER: &str = "keelson.role=control-plane";
const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 99, 0, 100));

/// The one that has the address now. Namespaces share the host's clock.
fn holder<'a>(nodes: &[&'a Node]) -> Option<&'a str> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap());
    let has = |node: &&&Node| {
        let told = VirtualAddress::read(&node.root.join("run/keelson/cluster/virtual-address.json")).unwrap();
        told.is_some_and(|told| told.address == ADDRESS && told.left(now).is_some())
    };
    let holders: Vec<_> = nodes.iter().filter(has).collect();
    assert!(holders.len() <= 1, "{} nodes have the address", holders.len());
    holders.first().map(|node| node.name.as_str())
}

/// Waits until one of `nodes` has it, and then watches all for longer than a lease lasts: a store without a processor loses its leader,
/// and the address may move then, but never to two.
async fn is_had_by_one_of(nodes: &[&Node], all: &[&Node]) -> String {
    let names: Vec<_> = nodes.iter().map(|node| node.name.as_str()).collect();
    let mut now = String::new();
    wait_until(&format!("one of {names:?} has the address"), async || {
        now = holder(all).unwrap_or_default().to_owned();
        names.contains(&now.as_str())
    })
    .await;
    for _ in 0..100 {
        assert!(holder(all).is_none_or(|holder| names.contains(&holder)), "it is had by another");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    now
}

/// The nodes' status, to operators.
async fn is_told_by(nodes: &[&Node], holder: &str) {
    for node in nodes {
        let expected = json!({ "address": ADDRESS, "holder": holder, "here": node.name == holder });
        wait_until(&format!("{} says that {holder} has the address", node.name), async || {
            node.ask(Method::GET, paths::STATUS, Value::Null).await["virtualAddress"] == expected
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_virtual_address_is_had_by_one_control_plane_that_is_well_and_survives_it() {
    let Some(mut world) = world_without_kubernetes() else { return };
    let mut a = world.node_off("a", 1, FOUNDER, None);
    a.give_virtual_address(ADDRESS);
    a.switch_on();
    a.wait_for(&["Member", "ServicesApplied"]).await;
    assert_eq!(holder(&[&a]), None, "its API server is not there yet");
    a.set_well(true);
    is_had_by_one_of(&[&a], &[&a]).await;

    // The others are told of it as they join.
    let line = token(&a, "control-plane", 2).await;
    let mut b = world.node("b", 2, JOINER, Some(&line));
    let mut c = world.node("c", 3, JOINER, Some(&line));
    for node in [&b, &c] {
        node.set_well(true);
        node.wait_for(&["Member", "ServicesApplied", "ApiServerReady"]).await;
        let serving = std::fs::read(node.root.join("run/keelson/kube-apiserver/serving.pem")).unwrap();
        let names = format!("{:?}", Pair::from_file(&serving).unwrap());
        assert!(names.contains(&ADDRESS.to_string()), "{names}");
    }
    wait_for_voters(&a, &["a", "b", "c"]).await;
    let first = is_had_by_one_of(&[&a, &b, &c], &[&a, &b, &c]).await;
    is_told_by(&[&a, &b, &c], &first).await;

    // One that is not well has it no longer, and neither has one that died.
    a.set_well(false);
    let second = is_had_by_one_of(&[&b, &c], &[&a, &b, &c]).await;
    a.set_well(true);
    a.wait_for(&["ApiServerReady"]).await;
    let (dead, alive) = if second == "b" { (&mut b, &c) } else { (&mut c, &b) };
    dead.switch_off();
    let last = is_had_by_one_of(&[&a, alive], &[&a, alive, dead]).await;
    is_told_by(&[&a, alive], &last).await;
}
