//! The role labels of all Nodes, from the members' records.

use keelson_config::Role;
use serde_json::{Map, Value, json};

use super::node_object::{missing_labels, role_labels};
use crate::client::{Client, ClientError, WatchEvent};
use crate::registry::Registry;

/// Follows all Nodes until the watch ends or fails.
pub async fn follow(registry: &Registry, client: &Client) -> Result<(), ClientError> {
    // Without a resource version the watch begins with the objects as they are.
    let mut watch = client.watch("/api/v1/nodes?watch=true").await?;
    loop {
        match watch.next().await? {
            Some(WatchEvent::Present(object)) => label(registry, client, &object).await?,
            Some(WatchEvent::Deleted(_)) => {}
            Some(WatchEvent::Expired) | None => return Ok(()),
        }
    }
}

async fn label(registry: &Registry, client: &Client, object: &Value) -> Result<(), ClientError> {
    let Some(name) = object.pointer("/metadata/name").and_then(Value::as_str) else {
        return Ok(());
    };
    let view = registry.view_now();
    let Some(role) = view.as_ref().and_then(|view| view.nodes.get(name)).map(|record| record.role) else {
        return Ok(());
    };
    let missing = missing_labels(object, wanted(role));
    if missing.is_empty() {
        return Ok(());
    }
    match client.merge(&format!("/api/v1/nodes/{name}"), &json!({ "metadata": { "labels": missing } })).await {
        // It was deleted at this very moment.
        Err(error) if error.is_not_found() => Ok(()),
        result => result.map(|_| ()),
    }
}

fn wanted(role: Role) -> Map<String, Value> {
    role_labels(role).collect()
}
