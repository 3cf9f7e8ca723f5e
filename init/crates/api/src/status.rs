//! What a node says of itself, so that "why is this node not Ready?" has an answer in plain words.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The node that was asked. It answers before the store and Kubernetes do.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub name: String,
    /// `control-plane` or `worker`.
    pub role: String,
    pub phase: Phase,
    /// The kernel's random id of the running boot.
    pub boot_id: String,
    /// Whether everything that this node is there for works.
    pub ready: bool,
    pub addresses: Vec<String>,
    /// The address at which Kubernetes' API answers, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_server: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_address: Option<VirtualAddress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// On a control plane, while the cluster's authorities are exchanged for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    pub versions: Versions,
    /// In the order in which one depends on the other: the first that is not true is the reason for those behind it.
    pub conditions: Vec<Condition>,
}

/// The API servers' address that goes from one control plane to another.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualAddress {
    pub address: String,
    /// The control plane that has it, as the node heard last; none while nobody has it, or the node cannot know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// Whether that is the node itself.
    #[serde(default)]
    pub here: bool,
}

/// How far an exchange of the cluster's authorities, and of the key that encrypts Secrets, has come.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    pub phase: RotationPhase,
    /// The control plane that was removed as compromised, if that is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    pub started: String,
    /// Nodes that have not come so far yet. Each has to be there once, or to be removed.
    pub awaits: Vec<String>,
    /// Of the new authority of this API, `sha256:` and hexadecimal digits, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RotationPhase {
    /// The new authorities are made, and all nodes come to believe them besides the former ones.
    Sharing,
    /// The new ones certify, and Secrets are encrypted with the new key.
    Certifying,
    /// The former ones are believed no more.
    Dropping,
    /// A phase of a newer release.
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Versions {
    pub keelson: String,
    pub kubernetes: String,
    pub kernel: String,
}

/// How far the node has come.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// The node's identity and certificates are being made or read.
    Starting,
    /// The cluster's store is starting.
    StartingStore,
    /// Kubernetes' components are starting.
    StartingKubernetes,
    Ready,
    /// It was ready in this boot and something no longer works.
    Degraded,
    /// A reboot or power-off has been asked for.
    ShuttingDown,
    /// A phase of a newer release.
    #[serde(other)]
    Unknown,
}

/// One thing that must be true for the node to be ready.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// A name in CamelCase for programs, such as `NetworkUp` or `StoreServing`.
    #[serde(rename = "type")]
    pub kind: String,
    pub status: ConditionStatus,
    /// Plain words for a person: why it is not true, and what it waits for.
    pub reason: String,
    /// When the status last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ConditionStatus {
    True,
    False,
    #[serde(other)]
    Unknown,
}

impl Status {
    /// The first condition that is not true: the reason why the node is not ready.
    pub fn first_unmet(&self) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.status != ConditionStatus::True)
    }
}
