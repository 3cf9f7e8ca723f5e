//! Node objects in the words of keelson's own API.

use keelson_api::{Condition, ConditionStatus, Node, NodeList};
use serde_json::Value;

use crate::features::departure::is_unschedulable;

pub(super) fn list(list: &Value) -> NodeList {
    let items = list.get("items").and_then(Value::as_array);
    NodeList { nodes: items.into_iter().flatten().map(node).collect() }
}

fn node(object: &Value) -> Node {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let conditions: Vec<_> = each(object, "/status/conditions").map(condition).collect();
    let is_control_plane = object.pointer("/metadata/labels/node-role.kubernetes.io~1control-plane").is_some();
    Node {
        name: text("/metadata/name"),
        role: if is_control_plane { "control-plane" } else { "worker" }.to_owned(),
        ready: conditions
            .iter()
            .any(|condition| condition.kind == "Ready" && condition.status == ConditionStatus::True),
        unschedulable: is_unschedulable(object),
        addresses: each(object, "/status/addresses")
            .filter(|address| address["type"] == "InternalIP")
            .filter_map(|address| address["address"].as_str().map(str::to_owned))
            .collect(),
        // Kubernetes does not know of it.
        virtual_address: None,
        kubelet_version: text("/status/nodeInfo/kubeletVersion"),
        created: Some(text("/metadata/creationTimestamp")).filter(|created| !created.is_empty()),
        conditions,
    }
}

fn condition(object: &Value) -> Condition {
    let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
    let status = match object["status"].as_str() {
        Some("True") => ConditionStatus::True,
        Some("False") => ConditionStatus::False,
        _ => ConditionStatus::Unknown,
    };
    let since = Some(text("lastTransitionTime")).filter(|since| !since.is_empty());
    Condition { kind: text("type"), status, reason: text("message"), since }
}

fn each<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn says_of_a_node_what_an_operator_asks_for() {
        let object = json!({ "items": [{
            "metadata": { "name": "a", "labels": { "node-role.kubernetes.io/control-plane": "" } },
            "spec": { "unschedulable": true },
            "status": {
                "addresses": [{ "type": "Hostname", "address": "a" }, { "type": "InternalIP", "address": "10.0.2.15" }],
                "nodeInfo": { "kubeletVersion": "v1.37.2" },
                "conditions": [{ "type": "Ready", "status": "True", "message": "kubelet is posting ready status" }],
            },
        }] });
        let list = list(&object);
        let node = &list.nodes[0];
        assert_eq!((node.name.as_str(), node.role.as_str(), node.ready), ("a", "control-plane", true));
        assert!(node.unschedulable);
        assert_eq!(node.addresses, ["10.0.2.15"]);
        assert_eq!(node.conditions[0].reason, "kubelet is posting ready status");
    }

    #[test]
    fn a_node_that_has_reported_nothing_is_not_ready() {
        let list = list(&json!({ "items": [{ "metadata": { "name": "a" } }] }));
        assert!(!list.nodes[0].ready);
        assert_eq!(list.nodes[0].role, "worker");
    }
}
