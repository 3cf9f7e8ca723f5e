//! How a node becomes a member, stays one, and learns that it no longer is one.
//!
//! 1. The node makes its keys, connects to an endpoint of its token and believes the server that shows the token's
//!    authority and an organization of control planes ([`crate::CONTROL_PLANES`]).
//! 2. `POST /v1/join` carries the token and one certificate request for each of the node's identities. Only the keys of
//!    the requests count: names, rights and addresses are decided by the server. The address is the one that the node
//!    connects from. The same request, made again with the same node key, is answered again and counts once.
//!
//!    A control plane also sends a key that the cluster's shared secrets are wrapped to, made for this one request, and the
//!    public half of the key that will sign its `ServiceAccount` tokens; both are signed by its node key.
//! 3. `GET /v1/node/settings`, with the node's certificate, gives what the node has to know, or says that the node was
//!    removed.
//! 4. `POST /v1/node/certificates` renews. It is proven with the node's key over a nonce and not with a certificate,
//!    so that a node that was off for longer than a certificate lives needs nobody's help; what counts is the record of
//!    the member.
//! 5. `POST /v1/node/store-member` makes a control plane's store a member of the cluster's, once what it was given is on its
//!    STATE; asked again, it answers the same.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::configuration::NodeScopes;
use crate::token::TokenRole;

/// The first line of what a node signs to renew. A change of the form changes its number.
const HEADING: &str = "keelson node renewal 1";
/// The same for what a control plane signs to join.
const CONTROL_PLANE_HEADING: &str = "keelson control plane 1";

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
    /// What a control plane adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<ControlPlaneRequest>,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControlPlaneRequest {
    /// Base64 of an HPKE public key (RFC 9180; DHKEM of P-256 with HKDF-SHA256) that is used once.
    pub wrapping_key: String,
    /// Base64 of the DER `SubjectPublicKeyInfo` by which the node's `ServiceAccount` tokens are verified.
    pub signing_key: String,
    /// By the node's key over [`control_plane_message`]: ECDSA P-256 with SHA-256, ASN.1, in base64.
    pub signature: String,
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
    /// For a control plane: what all of them share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<WrappedSecrets>,
}

/// HPKE in base mode, AES-256-GCM; only the holder of the request's wrapping key can open it.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WrappedSecrets {
    /// Base64
    pub encapsulated_key: String,
    /// Base64
    pub ciphertext: String,
}

/// The members of the store.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreMembers {
    pub members: Vec<StoreMember>,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreMember {
    /// What the store calls it: the UID of its node.
    pub name: String,
    /// The node's name; none if no node has that UID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(rename = "peerURLs")]
    pub peer_urls: Vec<String>,
    /// Whether it takes part in decisions; otherwise it follows them.
    pub votes: bool,
    /// Whether it leads the others now; a control plane that enters is not told.
    #[serde(default)]
    pub leads: bool,
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
    /// Of the other family, in a dual-stack cluster. A node of an older release goes by the first ones alone.
    #[serde(rename = "secondaryPodCIDR", default, skip_serializing_if = "Option::is_none")]
    pub secondary_pod_cidr: Option<String>,
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: String,
    #[serde(rename = "secondaryServiceCIDR", default, skip_serializing_if = "Option::is_none")]
    pub secondary_service_cidr: Option<String>,
    pub cluster_domain: String,
    pub dns_address: String,
    /// The API servers' address that goes from one control plane to another, if the cluster was founded with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_address: Option<String>,
    /// The control plane that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_address_holder: Option<String>,
    /// Whether the node's pods are on the cluster's own network, or on one that the operator brings.
    #[serde(default = "own_network")]
    pub pod_network: bool,
    pub control_planes: Vec<MemberAddresses>,
    /// All members, control planes included, with the addresses that they were verified at: where their pods are.
    #[serde(default)]
    pub members: Vec<MemberAddresses>,
    /// What operators have said since; control planes of an older release say nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<NodeScopes>,
    /// The ids of operators' keys that were removed so lately that a certificate which was obtained with one may be good still.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed_operators: Vec<String>,
}

/// What control planes of an older release do not say.
const fn own_network() -> bool {
    true
}

/// Authorities, PEM. While they are exchanged for others there are several of each, of which the first certifies.
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
    /// In a dual-stack cluster, all that the node has: of those that it was verified at before, the others are given up. The one
    /// that the request comes from is verified by it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
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

/// The bytes that a joining control plane signs.
pub fn control_plane_message(
    authority_fingerprint: &str,
    name: &str,
    wrapping_key: &str,
    signing_key: &str,
) -> Vec<u8> {
    format!("{CONTROL_PLANE_HEADING}\n{authority_fingerprint}\n{name}\n{wrapping_key}\n{signing_key}\n").into_bytes()
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
