//! The node's boots, newest first, and why each ended.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BootList {
    pub boots: Vec<Boot>,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Boot {
    /// The kernel's random id of the boot.
    pub id: String,
    /// The image's version.
    pub version: String,
    /// By the clock as it was then.
    pub started: String,
    pub current: bool,
    /// Whether the node was found to be well in this boot.
    pub good: bool,
    /// How it ended, in plain words; absent for the boot that is running, and for one that ended without a word (power
    /// cut, crash).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
}
