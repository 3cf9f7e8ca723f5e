//! What a node's proxy says of the API servers that it knows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyStatus {
    /// Whether it was told of API servers since it was started. Otherwise it goes by those that it has kept.
    pub told: bool,
    /// Connections that wait for an API server.
    pub waiting: u64,
    pub endpoints: Vec<ProxyEndpoint>,
}

/// An API server, and the connections that the proxy has led to it since one of both was started.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyEndpoint {
    /// `ADDRESS:PORT`.
    pub address: String,
    /// Whether it is the node's own, which is preferred while it is ready.
    pub local: bool,
    pub state: ProxyEndpointState,
    /// Why it is not ready, in plain words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// How long it takes to say that it is ready, smoothed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_milliseconds: Option<u64>,
    /// Connections that are open.
    pub connections: u64,
    pub connections_total: u64,
    /// From clients, over connections that have ended in order.
    pub bytes_up: u64,
    /// To clients, over the same.
    pub bytes_down: u64,
    /// How often it was given up or avoided.
    pub evictions: u64,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ProxyEndpointState {
    Ready,
    /// It answers, and says that it is not ready.
    NotReady,
    /// It does not answer.
    Dead,
    /// It was not asked yet, or the state is one of a newer release.
    #[serde(other)]
    Unknown,
}
