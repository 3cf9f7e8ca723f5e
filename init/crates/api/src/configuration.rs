//! What a node goes by, field by field, and who said it; and what operators say for all nodes of a cluster, or for one.
//!
//! A scope is the cluster, or one node by its name. What operators say of it is the `spec` of a document as a node boots
//! with, restricted to what can change later. Who changes it names the revision that the change was made from, so that
//! two operators do not undo each other's work unseen.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    /// In the order of the document.
    pub fields: Vec<ConfigurationField>,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationField {
    /// Its path in the document, such as `spec.cluster.podCIDR`.
    pub field: String,
    /// As it is in effect; `"(hidden)"` for a secret that was said, `null` for what there is not.
    pub value: Value,
    /// Where it was said, `the cluster` for what a node takes from the one that it has joined, or `default`.
    pub source: String,
    /// What it is from the node's next boot on, if operators have told the cluster something else since this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NextValue>,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NextValue {
    pub value: Value,
    pub source: String,
}

/// What operators have said of one scope.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScopeConfiguration {
    /// The node's name; absent for the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What the next change names; 0 while nothing is said.
    pub revision: i64,
    /// Of the document; an empty object while nothing is said.
    pub spec: Value,
    /// When and by whom it was changed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_by: Option<String>,
}

/// All that is to be said of a scope from now on.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScopeConfigurationRequest {
    /// That the change was made from.
    pub revision: i64,
    /// With `apiVersion`, `kind` and `spec`, as a node boots with.
    pub document: Value,
}

/// What has become of it.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScopeConfigurationChange {
    pub configuration: ScopeConfiguration,
    /// Fields that say something else than before; none if all of it was so already.
    pub changed: Vec<String>,
    /// Those of them that take effect with a node's next boot; the others do by themselves.
    pub waiting: Vec<String>,
}

/// What operators have said that concerns one node, as control planes tell it.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeScopes {
    /// Of the node itself, which goes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Value>,
    /// Of all nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Value>,
}
