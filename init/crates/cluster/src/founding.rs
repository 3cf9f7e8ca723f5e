//! Whether a cluster may be founded: the peers that the configuration names are asked whether they have one.
//!
//! A first node that was reinstalled has the same configuration as on its first day and an empty disk; only others know that
//! its cluster exists. So it founds one if more than half of those that it was told of say that they have none. Silence is no
//! answer, and one that has a cluster, or is to found one itself, is enough to stop it.
//!
//! There is nothing yet by which peers could know each other: whoever can answer in the place of most of them can have a
//! second cluster founded or keep one from being founded, and gets no secret of either. `keelson.peers=none` asks nobody.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use hyper::Method;
use keelson_api::{Membership, PORT, paths};
use keelson_pki::Verifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, Error};
use tokio::time::timeout;

use crate::join::connection;
use crate::node::Node;
use crate::report;

/// For one peer, from the connection to the answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum FoundingError {
    #[error(
        "keelson.bootstrap is set, but the peer {0} belongs to a cluster, so this node founds no other; to join that one, make a \
         token there with keelctl token create --role control-plane and set keelson.token"
    )]
    Exists(String),
    #[error("keelson.bootstrap is set here and on the peer {0}: only one node may found the cluster")]
    Rival(String),
    #[error(
        "keelson.bootstrap is set, and {free} of {named} peers say that they have no cluster, where more than half have to; {}",
        .silent.join("; ")
    )]
    Undecided { free: usize, named: usize, silent: Vec<String> },
    #[error("asking the peers over TLS")]
    Tls(#[from] Error),
}

impl FoundingError {
    /// Whether the peers may say something else without anybody's doing.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Undecided { .. })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Member,
    Founds,
    Free,
    Silence(String),
}

/// Returns once this node may found a cluster.
pub async fn ask(node: &Node, peers: &[String]) -> Result<(), FoundingError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        // A node without a cluster has no certificate that says anything.
        .with_custom_certificate_verifier(Arc::new(Verifier::of_anybody(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let config = Arc::new(config);
    let answers = join_all(peers.iter().map(|peer| ask_one(node, peer, &config))).await;
    verdict(peers, answers)
}

async fn ask_one(node: &Node, peer: &str, config: &Arc<ClientConfig>) -> Answer {
    let endpoint = endpoint(peer);
    let asking = async {
        let (_, stream) = connection::connect(&endpoint, config).await?;
        let answer = connection::exchange::<Membership>(&endpoint, stream, Method::GET, paths::MEMBERSHIP, None).await;
        answer.map_err(|error| report::chain(&error))?.map_err(|body| format!("{endpoint}: {}", body.message))
    };
    match timeout(ANSWER_DEADLINE, asking).await {
        Ok(Ok(told)) if told.instance == node.instance() => Answer::Free,
        Ok(Ok(Membership { member: true, .. })) => Answer::Member,
        Ok(Ok(Membership { founds: true, .. })) => Answer::Founds,
        Ok(Ok(_)) => Answer::Free,
        Ok(Err(reason)) => Answer::Silence(reason),
        Err(_) => Answer::Silence(format!("{endpoint} does not answer")),
    }
}

/// `HOST` or `HOST:PORT`, an IPv6 address with a port in brackets, as the configuration has checked it.
pub(crate) fn endpoint(peer: &str) -> String {
    let is_ipv6 = peer.parse::<std::net::Ipv6Addr>().is_ok();
    match peer.rsplit_once(':') {
        _ if is_ipv6 => format!("[{peer}]:{PORT}"),
        Some((host, _)) if !host.is_empty() && !peer.ends_with(']') => peer.to_owned(),
        _ => format!("{peer}:{PORT}"),
    }
}

fn verdict(peers: &[String], answers: Vec<Answer>) -> Result<(), FoundingError> {
    let of = |wanted: &Answer| {
        peers.iter().zip(&answers).find(|(_, answer)| *answer == wanted).map(|(peer, _)| peer.clone())
    };
    if let Some(peer) = of(&Answer::Member) {
        return Err(FoundingError::Exists(peer));
    }
    if let Some(peer) = of(&Answer::Founds) {
        return Err(FoundingError::Rival(peer));
    }
    let (named, mut silent) = (answers.len(), Vec::new());
    for answer in answers {
        if let Answer::Silence(reason) = answer {
            silent.push(reason);
        }
    }
    let free = named - silent.len();
    if free > named / 2 { Ok(()) } else { Err(FoundingError::Undecided { free, named, silent }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict_of(answers: &[Answer]) -> Result<(), FoundingError> {
        let peers: Vec<_> = (0..answers.len()).map(|number| format!("peer-{number}")).collect();
        verdict(&peers, answers.to_vec())
    }

    fn silence() -> Answer {
        Answer::Silence("no route".to_owned())
    }

    #[test]
    fn more_than_half_of_the_named_ones_have_to_say_that_they_have_no_cluster() {
        use Answer::Free;
        for enough in [vec![Free], vec![Free, Free], vec![Free, Free, silence()]] {
            verdict_of(&enough).unwrap();
        }
        for too_few in [vec![silence()], vec![Free, silence()], vec![Free, silence(), silence()]] {
            let error = verdict_of(&too_few).unwrap_err();
            assert!(error.may_pass() && error.to_string().contains("no route"), "{error}");
        }
    }

    #[test]
    fn one_that_has_a_cluster_or_is_to_found_one_is_enough_to_stop_it() {
        use Answer::{Founds, Free, Member};
        let error = verdict_of(&[Free, Free, Member]).unwrap_err();
        assert!(!error.may_pass() && error.to_string().contains("peer-2 belongs to a cluster"), "{error}");
        let error = verdict_of(&[Founds, Free, Free]).unwrap_err();
        assert!(!error.may_pass() && error.to_string().contains("peer-0: only one"), "{error}");
        assert!(matches!(verdict_of(&[Founds, Member, silence()]), Err(FoundingError::Exists(_))));
    }

    #[test]
    fn a_peer_is_asked_at_the_default_port_unless_it_names_another() {
        for (peer, asked) in [
            ("cp1", "cp1:6400"),
            ("cp1:7000", "cp1:7000"),
            ("192.0.2.1", "192.0.2.1:6400"),
            ("2001:db8::1", "[2001:db8::1]:6400"),
            ("[2001:db8::1]", "[2001:db8::1]:6400"),
            ("[2001:db8::1]:7000", "[2001:db8::1]:7000"),
        ] {
            assert_eq!(endpoint(peer), asked);
        }
    }
}
