//! How API servers are, in the words of keelson-proxy.

use keelson_api::{ErrorCode, ProxyEndpoint, ProxyEndpointState, ProxyStatus};
use keelson_proxy::feed::EndpointStatus;
use keelson_proxy::health::State;

use super::respond::Refusal;
use crate::node::Node;
use crate::proxy_feed;

pub(super) async fn status(node: &Node) -> Result<ProxyStatus, Refusal> {
    let status = proxy_feed::status(node)
        .await
        .map_err(|error| Refusal::new(ErrorCode::Unavailable, format!("the node's proxy does not answer: {error}")))?;
    Ok(ProxyStatus {
        told: status.version > 0,
        waiting: status.waiting,
        endpoints: status.endpoints.into_iter().map(endpoint).collect(),
    })
}

fn endpoint(status: EndpointStatus) -> ProxyEndpoint {
    ProxyEndpoint {
        address: status.address.to_string(),
        local: status.local,
        state: match status.state {
            State::Unknown => ProxyEndpointState::Unknown,
            State::Ready => ProxyEndpointState::Ready,
            State::NotReady => ProxyEndpointState::NotReady,
            State::Dead => ProxyEndpointState::Dead,
        },
        reason: status.reason,
        round_trip_milliseconds: status.round_trip_milliseconds,
        connections: status.connections,
        connections_total: status.connections_total,
        bytes_up: status.bytes_up,
        bytes_down: status.bytes_down,
        evictions: status.evictions,
    }
}
