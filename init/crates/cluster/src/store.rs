//! What keelson-store is told: etcd's configuration-file keys, its certificates, and whom it trusts.
//!
//! A member of the store is called by the UID of its node, and that is what its certificate for other members names: a node
//! that gets another address goes on with the same certificate. The URL at which others find it is in Raft's record, and kept
//! there by [`crate::place`]; a cluster of one that has no address yet begins with the loopback.
//!
//! `config.json` is written last. Its existence is the store's start condition, so the store never starts without the
//! files that it names.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use keelson_pki::{AuthorityKind, Clock, Files, FilesError, Mode, Owner};
use serde_json::{Value, json};

use crate::accounts;
use crate::credentials::{self, Circumstances, CredentialError};
use crate::membership::ControlPlane;
use crate::paths::Paths;

/// Where kube-apiserver finds the store: on this node, always.
pub const CLIENT_URL: &str = "https://127.0.0.1:2379";
/// Where other members find this one, under mutual TLS.
pub const PEER_PORT: u16 = 2380;
/// On all addresses: which of them others use may change while the store runs.
const PEER_LISTEN_URL: &str = "https://[::]:2380";
pub const CLIENT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2379);
/// Health and metrics, without TLS, on the loopback only.
pub const METRICS_URL: &str = "http://127.0.0.1:2381";
/// Whom this process is to the store, which keeps the cluster's records for it alone.
pub const CLIENT_NAME: &str = "keelson-cluster";
/// How often the store's leader compares the members' states: it reads all of its own for that. Nanoseconds, the only form in which etcd's
/// file has durations.
const CORRUPT_CHECK_TIME: u64 = 4 * 60 * 60 * 1_000_000_000;
const SERVICE: &str = "store";

pub mod peers;

use peers::Peers;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("telling the store who it is")]
    Credentials(#[from] CredentialError),
    #[error("telling the store its settings")]
    Files(#[from] FilesError),
    #[error("telling the store its settings")]
    Serialize(#[from] serde_json::Error),
}

pub fn configure(
    files: &dyn Files,
    paths: &Paths,
    held: &ControlPlane,
    circumstances: Circumstances<'_>,
    others: &Peers,
    clock: Clock,
) -> Result<(), StoreError> {
    let owner = Owner::account(accounts::STORE);
    let directory = paths.service(SERVICE);
    files.directory(&paths.store_data(), Mode::PRIVATE_DIRECTORY, owner)?;
    files.directory(&directory, Mode::PRIVATE_DIRECTORY, owner)?;
    credentials::issue(files, paths, &held.authorities, &circumstances.store(), clock)?;
    let trusted = [("client-ca.crt", AuthorityKind::StoreClient), ("peer-ca.crt", AuthorityKind::StorePeer)];
    for (file, authority) in trusted {
        let certificate = held.authorities.anchors(authority).sorted_pem();
        files.update(&directory.join(file), certificate.as_bytes(), Mode::SECRET, owner)?;
    }
    let content = serde_json::to_vec_pretty(&configuration(paths, circumstances, others))?;
    files.update(&directory.join("config.json"), &content, Mode::SECRET, owner)?;
    Ok(())
}

fn configuration(paths: &Paths, circumstances: Circumstances<'_>, peers: &Peers) -> Value {
    let directory = paths.service(SERVICE);
    let transport = |pair: &str, authority: &str| {
        json!({
            "cert-file": directory.join(pair),
            "key-file": directory.join(pair),
            "client-cert-auth": true,
            "trusted-ca-file": directory.join(authority),
        })
    };
    let uid = circumstances.identity.node_uid.as_str();
    let own = match (peers.own_urls(uid), circumstances.addresses.first()) {
        (Some(urls), _) => urls.join(","),
        (None, address) => peer_url(address.copied().unwrap_or(Ipv4Addr::LOCALHOST.into())),
    };
    let mut peer_transport = transport("peer.pem", "peer-ca.crt");
    if let Some(fields) = peer_transport.as_object_mut() {
        fields.insert("names-member".to_owned(), true.into());
        fields.insert("hints-file".to_owned(), json!(hints_file(paths)));
    }
    let mut configuration = json!({
        "name": uid,
        "data-dir": paths.store_data(),
        "listen-client-urls": CLIENT_URL,
        "advertise-client-urls": CLIENT_URL,
        "listen-peer-urls": PEER_LISTEN_URL,
        "initial-advertise-peer-urls": own,
        "listen-metrics-urls": METRICS_URL,
        "cluster-client": CLIENT_NAME,
        "corrupt-check-time": CORRUPT_CHECK_TIME,
        "client-transport-security": transport("server.pem", "client-ca.crt"),
        "peer-transport-security": peer_transport,
    });
    if let (Some(list), Some(fields)) = (peers.initial_cluster(uid), configuration.as_object_mut()) {
        fields.insert("initial-cluster".to_owned(), list.into());
        fields.insert("initial-cluster-state".to_owned(), "existing".into());
    }
    configuration
}

/// Where the store tries members first; see [`crate::place`].
pub fn hints_file(paths: &Paths) -> PathBuf {
    paths.service(SERVICE).join("hints.json")
}

/// Where a member at this address is found.
pub fn peer_url(address: IpAddr) -> String {
    format!("https://{}", SocketAddr::new(address, PEER_PORT))
}
