//! What keelson-cluster asks of keelson-network for the pod network, in `/run/keelson/cluster/routes.json`, replaced by
//! rename at each change.
//!
//! Writer and reader come from one image and the file lives as long as the boot, so the form has no version.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Where the wish is written.
pub const POD_ROUTES_PATH: &str = "/run/keelson/cluster/routes.json";

/// What a packet between nodes carries in addition: Ethernet, IPv4, UDP and VXLAN headers (RFC 7348, 4.3).
pub const TUNNEL_OVERHEAD_IPV4: u32 = 50;
/// The same between IPv6 addresses of nodes.
pub const TUNNEL_OVERHEAD_IPV6: u32 = 70;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRoutes {
    /// Where all pods of the cluster are: what leaves these ranges leaves under the node's address.
    pub cluster: Vec<IpNet>,
    /// This node's own pod ranges.
    pub own: Vec<IpNet>,
    /// The other members that have pods.
    pub nodes: Vec<PodNode>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNode {
    pub name: String,
    /// Where the cluster has verified the node to be.
    pub addresses: Vec<IpAddr>,
    pub ranges: Vec<IpNet>,
}

impl PodRoutes {
    /// `None` while nothing was asked for; a file that is malformed is an error of its writer and asks for nothing new.
    pub fn read(path: &Path) -> std::io::Result<Option<Self>> {
        crate::wish::read(path)
    }
}
