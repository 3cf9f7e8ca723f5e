//! This node's Node object: its labels, its pod range, whether it is Ready.
//!
//! kubelet may not give itself the role labels, so they are given here, together with those of the operator's labels that
//! lie in Kubernetes' own namespaces.

use std::sync::Arc;

use keelson_api::NodeSettings;
use keelson_config::Role;
use keelson_pki::Files;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::client::{Client, ClientError, WatchEvent};
use crate::configuration::is_of_operators;
use crate::kubernetes::is_accepted_label;
use crate::node::{Member, Node};
use crate::registry::View;
use crate::status::ConditionKind;
use crate::{proxy_feed, report};

use super::pod_network;
use super::settings::has_pod_network;

pub(super) const ROLE_LABEL: &str = "node-role.kubernetes.io/";

/// Follows the object until the watch ends or fails.
pub async fn follow(node: &Node, files: &Arc<dyn Files>, client: &Client) -> Result<(), ClientError> {
    // Without a resource version the watch begins with the object as it is.
    let path = format!("/api/v1/nodes?watch=true&fieldSelector=metadata.name%3D{}", node.name());
    let mut watch = client.watch(&path).await?;
    let member = node.member().await;
    let mut views = member.registry.as_ref().map(|registry| registry.view());
    let mut settings = member.worker.as_ref().map(|worker| worker.settings());
    let (mut last, mut has_network) = (None, None);
    loop {
        tokio::select! {
            event = watch.next() => match event? {
                Some(WatchEvent::Present(object)) => last = Some(object),
                Some(WatchEvent::Deleted(_)) => {
                    last = None;
                    let reason = "the Node object was deleted; kubelet makes it again";
                    node.status.fails(ConditionKind::NodeRegistered, reason);
                }
                Some(WatchEvent::Expired) | None => return Ok(()),
            },
            () = has_changed(&member, has_network, views.as_mut(), settings.as_mut()) => {}
        }
        has_network = has_pod_network(&member);
        if let Some(object) = &last {
            reconcile(node, files, client, object, has_network).await?;
        }
    }
}

/// Returns once the pod network was enabled or disabled.
async fn has_changed(
    member: &Member,
    known: Option<bool>,
    mut views: Option<&mut watch::Receiver<Option<Arc<View>>>>,
    mut settings: Option<&mut watch::Receiver<Arc<NodeSettings>>>,
) {
    while has_pod_network(member) == known {
        tokio::select! {
            () = proxy_feed::changed(views.as_deref_mut()) => {}
            () = proxy_feed::changed(settings.as_deref_mut()) => {}
        }
    }
}

async fn reconcile(
    node: &Node,
    files: &Arc<dyn Files>,
    client: &Client,
    object: &Value,
    has_network: Option<bool>,
) -> Result<(), ClientError> {
    node.status.holds(ConditionKind::NodeRegistered, "kubelet has registered the node");
    let is_control_plane = node.config.role == Role::ControlPlane;
    let has_range = match has_network {
        Some(true) => configure_pod_network(node, files, object).await,
        Some(false) => {
            remove_pod_network(node, files).await;
            true
        }
        None => true,
    };
    if !has_range && is_control_plane {
        claim_first_range(node, client).await?;
    }
    let (ready, reason) = readiness(object);
    if ready {
        node.status.holds(ConditionKind::NodeReady, reason);
    } else {
        node.status.fails(ConditionKind::NodeReady, reason);
    }
    let missing = missing_labels(object, wanted_labels(node));
    // A worker's own identity may not write: its roles come from a control plane ([`super::roles`]).
    if is_control_plane && !missing.is_empty() {
        let path = format!("/api/v1/nodes/{}", node.name());
        client.merge(&path, &json!({ "metadata": { "labels": missing } })).await?;
    }
    Ok(())
}

/// The only node of a cluster takes the ranges that the controller manager would give it, so that becoming Ready does not wait
/// for that process. Who has a range keeps it: the controller manager counts it as given.
async fn claim_first_range(node: &Node, client: &Client) -> Result<(), ClientError> {
    let Some(ranges) = pod_network::first_ranges(node.cluster().pod_cidr) else {
        return Ok(());
    };
    let list = client.get("/api/v1/nodes?limit=2").await?;
    let nodes = list.get("items").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let alone = matches!(nodes, [only] if only.pointer("/metadata/name").and_then(Value::as_str) == Some(node.name()));
    if !alone {
        return Ok(());
    }
    let change = json!({ "spec": { "podCIDR": ranges.first(), "podCIDRs": ranges } });
    match client.merge(&format!("/api/v1/nodes/{}", node.name()), &change).await {
        // It was given one at this very moment, and a range is given once.
        Err(ClientError::Refused { .. }) => Ok(()),
        result => result.map(|_| ()),
    }
}

