//! What a node tells one that is to found a cluster.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether the node that was asked has a cluster. A node that joins one does not answer until it has.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Membership {
    /// Whether it belongs to a cluster.
    pub member: bool,
    /// Whether it was told to found one (`keelson.bootstrap`).
    pub founds: bool,
    /// Random, and new at each start: whoever finds it in an answer has asked itself.
    pub instance: String,
}
