use std::time::Instant;

use hyper::Method;
use keelson_api::{CONTROL_PLANE_NAME, paths};
use keelson_pki::Fingerprint;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::world::{Node, wait_until, world};

const CONTROL_PLANE: &str = "keelson.role=control-plane keelson.bootstrap keelson.peers=none";
const WORKER: &str = "keelson.role=worker";
const KUBELET: &str = "run/keelson/kubelet/client.pem";

async fn token(control_plane: &Node, uses: u32) -> String {
    let answer = control_plane.ask(Method::POST, "/v1/tokens", json!({ "role": "worker", "uses": uses })).await;
    answer["token"].as_str().unwrap().to_owned()
}

/// One story, because the API server's start is what costs.
#[tokio::test(flavor = "multi_thread")]
async fn workers_join_serve_are_removed_and_come_back() {
    let Some(mut world) = world() else { return };
    let control_plane = world.node("cp", 1, CONTROL_PLANE, None);
    control_plane.wait_for(&["Member", "ApiServerReady", "AccessApplied"]).await;

    // Five at the same moment, with one token.
    let line = token(&control_plane, 5).await;
    let begun = Instant::now();
    let mut workers: Vec<_> =
        (0..5).map(|number| world.node(&format!("w{number}"), 10 + number, WORKER, Some(&line))).collect();
    for worker in &workers {
        worker.wait_for(&["Member", "ServicesApplied", "ApiServerReady"]).await;
        assert!(!worker.root.join("run/keelson/config/token").exists(), "the token was used");
        assert!(!worker.root.join("state/pki/authorities").exists(), "no authority is on a worker");
    }
    println!("five workers joined and reach the API server: {} ms", begun.elapsed().as_millis());

    // What kubelet may and may not.
    let answer = |worker: &Node, path: &str, object: &Value| worker.kubernetes(KUBELET, "POST", path, object);
    for worker in &workers[..2] {
        let registered = answer(worker, "/api/v1/nodes", &worker.node_object());
        assert_eq!(registered["status"], 200, "{registered}");
    }
    let refused = answer(&workers[0], "/api/v1/nodes", &workers[2].node_object());
    assert_eq!(refused["status"], 403, "another's Node: {refused}");
    let reconciler = "state/pki/node/network-reconciler.pem";
    let nodes = workers[0].kubernetes(reconciler, "GET", "/api/v1/nodes", &Value::Null);
    assert_eq!(nodes["object"]["items"].as_array().map(Vec::len), Some(2), "{nodes}");
    let secrets = workers[0].kubernetes(reconciler, "GET", "/api/v1/secrets", &Value::Null);
    assert_eq!(secrets["status"], 403, "{secrets}");
    wait_until("the control plane has said that w0 is a worker", async || {
        let node = workers[0].kubernetes(KUBELET, "GET", "/api/v1/nodes/w0", &Value::Null);
        node["object"]["metadata"]["labels"].get("node-role.kubernetes.io/worker").is_some()
    })
    .await;

    an_operator_is_passed_on(&control_plane).await;
    removal(&control_plane, &mut workers[0]).await;
    // The others did not notice.
    let node = workers[1].kubernetes(KUBELET, "GET", "/api/v1/nodes/w1", &Value::Null);
    assert_eq!(node["status"], 200, "{node}");

    // Off while it is removed: it learns it before anything is handed over.
    workers[1].switch_off();
    control_plane.ask(Method::POST, "/v1/nodes/w1/removal", json!({})).await;
    workers[1].switch_on();
    wait_until("w1 has learnt it", async || workers[1].root.join("rebooted").exists()).await;
    assert!(!workers[1].root.join("state/identity.json").exists());
    let log = std::fs::read_to_string(workers[1].root.join("node.log")).unwrap();
    assert!(!log.contains("handed"), "it has handed services to PID 1: {log}");

    // All off and on again: last-good settings and endpoints are enough.
    workers[2].switch_off();
    workers[2].switch_on();
    workers[2].wait_for(&["Member", "ServicesApplied", "ApiServerReady"]).await;
}

/// What the worker w0 cannot answer a control plane does, to which it passes those on who ask for one.
async fn an_operator_is_passed_on(control_plane: &Node) {
    let authority = control_plane.ask(Method::GET, paths::AUTHORITY, Value::Null).await;
    let authority = CertificateDer::from_pem_slice(authority["certificate"].as_str().unwrap().as_bytes()).unwrap();
    let fingerprint = Fingerprint::of(&authority).to_string();
    let fingerprint = fingerprint.trim_start_matches("sha256:");
    let ask = |name: &str, path: &str| control_plane.operator("10.99.0.10", name, fingerprint, path);
    let refused = ask("w0", paths::CHALLENGE);
    assert_eq!((&refused["status"], &refused["object"]["code"]), (&json!(421), &json!("notControlPlane")), "{refused}");
    let answered = ask(CONTROL_PLANE_NAME, paths::CHALLENGE);
    assert!(answered["status"] == 200 && answered["object"]["nonce"].is_string(), "{answered}");
    // A stranger is one there too.
    assert_eq!(ask(CONTROL_PLANE_NAME, paths::TOKENS)["status"], 401);
}

/// Removed for good, a stolen disk image included, and then a node again.
async fn removal(control_plane: &Node, worker: &mut Node) {
    let stolen = worker.root.join("stolen.pem");
    std::fs::copy(worker.root.join(KUBELET), &stolen).unwrap();
    let begun = Instant::now();
    control_plane.ask(Method::POST, "/v1/nodes/w0/removal", json!({})).await;
    wait_until("w0's certificate is denied", async || {
        worker.kubernetes("stolen.pem", "GET", "/api/v1/nodes/w0", &Value::Null)["status"] == 403
    })
    .await;
    println!("from the order to the denial: {} ms", begun.elapsed().as_millis());
    let back = worker.kubernetes("stolen.pem", "POST", "/api/v1/nodes", &worker.node_object());
    assert_eq!(back["status"], 403, "it makes its Node again: {back}");
    wait_until("w0 has learnt it, and forgets the cluster", async || worker.root.join("rebooted").exists()).await;
    for file in ["state/identity.json", "state/pki/node/node.key", "state/pki/node/kubelet-client.pem"] {
        assert!(!worker.root.join(file).exists(), "{file} is still there");
    }
    let nodes = control_plane.ask(Method::GET, "/v1/nodes", Value::Null).await;
    let names: Vec<_> = nodes["nodes"].as_array().unwrap().iter().map(|node| node["name"].clone()).collect();
    assert!(!names.contains(&json!("w0")), "{names:?}");

    worker.switch_off();
    std::fs::remove_file(worker.root.join("rebooted")).unwrap();
    worker.give_token(&token(control_plane, 1).await);
    worker.switch_on();
    worker.wait_for(&["Member", "ServicesApplied", "ApiServerReady"]).await;
    let registered = worker.kubernetes(KUBELET, "POST", "/api/v1/nodes", &worker.node_object());
    assert_eq!(registered["status"], 200, "{registered}");
    let denied = worker.kubernetes("stolen.pem", "GET", "/api/v1/nodes/w0", &Value::Null);
    assert_eq!(denied["status"], 403, "the former identity, while the new one has its name: {denied}");
}
