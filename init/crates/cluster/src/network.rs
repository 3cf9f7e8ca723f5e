//! Follows what keelson-network reports.

use std::sync::Arc;

use keelson_config::ClusterConfig;
use keelson_config::network_state::{LinkState, NetworkState};

use crate::node::Node;
use crate::report;
use crate::status::ConditionKind;
use crate::watch_file::FileWatch;

/// Reads the state at each change, for ever.
pub async fn follow(node: Arc<Node>) {
    let path = node.paths.network_state();
    let watch = match FileWatch::new(&path) {
        Ok(watch) => watch,
        Err(error) => {
            node.status.fails(ConditionKind::NetworkUp, report::chain(&error));
            return report::error(&error);
        }
    };
    loop {
        match NetworkState::read(&path) {
            Ok(Some(state)) => take(&node, state),
            Ok(None) => {
                node.status.fails(ConditionKind::NetworkUp, "keelson-network has not reported yet");
            }
            Err(error) => {
                node.status.fails(ConditionKind::NetworkUp, report::chain(&error));
            }
        }
        watch.changed().await;
    }
}

fn take(node: &Node, mut state: NetworkState) {
    state.node_addresses.retain(|address| node.config.admits_node_address(*address));
    tell(node, &state);
    node.set_network(state);
}

/// Says how the network is. An address that nobody has configured, from DHCP or a router, may be one of the cluster's own: pods
/// and Services would be reached in the place of its neighbours.
pub fn tell(node: &Node, state: &NetworkState) {
    let conflicts = if node.knows_its_networks() { conflicts(&node.cluster(), state) } else { Vec::new() };
    if !conflicts.is_empty() {
        let reason = conflicts.join("; ");
        if node.status.fails(ConditionKind::NetworkUp, reason.as_str()) {
            report::info(format!("error: {reason}"));
        }
        return;
    }
    let problems = state.problems.join("; ");
    match state.node_address() {
        Some(address) if problems.is_empty() => {
            node.status.holds(ConditionKind::NetworkUp, format!("the node's address is {address}"));
        }
        Some(address) => {
            node.status.holds(ConditionKind::NetworkUp, format!("the node's address is {address}; {problems}"));
        }
        None if problems.is_empty() => {
            node.status.fails(ConditionKind::NetworkUp, "the node has no address yet");
        }
        None => {
            node.status.fails(ConditionKind::NetworkUp, format!("the node has no address: {problems}"));
        }
    }
}

/// Of all links that are the node's to configure.
fn conflicts(cluster: &ClusterConfig, state: &NetworkState) -> Vec<String> {
    let of_link = |link: &LinkState| {
        let conflicts = link.addresses.iter().filter_map(|net| cluster.conflict(net.addr()));
        conflicts.map(|conflict| format!("{}: {conflict}", link.name)).collect::<Vec<_>>()
    };
    state.links.iter().flat_map(of_link).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_from_the_network_that_is_one_of_the_clusters_own_is_told_with_link_and_field() {
        let link = |name: &str, addresses: &[&str]| {
            json!({
                "name": name, "index": 2, "mac": null, "mtu": 1500, "carrier": true, "addresses": addresses, "gateway": null,
                "nameservers": [], "search": [], "ntp_servers": [], "lease": null,
            })
        };
        let state: NetworkState = serde_json::from_value(json!({
            "node_addresses": ["192.0.2.5"],
            "links": [link("eth0", &["192.0.2.5/24", "fe80::5/64"]), link("eth1", &["10.244.3.4/8"])],
            "nameservers": [], "search": [], "problems": [],
            "time": { "synchronised": false, "server": null, "offset_seconds": null, "last_answer": null },
        }))
        .unwrap();
        let expected = "eth1: the address 10.244.3.4 is inside the pod network 10.244.0.0/16 (spec.cluster.podCIDR)";
        assert_eq!(conflicts(&ClusterConfig::default(), &state), [expected]);
        let mut elsewhere = ClusterConfig::default();
        elsewhere.pod_cidr = "172.16.0.0/16".parse().unwrap();
        assert!(conflicts(&elsewhere, &state).is_empty());
    }
}
