//! Who this node is: made once, kept on STATE, never changed without an order to do so.
//!
//! `/state/identity.json` is one JSON object. Its first fields are `format` (always `keelson identity`), `version` and
//! `oldestReader`: a release that does not reach `oldestReader` refuses the file instead of guessing. Version 1 has the fields
//! of [`Identity`]. The file is written last when a cluster is founded, so its existence says that the authorities beside it are
//! complete; everything before it can be made again after a power cut.

use std::fmt;

use keelson_config::Role;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const FORMAT: &str = "keelson identity";
const VERSION: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("the identity on STATE cannot be read")]
    Malformed(#[source] serde_json::Error),
    #[error("the identity on STATE is not one: its format says {found:?}")]
    Format { found: String },
    #[error("the identity on STATE needs version {oldest_reader} or later; this release reads up to {VERSION}")]
    TooNew { oldest_reader: u32 },
}

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

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IdentityFile {
    format: String,
    version: u32,
    oldest_reader: u32,
    #[serde(flatten)]
    identity: Identity,
}

/// The part of the file that every release can read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Preamble {
    format: String,
    oldest_reader: u32,
}

impl Identity {
    pub fn to_file(&self) -> Result<Vec<u8>, IdentityError> {
        let file = IdentityFile {
            format: FORMAT.to_owned(),
            version: VERSION,
            oldest_reader: VERSION,
            identity: self.clone(),
        };
        serde_json::to_vec_pretty(&file).map_err(IdentityError::Malformed)
    }

    pub fn from_file(content: &[u8]) -> Result<Self, IdentityError> {
        let preamble: Preamble = serde_json::from_slice(content).map_err(IdentityError::Malformed)?;
        if preamble.format != FORMAT {
            return Err(IdentityError::Format { found: preamble.format });
        }
        if preamble.oldest_reader > VERSION {
            return Err(IdentityError::TooNew { oldest_reader: preamble.oldest_reader });
        }
        let file: IdentityFile = serde_json::from_slice(content).map_err(IdentityError::Malformed)?;
        Ok(file.identity)
    }
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

    #[test]
    fn a_later_form_that_we_cannot_read_is_refused() {
        let text = String::from_utf8(identity().to_file().unwrap()).unwrap();
        let newer = text.replace("\"oldestReader\": 1", "\"oldestReader\": 2");
        assert_ne!(newer, text);
        assert!(matches!(Identity::from_file(newer.as_bytes()), Err(IdentityError::TooNew { oldest_reader: 2 })));
    }

    #[test]
    fn another_file_is_refused() {
        assert!(matches!(Identity::from_file(b"{}"), Err(IdentityError::Malformed(_))));
        let other = br#"{"format":"other","version":1,"oldestReader":1}"#;
        assert!(matches!(Identity::from_file(other), Err(IdentityError::Format { .. })));
    }
}
