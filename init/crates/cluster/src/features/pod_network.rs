//! The node's part of the pod network: the CNI configuration, written once the controller manager has given the node its
//! range. kubelet becomes Ready when containerd has seen the file.
//!
//! The bridge and the address allocation are the reference plugins'; the ways to other nodes, and out, are
//! keelson-network's ([`super::routes`]). An operator who disables the network brings another CNI plugin.

use ipnet::IpNet;
use keelson_config::network_state::NetworkState;
use keelson_config::pod_routes::TUNNEL_OVERHEAD;
use keelson_pki::{Files, FilesError, Mode, Owner};
use serde_json::{Value, json};

use crate::paths::Paths;

const FILE: &str = "10-keelson.conflist";
/// The controller manager's defaults (`--node-cidr-mask-size-ipv4` and `-ipv6`).
const NODE_PREFIX_IPV4: u8 = 24;
const NODE_PREFIX_IPV6: u8 = 64;

#[derive(Debug, thiserror::Error)]
pub enum PodNetworkError {
    #[error("the node's pod range {range:?} is not one")]
    Range { range: String, source: ipnet::AddrParseError },
    #[error("writing the CNI configuration")]
    Files(#[from] FilesError),
    #[error("writing the CNI configuration")]
    Serialize(#[from] serde_json::Error),
}

/// The ranges that a Node object carries; empty until they are assigned.
pub fn ranges(node: &Value) -> Result<Vec<IpNet>, PodNetworkError> {
    let ranges = node.pointer("/spec/podCIDRs").and_then(Value::as_array);
    ranges
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|range| range.parse().map_err(|source| PodNetworkError::Range { range: range.to_owned(), source }))
        .collect()
}

/// The range that the controller manager gives to a cluster's first node: the first of its default size.
pub fn first_range(pods: IpNet) -> Option<IpNet> {
    let prefix = if pods.addr().is_ipv4() { NODE_PREFIX_IPV4 } else { NODE_PREFIX_IPV6 };
    pods.subnets(prefix).ok()?.next()
}

/// `mtu` is what a packet of a pod may have; the kernel's default if nobody knows.
pub fn configure(files: &dyn Files, paths: &Paths, ranges: &[IpNet], mtu: Option<u32>) -> Result<(), PodNetworkError> {
    let directory = paths.cni_configuration();
    files.directory(&directory, Mode::PUBLIC_DIRECTORY, Owner::ROOT)?;
    let content = serde_json::to_vec_pretty(&configuration(ranges, mtu))?;
    files.update(&directory.join(FILE), &content, Mode::PRIVATE, Owner::ROOT)?;
    Ok(())
}

/// Leaves pods to whoever else has a CNI configuration there. Those that are on the bridge stay on it until they end.
pub fn remove(files: &dyn Files, paths: &Paths) -> Result<(), PodNetworkError> {
    Ok(files.remove(&paths.cni_configuration().join(FILE))?)
}

/// What is left of the node's own link after the headers of a tunnel, whether or not a packet will need one: a pod learns its
/// MTU once.
pub fn mtu(network: &NetworkState) -> Option<u32> {
    let own = network.node_address()?;
    let link = network.links.iter().find(|link| link.addresses.iter().any(|net| net.addr() == own))?;
    Some(link.mtu.saturating_sub(TUNNEL_OVERHEAD))
}

fn configuration(ranges: &[IpNet], mtu: Option<u32>) -> Value {
    let subnets: Vec<_> = ranges.iter().map(|range| json!([{ "subnet": range }])).collect();
    let routes: Vec<_> = ranges
        .iter()
        .map(|range| json!({ "dst": if range.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" } }))
        .collect();
    json!({
        "cniVersion": "1.0.0",
        "name": "keelson",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "mtu": mtu.unwrap_or_default(),
                // A pod reaches itself through its own Service.
                "hairpinMode": true,
                "ipam": { "type": "host-local", "ranges": subnets, "routes": routes },
            },
            { "type": "portmap", "capabilities": { "portMappings": true }, "backend": "nftables" },
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_a_range_has_none() {
        assert!(ranges(&json!({ "spec": {} })).unwrap().is_empty());
        assert!(ranges(&json!({ "spec": { "podCIDRs": ["10.244.0.0"] } })).is_err());
    }

    #[test]
    fn the_first_node_gets_the_first_range() {
        let of = |pods: &str| first_range(pods.parse().unwrap()).map(|range| range.to_string());
        assert_eq!(of("10.244.0.0/16").as_deref(), Some("10.244.0.0/24"));
        assert_eq!(of("10.244.7.0/24").as_deref(), Some("10.244.7.0/24"));
        assert_eq!(of("fd00:1::/56").as_deref(), Some("fd00:1::/64"));
        assert_eq!(of("10.244.7.0/25"), None, "too small for one node");
    }

    #[test]
    fn each_family_gets_its_range_and_default_route() {
        let node = json!({ "spec": { "podCIDRs": ["10.244.0.0/24", "fd00::/64"] } });
        let configuration = configuration(&ranges(&node).unwrap(), Some(1450));
        assert_eq!(configuration["plugins"][0]["mtu"], 1450);
        let ipam = &configuration["plugins"][0]["ipam"];
        assert_eq!(ipam["ranges"], json!([[{ "subnet": "10.244.0.0/24" }], [{ "subnet": "fd00::/64" }]]));
        assert_eq!(ipam["routes"], json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]));
    }
}
