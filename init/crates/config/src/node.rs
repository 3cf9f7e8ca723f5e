//! What is meant: the configuration that every process of the node reads.
//!
//! It is written to `/run/keelson/config/node.json`, which lives as long as the boot: writer and readers come from one
//! image, so the form has no version. It holds no secret. The types can be read by anyone and made only by this crate
//! (or from that file), which is what "valid by construction" rests on.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::source::Source;

mod cluster;
mod network;
mod ranges;

pub use cluster::{ClusterConfig, Component, Conflict, HttpProxy, Oidc, RegistryMirror, Taint, TaintEffect};
pub use network::{
    AddressMethod, Bond, LinkConfig, LinkSelector, MacAddress, NetworkConfig, StaticAddressing, StaticRoute, Vlan,
};
pub(crate) use ranges::host;
pub use ranges::{Ranges, RangesError};

/// A node's whole configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NodeConfig {
    pub role: Role,
    /// A DNS-1123 subdomain, lower case. `None`: PID 1 derives one.
    pub name: Option<String>,
    /// The cluster that STATE says this node belongs to.
    pub cluster_id: Option<String>,
    /// This node may found a cluster. One-shot: a cluster id in STATE overrules it.
    pub bootstrap: bool,
    pub peers: Peers,
    pub operator_keys: Vec<OperatorKey>,
    pub state: StateSelection,
    /// A join token was given; it is in `/run/keelson/config/token`.
    pub token_given: bool,
    pub network: NetworkConfig,
    /// Time servers by name or address. Empty: those that DHCP names, and failing that none.
    pub ntp_servers: Vec<String>,
    /// Labels for the Node object.
    pub labels: BTreeMap<String, String>,
    /// Taints the Node is registered with. `None`: nobody said, the role decides. An empty list is a statement.
    pub taints: Option<Vec<Taint>>,
    pub sysctls: BTreeMap<String, String>,
    /// Certificates (PEM) that containerd and the node's own clients trust in addition.
    pub trusted_certificates: Vec<String>,
    pub registry_mirrors: Vec<RegistryMirror>,
    pub http_proxy: Option<HttpProxy>,
    pub cluster: ClusterConfig,
    /// Where each field that was said at all was said.
    pub sources: BTreeMap<String, Source>,
    /// The same without what operators have told the cluster, where that has changed something.
    pub own: Option<Box<Self>>,
}

/// What the node is in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    ControlPlane,
    Worker,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::Worker => "worker",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who else might already hold the cluster. Silence and a declared "none" are different things: only the latter lets a
/// single node found a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peers {
    Unsaid,
    /// `keelson.peers=none`
    DeclaredNone,
    /// Host names or addresses, with a port if one was given.
    Named(Vec<String>),
}

/// A public key whose holder may ask for an operator's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorKey {
    /// Becomes the CN of the certificate.
    pub name: String,
    /// Base64 of the DER `SubjectPublicKeyInfo`, ECDSA P-256, without line breaks.
    pub public_key: String,
}

impl OperatorKey {
    /// What names an operator may have, in words.
    pub const NAME_FORM: &str = "at most 63 of letters, digits, '-', '_', '.' and '@'";

    pub fn is_name(text: &str) -> bool {
        (1..=63).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte))
    }

    /// Whether this is the DER `SubjectPublicKeyInfo` of a key that may be an operator's.
    pub fn is_key(der: &[u8]) -> bool {
        der.len() == P256_LENGTH && der.starts_with(&P256_PREFIX)
    }
}

/// DER of a `SubjectPublicKeyInfo` for an uncompressed point on P-256 (RFC 5480), up to the point's 64 bytes.
const P256_PREFIX: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];
const P256_LENGTH: usize = P256_PREFIX.len() + 64;

/// Which disk holds STATE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateSelection {
    /// The partition made on first boot, found again by type, name and label.
    Auto,
    /// In memory; workers only, because a voter must not forget its vote.
    Ram,
    /// The file system with this label.
    Label(String),
}

impl NodeConfig {
    /// What the sources of the machine itself say.
    pub fn own(&self) -> &Self {
        self.own.as_deref().unwrap_or(self)
    }

    /// The DNS service's address, for kubelet and CoreDNS.
    pub fn dns_address(&self) -> IpAddr {
        self.cluster.dns_address
    }

    /// Whether `address` may be the node's address under `network.node_subnets`; every address may if none was named.
    pub fn admits_node_address(&self, address: IpAddr) -> bool {
        let subnets = &self.network.node_subnets;
        subnets.is_empty() || subnets.iter().any(|subnet: &IpNet| subnet.contains(&address))
    }
}
