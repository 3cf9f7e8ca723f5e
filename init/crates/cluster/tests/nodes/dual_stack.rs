//! Nodes with addresses of both families, and nodes with addresses that are the cluster's own.

use hyper::Method;
use serde_json::Value;

use super::power::{store_members, token};
use super::world::{Node, wait_until, world_without_kubernetes};

const FOUNDER: &str = "keelson.role=control-plane keelson.bootstrap keelson.peers=none";
const WORKER: &str = "keelson.role=worker";

/// What the worker was told last.
fn told(worker: &Node) -> Value {
    let file = std::fs::read(worker.root.join("state/cluster/settings.json")).unwrap_or_default();
    serde_json::from_slice::<Value>(&file).map(|file| file["settings"].clone()).unwrap_or_default()
}

async fn wait_until_verified(worker: &Node, addresses: &[&str]) {
    wait_until(&format!("{} is verified at {addresses:?}", worker.name), async || {
        told(worker)["addresses"] == serde_json::json!(addresses)
    })
    .await;
}

async fn reason(node: &Node, condition: &str) -> (bool, String) {
    let Some((_, status)) = node.api(Method::GET, "/v1/status", &Value::Null).await else {
        return (false, String::new());
    };
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|one| one["type"] == condition).unwrap_or_default();
    (found["status"] == "true", found["reason"].as_str().unwrap_or_default().to_owned())
}

/// The condition fails for this reason.
async fn wait_until_it_fails(node: &Node, condition: &str, words: &str) {
    wait_until(&format!("{}: {condition} fails: {words}", node.name), async || {
        let (holds, reason) = reason(node, condition).await;
        !holds && reason.contains(words)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_verified_at_its_addresses_of_both_families() {
    let Some(mut world) = world_without_kubernetes() else { return };
    let mut founder = world.node_off("a", 1, FOUNDER, None);
    founder.give_networks("fd44::/56,10.244.0.0/16", "fd96::/112,10.96.0.0/16", "fd96::a");
    founder.give_ipv6(1);
    founder.switch_on();
    founder.wait_for(&["Member", "ServicesApplied"]).await;
    wait_until("a's record is there", async || !store_members(&founder).await.is_empty()).await;

    let mut worker = world.node_off("w", 2, WORKER, Some(&token(&founder, "worker", 1).await));
    worker.give_ipv6(2);
    worker.switch_on();
    worker.wait_for(&["Member", "ServicesApplied"]).await;
    wait_until_verified(&worker, &["fd99::2", "10.99.0.2"]).await;
    assert_eq!(told(&worker)["secondaryPodCIDR"], "10.244.0.0/16");
    let file = std::fs::read(worker.root.join("state/pki/node/kubelet-serving.pem")).unwrap();
    let kubelet = format!("{:?}", keelson_pki::Pair::from_file(&file).unwrap());
    for address in ["fd99::2", "10.99.0.2"] {
        assert!(kubelet.contains(address), "{address}: {kubelet}");
    }

    // One that gets its second address later.
    let late = world.node("v", 3, WORKER, Some(&token(&founder, "worker", 1).await));
    late.wait_for(&["Member", "ServicesApplied"]).await;
    wait_until_verified(&late, &["10.99.0.3"]).await;
    late.give_ipv6(3);
    wait_until_verified(&late, &["fd99::3", "10.99.0.3"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_inside_the_clusters_networks_is_told_and_a_node_there_is_not_taken() {
    let Some(mut world) = world_without_kubernetes() else { return };
    let mut founder = world.node_off("a", 241, FOUNDER, None);
    founder.give_networks("10.244.0.0/16", "10.99.0.240/28", "10.99.0.250");
    founder.switch_on();
    let complaint = "the address 10.99.0.241 is inside the service network 10.99.0.240/28 (spec.cluster.serviceCIDR)";
    wait_until_it_fails(&founder, "NetworkUp", complaint).await;
    wait_until_it_fails(&founder, "ServicesApplied", complaint).await;

    // Nothing was started in the networks, so that another address, or another network, is all that it takes.
    founder.switch_off();
    founder.move_to(1);
    founder.switch_on();
    founder.wait_for(&["Member", "NetworkUp", "ServicesApplied"]).await;
    wait_until("the cluster knows a where it is now", async || {
        store_members(&founder).await.iter().any(|one| one["peerURLs"][0] == "https://10.99.0.1:2380")
    })
    .await;

    let worker = world.node("w", 242, WORKER, Some(&token(&founder, "worker", 1).await));
    wait_until_it_fails(&worker, "Member", "10.99.0.242 is inside the service network").await;
    assert!(told(&worker).is_null(), "it was taken");
}
