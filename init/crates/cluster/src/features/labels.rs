//! Labels and taints that operators have told the cluster, on a node's Node.
//!
//! kubelet gives a Node labels and taints once, when it registers it, and may not give all of them. So a control plane
//! states what is said later. Two annotations of the Node name what it has stated, so that it takes away what is said no
//! more, and nothing that somebody else has put there.

use std::collections::{BTreeMap, BTreeSet};

use keelson_config::Scopes;
use serde_json::{Map, Value, json};

use super::node_object::ROLE_LABEL;

/// The names of the labels, by commas.
const LABELS: &str = "keelson.dev/labels";
/// The taints as `KEY:EFFECT`, by commas.
const TAINTS: &str = "keelson.dev/taints";

/// What brings a Node to where it should be, as a merge patch; `None` if it is there.
pub(super) fn change(node: &Value, scopes: &Scopes) -> Option<Value> {
    let mut annotations = Map::new();
    let labels = labels(node, scopes, &mut annotations);
    let taints = taints(node, scopes, &mut annotations);
    if annotations.is_empty() && labels.is_empty() && taints.is_none() {
        return None;
    }
    let mut change = json!({ "metadata": { "annotations": annotations, "labels": labels } });
    if let (Some(taints), Some(fields)) = (taints, change.as_object_mut()) {
        fields.insert("spec".to_owned(), json!({ "taints": taints }));
    }
    // A patch replaces the list of taints, so it must be the one that was looked at.
    if let (Some(version), Some(metadata)) =
        (node.pointer("/metadata/resourceVersion"), change.pointer_mut("/metadata").and_then(Value::as_object_mut))
    {
        metadata.insert("resourceVersion".to_owned(), version.clone());
    }
    Some(change)
}

fn labels(node: &Value, scopes: &Scopes, annotations: &mut Map<String, Value>) -> Map<String, Value> {
    let said = scopes.said("spec.node.labels").and_then(Value::as_object);
    let wanted: BTreeMap<&str, &Value> =
        said.into_iter().flatten().map(|(name, value)| (name.as_str(), value)).collect();
    let present = node.pointer("/metadata/labels").and_then(Value::as_object);
    let has = |name: &str| present.and_then(|labels| labels.get(name));
    let mut change = Map::new();
    for (name, value) in &wanted {
        if has(name) != Some(*value) {
            change.insert((*name).to_owned(), (*value).clone());
        }
    }
    let stated = stated(node, LABELS);
    for name in stated.iter().filter(|name| !wanted.contains_key(*name) && !name.starts_with(ROLE_LABEL)) {
        if has(name).is_some() {
            change.insert((*name).to_owned(), Value::Null);
        }
    }
    state(annotations, LABELS, &stated, &wanted.into_keys().collect());
    change
}

/// The whole list as it should be, if it is not.
fn taints(node: &Value, scopes: &Scopes, annotations: &mut Map<String, Value>) -> Option<Vec<Value>> {
    let said = scopes.said("spec.node.taints").and_then(Value::as_array);
    let wanted: Vec<_> = said.into_iter().flatten().collect();
    let names: Vec<_> = wanted.iter().map(|taint| name_of(taint)).collect();
    let present = node.pointer("/spec/taints").and_then(Value::as_array).cloned().unwrap_or_default();
    let stated = stated(node, TAINTS);
    let is_left = |taint: &&Value| {
        let name = name_of(taint);
        names.contains(&name) || !stated.contains(name.as_str())
    };
    let mut taints: Vec<_> = present.iter().filter(is_left).cloned().collect();
    for (name, taint) in names.iter().zip(&wanted) {
        let text = |taint: &Value| taint["value"].as_str().unwrap_or_default().to_owned();
        match taints.iter_mut().find(|there| name_of(there) == *name) {
            Some(there) if text(there) == text(taint) => {}
            Some(there) => *there = (*taint).clone(),
            None => taints.push((*taint).clone()),
        }
    }
    state(annotations, TAINTS, &stated, &names.iter().map(String::as_str).collect());
    (taints != present).then_some(taints)
}

/// A Node has one taint of a key and an effect.
fn name_of(taint: &Value) -> String {
    let part = |name: &str| taint.get(name).and_then(Value::as_str).unwrap_or_default();
    format!("{}:{}", part("key"), part("effect"))
}

fn annotation<'a>(node: &'a Value, name: &str) -> Option<&'a str> {
    node.pointer("/metadata/annotations")?.get(name)?.as_str()
}

/// What an annotation says was stated before.
fn stated<'a>(node: &'a Value, name: &str) -> BTreeSet<&'a str> {
    annotation(node, name).into_iter().flat_map(|text| text.split(',')).filter(|part| !part.is_empty()).collect()
}

