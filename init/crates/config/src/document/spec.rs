//! The document's types, as an operator writes them. Comments here become the schema's descriptions.
//!
//! Every field is optional: what is missing may be said by another source, and [`crate::resolve`] knows which must be
//! said by someone. Values stay text where their meaning is checked later.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::secret::Secret;

/// Configuration of one Keelson node.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(title = "NodeConfiguration", extend("required" = ["apiVersion", "kind"]))]
pub struct Document {
    /// `keelson.dev/v1alpha1`
    #[schemars(with = "String", extend("const" = super::API_VERSION))]
    pub api_version: Option<String>,
    /// `NodeConfiguration`
    #[schemars(with = "String", extend("const" = super::KIND))]
    pub kind: Option<String>,
    pub spec: Spec,
}

/// What the node is told.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Spec {
    /// `control-plane` or `worker`.
    #[schemars(extend("enum" = ["control-plane", "worker", null]))]
    pub role: Option<String>,
    /// The node's name, a lower-case DNS name; derived if nobody says it.
    pub name: Option<String>,
    /// The join token. Secret.
    #[schemars(with = "Option<String>")]
    #[serde(deserialize_with = "secret")]
    pub token: Option<Secret>,
    /// Whether this node may found the cluster.
    pub bootstrap: Option<bool>,
    /// The other control planes, by host name or address; `[none]` declares that there are none.
    pub peers: Option<Vec<String>>,
    /// Public keys whose holders may obtain operator certificates.
    pub operator_keys: Option<Vec<OperatorKey>>,
    /// Where STATE is kept: `auto`, `ram` (workers only) or `LABEL=…`.
    pub state: Option<String>,
    /// Time servers by name or address.
    pub time_servers: Option<Vec<String>>,
    pub network: Network,
    pub node: Node,
    pub cluster: Cluster,
    pub registries: Registries,
    /// Certificates in PEM that the node trusts beside the usual ones.
    pub trusted_certificates: Option<Vec<String>>,
    pub http_proxy: Option<HttpProxy>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OperatorKey {
    /// Becomes the common name of the operator's certificates.
    pub name: Option<String>,
    /// Base64 of the DER `SubjectPublicKeyInfo` of an ECDSA P-256 key.
    pub public_key: String,
}

