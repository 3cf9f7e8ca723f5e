//! The services that PID 1 supervises.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceList {
    /// PID 1 itself.
    #[serde(default)]
    pub init: Usage,
    pub services: Vec<Service>,
}

/// What a process uses; a figure that could not be read is absent.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Memory of the process that is resident, files mapped from the image included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<u64>,
    /// Of it, what no file stands behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anonymous_bytes: Option<u64>,
    /// Processor time of the process and its children in this boot; of a service since it was first started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    pub name: String,
    pub state: ServiceState,
    /// What it waits for, or why it is where it is, in plain words; empty when there is nothing to say.
    #[serde(default)]
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How often it was started again in this boot.
    pub restarts: u32,
    /// Seconds since it entered its state.
    pub seconds_in_state: u64,
    /// How its last process ended, in plain words, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<String>,
    /// Memory of its whole cgroup, the page cache of its files included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Of its main process.
    #[serde(flatten)]
    pub usage: Usage,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ServiceState {
    /// Its conditions for starting are not met yet.
    Waiting,
    /// It runs and has not said that it is ready.
    Starting,
    Ready,
    /// It ended, and is started again after a pause.
    Backoff,
    Stopping,
    Stopped,
    /// A one-shot that has done its work.
    Done,
    /// It ended too often, or for a reason that a restart does not mend.
    Failed,
    /// A state of a newer release.
    #[serde(other)]
    Unknown,
}
