//! What the records say.

use std::collections::{BTreeMap, BTreeSet};

use keelson_api::{EventKind, WrappedSecrets};
use keelson_config::Role;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{LeaseId, Record};

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
    /// Of a control plane: by what its `ServiceAccount` tokens are verified, base64 of the `SubjectPublicKeyInfo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_key: Option<String>,
    /// The token that it joined with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Seconds since the epoch.
    pub joined: i64,
    /// By its own word, and of use to nobody but those that exchange the authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generations: Option<NodeGenerations>,
}

/// Which generations of the cluster's authorities matter to a node, by their ids ([`crate::rotation::id_of`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeGenerations {
    /// Under whose certificates the node acts.
    pub certified_by: String,
    /// Sorted.
    pub believed: Vec<String>,
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

/// A node that was removed. One that was replaced has forgotten everything, so that of it nothing has to be known once the last of
/// its certificates has expired; any other may come back at any time, and is to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemovedRecord {
    pub version: u32,
    pub uid: String,
    pub name: String,
    pub removed: i64,
    /// Whoever asked for it.
    pub by: String,
    /// Tokens that a control plane has signed are good until they expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_key: Option<String>,
    /// Those that it was verified at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The token that it joined with, and its machine: with that token it does not come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    /// It has no disk, and has come back as another.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replaced: bool,
    /// Its store member goes together with those that do not answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forced: bool,
    /// While that is not through, who had a member in the store before, by UID: whoever has none then went with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub among: Vec<String>,
    /// The UID of the one that it went with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub went_with: Option<String>,
    /// Somebody else may have what it knew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compromised: bool,
}

impl RemovedRecord {
    pub fn of(node: &NodeRecord, removed: i64, by: String) -> Self {
        Self {
            version: 1,
            uid: node.uid.clone(),
            name: node.name.clone(),
            removed,
            by,
            signing_key: node.signing_key.clone(),
            addresses: node.addresses.clone(),
            token: node.token.clone(),
            hardware: node.hardware.clone(),
            replaced: false,
            forced: false,
            among: Vec::new(),
            went_with: None,
            compromised: false,
        }
    }
}

/// Who has the cluster's virtual address: it goes with its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualAddressRecord {
    pub version: u32,
    pub address: String,
    /// The control plane's name and UID.
    pub name: String,
    pub uid: String,
    pub lease: LeaseId,
}

/// An operator's key. One that was removed is kept, so that the configuration of no node brings it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperatorRecord {
    pub version: u32,
    /// [`crate::operators::id_of`] the key.
    pub id: String,
    pub name: String,
    /// Base64 of the `SubjectPublicKeyInfo`.
    pub public_key: String,
    pub added: i64,
    pub added_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<OperatorRemoval>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperatorRemoval {
    pub at: i64,
    pub by: String,
}

/// What operators have said of a feature; see [`crate::features::settings`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FeatureRecord {
    pub version: u32,
    pub name: String,
    pub enabled: bool,
    pub settings: BTreeMap<String, String>,
}

/// What operators have said of the cluster or of one node; see [`crate::configuration`]. There is none of whom nothing is
/// said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationRecord {
    pub version: u32,
    pub id: String,
    /// Of a document, as [`keelson_config::scopes::check`] has let it pass.
    pub spec: Value,
    pub changed: i64,
    pub changed_by: String,
}

impl ConfigurationRecord {
    /// Of a node by its name, or of the cluster. No name has a slash, so a node may be called as it likes.
    pub fn id_of(node: Option<&str>) -> String {
        node.map_or_else(|| "cluster".to_owned(), |name| format!("nodes/{name}"))
    }
}

/// The cluster's authorities and the key that encrypts Secrets are exchanged; see [`crate::rotation`]. There is one record at
/// most, and none when nothing is exchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RotationRecord {
    pub version: u32,
    pub id: String,
    pub started: i64,
    pub by: String,
    /// The control plane whose knowledge is to be worth nothing, if that is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    pub phase: RotationPhase,
    /// None until one was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<GenerationRecord>,
    /// Control planes that wait for the new keys, by their UIDs.
    #[serde(default)]
    pub recipients: BTreeMap<String, RecipientRecord>,
    /// By the recipients' UIDs.
    #[serde(default)]
    pub shares: BTreeMap<String, ShareRecord>,
    /// The UIDs of control planes that have the new keys on their STATE.
    #[serde(default)]
    pub holders: BTreeSet<String>,
    /// Whether no Secret in the store is encrypted with a former key any more.
    #[serde(default)]
    pub rewritten: bool,
    /// Another node of which the same was said meanwhile: all of it begins anew when this is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RotationPhase {
    /// The new authorities are made, and all nodes come to believe them.
    Sharing,
    /// The new ones certify, and Secrets are encrypted with the new key.
    Certifying,
    /// The former ones are believed no more.
    Dropping,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GenerationRecord {
    pub id: String,
    /// PEM, by the authorities' names.
    pub certificates: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecipientRecord {
    /// To wrap to, base64.
    pub wrapping_key: String,
    /// Base64, by the key that signs the control plane's `ServiceAccount` tokens.
    pub signature: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShareRecord {
    pub wrapping_key: String,
    pub wrapped: WrappedSecrets,
}

/// Something that happened; see [`crate::events`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRecord {
    pub version: u32,
    pub id: String,
    pub at: i64,
    pub kind: EventKind,
    /// That it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The control plane that has written it.
    pub recorded_by: String,
    pub actor: String,
    pub message: String,
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
record!(VirtualAddressRecord, "virtual-addresses", address);
record!(OperatorRecord, "operators", id);
record!(FeatureRecord, "features", name);
record!(ConfigurationRecord, "configurations", id);
record!(RotationRecord, "rotations", id);
record!(EventRecord, "events", id);

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
            signing_key: None,
            token: None,
            joined: 0,
            generations: None,
        }
    }
}
