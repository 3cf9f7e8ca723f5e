//! The cluster's nodes, as Kubernetes knows them, and members that it does not know yet.

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
    /// The cluster's virtual address, if the node has it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_address: Option<String>,
    pub kubelet_version: String,
    /// When the node was first registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Kubernetes' own conditions of the node, their message as the reason. Of a member that Kubernetes does not know yet
    /// there is `Ready` alone.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// The body of a request whose path says all; an empty object will do.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeOrder {}

/// The body of a removal; an empty object will do.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemovalOrder {
    /// Removes a control plane also if those that stay and answer are too few to decide anything: together with it go those
    /// that do not answer.
    #[serde(default)]
    pub force: bool,
    /// Somebody else may have what the node knew. All join tokens become void, but for those that were made offline and never used, of which
    /// the cluster does not know; of a control plane the cluster's authorities and the key that encrypts Secrets are exchanged for others.
    #[serde(default)]
    pub compromised: bool,
    /// Changes nothing, and says whether the removal would be refused. A control plane of an older release refuses the field, so
    /// it stands only where it is meant.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What has become of it.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeOrdered {
    pub name: String,
    /// What is left to do and will be done by itself, in plain words; empty when nothing is.
    pub pending: String,
    /// Control planes that were lost with it, because they did not answer and it was forced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
}

/// One step of draining a node: its pods were asked to go. Asked again, it goes on from there.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainStep {
    pub name: String,
    /// Pods that are still there, `NAMESPACE/NAME`, and why a pod cannot be asked to go yet.
    pub remaining: Vec<DrainingPod>,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainingPod {
    pub pod: String,
    pub reason: String,
}

/// Kubernetes' `SubjectAccessReview` with the one answer that there is here.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Denial {
    pub api_version: String,
    pub kind: String,
    pub status: DenialStatus,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DenialStatus {
    pub allowed: bool,
    pub denied: bool,
    pub reason: String,
}

impl Denial {
    pub fn of_removed_node() -> Self {
        Self {
            api_version: "authorization.k8s.io/v1".to_owned(),
            kind: "SubjectAccessReview".to_owned(),
            status: DenialStatus {
                allowed: false,
                denied: true,
                reason: "the node was removed from the cluster".to_owned(),
            },
        }
    }
}
