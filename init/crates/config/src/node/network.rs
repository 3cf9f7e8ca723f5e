//! Links, addresses, resolvers: what keelson-network is to bring about.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// All of it. A physical link that no entry of `links` selects is configured by DHCP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NetworkConfig {
    pub links: Vec<LinkConfig>,
    pub vlans: Vec<Vlan>,
    pub bonds: Vec<Bond>,
    /// Routes beside those of gateways and leases.
    pub routes: Vec<StaticRoute>,
    /// Said for the node as a whole; they go before those of links and leases.
    pub nameservers: Vec<IpAddr>,
    pub search: Vec<String>,
    /// The node's address is taken from these subnets, in this order; if empty, from the link with the default route.
    pub node_subnets: Vec<IpNet>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LinkConfig {
    pub link: LinkSelector,
    pub method: AddressMethod,
    pub mtu: Option<u32>,
    pub nameservers: Vec<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkSelector {
    /// For DHCP every link that no other entry selects, for a static address the first of them with a carrier.
    Any,
    Name(String),
    Mac(MacAddress),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressMethod {
    Dhcp,
    Static(StaticAddressing),
    /// Up, with IPv6 link-local only.
    Off,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StaticAddressing {
    /// Host addresses with their prefix lengths; at least one.
    pub addresses: Vec<IpNet>,
    /// Reachable on the link or inside one of the prefixes.
    pub gateway: Option<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StaticRoute {
    pub to: IpNet,
    /// Of the same family as `to`.
    pub via: IpAddr,
    /// [`LinkSelector::Any`] for the link that has the gateway in one of its networks.
    pub link: LinkSelector,
    /// The kernel's priority: the smaller goes first. If absent, that of the link's own static routes.
    pub metric: Option<u32>,
}

/// An 802.1Q link on top of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Vlan {
    pub name: String,
    pub parent: String,
    pub id: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Bond {
    pub name: String,
    pub members: Vec<String>,
    /// The driver's option names and values, as dracut's `bond=` takes them.
    pub options: Vec<(String, String)>,
    pub mtu: Option<u32>,
}

/// An Ethernet address, written `52:54:00:12:34:56`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ":" };
            write!(f, "{separator}{byte:02x}")?;
        }
        Ok(())
    }
}

/// Not six pairs of hexadecimal digits between colons or dashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a MAC address")]
pub struct NotAMacAddress;

impl FromStr for MacAddress {
    type Err = NotAMacAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut bytes = [0; 6];
        let mut parts = text.split(separator);
        for byte in &mut bytes {
            let part = parts.next().ok_or(NotAMacAddress)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(NotAMacAddress);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| NotAMacAddress)?;
        }
        if parts.next().is_some() { Err(NotAMacAddress) } else { Ok(Self(bytes)) }
    }
}

impl Serialize for MacAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
