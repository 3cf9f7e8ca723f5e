//! Reading a service's log. The answer is text, one log line a line, as keelson-log keeps it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many of the newest lines are sent when nothing is said.
pub const LINES_DEFAULT: u32 = 100;

/// More lines than a service's files can hold are never asked of the disk.
pub const LINES_MAX: u32 = 1_000_000;

/// The parameters of the path `/v1/services/{name}/logs`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogQuery {
    #[serde(default = "lines_default")]
    pub lines: u32,
    /// Whether to go on with lines as they come.
    #[serde(default)]
    pub follow: bool,
}

const fn lines_default() -> u32 {
    LINES_DEFAULT
}