fn state(annotations: &mut Map<String, Value>, name: &str, before: &BTreeSet<&str>, now: &BTreeSet<&str>) {
    if before == now {
        return;
    }
    let text = now.iter().copied().collect::<Vec<_>>().join(",");
    annotations.insert(name.to_owned(), if text.is_empty() { Value::Null } else { text.into() });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(node: &Value) -> Scopes {
        Scopes { node: Some(json!({ "node": node })), cluster: None }
    }

    /// The Node after a merge patch (RFC 7386), as an API server has it.
    fn patched(node: &Value, change: &Value) -> Value {
        fn merge(target: &mut Value, change: &Value) {
            let Some(fields) = change.as_object() else {
                *target = change.clone();
                return;
            };
            if !target.is_object() {
                *target = json!({});
            }
            for (name, value) in fields {
                if value.is_null() {
                    target.as_object_mut().unwrap().remove(name);
                } else {
                    merge(&mut target[name.as_str()], value);
                }
            }
        }
        let mut node = node.clone();
        merge(&mut node, change);
        node
    }

    fn settled(node: &Value, scopes: &Scopes) -> Value {
        let Some(change) = change(node, scopes) else { return node.clone() };
        let node = patched(node, &change);
        assert_eq!(super::change(&node, scopes), None, "it is not settled by one change: {node}");
        node
    }

    #[test]
    fn a_label_that_was_set_and_is_unset_goes_and_one_of_somebody_else_stays() {
        let node = json!({ "metadata": { "resourceVersion": "7", "labels": { "zone": "a", "old": "1" } } });
        let set = settled(&node, &said(&json!({ "labels": { "rack": "r7", "old": "2" } })));
        assert_eq!(set["metadata"]["labels"], json!({ "zone": "a", "rack": "r7", "old": "2" }));
        assert_eq!(set["metadata"]["annotations"][LABELS], "old,rack");
        let fewer = settled(&set, &said(&json!({ "labels": { "old": "2" } })));
        assert_eq!(fewer["metadata"]["labels"], json!({ "zone": "a", "old": "2" }));
        let unset = settled(&fewer, &Scopes::default());
        assert_eq!(unset["metadata"]["labels"], json!({ "zone": "a" }));
        assert_eq!(unset["metadata"]["annotations"], json!({}));
        assert_eq!(change(&unset, &Scopes::default()), None);
    }

    #[test]
    fn the_nodes_own_labels_go_before_the_clusters() {
        let cluster = json!({ "node": { "labels": { "fleet": "f" } } });
        let scopes = Scopes { cluster: Some(cluster), ..said(&json!({ "labels": { "rack": "r7" } })) };
        let node = settled(&json!({}), &scopes);
        assert_eq!(node["metadata"]["labels"], json!({ "rack": "r7" }));
        let node = settled(&node, &Scopes { node: None, ..scopes });
        assert_eq!(node["metadata"]["labels"], json!({ "fleet": "f" }));
    }

    #[test]
    fn roles_are_not_taken_away() {
        let role = format!("{ROLE_LABEL}worker");
        let node = json!({ "metadata": { "labels": { &role: "" } } });
        let set = settled(&node, &said(&json!({ "labels": { &role: "" } })));
        assert_eq!(settled(&set, &Scopes::default())["metadata"]["labels"], json!({ &role: "" }));
    }

    #[test]
    fn a_taint_that_was_set_and_is_unset_goes_and_one_of_somebody_else_stays() {
        let theirs = json!({ "key": "node.kubernetes.io/not-ready", "effect": "NoExecute", "timeAdded": "now" });
        let node = json!({ "metadata": { "resourceVersion": "7" }, "spec": { "podCIDR": "x", "taints": [theirs] } });
        let taint = |value: &str| json!({ "key": "gpu", "value": value, "effect": "NoSchedule" });
        let scopes = |value: &str| said(&json!({ "taints": [taint(value)] }));
        assert_eq!(change(&node, &scopes("a")).unwrap()["metadata"]["resourceVersion"], "7");
        let set = settled(&node, &scopes("a"));
        assert_eq!(set["spec"], json!({ "podCIDR": "x", "taints": [theirs, taint("a")] }));
        let other = settled(&set, &scopes("b"));
        assert_eq!(other["spec"]["taints"], json!([theirs, taint("b")]));
        let unset = settled(&other, &Scopes::default());
        assert_eq!(unset["spec"]["taints"], json!([theirs]));
    }

    #[test]
    fn what_kubernetes_leaves_out_is_no_difference() {
        let node = json!({
            "metadata": { "annotations": { TAINTS: "a:NoSchedule" } },
            "spec": { "taints": [{ "key": "a", "effect": "NoSchedule" }] },
        });
        assert_eq!(
            change(&node, &said(&json!({ "taints": [{ "key": "a", "value": "", "effect": "NoSchedule" }] }))),
            None
        );
        let without = said(&json!({ "taints": [{ "key": "a", "effect": "NoSchedule" }] }));
        assert_eq!(change(&node, &without), None);
    }
}
