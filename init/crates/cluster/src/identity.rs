//! Who this node is: made once, kept on STATE, never changed without an order to do so.
//!
//! `/state/identity.json` is as [`keelson_config::kept`] has it, with the fields of [`Identity`]. The file is written last when a cluster is founded, so its existence says that the authorities beside it are
//! complete; everything before it can be made again after a power cut.

use std::fmt;

use keelson_config::Role;
use keelson_config::kept::{self, Form, Kept};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Distinguishes this node from a later one of the same name; every client certificate of the node carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeUid(String);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterId(String);

impl NodeUid {
    pub fn generate() -> Self {
        Self(Uuid::new_v4().to_string())
    }

    /// One that a control plane has given.
    pub fn from_record(uid: &str) -> Self {
        Self(uid.to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ClusterId {
    pub fn generate() -> Self {
        Self(Uuid::new_v4().to_string())
    }

    /// The id of the cluster that a node has joined.
    pub fn from_record(id: &str) -> Self {
        Self(id.to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeUid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    pub node_uid: NodeUid,
    pub cluster_id: ClusterId,
    pub role: Role,
    pub name: String,
}

impl Kept for Identity {
    const FORM: Form = kept::IDENTITY;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            node_uid: NodeUid::generate(),
            cluster_id: ClusterId::generate(),
            role: Role::ControlPlane,
            name: "a".to_owned(),
        }
    }

    #[test]
    fn is_read_back_as_written() {
        let identity = identity();
        assert_eq!(Identity::from_file(&identity.to_file().unwrap()).unwrap(), identity);
    }
}
