//! What all Nodes carry: their roles, from the members' records, and what operators have told the cluster
//! ([`super::labels`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use keelson_config::Role;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::labels;
use super::leases::{self, Lead};
use super::node_object::{missing_labels, role_labels};
use crate::client::{Client, ClientError, WatchEvent};
use crate::registry::{ConfigurationRecord, Registry, View};

/// Follows all Nodes until the watch ends or fails, or operators have said something else.
pub async fn follow(registry: &Registry, client: &Client, hostname: &str) -> Result<(), ClientError> {
    let mut views = registry.view();
    let known = configurations(views.borrow_and_update().as_ref());
    // Without a resource version the watch begins with the objects as they are.
    let mut watch = client.watch("/api/v1/nodes?watch=true").await?;
    loop {
        let event = tokio::select! {
            event = watch.next() => event?,
            () = changed(&mut views, &known) => return Ok(()),
        };
        match event {
            Some(WatchEvent::Present(object)) => settle(registry, client, hostname, &object).await?,
            Some(WatchEvent::Deleted(_)) => {}
            Some(WatchEvent::Expired) | None => return Ok(()),
        }
    }
}

fn configurations(view: Option<&Arc<View>>) -> BTreeMap<String, ConfigurationRecord> {
    view.map(|view| view.configurations.clone()).unwrap_or_default()
}

async fn changed(views: &mut watch::Receiver<Option<Arc<View>>>, known: &BTreeMap<String, ConfigurationRecord>) {
    let is_news = |view: &Option<Arc<View>>| view.as_ref().is_some_and(|view| view.configurations != *known);
    if views.wait_for(is_news).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn settle(registry: &Registry, client: &Client, hostname: &str, object: &Value) -> Result<(), ClientError> {
    let Some(name) = object.pointer("/metadata/name").and_then(Value::as_str) else {
        return Ok(());
    };
    let Some(view) = registry.view_now() else { return Ok(()) };
    let Some(role) = view.nodes.get(name).map(|record| record.role) else {
        return Ok(());
    };
    let missing = missing_labels(object, wanted(role));
    if !missing.is_empty() {
        merge(client, name, &json!({ "metadata": { "labels": missing } })).await?;
    }
    let Some(change) = labels::change(object, &view.scopes(name)) else { return Ok(()) };
    let planes = view.nodes.values().filter(|record| record.role == Role::ControlPlane).count();
    // Two whose views are a second apart would undo each other's work.
    if planes > 1 && matches!(leases::lead(client, hostname).await?, Lead::Elsewhere(_)) {
        return Ok(());
    }
    merge(client, name, &change).await
}

async fn merge(client: &Client, name: &str, change: &Value) -> Result<(), ClientError> {
    match client.merge(&format!("/api/v1/nodes/{name}"), change).await {
        // It was deleted or changed at this very moment; the watch tells of it.
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        result => result.map(|_| ()),
    }
}

fn wanted(role: Role) -> Map<String, Value> {
    role_labels(role).collect()
}
