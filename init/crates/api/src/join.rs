//! How a node becomes a member, stays one, and learns that it no longer is one.
//!
//! 1. The node makes its keys, connects to an endpoint of its token and believes the server that shows the token's
//!    authority and an organization of control planes ([`crate::CONTROL_PLANES`]).
//! 2. `POST /v1/join` carries the token and one certificate request for each of the node's identities. Only the keys of
//!    the requests count: names, rights and addresses are decided by the server. The address is the one that the node
//!    connects from. The same request, made again with the same node key, is answered again and counts once.
//! 3. `GET /v1/node/settings`, with the node's certificate, gives what the node has to know, or says that the node was
//!    removed.
//! 4. `POST /v1/node/certificates` renews. It is proven with the node's key over a nonce and not with a certificate,
//!    so that a node that was off for longer than a certificate lives needs nobody's help; what counts is the record of
//!    the member.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::token::TokenRole;

/// The first line of what a node signs to renew. A change of the form changes its number.
const HEADING: &str = "keelson node renewal 1";

/// One value for each identity of a node. Requests and certificates are PEM.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Identities<T> {
    /// The node itself, as a client of control planes on port 6400.
    pub node: T,
    /// Its own API on port 6400.
    pub api_serving: T,
    pub kubelet_client: T,
    pub kubelet_serving: T,
    pub kube_proxy: T,
    /// What looks after the node's routes and its own Node object.
    pub network_reconciler: T,
}

impl<T> Identities<T> {
    pub fn each_ref(&self) -> Identities<&T> {
        Identities {
            node: &self.node,
            api_serving: &self.api_serving,
            kubelet_client: &self.kubelet_client,
            kubelet_serving: &self.kubelet_serving,
            kube_proxy: &self.kube_proxy,
            network_reconciler: &self.network_reconciler,
        }
    }

    /// Does the same with each, until one fails.
    pub fn try_map<U, E>(self, mut each: impl FnMut(T) -> Result<U, E>) -> Result<Identities<U>, E> {
        Ok(Identities {
            node: each(self.node)?,
            api_serving: each(self.api_serving)?,
            kubelet_client: each(self.kubelet_client)?,
            kubelet_serving: each(self.kubelet_serving)?,
            kube_proxy: each(self.kube_proxy)?,
            network_reconciler: each(self.network_reconciler)?,
        })
    }

    pub fn zip<U>(self, other: Identities<U>) -> Identities<(T, U)> {
        Identities {
            node: (self.node, other.node),
            api_serving: (self.api_serving, other.api_serving),
            kubelet_client: (self.kubelet_client, other.kubelet_client),
            kubelet_serving: (self.kubelet_serving, other.kubelet_serving),
            kube_proxy: (self.kube_proxy, other.kube_proxy),
            network_reconciler: (self.network_reconciler, other.network_reconciler),
        }
    }

    /// In the order of their fields.
    pub fn into_array(self) -> [T; 6] {
        [
            self.node,
            self.api_serving,
            self.kubelet_client,
            self.kubelet_serving,
            self.kube_proxy,
            self.network_reconciler,
        ]
    }
}

#[derive(Clone, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinRequest {
    /// The whole line.
    pub token: String,
    pub name: String,
    pub role: TokenRole,
    /// Those that the node knows itself by, the preferred one first.
    pub addresses: Vec<String>,
    /// The machine's SMBIOS uuid, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    pub requests: Identities<String>,
}

impl fmt::Debug for JoinRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("JoinRequest")
            .field("name", &self.name)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// The node is a member.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Joined {
    pub cluster_id: String,
    pub node_uid: String,
    pub certificates: Identities<String>,
    pub settings: NodeSettings,
}

/// What a node has to know of its cluster.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSettings {
    /// The addresses that the node was verified at.
    pub addresses: Vec<String>,
    pub trust: TrustBundle,
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: String,
    pub cluster_domain: String,
    pub dns_address: String,
    pub control_planes: Vec<MemberAddresses>,
    /// All members, control planes included, with the addresses that they were verified at: where their pods are.
    #[serde(default)]
    pub members: Vec<MemberAddresses>,
}

/// Authorities, PEM.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrustBundle {
    pub api: String,
    pub kubernetes_serving: String,
    pub kubernetes_client: String,
}

/// A member and where it is.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberAddresses {
    pub name: String,
    pub addresses: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RenewRequest {
    pub name: String,
    pub node_uid: String,
    /// The nonce of a challenge, as it came.
    pub nonce: String,
    pub requests: Identities<String>,
    /// By the node's key over [`renewal_message`]: ECDSA P-256 with SHA-256, ASN.1, in base64.
    pub signature: String,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Renewed {
    pub certificates: Identities<String>,
    pub settings: NodeSettings,
}

/// The bytes that a node signs: everything that decides what it gets, each part ended by a line feed.
pub fn renewal_message(
    authority_fingerprint: &str,
    name: &str,
    node_uid: &str,
    nonce: &str,
    requests: &Identities<String>,
) -> Vec<u8> {
    let requests = requests.each_ref().into_array().map(String::as_str).join("\n");
    format!("{HEADING}\n{authority_fingerprint}\n{name}\n{node_uid}\n{nonce}\n{requests}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_changes_what_is_signed() {
        let requests = Identities { node: "a".to_owned(), ..Identities::default() };
        let base = renewal_message("f", "n", "u", "x", &requests);
        for other in [
            renewal_message("g", "n", "u", "x", &requests),
            renewal_message("f", "m", "u", "x", &requests),
            renewal_message("f", "n", "v", "x", &requests),
            renewal_message("f", "n", "u", "y", &requests),
            renewal_message("f", "n", "u", "x", &Identities::default()),
        ] {
            assert_ne!(other, base);
        }
    }
}
