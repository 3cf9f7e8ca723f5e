//! What a node goes by, field by field, and who said it.

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
}
