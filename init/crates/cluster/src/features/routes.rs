//! Where other nodes' pods are: which ranges, from their Node objects, and where, from the members' verified addresses.
//!
//! keelson-network makes the ways. A Node that is no member's has none, and one that was removed loses its own at once, whatever
//! Kubernetes still says of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use keelson_config::pod_routes::{PodNode, PodRoutes};
use keelson_pki::{Files, FilesError, Mode, Owner};
use serde_json::Value;

use super::pod_network;
use super::settings::has_pod_network;
use crate::client::{Client, ClientError, WatchEvent};
use crate::kubernetes_api::KubernetesApiError;
use crate::node::{Member, Node};
use crate::{report, worker};

#[derive(Debug, thiserror::Error)]
pub enum RoutesError {
    #[error(transparent)]
    Api(#[from] KubernetesApiError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("asking keelson-network for the ways to pods")]
    Files(#[from] FilesError),
    #[error("asking keelson-network for the ways to pods")]
    Encode(#[from] serde_json::Error),
    #[error("the work was interrupted")]
    Interrupted,
}

/// Follows Nodes and members until the watch ends or fails.
pub async fn follow(node: &Node, files: &Arc<dyn Files>, member: &Member, client: &Client) -> Result<(), RoutesError> {
    let mut watch = client.watch("/api/v1/nodes?watch=true").await?;
    let mut views = member.registry.as_ref().map(|registry| registry.view());
    let mut settings = member.worker.as_ref().map(|worker| worker.settings());
    let mut ranges = BTreeMap::new();
    loop {
        tokio::select! {
            event = watch.next() => match event? {
                Some(WatchEvent::Present(object)) => take(&mut ranges, &object),
                Some(WatchEvent::Deleted(object)) => drop(ranges.remove(name(&object))),
                Some(WatchEvent::Expired) | None => return Ok(()),
            },
            () = crate::proxy_feed::changed(views.as_mut()) => {}
            () = crate::proxy_feed::changed(settings.as_mut()) => {}
        }
        let wish = match has_pod_network(member) {
            Some(true) => wish(&member.identity.name, cluster_ranges(node, member), &ranges, &addresses(member)),
            // Ways, translation and tunnel are the other plugin's.
            Some(false) => PodRoutes::default(),
            None => continue,
        };
        write(node, files, wish).await?;
    }
}

fn name(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

fn take(ranges: &mut BTreeMap<String, Vec<IpNet>>, object: &Value) {
    match pod_network::ranges(object) {
        Ok(of_node) => drop(ranges.insert(name(object).to_owned(), of_node)),
        Err(error) => report::error(&error),
    }
}

/// By name, as the members' records have them.
fn addresses(member: &Member) -> BTreeMap<String, Vec<IpAddr>> {
    let parsed = |addresses: &[String]| addresses.iter().filter_map(|address| address.parse().ok()).collect();
    if let Some(worker) = &member.worker {
        let settings = worker.settings_now();
        return settings.members.iter().map(|other| (other.name.clone(), parsed(&other.addresses))).collect();
    }
    let view = member.registry.as_ref().and_then(|registry| registry.view_now());
    let records = view.iter().flat_map(|view| view.nodes.values());
    records.map(|record| (record.name.clone(), parsed(&record.addresses))).collect()
}

/// Where all pods of the cluster are.
fn cluster_ranges(node: &Node, member: &Member) -> Vec<IpNet> {
    match &member.worker {
        Some(worker) => worker::pod_ranges(&worker.settings_now()),
        None => node.cluster().pod_cidr.all().collect(),
    }
}

/// A node's ranges are what its own kubelet may have said: none leads out of the cluster's, where nodes are, or to what is this node's.
fn wish(
    own: &str,
    cluster: Vec<IpNet>,
    ranges: &BTreeMap<String, Vec<IpNet>>,
    addresses: &BTreeMap<String, Vec<IpAddr>>,
) -> PodRoutes {
    let own_ranges = ranges.get(own).cloned().unwrap_or_default();
    let overlaps = |one: &IpNet, other: &IpNet| one.contains(other) || other.contains(one);
    let may_lead = |range: &&IpNet| {
        cluster.iter().any(|whole| whole.contains(*range)) && !own_ranges.iter().any(|ours| overlaps(ours, range))
    };
    let nodes = ranges.iter().filter(|(name, _)| *name != own).filter_map(|(name, ranges)| {
        let addresses = addresses.get(name).filter(|addresses| !addresses.is_empty())?;
        let ranges: Vec<IpNet> = ranges.iter().filter(may_lead).copied().collect();
        (!ranges.is_empty()).then(|| PodNode { name: name.clone(), addresses: addresses.clone(), ranges })
    });
    let nodes = nodes.collect();
    PodRoutes { cluster, own: own_ranges, nodes }
}

async fn write(node: &Node, files: &Arc<dyn Files>, wish: PodRoutes) -> Result<(), RoutesError> {
    let (files, path) = (Arc::clone(files), node.paths.pod_routes());
    let content = serde_json::to_vec_pretty(&wish)?;
    let write = move || files.update(&path, &content, Mode::PUBLIC, Owner::ROOT);
    tokio::task::spawn_blocking(write).await.map_err(|_| RoutesError::Interrupted)??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_range_leads_out_of_the_clusters_or_to_this_nodes_own_pods() {
        let ranges = |text: &str| text.split(' ').map(|range| range.parse::<IpNet>().unwrap()).collect::<Vec<_>>();
        let said = BTreeMap::from([
            ("a".to_owned(), ranges("10.244.0.0/24")),
            ("b".to_owned(), ranges("192.0.2.1/32 10.244.1.0/24 fd00::/64")),
            ("c".to_owned(), ranges("10.244.0.0/25")),
            ("d".to_owned(), ranges("10.0.0.0/8")),
            ("e".to_owned(), ranges("0.0.0.0/1")),
        ]);
        let addresses = said.keys().map(|name| (name.clone(), vec!["192.0.2.2".parse().unwrap()])).collect();
        let wish = wish("a", ranges("10.244.0.0/16"), &said, &addresses);
        let led: Vec<_> = wish.nodes.iter().map(|node| (node.name.as_str(), node.ranges.clone())).collect();
        assert_eq!(led, [("b", ranges("10.244.1.0/24"))]);
    }

    #[test]
    fn only_members_with_pods_and_a_verified_address_are_led_to() {
        let range = |text: &str| vec![text.parse::<IpNet>().unwrap()];
        let ranges = BTreeMap::from([
            ("a".to_owned(), range("10.244.0.0/24")),
            ("b".to_owned(), range("10.244.1.0/24")),
            ("stranger".to_owned(), range("10.244.2.0/24")),
            ("new".to_owned(), Vec::new()),
        ]);
        let address = |text: &str| vec![text.parse::<IpAddr>().unwrap()];
        let addresses = BTreeMap::from([
            ("a".to_owned(), address("192.0.2.1")),
            ("b".to_owned(), address("192.0.2.2")),
            ("new".to_owned(), address("192.0.2.3")),
        ]);
        let wish = wish("a", range("10.244.0.0/16"), &ranges, &addresses);
        assert_eq!(wish.own, range("10.244.0.0/24"));
        let names: Vec<_> = wish.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["b"]);
        assert_eq!(wish.nodes[0].addresses, address("192.0.2.2"));
    }
}
