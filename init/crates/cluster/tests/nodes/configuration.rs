//! What operators say reaches every node's STATE, where its next boot reads it, and what needs no boot is done at once.

use hyper::Method;
use keelson_api::paths;
use keelson_config::{Kept as _, Scopes};
use keelson_pki::Pair;
use serde_json::{Value, json};

use super::power::{store_members, token};
use super::world::{Node, wait_until, world_without_kubernetes};

const FOUNDER: &str = "keelson.role=control-plane keelson.bootstrap keelson.peers=none";
const NAME: &str = "k8s.example.net";

pub(super) async fn say(at: &Node, path: &str, spec: Value) -> Value {
    let document = json!({ "apiVersion": "keelson.dev/v1alpha1", "kind": "NodeConfiguration", "spec": spec });
    let revision = at.ask(Method::GET, path, Value::Null).await["revision"].clone();
    at.ask(Method::PUT, path, json!({ "revision": revision, "document": document })).await
}

fn kept(node: &Node) -> Scopes {
    let content = std::fs::read(node.root.join("state/cluster/configuration.json"));
    content.map(|content| Scopes::from_file(&content).unwrap()).unwrap_or_default()
}

async fn field(node: &Node, name: &str) -> Value {
    let shown = node.ask(Method::GET, paths::CONFIGURATION, Value::Null).await;
    shown["fields"].as_array().unwrap().iter().find(|field| field["field"] == name).unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_say_is_on_the_state_of_every_node_and_of_one_that_joins_later() {
    let Some(mut world) = world_without_kubernetes() else { return };
    let founder = world.node("a", 1, FOUNDER, None);
    founder.wait_for(&["Member", "ServicesApplied"]).await;
    wait_until("a's record is there", async || !store_members(&founder).await.is_empty()).await;
    let line = token(&founder, "worker", 2).await;
    let mut worker = world.node("w1", 2, "keelson.role=worker", Some(&line));
    worker.wait_for(&["Member", "ServicesApplied"]).await;

    let cluster = json!({
        "timeServers": ["time.example.net"],
        "cluster": { "extraSANs": [NAME], "extraArguments": { "kubelet": { "v": "3" } } },
    });
    let own = json!({ "timeServers": ["other.example.net"] });
    let said = say(&founder, paths::CLUSTER_CONFIGURATION, cluster.clone()).await;
    assert_eq!(said["waiting"], json!(["spec.timeServers", "spec.cluster.extraArguments"]));
    say(&founder, &paths::node(paths::NODE_CONFIGURATION, "w1"), own.clone()).await;
    let both = Scopes { node: Some(own), cluster: Some(cluster.clone()) };
    wait_until("w1 has kept both scopes", async || kept(&worker) == both).await;
    let all = Scopes { node: None, cluster: Some(cluster) };
    wait_until("a has kept the cluster's", async || kept(&founder) == all).await;

    let serving = founder.root.join("run/keelson/kube-apiserver/serving.pem");
    let is_named = || {
        let pair = Pair::from_file(&std::fs::read(&serving).unwrap()).unwrap();
        pair.certificate().windows(NAME.len()).any(|part| part == NAME.as_bytes())
    };
    wait_until("the API server's certificate has the name", async || is_named()).await;
    let servers = field(&worker, "spec.timeServers").await;
    assert_eq!(
        (&servers["value"], &servers["next"]["value"]),
        (&json!([]), &json!(["other.example.net"])),
        "{servers}"
    );

    // Who joins now has from the beginning what is fixed at a start.
    let second = world.node("w2", 3, "keelson.role=worker", Some(&line));
    second.wait_for(&["Member", "ServicesApplied"]).await;
    assert_eq!(kept(&second), all);
    let arguments = field(&second, "spec.cluster.extraArguments").await;
    assert_eq!((&arguments["value"]["kubelet"]["v"], &arguments["next"]), (&"3".into(), &Value::Null), "{arguments}");
    assert_eq!(field(&worker, "spec.cluster.extraArguments").await["next"]["value"]["kubelet"]["v"], "3");

    // Removed, a node has nothing of the cluster, and the cluster nothing of it.
    founder.ask(Method::POST, "/v1/nodes/w1/removal", json!({})).await;
    let file = worker.root.join("state/cluster/configuration.json");
    wait_until("w1 has forgotten", async || worker.root.join("rebooted").exists() && !file.exists()).await;
    worker.switch_off();
    let (status, _) =
        founder.api(Method::GET, &paths::node(paths::NODE_CONFIGURATION, "w1"), &Value::Null).await.unwrap();
    assert_eq!(status, 404);
}
