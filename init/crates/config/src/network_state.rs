//! What keelson-network reports in `/run/keelson/network/state.json`, replaced by rename at each change.
//!
//! Writer and readers come from one image and the file lives as long as the boot, so the form has no version.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::node::MacAddress;

/// Where the state is published.
pub const NETWORK_STATE_PATH: &str = "/run/keelson/network/state.json";
/// The resolver file; `/etc/resolv.conf` is a link to it.
pub const RESOLV_CONF_PATH: &str = "/run/keelson/network/resolv.conf";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkState {
    /// The node's addresses, the preferred first; empty until one is up. At most one of each family.
    pub node_addresses: Vec<IpAddr>,
    pub links: Vec<LinkState>,
    /// Resolvers and search list as they stand in the resolver file.
    pub nameservers: Vec<IpAddr>,
    pub search: Vec<String>,
    pub time: TimeState,
    /// What the daemon waits for or cannot do, for the console and `keelctl status`; empty when all is well.
    pub problems: Vec<String>,
}

impl NetworkState {
    /// The address that kubelet and the certificates use.
    pub fn node_address(&self) -> Option<IpAddr> {
        self.node_addresses.first().copied()
    }

    /// Reads what keelson-network published; `None` while there is nothing yet.
    pub fn read(path: &Path) -> Result<Option<Self>, ReadStateError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ReadStateError::Read { path: path.display().to_string(), source }),
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| ReadStateError::Parse { path: path.display().to_string(), source })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ReadStateError {
    #[error("cannot read {path}")]
    Read { path: String, source: std::io::Error },
    #[error("{path} is not a network state")]
    Parse { path: String, source: serde_json::Error },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkState {
    pub name: String,
    pub index: u32,
    pub mac: Option<MacAddress>,
    pub mtu: u32,
    pub carrier: bool,
    /// Addresses with their prefix lengths, as the kernel has them.
    pub addresses: Vec<IpNet>,
    /// The gateway of the default route through this link.
    pub gateway: Option<IpAddr>,
    pub nameservers: Vec<IpAddr>,
    pub search: Vec<String>,
    pub ntp_servers: Vec<IpAddr>,
    pub lease: Option<LeaseState>,
}

/// A DHCP lease; times are seconds since the epoch by the node's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseState {
    pub server: IpAddr,
    pub address: IpNet,
    pub obtained: u64,
    /// `None`: for ever.
    pub expires: Option<u64>,
    /// The client's state by RFC 2131: `BOUND`, `RENEWING`, `REBINDING`, …
    pub state: String,
    /// The host name that the server offered.
    pub hostname: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TimeState {
    /// A server's answer has set or confirmed the clock since boot.
    pub synchronised: bool,
    /// The server that answered last.
    pub server: Option<String>,
    /// The clock's offset at the last answer, server minus ours, in seconds.
    pub offset_seconds: Option<f64>,
    /// When the last answer came, seconds since the epoch.
    pub last_answer: Option<u64>,
}

impl Eq for TimeState {}
