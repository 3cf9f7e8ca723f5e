//! What operators have told a cluster: a document's `spec` for all its nodes, and one for each of them.
//!
//! It stands behind the kernel command line, by which a machine is rescued, and before all other sources; a node's own
//! scope goes before the cluster's. As everywhere, the first that says a field decides the whole of it.
//!
//! Only what can change in the life of a node is in it ([`FIELDS`]); whatever else a document may say is refused, with
//! the reason.
//!
//! A node has its part on STATE ([`crate::SCOPES_PATH`]), written by keelson-cluster and read by keelson-exec at the next
//! boot: as [`crate::kept`] has it, with the specs as `node` and `cluster`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kept::{Form, Kept};

#[cfg(feature = "sources")]
mod check;
#[cfg(feature = "sources")]
mod overlay;

#[cfg(feature = "sources")]
pub use check::check;
#[cfg(feature = "sources")]
pub use overlay::overlay;

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

/// Of one node: the specs that concern it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scopes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Value>,
}

impl Kept for Scopes {
    const FORM: Form = Form { format: "keelson configuration", version: 1 };
}

impl Scopes {
    pub fn is_empty(&self) -> bool {
        self.node.is_none() && self.cluster.is_none()
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
