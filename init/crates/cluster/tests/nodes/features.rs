//! Features against a real API server: its rights, its words, its deletions.

use hyper::Method;
use keelson_api::paths;
use keelson_config::pod_routes::PodRoutes;
use serde_json::{Value, json};

use super::configuration::say;
use super::control_planes::{MASTER, make_master};
use super::world::{Node, wait_until, world};

const FOUNDER: &str = "keelson.role=control-plane keelson.bootstrap keelson.peers=none";
const KUBELET: &str = "run/keelson/kubelet/client.pem";
const CORE: &str = "/api/v1/namespaces/kube-system";

async fn change(node: &Node, name: &str, change: Value) -> Value {
    node.ask(Method::POST, &paths::feature(name), change).await
}

/// One story, because the API server's start is what costs.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_disabled_goes_from_the_cluster_and_from_the_node_and_comes_back() {
    let Some(mut world) = world() else { return };
    let node = world.node("cp", 1, FOUNDER, None);
    node.wait_for(&["Member", "ApiServerReady", "AccessApplied"]).await;
    make_master(&node);

    // Without containerd there is no image, so DNS is not deployed: one of its objects is made here, and one of an operator's.
    let make = |kind: &str, object: Value| {
        let made = node.kubernetes(MASTER, "POST", &format!("{CORE}/{kind}"), &object);
        assert_eq!(made["status"], 200, "{made}");
    };
    let ours = json!({ "k8s-app": "kube-dns", "app.kubernetes.io/managed-by": "keelson" });
    make(
        "configmaps",
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "coredns", "labels": ours } }),
    );
    make(
        "services",
        json!({
            "apiVersion": "v1", "kind": "Service", "spec": { "ports": [{ "port": 53 }] },
            "metadata": { "name": "kube-dns", "labels": { "k8s-app": "kube-dns" } },
        }),
    );
    change(&node, "dns", json!({ "enabled": false })).await;
    let status = |path: &str| node.kubernetes(MASTER, "GET", &format!("{CORE}/{path}"), &Value::Null)["status"].clone();
    wait_until("what is ours of DNS is deleted", async || status("configmaps/coredns") == 404).await;
    assert_eq!(status("services/kube-dns"), 200, "an operator's own was deleted");
    let list = node.ask(Method::GET, paths::FEATURES, Value::Null).await;
    assert_eq!(list["features"][0]["state"], "disabled", "{list}");

    let registered = node.kubernetes(KUBELET, "POST", "/api/v1/nodes", &node.node_object());
    assert_eq!(registered["status"], 200, "{registered}");
    let cni = node.root.join("etc/cni/net.d/10-keelson.conflist");
    let own = || PodRoutes::read(&node.root.join("run/keelson/cluster/routes.json")).unwrap().unwrap_or_default().own;
    wait_until("the node has its part of the network", async || cni.exists() && !own().is_empty()).await;
    change(&node, "network", json!({ "enabled": false })).await;
    wait_until("it has none", async || !cni.exists() && own().is_empty()).await;
    let list = node.ask(Method::GET, paths::FEATURES, Value::Null).await;
    assert_eq!(list["features"][1]["state"], "disabled", "{list}");
    change(&node, "network", json!({ "enabled": true })).await;
    wait_until("it has it again", async || cni.exists() && !own().is_empty()).await;

    // What operators say of the Node, beside what it carries anyway.
    let scope = paths::node(paths::NODE_CONFIGURATION, "cp");
    let carries = || {
        let object = node.kubernetes(MASTER, "GET", "/api/v1/nodes/cp", &Value::Null)["object"].clone();
        let taints = object["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let has_role = object["metadata"]["labels"].get("node-role.kubernetes.io/worker").is_some();
        (object["metadata"]["labels"]["rack"] == "r7", taints.iter().any(|taint| taint["key"] == "gpu"), has_role)
    };
    let taint = json!({ "key": "gpu", "effect": "NoSchedule" });
    say(&node, &scope, json!({ "node": { "labels": { "rack": "r7" }, "taints": [taint] } })).await;
    wait_until("the Node carries what was said of it", async || carries() == (true, true, true)).await;
    say(&node, &scope, json!({})).await;
    wait_until("it carries that no more", async || carries() == (false, false, true)).await;
}
