//! Kubernetes' part of a node's departure: cordon, drain, and the objects of nodes that were removed.
//!
//! Draining is one step at a time: every pod that may go is asked to go, and who asks again learns which are left. So
//! no request has to last as long as the slowest pod, and whoever waits can be told what for.

use std::collections::BTreeSet;

use keelson_api::{DrainStep, DrainingPod};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use crate::client::{Client, ClientError};
use crate::registry::{RemovedRecord, View};

use super::leases;

/// What Kubernetes asks for between two lists of the same node's pods.
const PODS: &str = "/api/v1/pods?fieldSelector=spec.nodeName%3D";

/// One has some ten KiB.
const NODES: &str = "/api/v1/nodes?limit=500";
/// After this a removed node's controllers lead nothing any more, and Kubernetes has deleted its Pods by itself.
const RECENT: Duration = Duration::HOUR;

/// Says whether that is news.
pub async fn set_unschedulable(client: &Client, name: &str, unschedulable: bool) -> Result<bool, ClientError> {
    let path = format!("/api/v1/nodes/{name}");
    if is_unschedulable(&client.get(&path).await?) == unschedulable {
        return Ok(false);
    }
    client.merge(&path, &json!({ "spec": { "unschedulable": unschedulable } })).await?;
    Ok(true)
}

pub fn is_unschedulable(node: &Value) -> bool {
    node.pointer("/spec/unschedulable").and_then(Value::as_bool).unwrap_or_default()
}

/// Asks every pod of the node to go that may be asked, as `kubectl drain --ignore-daemonsets` does, and says which are left.
pub async fn drain(client: &Client, name: &str) -> Result<DrainStep, ClientError> {
    let mut remaining = Vec::new();
    for pod in pods(client, name).await?.iter().filter(|pod| goes(pod)) {
        let Some((namespace, pod_name)) = names(pod) else { continue };
        let reason = if pod.pointer("/metadata/deletionTimestamp").is_some() {
            "it is ending".to_owned()
        } else {
            match evict(client, namespace, pod_name).await {
                Ok(()) => "it was asked to go".to_owned(),
                Err(error) if error.is_not_found() => continue,
                // A disruption budget allows no more at this moment.
                Err(ClientError::Refused { message, .. }) => message,
                Err(error) => return Err(error),
            }
        };
        remaining.push(DrainingPod { pod: format!("{namespace}/{pod_name}"), reason });
    }
    Ok(DrainStep { name: name.to_owned(), remaining })
}

async fn evict(client: &Client, namespace: &str, name: &str) -> Result<(), ClientError> {
    let eviction = json!({
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": { "name": name, "namespace": namespace },
    });
    client.create(&format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction"), &eviction).await.map(|_| ())
}

/// Deletes what Kubernetes has of a node that is no member: its Pods at once, so that their tokens die, and its Node.
pub async fn clean(client: &Client, name: &str) -> Result<(), ClientError> {
    for pod in pods(client, name).await? {
        let Some((namespace, pod)) = names(&pod) else { continue };
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}?gracePeriodSeconds=0");
        ignore_absent(client.delete(&path).await)?;
    }
    ignore_absent(client.delete(&format!("/api/v1/nodes/{name}")).await)
}

/// Cleans up after everybody who was removed and has not come back. The UIDs that are done are kept by the caller. Of those that were
/// removed long ago only a Node can be left, which nobody could delete at the time.
pub async fn clean_all(
    client: &Client,
    view: &View,
    now: OffsetDateTime,
    done: &mut BTreeSet<String>,
) -> Result<(), ClientError> {
    let is_due = |removed: &&RemovedRecord| !done.contains(&removed.uid) && !view.nodes.contains_key(&removed.name);
    let due: Vec<_> = view.removed.values().filter(is_due).collect();
    let since = (now - RECENT).unix_timestamp();
    let (former, recent): (Vec<_>, Vec<_>) = due.into_iter().partition(|removed| removed.removed <= since);
    let present = if former.is_empty() { BTreeSet::new() } else { node_names(client).await? };
    let (left, gone): (Vec<_>, Vec<_>) = former.into_iter().partition(|removed| present.contains(&removed.name));
    done.extend(gone.into_iter().map(|removed| removed.uid.clone()));
    for removed in recent.into_iter().chain(left) {
        // Its controllers are denied by now; what they led is not to wait until their leases run out.
        for lease in leases::NAMES {
            leases::give_up(client, lease, &removed.name).await?;
        }
        clean(client, &removed.name).await?;
        done.insert(removed.uid.clone());
    }
    done.retain(|uid| view.removed.contains_key(uid));
    Ok(())
}

async fn node_names(client: &Client) -> Result<BTreeSet<String>, ClientError> {
    let name = |node: &Value| node.pointer("/metadata/name").and_then(Value::as_str).map(str::to_owned);
    let (mut all, mut path) = (BTreeSet::new(), NODES.to_owned());
    loop {
        let list = client.get(&path).await?;
        let items = list.get("items").and_then(Value::as_array);
        all.extend(items.into_iter().flatten().filter_map(name));
        match list.pointer("/metadata/continue").and_then(Value::as_str) {
            None | Some("") => return Ok(all),
            Some(next) => path = format!("{NODES}&continue={next}"),
        }
    }
}

fn ignore_absent(result: Result<Value, ClientError>) -> Result<(), ClientError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        result => result.map(|_| ()),
    }
}

async fn pods(client: &Client, name: &str) -> Result<Vec<Value>, ClientError> {
    let mut list = client.get(&format!("{PODS}{name}")).await?;
    Ok(match list.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    })
}

fn names(pod: &Value) -> Option<(&str, &str)> {
    Some((pod.pointer("/metadata/namespace")?.as_str()?, pod.pointer("/metadata/name")?.as_str()?))
}

/// Daemon sets put theirs back at once, and a mirror pod is kubelet's own; those that have ended are in nobody's way.
fn goes(pod: &Value) -> bool {
    let owners = pod.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let of_daemon_set = owners.into_iter().flatten().any(|owner| owner["kind"] == "DaemonSet");
    let mirror = pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some();
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    !of_daemon_set && !mirror && !matches!(phase, "Succeeded" | "Failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_of_daemon_sets_mirrors_and_ended_ones_stay() {
        let pod = |kind: &str, phase: &str| json!({ "metadata": { "ownerReferences": [{ "kind": kind }] }, "status": { "phase": phase } });
        assert!(goes(&pod("ReplicaSet", "Running")) && goes(&json!({ "metadata": {} })));
        assert!(!goes(&pod("DaemonSet", "Running")));
        assert!(!goes(&pod("Job", "Succeeded")));
        assert!(!goes(&json!({ "metadata": { "annotations": { "kubernetes.io/config.mirror": "x" } } })));
    }
}
