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
    pub started: String,
    /// Absent for the boot that is running, and for one that ended without a word (power cut, crash).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    pub current: bool,
    /// How it ended, in plain words; empty while it runs.
    #[serde(default)]
    pub end_reason: String,
}
