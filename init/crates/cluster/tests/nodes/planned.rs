//! What is planned costs clients nothing: a control plane that leads the store is switched off in order while a client writes. And one
//! whose own API server is gone serves operators and its pods all the same.

use std::time::Instant;

use hyper::Method;
use keelson_api::paths;
use serde_json::{Value, json};

use super::control_planes::leader_first;
use super::world::{Node, UP, wait_until};
use super::writer::Writer;

/// Afterwards it is on again.
pub(super) async fn the_leader_stops_in_order(planes: [&mut Node; 3], writer: &Writer) {
    let [leader, ..] = leader_first(planes).await;
    writer.wait_for_more(20).await;
    let before = writer.so_far();
    let begun = Instant::now();
    leader.power_off().await;
    println!("{}, which led the store, has stopped in order: {} ms", leader.name, begun.elapsed().as_millis());
    writer.wait_for_more(20).await;
    let after = writer.so_far();
    after.tell("a planned stop of the leader", &before);
    assert_eq!(after.failed, before.failed, "a write failed");
    let log = std::fs::read_to_string(leader.root.join("store.log")).unwrap();
    assert!(log.contains("leadership was handed over"), "{} has left the others to elect a leader", leader.name);
    leader.switch_on();
    leader.wait_for(&UP).await;
}

/// `name` is a Node that is registered.
pub(super) async fn a_control_plane_without_its_api_server_answers(plane: &Node, name: &str) {
    let ready = |file: &str| plane.root.join("run/keelson/cluster").join(file).exists();
    plane.set_api_server(false);
    wait_until("its API server is known to be gone", async || !ready("apiserver-ready")).await;
    let nodes = plane.ask(Method::GET, paths::NODES, Value::Null).await;
    assert!(nodes["nodes"].as_array().is_some_and(|nodes| nodes.iter().any(|node| node["name"] == name)), "{nodes}");
    let features = plane.ask(Method::GET, paths::FEATURES, Value::Null).await;
    let reason = features["features"][1]["reason"].as_str().unwrap_or_default().to_owned();
    assert!(!reason.contains("does not answer"), "{features}");
    for order in [paths::NODE_CORDON, paths::NODE_DRAIN, paths::NODE_UNCORDON] {
        plane.ask(Method::POST, &paths::node(order, name), json!({})).await;
    }
    wait_until("its proxy says that its API server is gone, and another is ready", async || {
        let status = plane.ask(Method::GET, paths::PROXY, Value::Null).await;
        let endpoints = status["endpoints"].as_array().cloned().unwrap_or_default();
        let is = |local: bool, state: &str| endpoints.iter().any(|one| one["local"] == local && one["state"] == state);
        is(true, "dead") && is(false, "ready")
    })
    .await;
    assert!(ready("any-apiserver-ready"), "its kube-proxy would wait for the node's own API server");
    plane.set_api_server(true);
    plane.wait_for(&UP).await;
}
