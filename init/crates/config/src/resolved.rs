//! What a resolution starts from besides the sources, and what comes of it.

use serde::{Deserialize, Serialize};

use crate::node::{NodeConfig, Role};
use crate::secret::Secrets;

/// What STATE remembers of this node. It goes before every source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub role: Option<Role>,
    pub name: Option<String>,
    pub cluster_id: Option<String>,
    /// Of the cluster that it has joined, as a list of what is reached without a proxy names them: the pods' ranges, the
    /// Services', and the domain behind a dot. Empty for a node that has founded its cluster.
    pub cluster_networks: Vec<String>,
}

/// The result of a resolution that went well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub node: NodeConfig,
    pub secrets: Secrets,
}
