//! What a pod sends out of the cluster's pod ranges goes under the node's address, since nobody outside knows the way back.
//! Between pods nothing is translated: each sees the other's own address.
//!
//! The CNI plugin that could do it translates whatever leaves the node's own range, other nodes' pods included. The rule is one
//! for the node, in a table of its own, which nft(8) replaces in one transaction.

use std::fmt::Write as _;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use ipnet::IpNet;
use keelson_config::pod_routes::PodRoutes;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

const PROGRAM: &str = "/usr/sbin/nft";
const TABLE: &str = "keelson";
/// It takes milliseconds; the kernel's lock may be held by a large transaction of kube-proxy.
const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub(super) enum MasqueradeError {
    #[error("running {PROGRAM}")]
    Run(#[source] io::Error),
    #[error("{PROGRAM} did not end within {DEADLINE:?}")]
    Deadline,
    #[error("{PROGRAM} ended with {status}: {message}")]
    Refused { status: ExitStatus, message: String },
}

pub(super) async fn apply(wish: &PodRoutes) -> Result<(), MasqueradeError> {
    let mut command = Command::new(PROGRAM);
    command.args(["--file", "-"]).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(MasqueradeError::Run)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(rules(wish).as_bytes()).await.map_err(MasqueradeError::Run)?;
    }
    let ended = tokio::time::timeout(DEADLINE, child.wait_with_output()).await;
    let output = ended.map_err(|_| MasqueradeError::Deadline)?.map_err(MasqueradeError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(MasqueradeError::Refused { status: output.status, message })
}

/// A whole transaction: the table is made in case it is not there, so that it can be removed, and made as it shall be.
fn rules(wish: &PodRoutes) -> String {
    let mut text = format!("table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
    text.push_str("  comment \"pods leave the cluster under the node's address\"\n");
    text.push_str("  chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;\n");
    for own in &wish.own {
        let cluster: Vec<String> =
            wish.cluster.iter().filter(|range| same_family(range, own)).map(IpNet::to_string).collect();
        let (family, multicast) = if own.addr().is_ipv4() { ("ip", "224.0.0.0/4") } else { ("ip6", "ff00::/8") };
        let inside = [cluster.as_slice(), &[multicast.to_owned()]].concat().join(", ");
        // Writing to a string does not fail.
        let _ = writeln!(text, "    {family} saddr {own} {family} daddr != {{ {inside} }} masquerade fully-random");
    }
    text.push_str("  }\n}\n");
    text
}

fn same_family(one: &IpNet, other: &IpNet) -> bool {
    one.addr().is_ipv4() == other.addr().is_ipv4()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_of_ranges_is_translated_unless_it_stays_inside() {
        let ranges = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let wish = PodRoutes {
            cluster: ranges(&["10.244.0.0/16", "fd00:1::/56"]),
            own: ranges(&["10.244.3.0/24", "fd00:1::/64"]),
            nodes: Vec::new(),
        };
        let rules = rules(&wish);
        for rule in [
            "ip saddr 10.244.3.0/24 ip daddr != { 10.244.0.0/16, 224.0.0.0/4 } masquerade fully-random",
            "ip6 saddr fd00:1::/64 ip6 daddr != { fd00:1::/56, ff00::/8 } masquerade fully-random",
        ] {
            assert!(rules.contains(rule), "{rules}");
        }
    }

    #[test]
    fn a_node_without_a_range_translates_nothing() {
        assert!(!rules(&PodRoutes::default()).contains("masquerade"));
    }
}
