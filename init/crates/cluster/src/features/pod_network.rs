//! The node's part of the pod network: the CNI configuration, written once the controller manager has given the node its
//! range. kubelet becomes Ready when containerd has seen the file.
//!
//! The bridge and the address allocation are the reference plugins'; the ways to other nodes, and out, are
//! keelson-network's ([`super::routes`]). An operator who disables the network brings another CNI plugin.

use std::net::IpAddr;

use ipnet::IpNet;
use keelson_config::Ranges;
use keelson_config::network_state::NetworkState;
use keelson_config::pod_routes::{PodRoutes, TUNNEL_OVERHEAD_IPV4, TUNNEL_OVERHEAD_IPV6};
use keelson_pki::{Files, FilesError, Mode, Owner};
use serde_json::{Value, json};

use crate::paths::Paths;

const FILE: &str = "10-keelson.conflist";
/// The controller manager's defaults (`--node-cidr-mask-size-ipv4` and `-ipv6`).
pub const NODE_PREFIX_IPV4: u8 = 24;
pub const NODE_PREFIX_IPV6: u8 = 64;

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

/// The ranges that the controller manager gives to a cluster's first node, one of each family; none if one of the networks is too
/// small for a node.
pub fn first_ranges(pods: Ranges) -> Option<Vec<IpNet>> {
    pods.all().map(first_range).collect()
}

/// The first one of the default size.
fn first_range(pods: IpNet) -> Option<IpNet> {
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

/// Whether the node is as the feature says: with its part of the network, or without. What [`super::routes`] asks for belongs to it.
pub fn is_applied(paths: &Paths, enabled: bool) -> bool {
    let has_plugin = paths.cni_configuration().join(FILE).exists();
    let has_routes = PodRoutes::read(&paths.pod_routes()).map(|wish| wish.is_some_and(|wish| !wish.own.is_empty()));
    has_plugin == enabled && has_routes.is_ok_and(|has_routes| has_routes == enabled)
}

/// What is left of the node's own links after the headers of a tunnel, whether or not a packet will need one: a pod learns its
/// MTU once. Where pods or nodes have IPv6, the tunnel may be one between IPv6 addresses, whose headers are larger.
pub fn mtu(ranges: &[IpNet], network: &NetworkState) -> Option<u32> {
    let link_of = |own: &IpAddr| {
        network.links.iter().find(|link| link.addresses.iter().any(|net| net.addr() == *own)).map(|link| link.mtu)
    };
    let smallest = network.node_addresses.iter().filter_map(link_of).min()?;
    let has_ipv4 = network.node_addresses.iter().any(IpAddr::is_ipv4);
    let is_ipv4_alone = has_ipv4 && ranges.iter().all(|range| range.addr().is_ipv4());
    let overhead = if is_ipv4_alone { TUNNEL_OVERHEAD_IPV4 } else { TUNNEL_OVERHEAD_IPV6 };
    Some(smallest.saturating_sub(overhead))
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
    use keelson_pki::StandardFiles;

    use super::*;

    #[test]
    fn a_node_without_a_range_has_none() {
        assert!(ranges(&json!({ "spec": {} })).unwrap().is_empty());
        assert!(ranges(&json!({ "spec": { "podCIDRs": ["10.244.0.0"] } })).is_err());
    }

    #[test]
    fn the_network_is_applied_once_plugin_and_routes_are_as_it_says() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        std::fs::create_dir_all(paths.pod_routes().parent().unwrap()).unwrap();
        let own: Vec<IpNet> = vec!["10.244.0.0/24".parse().unwrap()];
        let route = |own: &[IpNet]| {
            let wish = PodRoutes { own: own.to_vec(), ..PodRoutes::default() };
            std::fs::write(paths.pod_routes(), serde_json::to_vec(&wish).unwrap()).unwrap();
        };
        let is = || (is_applied(&paths, true), is_applied(&paths, false));
        assert_eq!(is(), (false, true), "nothing is there yet");
        configure(&StandardFiles, &paths, &own, None).unwrap();
        assert_eq!(is(), (false, false), "pods would have no way to others");
        route(&own);
        assert_eq!(is(), (true, false));
        remove(&StandardFiles, &paths).unwrap();
        assert_eq!(is(), (false, false), "the routes are there still");
        route(&[]);
        assert_eq!(is(), (false, true));
        std::fs::write(paths.pod_routes(), "{").unwrap();
        assert_eq!(is(), (false, false), "nobody knows");
    }

    #[test]
    fn the_first_node_gets_the_first_range_of_each_family() {
        let of = |pods: &str| first_ranges(pods.parse().unwrap()).map(|ranges| json!(ranges));
        assert_eq!(of("10.244.0.0/16"), Some(json!(["10.244.0.0/24"])));
        assert_eq!(of("10.244.7.0/24"), Some(json!(["10.244.7.0/24"])));
        assert_eq!(of("fd00:1::/56"), Some(json!(["fd00:1::/64"])));
        assert_eq!(of("fd00:1::/56,10.244.0.0/16"), Some(json!(["fd00:1::/64", "10.244.0.0/24"])));
        assert_eq!(of("10.244.7.0/25"), None, "too small for one node");
        assert_eq!(of("10.244.7.0/25,fd00:1::/56"), None, "one of them is");
    }

    #[test]
    fn pods_leave_room_for_the_largest_headers_that_a_packet_of_theirs_may_get() {
        let of = |addresses: &[&str], ranges: &[&str]| {
            let network: NetworkState = serde_json::from_value(json!({
                "node_addresses": addresses,
                "links": [
                    link("eth0", 1500, "10.0.0.5/24"),
                    link("eth1", 1400, "fd99::5/64"),
                ],
                "nameservers": [], "search": [], "problems": [],
                "time": { "synchronised": false, "server": null, "offset_seconds": null, "last_answer": null },
            }))
            .unwrap();
            let ranges: Vec<IpNet> = ranges.iter().map(|range| range.parse().unwrap()).collect();
            mtu(&ranges, &network)
        };
        assert_eq!(of(&["10.0.0.5"], &["10.244.0.0/24"]), Some(1450));
        assert_eq!(of(&["10.0.0.5"], &["10.244.0.0/24", "fd00::/64"]), Some(1430));
        assert_eq!(of(&["10.0.0.5", "fd99::5"], &["10.244.0.0/24", "fd00::/64"]), Some(1330), "of both links");
        assert_eq!(of(&["fd99::5"], &["10.244.0.0/24"]), Some(1330));
        assert_eq!(of(&["10.0.0.9"], &["10.244.0.0/24"]), None);
    }

    fn link(name: &str, mtu: u32, address: &str) -> Value {
        json!({
            "name": name, "index": 2, "mac": null, "mtu": mtu, "carrier": true, "addresses": [address], "gateway": null,
            "nameservers": [], "search": [], "ntp_servers": [], "lease": null,
        })
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
