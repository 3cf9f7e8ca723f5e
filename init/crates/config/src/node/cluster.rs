//! Settings that concern Kubernetes. They apply where the cluster is founded; a node that joins gets the cluster's.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use super::{Ranges, host};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ClusterConfig {
    pub pod_cidr: Ranges,
    /// Of the same families as `pod_cidr`, in the same order.
    pub service_cidr: Ranges,
    pub cluster_domain: String,
    /// Inside the first range of `service_cidr`: the tenth address unless another was said.
    pub dns_address: IpAddr,
    /// Names and addresses that the API server's certificate carries in addition.
    pub extra_sans: Vec<String>,
    /// Of the nodes' network and no node's own: a control plane whose API server is well has it.
    pub virtual_address: Option<IpAddr>,
    /// Flags by component, without the leading dashes.
    pub extra_arguments: BTreeMap<Component, BTreeMap<String, String>>,
    pub oidc: Option<Oidc>,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            pod_cidr: IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16)).into(),
            service_cidr: IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16)).into(),
            cluster_domain: "cluster.local".to_owned(),
            dns_address: IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)),
            extra_sans: Vec::new(),
            virtual_address: None,
            extra_arguments: BTreeMap::new(),
            oidc: None,
        }
    }
}

impl ClusterConfig {
    /// The address of the API servers' own Service, behind the first of the network.
    pub fn api_service_address(&self) -> IpAddr {
        host(self.service_cidr.first(), 1)
    }

    /// Why the address can be no node's, with the field that has to be another: it is inside one of the cluster's networks.
    pub fn conflict(&self, address: IpAddr) -> Option<Conflict> {
        let networks = [
            ("the pod network", "spec.cluster.podCIDR", self.pod_cidr),
            ("the service network", "spec.cluster.serviceCIDR", self.service_cidr),
        ];
        networks.into_iter().find_map(|(network, field, ranges)| {
            let range = ranges.around(address)?;
            Some(Conflict { address, network, field, range })
        })
    }
}

/// A node's address that is inside one of the cluster's networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    pub address: IpAddr,
    network: &'static str,
    pub field: &'static str,
    range: IpNet,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, network, field, range } = self;
        write!(f, "the address {address} is inside {network} {range} ({field})")
    }
}

/// A Kubernetes component that takes extra arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    KubeApiserver,
    KubeControllerManager,
    KubeScheduler,
    Kubelet,
    KubeProxy,
}

impl Component {
    pub const ALL: [Self; 5] =
        [Self::KubeApiserver, Self::KubeControllerManager, Self::KubeScheduler, Self::Kubelet, Self::KubeProxy];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::KubeScheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: TaintEffect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaintEffect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
}

/// Where containerd pulls instead of a registry's own host. Credentials are in [`crate::Secrets`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryMirror {
    /// The registry as images name it, for instance `docker.io`.
    pub registry: String,
    /// URLs, tried in order, before the registry itself.
    pub endpoints: Vec<String>,
    /// Whether an endpoint's path replaces `/v2`.
    pub override_path: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpProxy {
    /// URLs without credentials.
    pub http: Option<String>,
    pub https: Option<String>,
    pub no_proxy: Vec<String>,
}

/// kube-apiserver's OpenID Connect authenticator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Oidc {
    pub issuer_url: String,
    pub client_id: String,
    pub username_claim: String,
    pub username_prefix: String,
    pub groups_claim: Option<String>,
    pub groups_prefix: String,
    pub required_claims: BTreeMap<String, String>,
    /// PEM; the system's certificates if absent.
    pub certificate_authority: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_inside_one_of_the_networks_is_told_with_the_field() {
        let cluster = ClusterConfig {
            pod_cidr: "10.244.0.0/16,fd00:1::/48".parse().unwrap(),
            service_cidr: "10.96.0.0/16,fd00:2::/112".parse().unwrap(),
            ..ClusterConfig::default()
        };
        let told = |address: &str| cluster.conflict(address.parse().unwrap()).map(|conflict| conflict.to_string());
        assert_eq!(
            told("fd00:1:0:7::5").as_deref(),
            Some("the address fd00:1:0:7::5 is inside the pod network fd00:1::/48 (spec.cluster.podCIDR)")
        );
        assert!(told("10.96.3.4").is_some_and(|told| told.ends_with("10.96.0.0/16 (spec.cluster.serviceCIDR)")));
        assert_eq!(told("10.97.0.1"), None);
    }

    #[test]
    fn the_api_servers_service_has_the_first_address_of_the_first_network() {
        let of = |text: &str| {
            let cluster = ClusterConfig { service_cidr: text.parse().unwrap(), ..ClusterConfig::default() };
            cluster.api_service_address().to_string()
        };
        assert_eq!(of("10.96.0.0/16"), "10.96.0.1");
        assert_eq!(of("fd00:2::/112,10.96.0.0/16"), "fd00:2::1");
    }
}