/// Links and addresses. A link that is not listed is configured by DHCP.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Network {
    pub links: Option<Vec<Link>>,
    pub vlans: Option<Vec<Vlan>>,
    pub bonds: Option<Vec<Bond>>,
    /// Routes beside those of gateways and leases.
    pub routes: Option<Vec<Route>>,
    /// Resolvers, asked before those that DHCP names.
    pub nameservers: Option<Vec<String>>,
    /// Search domains of the resolver.
    pub search: Option<Vec<String>>,
    /// Subnets that the node's address is taken from, the preferred first.
    pub node_subnets: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Link {
    /// The link's name or its MAC address; whichever link there is, if absent.
    pub link: Option<String>,
    /// `dhcp`, `static` or `off`; by default `static` if there are addresses, else `dhcp`.
    #[schemars(extend("enum" = ["dhcp", "static", "off", null]))]
    pub method: Option<String>,
    /// Addresses with their prefix lengths.
    pub addresses: Option<Vec<String>>,
    pub gateway: Option<String>,
    pub mtu: Option<u32>,
    pub nameservers: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Vlan {
    pub name: String,
    /// The link it is carried by.
    pub parent: String,
    /// 1 to 4094; taken from a name such as `eth0.5` or `vlan5` if absent.
    pub id: Option<u16>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Bond {
    pub name: String,
    pub members: Option<Vec<String>>,
    /// The bonding driver's options, for instance `mode: 802.3ad`.
    pub options: BTreeMap<String, String>,
    pub mtu: Option<u32>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Route {
    /// The network with its prefix length; `0.0.0.0/0` or `::/0` for everything.
    pub to: String,
    /// The gateway's address.
    pub via: String,
    /// The link's name or its MAC address; the one that has the gateway in one of its networks, if absent.
    pub link: Option<String>,
    /// The kernel's priority, from 1; the smaller goes first.
    pub metric: Option<u32>,
}

/// What concerns the Node object and the kernel below it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Node {
    pub labels: Option<BTreeMap<String, String>>,
    /// Taints the Node is registered with; an empty list asks for none.
    pub taints: Option<Vec<Taint>>,
    pub sysctls: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Taint {
    pub key: String,
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    #[schemars(extend("enum" = ["NoSchedule", "PreferNoSchedule", "NoExecute"]))]
    pub effect: String,
}

/// Settings of the cluster that this node founds; a node that joins takes the cluster's.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Cluster {
    /// Default 10.244.0.0/16. For dual stack an IPv4 and an IPv6 range with a comma between; the first one's family is the cluster's first.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<String>,
    /// Default 10.96.0.0/16. Of the same families as podCIDR, in the same order.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: Option<String>,
    /// Default cluster.local.
    pub domain: Option<String>,
    /// The DNS service's address; by default the tenth of the first service network.
    pub dns_address: Option<String>,
    /// Names and addresses that the API server's certificate carries in addition.
    #[serde(rename = "extraSANs")]
    pub extra_sans: Option<Vec<String>>,
    /// An address of the nodes' network that belongs to no node: a control plane whose API server is well has it.
    pub virtual_address: Option<String>,
    /// Flags by component (kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kube-proxy), without dashes.
    pub extra_arguments: Option<BTreeMap<String, BTreeMap<String, String>>>,
    pub oidc: Option<Oidc>,
}

/// OpenID Connect for the API server.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Oidc {
    #[serde(rename = "issuerURL")]
    pub issuer_url: String,
    #[serde(rename = "clientID")]
    pub client_id: String,
    /// Default `sub`.
    pub username_claim: Option<String>,
    /// Default the issuer's URL and `#`.
    pub username_prefix: Option<String>,
    pub groups_claim: Option<String>,
    /// Default `oidc:`.
    pub groups_prefix: Option<String>,
    pub required_claims: BTreeMap<String, String>,
    /// The issuer's authority in PEM, if it is not one of the usual ones.
    pub certificate_authority: Option<String>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Registries {
    pub mirrors: Option<Vec<Mirror>>,
    pub credentials: Option<Vec<Credential>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Mirror {
    /// The registry as images name it, for instance `docker.io`.
    pub registry: String,
    /// URLs, asked in this order before the registry itself.
    pub endpoints: Option<Vec<String>>,
    /// Whether the endpoint's path stands in the place of `/v2`.
    pub override_path: bool,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Credential {
    /// The registry's or the mirror's host, with the port if it is not 443.
    pub registry: String,
    pub username: String,
    /// Secret.
    #[schemars(with = "String")]
    #[serde(deserialize_with = "secret")]
    pub password: Option<Secret>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpProxy {
    pub http: Option<String>,
    pub https: Option<String>,
    /// Hosts, domains and networks that are reached directly; the cluster's own are added, on a node that has joined it from
    /// its next boot on.
    pub no_proxy: Option<Vec<String>>,
}

/// A secret's own error says nothing about the value.
fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) => Ok(Some(Secret::new(text))),
        serde_json::Value::Null => Ok(None),
        _ => Err(serde::de::Error::custom("invalid type: a secret, expected a string in quotes")),
    }
}

/// serde's own structs can be read from a list too, field by field, which would accept `cluster: [10.1.0.0/16]`.
/// `remote = "Self"` makes the derived reader an inherent function; this is the trait's, and takes mappings only.
macro_rules! from_mappings_only {
    ($($name:ident),+) => { $(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Mapping;
                impl<'de> Visitor<'de> for Mapping {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a mapping")
                    }

                    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<$name, A::Error> {
                        $name::deserialize(MapAccessDeserializer::new(map))
                    }
                }
                deserializer.deserialize_map(Mapping)
            }
        }
    )+ };
}

from_mappings_only!(
    Document,
    Spec,
    OperatorKey,
    Network,
    Link,
    Vlan,
    Bond,
    Route,
    Node,
    Taint,
    Cluster,
    Oidc,
    Registries,
    Mirror,
    Credential,
    HttpProxy
);
