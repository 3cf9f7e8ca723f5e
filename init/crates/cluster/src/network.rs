//! Follows what keelson-network reports.

use std::sync::Arc;

use keelson_config::network_state::NetworkState;

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
    node.set_network(state);
}
