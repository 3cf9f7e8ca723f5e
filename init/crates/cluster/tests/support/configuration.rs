//! What operators say of the cluster and of its nodes, as the API takes it.

use keelson_api::{ScopeConfiguration, ScopeConfigurationChange, paths};
use keelson_cluster::registry::{Change, NodeRecord};
use keelson_config::Role;
use serde_json::{Value, json};

use super::{
    caller::{Answer, ask_locally},
    credentials::Operator,
    fixture::Fixture,
};

/// A control plane with a worker.
async fn start() -> Fixture {
    let fixture = Fixture::start(&Operator::new().public);
    let record = NodeRecord {
        version: 1,
        name: "w1".to_owned(),
        uid: "uid-of-w1".to_owned(),
        role: Role::Worker,
        addresses: vec!["192.0.2.7".to_owned()],
        key: None,
        hardware: None,
        signing_key: None,
        token: None,
        joined: 0,
        generations: None,
    };
    assert!(fixture.registry.commit(Change::default().put(&record).expect("a record")).await.expect("written"));
    fixture
}

fn document(spec: &Value) -> Value {
    json!({ "apiVersion": "keelson.dev/v1alpha1", "kind": "NodeConfiguration", "spec": spec })
}

async fn put(fixture: &Fixture, path: &str, revision: i64, spec: &Value) -> Answer {
    let body = json!({ "revision": revision, "document": document(spec) }).to_string();
    ask_locally(&fixture.socket, "PUT", path, &body).await
}

async fn get(fixture: &Fixture, path: &str) -> ScopeConfiguration {
    let answer = ask_locally(&fixture.socket, "GET", path, "").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    serde_json::from_str(&answer.text).expect("a scope")
}

fn changed(answer: &Answer) -> ScopeConfigurationChange {
    assert_eq!(answer.status, 200, "{}", answer.text);
    serde_json::from_str(&answer.text).expect("a change")
}

#[tokio::test]
async fn the_cluster_and_each_node_have_a_scope_of_their_own() {
    let fixture = start().await;
    let node = paths::node(paths::NODE_CONFIGURATION, "w1");
    let nothing = get(&fixture, &node).await;
    assert_eq!((nothing.node.as_deref(), nothing.revision, nothing.spec), (Some("w1"), 0, json!({})));
    let labels = json!({ "node": { "labels": { "rack": "r7" } } });
    let servers = json!({ "timeServers": ["time.example"], "cluster": { "extraSANs": ["api.example"] } });
    assert_eq!(changed(&put(&fixture, &node, 0, &labels).await).waiting, Vec::<String>::new());
    let said = changed(&put(&fixture, paths::CLUSTER_CONFIGURATION, 0, &servers).await);
    assert_eq!(said.changed, ["spec.timeServers", "spec.cluster.extraSANs"]);
    assert_eq!(said.waiting, ["spec.timeServers"]);
    assert_eq!(get(&fixture, &node).await.spec, labels);
    let cluster = get(&fixture, paths::CLUSTER_CONFIGURATION).await;
    assert_eq!((cluster.node, cluster.spec, cluster.changed_by.as_deref()), (None, servers, Some("root")));
    let view = fixture.registry.view_now().expect("this control plane knows of it at once");
    assert_eq!(view.scopes("w1").node, Some(labels));
}

#[tokio::test]
async fn every_fault_is_told_with_its_field_and_no_secret() {
    let fixture = start().await;
    let spec = json!({ "token": "zqtoken", "node": { "taints": [{ "key": "a", "effect": "Never" }], "label": {} } });
    let answer = put(&fixture, paths::CLUSTER_CONFIGURATION, 0, &spec).await;
    assert_eq!((answer.status, answer.refusal().0.as_str()), (400, "invalid"), "{}", answer.text);
    let body = answer.json();
    let mut fields: Vec<_> = body["faults"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|fault| fault["field"].as_str().expect("a field"))
        .collect();
    fields.sort_unstable();
    assert_eq!(fields, ["spec.node.label", "spec.node.taints[0].effect", "spec.token"]);
    assert!(!answer.text.contains("zqtoken"), "{}", answer.text);
    assert_eq!(get(&fixture, paths::CLUSTER_CONFIGURATION).await.revision, 0);
}

#[tokio::test]
async fn an_operator_who_has_not_seen_the_last_change_is_told_so() {
    let fixture = start().await;
    let servers = |name: &str| json!({ "timeServers": [name] });
    let path = paths::CLUSTER_CONFIGURATION;
    let first = changed(&put(&fixture, path, 0, &servers("a")).await).configuration;
    let late = put(&fixture, path, 0, &servers("b")).await;
    assert_eq!((late.status, late.refusal()), (409, ("conflict".to_owned(), "revision".to_owned())), "{}", late.text);
    assert_eq!(changed(&put(&fixture, path, 0, &servers("a")).await).changed, Vec::<String>::new());
    let second = changed(&put(&fixture, path, first.revision, &servers("b")).await).configuration;
    assert!(second.revision > first.revision);
    let body = json!({ "document": document(&servers("c")) }).to_string();
    let blind = ask_locally(&fixture.socket, "PUT", path, &body).await;
    assert_eq!((blind.status, blind.refusal().1.as_str()), (400, "revision"), "{}", blind.text);
}

#[tokio::test]
async fn a_stranger_has_no_scope() {
    let fixture = start().await;
    for name in ["w2", "cluster"] {
        let path = paths::node(paths::NODE_CONFIGURATION, name);
        assert_eq!(ask_locally(&fixture.socket, "GET", &path, "").await.status, 404);
        let refused = put(&fixture, &path, 0, &json!({ "timeServers": [] })).await;
        assert_eq!((refused.status, refused.refusal().0.as_str()), (404, "notFound"), "{}", refused.text);
    }
}
