//! Reboot and power-off.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The body of both requests; an empty object will do.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PowerRequest {
    /// Why, for the history of boots. At most 256 bytes.
    #[serde(default)]
    pub reason: String,
}

/// PID 1 has taken the request; the ordered shutdown begins.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PowerAccepted {
    /// The boot that ends, by which a client recognises that the next one has begun.
    pub boot_id: String,
}