/// False while the node has no range.
async fn configure_pod_network(node: &Node, files: &Arc<dyn Files>, object: &Value) -> bool {
    let result = match pod_network::ranges(object) {
        Ok(ranges) if ranges.is_empty() => {
            let reason = "the node has no pod range yet";
            node.status.fails(ConditionKind::PodNetworkConfigured, reason);
            return false;
        }
        Ok(ranges) => {
            let (files, paths) = (Arc::clone(files), node.paths.clone());
            let (configured, mtu) = (ranges.clone(), pod_network::mtu(&ranges, &node.network().borrow()));
            let write = move || pod_network::configure(&*files, &paths, &configured, mtu);
            let written = tokio::task::spawn_blocking(write).await;
            match written {
                Ok(result) => result.map(|()| ranges),
                // The runtime is being shut down.
                Err(_) => return true,
            }
        }
        Err(error) => Err(error),
    };
    match result {
        Ok(ranges) => {
            let ranges: Vec<_> = ranges.iter().map(ToString::to_string).collect();
            node.status.holds(ConditionKind::PodNetworkConfigured, format!("pods have {}", ranges.join(", ")));
        }
        Err(error) => {
            node.status.fails(ConditionKind::PodNetworkConfigured, report::chain(&error));
            report::error(&error);
        }
    }
    true
}

async fn remove_pod_network(node: &Node, files: &Arc<dyn Files>) {
    let (files, paths) = (Arc::clone(files), node.paths.clone());
    match tokio::task::spawn_blocking(move || pod_network::remove(&*files, &paths)).await {
        Ok(Ok(())) => {
            let reason = "the cluster's own network is disabled; pods have that of another CNI plugin";
            node.status.holds(ConditionKind::PodNetworkConfigured, reason);
        }
        Ok(Err(error)) => {
            node.status.fails(ConditionKind::PodNetworkConfigured, report::chain(&error));
            report::error(&error);
        }
        // The runtime is being shut down.
        Err(_) => {}
    }
}

pub(super) fn readiness(object: &Value) -> (bool, String) {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    match ready {
        Some(condition) => {
            let message = condition["message"].as_str().unwrap_or_default();
            (condition["status"] == "True", message.to_owned())
        }
        None => (false, "kubelet has not reported the node's state yet".to_owned()),
    }
}

/// A control plane runs pods as well, so it carries both roles.
pub(super) fn role_labels(role: Role) -> impl Iterator<Item = (String, Value)> {
    let roles: &[&str] = match role {
        Role::ControlPlane => &["control-plane", "worker"],
        Role::Worker => &["worker"],
    };
    roles.iter().map(|role| (format!("{ROLE_LABEL}{role}"), Value::from("")))
}

/// Those that operators have told the cluster are stated by the control plane that leads ([`super::labels`]).
fn wanted_labels(node: &Node) -> Map<String, Value> {
    let settled = node.settled();
    let is_own = !settled.sources.get("labels").is_some_and(is_of_operators);
    let given = settled.labels.iter().filter(|(name, _)| is_own && !is_accepted_label(name));
    role_labels(node.config.role)
        .chain(given.map(|(name, value)| (name.clone(), Value::from(value.as_str()))))
        .collect()
}

pub(super) fn missing_labels(object: &Value, wanted: Map<String, Value>) -> Map<String, Value> {
    let present = object.pointer("/metadata/labels");
    wanted.into_iter().filter(|(name, value)| present.and_then(|labels| labels.get(name)) != Some(value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labels_that_are_not_there_yet_are_patched() {
        let object = json!({ "metadata": { "labels": { "a": "1", "b": "2" } } });
        let wanted = json!({ "a": "1", "b": "3", "c": "" });
        let missing = missing_labels(&object, wanted.as_object().unwrap().clone());
        assert_eq!(Value::from(missing), json!({ "b": "3", "c": "" }));
    }

    #[test]
    fn readiness_is_kubelets_own_word() {
        let object =
            json!({ "status": { "conditions": [{ "type": "Ready", "status": "False", "message": "no CNI" }] } });
        assert_eq!(readiness(&object), (false, "no CNI".to_owned()));
        assert!(!readiness(&json!({})).0);
    }
}
