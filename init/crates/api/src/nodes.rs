//! The cluster's nodes, as Kubernetes knows them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::status::Condition;

#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeList {
    pub nodes: Vec<Node>,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    pub name: String,
    /// `control-plane` or `worker`.
    pub role: String,
    pub ready: bool,
    /// Whether new pods are kept away from it.
    #[serde(default)]
    pub unschedulable: bool,
    pub addresses: Vec<String>,
    pub kubelet_version: String,
    /// When the node was first registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Kubernetes' own conditions of the node, their message as the reason.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}
