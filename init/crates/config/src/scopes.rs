//! What operators have told a cluster: a document's `spec` for all its nodes, and one for each of them.
//!
//! It stands behind the kernel command line, by which a machine is rescued, and before all other sources; a node's own
//! scope goes before the cluster's. As everywhere, the first that says a field decides the whole of it.
//!
//! Only what can change in the life of a node is in it ([`FIELDS`]); whatever else a document may say is refused, with
//! the reason.
//!
//! A node has its part on STATE ([`crate::SCOPES_PATH`]), written by keelson-cluster and read by keelson-exec at the next
//! boot: a JSON object with `format`, `version`, `oldestReader` (the oldest version that can read it), and the specs as
//! `node` and `cluster`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[cfg(feature = "sources")]
mod check;
#[cfg(feature = "sources")]
mod overlay;

#[cfg(feature = "sources")]
pub use check::check;
#[cfg(feature = "sources")]
pub use overlay::overlay;

const FORMAT: &str = "keelson configuration";
const VERSION: u32 = 1;

/// All that a scope may say, by its path in the document.
pub const FIELDS: [&str; 11] = [
    "spec.timeServers",
    "spec.node.labels",
    "spec.node.taints",
    "spec.node.sysctls",
    "spec.cluster.extraSANs",
    "spec.cluster.virtualAddress",
    "spec.cluster.extraArguments",
    "spec.cluster.oidc",
    "spec.registries.mirrors",
    "spec.trustedCertificates",
    "spec.httpProxy",
];

#[derive(Debug, thiserror::Error)]
pub enum ScopesError {
    #[error("the cluster's settings on STATE cannot be read")]
    Form(#[from] serde_json::Error),
    #[error(
        "the cluster's settings on STATE need version {oldest_reader} or later; this release reads up to {VERSION}"
    )]
    TooNew { oldest_reader: u32 },
}

/// Of one node: the specs that concern it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scopes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    format: String,
    version: u32,
    oldest_reader: u32,
    #[serde(flatten)]
    scopes: Scopes,
}

impl Scopes {
    pub fn is_empty(&self) -> bool {
        self.node.is_none() && self.cluster.is_none()
    }

    pub fn to_file(&self) -> Result<Vec<u8>, ScopesError> {
        let file = File { format: FORMAT.to_owned(), version: VERSION, oldest_reader: VERSION, scopes: self.clone() };
        Ok(serde_json::to_vec_pretty(&file)?)
    }

    pub fn from_file(content: &[u8]) -> Result<Self, ScopesError> {
        let file: File = serde_json::from_slice(content)?;
        if file.oldest_reader > VERSION {
            return Err(ScopesError::TooNew { oldest_reader: file.oldest_reader });
        }
        Ok(file.scopes)
    }

    /// What is said of a field, by the scope that decides it.
    pub fn said(&self, field: &str) -> Option<&Value> {
        [&self.node, &self.cluster].into_iter().flatten().find_map(|spec| value(spec, field))
    }
}

/// What a spec says of a field.
pub fn value<'a>(spec: &'a Value, field: &str) -> Option<&'a Value> {
    let path = field.strip_prefix("spec").unwrap_or(field).replace('.', "/");
    spec.pointer(&path).filter(|value| !value.is_null())
}

/// The fields of which two specs say different things.
pub fn changed(before: &Value, after: &Value) -> Vec<&'static str> {
    FIELDS.into_iter().filter(|field| value(before, field) != value(after, field)).collect()
}

#[cfg(test)]
mod tests;
