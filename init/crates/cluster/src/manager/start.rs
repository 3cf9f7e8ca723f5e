//! What is there before anything has been decided: the configuration, the clock floor, the node's name.

use std::path::PathBuf;

use keelson_config::NodeConfig;
use time::OffsetDateTime;

use crate::node::Node;
use crate::paths::Paths;

/// How much of the machine-id a derived name carries; the same rule as PID 1's for the host name.
const DERIVED_DIGITS: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("reading {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the node's configuration {path} is malformed")]
    Configuration { path: PathBuf, source: serde_json::Error },
    #[error("the clock floor {path} is not a number of seconds")]
    ClockFloor { path: PathBuf },
}

pub(super) fn read_node(paths: Paths) -> Result<Node, StartError> {
    let path = paths.node_config();
    let content = read(path.clone())?;
    let config: NodeConfig =
        serde_json::from_str(&content).map_err(|source| StartError::Configuration { path, source })?;
    let path = paths.clock_floor();
    let floor = read(path.clone())?
        .trim()
        .parse()
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or(StartError::ClockFloor { path })?;
    let name = if let Some(name) = &config.name {
        name.clone()
    } else {
        let machine_id = read(paths.machine_id())?;
        format!("keelson-{}", machine_id.trim().chars().take(DERIVED_DIGITS).collect::<String>())
    };
    Ok(Node::new(paths, config, name, floor))
}

fn read(path: PathBuf) -> Result<String, StartError> {
    std::fs::read_to_string(&path).map_err(|source| StartError::Read { path, source })
}
