//! Finding the control planes of one's cluster where no known address leads to one any more.
//!
//! While all machines are off, all of them may get other addresses. Then no control plane finds a quorum at the addresses that the
//! store's membership has, and no worker finds anybody. A node that hears nothing asks who of its cluster is there: every link by multicast,
//! which never leaves it, and the peers that its configuration names, wherever they are. Control planes answer ([`answer`]) with their UID
//! and their addresses, signed under the certificate of their API ([`message`]).
//!
//! - An answer says where to try. Whom to believe is settled as ever: by mutual TLS with the store's members and with the API of control planes.
//! - A question is as long as it may be in one packet, and what is asked from beyond the link is answered by nothing longer; answers are
//!   few in a second. So nobody can turn many or long answers against a third party.
//! - A question names the cluster by the fingerprint of its authority, as tokens do, and an answer is good for that one question.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use keelson_api::PORT;
use keelson_config::Peers;
use keelson_config::network_state::NetworkState;
use keelson_pki::AuthorityKind;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use crate::founding;
use crate::node::{Member, Node};
use crate::report;
use crate::trust::Trust;

mod message;

use message::{Answer, Question};

/// Link-local, not assigned by IANA (RFC 4291, 2.7); the group is "keelson" in ASCII.
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0x006b, 0x6565, 0x6c73, 0x6f6e);
/// How long answers are collected. They are signed, which takes a slow machine a moment.
const WAIT: Duration = Duration::from_secs(1);
/// A cluster has fewer control planes.
const FOUND_MAX: usize = 16;
/// In a second: a cluster whose nodes all search asks far less.
const ANSWERS_MAX: u32 = 20;
const DATAGRAM_MAX: usize = 8 << 10;
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// A control plane that has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Of its node, which is its store's name.
    pub uid: String,
    pub name: String,
    pub addresses: Vec<IpAddr>,
}

/// Where their APIs are, `ADDRESS:PORT`.
pub fn endpoints(found: &[Found]) -> Vec<String> {
    let addresses = found.iter().flat_map(|plane| &plane.addresses);
    addresses.map(|address| SocketAddr::new(*address, PORT).to_string()).collect()
}

/// Asks once, and waits for answers. This node is not among them.
///
/// # Errors
/// If nothing can be sent at all: this kernel has no IPv6.
pub async fn search(node: &Node, trust: &Trust, own_uid: &str) -> io::Result<Vec<Found>> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await?;
    let question = Question::new(trust.fingerprint()).map_err(io::Error::other)?;
    let bytes = question.to_bytes();
    for target in targets(node).await {
        // A link may have lost its carrier, and a name its address.
        let _ = socket.send_to(&bytes, target).await;
    }
    let mut found = BTreeMap::new();
    let deadline = Instant::now() + WAIT;
    let mut buffer = vec![0; DATAGRAM_MAX];
    while found.len() < FOUND_MAX
        && let Ok(received) = timeout_at(deadline, socket.recv_from(&mut buffer)).await
    {
        // An error belongs to one of the targets, such as one that refuses.
        let Ok((length, _)) = received else { continue };
        let answer = buffer.get(..length).and_then(|bytes| Answer::verified(bytes, &question, trust, node.clock().now));
        if let Some(answer) = answer.filter(|answer| answer.uid != own_uid) {
            found.insert(answer.uid.clone(), answer);
        }
    }
    Ok(found.into_values().collect())
}

async fn targets(node: &Node) -> Vec<SocketAddr> {
    let links = links(&node.network().borrow());
    let mut targets: Vec<_> =
        links.into_iter().map(|link| SocketAddr::V6(SocketAddrV6::new(GROUP, PORT, 0, link))).collect();
    if let Peers::Named(peers) = &node.config.peers {
        for peer in peers {
            let Ok(addresses) = tokio::net::lookup_host(founding::endpoint(peer)).await else { continue };
            targets.extend(addresses.map(in_ipv6));
        }
    }
    targets
}

/// The socket is one of IPv6, and has IPv4 in mapped form.
fn in_ipv6(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// The indices of the node's own links that have a carrier.
fn links(state: &NetworkState) -> Vec<u32> {
    state.links.iter().filter(|link| link.carrier).map(|link| link.index).collect()
}

/// Answers those who search, for ever, once this node is a control plane; a worker answers nobody.
pub async fn answer(node: Arc<Node>) {
    let member = node.member().await;
    if member.authority(AuthorityKind::Api).is_none() {
        return;
    }
    let mut complaint = report::Complaint::default();
    loop {
        let Err(error) = serve(&node, &member).await;
        complaint.of(format!("answering nodes that search their cluster on UDP port {PORT}: {error}"));
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn serve(node: &Node, member: &Member) -> io::Result<Infallible> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).await?;
    let mut network = node.network();
    let mut buffer = vec![0; DATAGRAM_MAX];
    let (mut second, mut answers) = (Instant::now(), 0);
    loop {
        for link in links(&network.borrow_and_update()) {
            // It has joined before, or the link is gone again.
            let _ = socket.join_multicast_v6(&GROUP, link);
        }
        let (length, from) = tokio::select! {
            received = socket.recv_from(&mut buffer) => received?,
            _ = network.changed() => continue,
        };
        if second.elapsed() >= Duration::from_secs(1) {
            (second, answers) = (Instant::now(), 0);
        }
        let question = buffer.get(..length).and_then(|bytes| Question::read(bytes, &member.trust().fingerprints()));
        let Some(question) = question.filter(|_| answers < ANSWERS_MAX) else { continue };
        answers += 1;
        let own = Found {
            uid: member.identity.node_uid.as_str().to_owned(),
            name: member.identity.name.clone(),
            addresses: node.addresses(),
        };
        let pair = Arc::clone(&member.api_serving().borrow());
        match Answer::sign(&own, &question, &pair) {
            Ok(answer) if answer.len() <= length || is_on_link(from) => {
                // Whoever asked may be gone.
                let _ = socket.send_to(&answer, from).await;
            }
            Ok(_) => {}
            Err(error) => report::error(&error),
        }
    }
}

fn is_on_link(from: SocketAddr) -> bool {
    matches!(from.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_is_asked_through_the_same_socket_and_only_the_link_counts_as_near() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(in_ipv6(address("192.0.2.1:6400")), address("[::ffff:192.0.2.1]:6400"));
        assert_eq!(in_ipv6(address("[2001:db8::1]:6400")), address("[2001:db8::1]:6400"));
        assert!(is_on_link(address("[fe80::1]:4000")));
        assert!(!is_on_link(address("[2001:db8::1]:4000")) && !is_on_link(address("[::ffff:192.0.2.1]:4000")));
        assert!(GROUP.is_multicast());
    }

    #[test]
    fn endpoints_are_the_apis_of_all_that_were_found() {
        let found = |addresses: &[&str]| Found {
            uid: "u".to_owned(),
            name: "n".to_owned(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        let endpoints = endpoints(&[found(&["192.0.2.1", "2001:db8::1"]), found(&["192.0.2.2"])]);
        assert_eq!(endpoints, ["192.0.2.1:6400", "[2001:db8::1]:6400", "192.0.2.2:6400"]);
    }
}
