//! What the records say.

use keelson_config::Role;
use serde::{Deserialize, Serialize};

use super::Record;

pub(super) const ADDRESSES: &str = "addresses";

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRecord {
    pub version: u32,
    pub name: String,
    /// In every client certificate of the node; a later node of the same name has another.
    pub uid: String,
    pub role: Role,
    /// Those that the node was verified at.
    pub addresses: Vec<String>,
    /// The node's key, base64 of its `SubjectPublicKeyInfo`; none for a control plane that certifies itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    /// The token that it joined with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Seconds since the epoch.
    pub joined: i64,
}

/// A join token: one that was made here, or one made offline that has been used or revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRecord {
    pub version: u32,
    pub id: String,
    /// Base64 of the secret's SHA-256; none for one that an operator signed. The secret has 256 random bits, so that a
    /// slow hash would protect nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_hash: Option<String>,
    pub role: Role,
    pub expires: i64,
    pub uses: u32,
    pub redemptions: Vec<Redemption>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    pub revoked: bool,
    pub created: i64,
    pub created_by: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Redemption {
    pub name: String,
    pub uid: String,
    pub at: i64,
}

/// A node that was removed, kept until the last of its certificates has expired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemovedRecord {
    pub version: u32,
    pub uid: String,
    pub name: String,
    pub removed: i64,
    /// Whoever asked for it.
    pub by: String,
}

macro_rules! record {
    ($type:ty, $kind:literal, $id:ident) => {
        impl Record for $type {
            const KIND: &'static str = $kind;

            fn id(&self) -> &str {
                &self.$id
            }

            fn version(&self) -> u32 {
                self.version
            }
        }
    };
}

record!(NodeRecord, "nodes", name);
record!(TokenRecord, "tokens", id);
record!(RemovedRecord, "removed", uid);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn node(name: &str) -> NodeRecord {
        NodeRecord {
            version: 1,
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            role: Role::Worker,
            addresses: Vec::new(),
            key: None,
            hardware: None,
            token: None,
            joined: 0,
        }
    }
}
