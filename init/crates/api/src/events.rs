//! What happened to the cluster.
//!
//! The newest thousand are kept. They are told in the order in which they happened, which is that of their revisions; who
//! follows them asks for those behind the last one that was told.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventList {
    /// The oldest first.
    pub events: Vec<Event>,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Of the store; what happened in one step has the same.
    pub revision: i64,
    pub time: String,
    pub kind: EventKind,
    /// The node that it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The control plane that has carried it out.
    pub recorded_by: String,
    /// Whoever wanted it: an operator, a token, a configuration.
    pub actor: String,
    /// One sentence.
    pub message: String,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum EventKind {
    NodeJoined,
    NodeRemoved,
    /// It was verified at another address.
    NodeMoved,
    /// New pods are kept away from it.
    NodeCordoned,
    /// It gets pods again.
    NodeUncordoned,
    /// Its pods have gone, as they were asked to.
    NodeDrained,
    TokenCreated,
    TokenUsed,
    TokenRevoked,
    OperatorAdded,
    OperatorRemoved,
    FeatureChanged,
    /// What operators say of the cluster or of a node.
    ConfigurationChanged,
    /// A control plane's store follows the cluster's.
    StoreMemberAdded,
    /// It takes part in decisions.
    StoreMemberPromoted,
    StoreMemberRemoved,
    /// The cluster's authorities and the key of its Secrets are being exchanged for others.
    AuthorityRotationStarted,
    /// The former ones are of no use to anybody.
    AuthorityRotationFinished,
    /// A kind of a newer release.
    #[serde(other)]
    Unknown,
}

/// The parameters of the path `/v1/events`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventQuery {
    /// Only what has a later revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
}
