//! What a worker does to stay a member: it asks for the cluster's settings, and renews its certificates in time.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use keelson_api::join::renewal_message;
use keelson_api::{Challenge, ErrorBody, ErrorCode, NodeSettings, RenewRequest, Renewed, paths};
use keelson_pki::Files;

use super::connection::{Planes, PlanesError};
use crate::discovery;
use crate::identity::Identity;
use crate::node::{Member, Node};
use crate::report;
use crate::trust::Trust;
use crate::worker::{self, Worker, WorkerError};

/// How soon a worker knows of a control plane that came or went, and that it was removed.
const SETTINGS_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    #[error("no control plane answers")]
    Planes(#[from] PlanesError),
    #[error("the cluster does not answer this node: {}", .0.message)]
    Refused(ErrorBody),
    #[error("this node was removed from the cluster")]
    Removed,
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error("the node has no certificate to ask with")]
    NoCertificate,
    #[error("the work was interrupted")]
    Interrupted,
}

fn refused(body: ErrorBody) -> RenewalError {
    if body.code == ErrorCode::Removed { RenewalError::Removed } else { RenewalError::Refused(body) }
}

fn planes(worker: &Worker, trust: &Trust) -> Planes {
    Planes::new(worker.endpoints(), trust.fingerprint())
}

/// Gets new certificates for the proof of the node's key, if they are due.
pub async fn renew_if_due(
    node: &Node,
    files: &Arc<dyn Files>,
    worker: &Worker,
    identity: &Identity,
    trust: &Trust,
    addresses: &[IpAddr],
) -> Result<bool, RenewalError> {
    if !worker.is_due(node.clock(), addresses) {
        return Ok(false);
    }
    let planes = planes(worker, trust);
    let (endpoint, challenge) = planes.ask_telling::<(), _>(Method::GET, paths::CHALLENGE, None, None).await?;
    let challenge: Challenge = challenge.map_err(refused)?;
    // A nonce is good where it was given.
    let planes = planes.only(endpoint);
    let keys = worker::make_keys(&worker.key)?;
    let requests = worker::requests(&keys)?;
    let fingerprint = trust.fingerprint().hexadecimal();
    let (name, uid) = (identity.name.as_str(), identity.node_uid.as_str());
    let message = renewal_message(&fingerprint, name, uid, &challenge.nonce, &requests);
    let request = RenewRequest {
        name: name.to_owned(),
        node_uid: uid.to_owned(),
        nonce: challenge.nonce,
        requests,
        signature: STANDARD.encode(worker.key.sign(&message).map_err(WorkerError::Key)?),
    };
    let renewed: Renewed =
        planes.ask(Method::POST, paths::NODE_CERTIFICATES, Some(&request), None).await?.map_err(refused)?;
    let pairs = worker::certified(keys, renewed.certificates)?;
    let (files, paths) = (Arc::clone(files), node.paths.clone());
    let (written, settings) = (pairs.clone(), renewed.settings.clone());
    let write = move || {
        worker::save_pairs(&*files, &paths, &written)?;
        worker::save_settings(&*files, &paths, &settings)
    };
    tokio::task::spawn_blocking(write).await.map_err(|_| RenewalError::Interrupted)??;
    worker.set_settings(renewed.settings);
    worker.set_pairs(pairs);
    Ok(true)
}

/// Asks for the settings; says whether they are news.
pub async fn fetch_settings(
    node: &Node,
    files: &Arc<dyn Files>,
    worker: &Worker,
    trust: &Trust,
) -> Result<bool, RenewalError> {
    let pairs = worker.pairs_now().ok_or(RenewalError::NoCertificate)?;
    let settings: NodeSettings = planes(worker, trust)
        .ask::<(), _>(Method::GET, paths::NODE_SETTINGS, None, Some(&pairs.node))
        .await?
        .map_err(refused)?;
    if settings == *worker.settings_now() {
        return Ok(false);
    }
    let (files, paths, written) = (Arc::clone(files), node.paths.clone(), settings.clone());
    let write = move || worker::save_settings(&*files, &paths, &written);
    tokio::task::spawn_blocking(write).await.map_err(|_| RenewalError::Interrupted)??;
    Ok(worker.set_settings(settings))
}

/// No control plane is where the settings say: all may have got other addresses.
async fn look_elsewhere(node: &Node, worker: &Worker, member: &Member) {
    match discovery::search(node, member.trust(), member.identity.node_uid.as_str()).await {
        Ok(found) => {
            let names: Vec<_> = found.iter().map(|plane| plane.name.as_str()).collect();
            if !names.is_empty() {
                report::info(format!("control planes are found at other addresses: {}", names.join(", ")));
            }
            worker.set_found(discovery::endpoints(&found));
        }
        Err(error) => report::info(format!("error: looking for control planes: {error}")),
    }
}

/// Follows the settings until the node was removed.
pub async fn follow_settings(node: Arc<Node>, files: Arc<dyn Files>, member: Arc<Member>) {
    let Some(worker) = member.worker.clone() else { return };
    let mut complaint = report::Complaint::default();
    loop {
        match fetch_settings(&node, &files, &worker, member.trust()).await {
            Ok(_) => complaint.passed(),
            Err(RenewalError::Removed) => return,
            // The last ones stand; the pods go on.
            Err(error) => {
                complaint.of(report::chain(&error));
                if let RenewalError::Planes(PlanesError::Connect(_)) = error {
                    look_elsewhere(&node, &worker, &member).await;
                }
            }
        }
        tokio::time::sleep(SETTINGS_INTERVAL).await;
    }
}
