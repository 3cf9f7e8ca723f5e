//! What was written, before anyone asked what it means. Values are text as far as the source gave text; only the
//! document's own shape (lists, maps) is kept.

use std::collections::BTreeMap;

use crate::node::{HttpProxy, Oidc, RegistryMirror};
use crate::secret::{RegistryCredential, Secret};
use crate::source::Source;

/// A value and where it was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said<T> {
    pub value: T,
    pub source: Source,
}

impl<T> Said<T> {
    pub fn new(value: T, source: Source) -> Self {
        Self { value, source }
    }
}

/// One link as said by `ip=` or by the document.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RawLink {
    /// A name, or a MAC address; empty for "whichever link there is".
    pub link: String,
    pub addressing: RawAddressing,
    pub mtu: Option<String>,
    pub hostname: Option<String>,
    pub nameservers: Vec<String>,
    pub ntp: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RawAddressing {
    #[default]
    Dhcp,
    /// Up, with no address of ours.
    Off,
    Static {
        /// `address/prefix`, or address and netmask joined by `/`.
        addresses: Vec<String>,
        gateway: Option<String>,
    },
    /// Said in a way that this system does not offer; kept for the message.
    Unsupported(String),
}

/// A route of the node's own, as said by `rd.route=` or by the document.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RawRoute {
    /// `address/prefix`, or address and netmask joined by `/`.
    pub to: String,
    pub via: String,
    /// A name, or a MAC address; empty for the link that reaches the gateway.
    pub link: String,
    pub metric: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RawVlan {
    pub name: String,
    pub parent: String,
    /// Empty: the name tells it, as in `eth0.5` or `vlan5`.
    pub id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RawBond {
    pub name: String,
    pub members: Vec<String>,
    pub options: Vec<(String, String)>,
    pub mtu: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RawOperatorKey {
    pub name: Option<String>,
    pub public_key: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RawTaint {
    pub key: String,
    pub value: String,
    pub effect: String,
}

/// Everything that can be said about a node, and by whom. One source's words, or the merge of several.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RawConfig {
    pub role: Option<Said<String>>,
    pub name: Option<Said<String>>,
    pub token: Option<Said<Secret>>,
    pub bootstrap: Option<Said<String>>,
    pub peers: Option<Said<Vec<String>>>,
    pub operator_keys: Option<Said<Vec<Said<RawOperatorKey>>>>,
    pub state: Option<Said<String>>,
    pub ntp: Option<Said<Vec<String>>>,

    pub links: Option<Said<Vec<Said<RawLink>>>>,
    pub nameservers: Option<Said<Vec<String>>>,
    pub search: Option<Said<Vec<String>>>,
    pub vlans: Option<Said<Vec<Said<RawVlan>>>>,
    pub bonds: Option<Said<Vec<Said<RawBond>>>>,
    pub routes: Option<Said<Vec<Said<RawRoute>>>>,
    pub node_subnets: Option<Said<Vec<String>>>,

    pub pod_cidr: Option<Said<String>>,
    pub service_cidr: Option<Said<String>>,
    pub cluster_domain: Option<Said<String>>,
    pub dns_address: Option<Said<String>>,
    pub extra_sans: Option<Said<Vec<String>>>,
    pub virtual_address: Option<Said<String>>,
    pub labels: Option<Said<BTreeMap<String, String>>>,
    pub taints: Option<Said<Vec<RawTaint>>>,
    pub extra_arguments: Option<Said<BTreeMap<String, BTreeMap<String, String>>>>,
    pub sysctls: Option<Said<BTreeMap<String, String>>>,
    pub registry_mirrors: Option<Said<Vec<RegistryMirror>>>,
    pub registry_credentials: Option<Said<BTreeMap<String, RegistryCredential>>>,
    pub trusted_certificates: Option<Said<Vec<String>>>,
    pub http_proxy: Option<Said<HttpProxy>>,
    pub oidc: Option<Said<Oidc>>,
}
