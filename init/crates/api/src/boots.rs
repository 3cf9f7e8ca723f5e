//! The node's boots, newest first, and why each ended; and all that it knows of one.

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
    /// From 1, one more each boot of this node's STATE.
    pub number: u64,
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
    /// When it ended; of a boot that ended without a word, when it was last known to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// The last phase of the boot that was reached; `services` is the last there is.
    pub phase: String,
    /// How long it ran, as far as it is known.
    pub up_seconds: u64,
    /// From the kernel's start to the start of services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services_started_after_milliseconds: Option<u64>,
    /// What the kernel saved of its last messages when it died.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_messages: Vec<String>,
}

/// All that the node knows of one boot.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BootDetails {
    #[serde(flatten)]
    pub boot: Boot,
    /// The root hash by which the image was verified; absent where nothing was, and if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// In the order in which they began.
    pub phases: Vec<BootPhase>,
    /// The kernel's last messages at an ordered end, the last one last; absent while the boot runs, and where it ended otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<String>,
    /// What the kernel saved when it died, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub saved: Vec<SavedFile>,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BootPhase {
    pub name: String,
    /// Since the kernel's start.
    pub start_milliseconds: u64,
    /// How long it took; 0 for `services`, which last until the end.
    pub milliseconds: u64,
}

/// A file of what the kernel saved (pstore).
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedFile {
    pub name: String,
    pub lines: Vec<String>,
}
