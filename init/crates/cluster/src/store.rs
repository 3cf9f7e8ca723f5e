//! What keelson-store is told: etcd's configuration-file keys, its certificates, and whom it trusts.
//!
//! `config.json` is written last. Its existence is the store's start condition, so the store never starts without the
//! files that it names.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use keelson_pki::{AuthorityKind, Clock, Files, FilesError, Mode, Owner};
use serde_json::{Value, json};

use crate::accounts;
use crate::credentials::{self, Circumstances, CredentialError};
use crate::membership::ControlPlane;
use crate::paths::Paths;

/// Where kube-apiserver finds the store: on this node, always.
pub const CLIENT_URL: &str = "https://127.0.0.1:2379";
/// Where other members find this one, under mutual TLS: until there can be others, the loopback.
pub const PEER_URL: &str = "https://127.0.0.1:2380";
pub const CLIENT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2379);
/// Health and metrics, without TLS, on the loopback only.
pub const METRICS_URL: &str = "http://127.0.0.1:2381";
const SERVICE: &str = "store";

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
    clock: Clock,
) -> Result<(), StoreError> {
    let owner = Owner::account(accounts::STORE);
    let directory = paths.service(SERVICE);
    files.directory(&paths.store_data(), Mode::PRIVATE_DIRECTORY, owner)?;
    files.directory(&directory, Mode::PRIVATE_DIRECTORY, owner)?;
    credentials::issue(files, paths, &held.authorities, &circumstances.store(), clock)?;
    let trusted = [("client-ca.crt", AuthorityKind::StoreClient), ("peer-ca.crt", AuthorityKind::StorePeer)];
    for (file, authority) in trusted {
        let certificate = held.authorities.get(authority).certificate_pem();
        files.update(&directory.join(file), certificate.as_bytes(), Mode::SECRET, owner)?;
    }
    let content = serde_json::to_vec_pretty(&configuration(paths, circumstances))?;
    files.update(&directory.join("config.json"), &content, Mode::SECRET, owner)?;
    Ok(())
}

fn configuration(paths: &Paths, circumstances: Circumstances<'_>) -> Value {
    let directory = paths.service(SERVICE);
    let transport = |pair: &str, authority: &str| {
        json!({
            "cert-file": directory.join(pair),
            "key-file": directory.join(pair),
            "client-cert-auth": true,
            "trusted-ca-file": directory.join(authority),
        })
    };
    json!({
        "name": circumstances.identity.name,
        "data-dir": paths.store_data(),
        "listen-client-urls": CLIENT_URL,
        "advertise-client-urls": CLIENT_URL,
        "listen-peer-urls": PEER_URL,
        "initial-advertise-peer-urls": PEER_URL,
        "listen-metrics-urls": METRICS_URL,
        "client-transport-security": transport("server.pem", "client-ca.crt"),
        "peer-transport-security": transport("peer.pem", "peer-ca.crt"),
    })
}
