//! What a worker does to stay a member: it asks for the cluster's settings, and renews its certificates in time.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use keelson_api::join::renewal_message;
use keelson_api::{Challenge, ErrorBody, ErrorCode, NodeSettings, RenewRequest, Renewed, paths};
use keelson_pki::{Files, Pair};

use super::connection::{Planes, PlanesError};
use crate::discovery;
use crate::identity::Identity;
use crate::node::{Member, Node};
use crate::registry::NodeGenerations;
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
    Planes::new(worker.endpoints(), trust.fingerprints())
}

/// A worker that may need new certificates.
#[derive(Clone, Copy)]
pub(crate) struct Renewal<'a> {
    pub node: &'a Node,
    pub files: &'a Arc<dyn Files>,
    pub worker: &'a Worker,
    pub identity: &'a Identity,
    pub trust: &'a Trust,
    /// Those that the node has now.
    pub addresses: &'a [IpAddr],
}

impl Renewal<'_> {
    /// Gets new certificates for the proof of the node's key, if they are due.
    pub(crate) async fn renew_if_due(self) -> Result<bool, RenewalError> {
        if !self.worker.is_due(self.node.clock(), self.addresses, self.trust) {
            return Ok(false);
        }
        self.renew(self.worker.endpoints()).await?;
        Ok(true)
    }

    /// In dual stack a node has two addresses, and each has to be seen by a control plane: the one that none has seen yet is asked
    /// from, where control planes have addresses of its family.
    pub(crate) async fn verify_if_due(self) -> Result<bool, RenewalError> {
        let Some(unverified) = self.worker.unverified(self.addresses) else { return Ok(false) };
        let same_family = |endpoint: &String| {
            endpoint.parse::<SocketAddr>().is_ok_and(|endpoint| endpoint.is_ipv4() == unverified.is_ipv4())
        };
        let endpoints: Vec<_> = self.worker.endpoints().into_iter().filter(same_family).collect();
        if endpoints.is_empty() {
            return Ok(false);
        }
        self.renew(endpoints).await?;
        Ok(true)
    }

    /// Gets new certificates for the proof of the node's key, from one of these.
    async fn renew(self, endpoints: Vec<String>) -> Result<(), RenewalError> {
        let Self { node, files, worker, identity, trust, addresses } = self;
        // With one family a node is at one address, and control planes of an older release refuse a list.
        let claimed = if worker.is_in_dual_stack() { addresses } else { &[] };
        let planes = Planes::new(endpoints, trust.fingerprints()).asked_from(claimed);
        // Control planes count its attempts apart from those of its pods then.
        let pairs = worker.pairs_now();
        let mut own = pairs.as_ref().map(|pairs| &*pairs.node);
        let mut asked = planes.ask_telling::<(), _>(Method::GET, paths::CHALLENGE, None, own).await;
        if let (Some(_), Err(PlanesError::Broken { .. } | PlanesError::Tls(_))) = (own, &asked) {
            // It has expired there, or the authorities were exchanged while this node was away: the key proves enough.
            own = None;
            asked = planes.ask_telling::<(), _>(Method::GET, paths::CHALLENGE, None, None).await;
        }
        let (endpoint, challenge) = asked?;
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
            addresses: claimed.iter().map(ToString::to_string).collect(),
            requests,
            signature: STANDARD.encode(worker.key.sign(&message).map_err(WorkerError::Key)?),
        };
        let renewed: Renewed =
            planes.ask(Method::POST, paths::NODE_CERTIFICATES, Some(&request), own).await?.map_err(refused)?;
        let pairs = worker::certified(keys, renewed.certificates)?;
        let (files, paths) = (Arc::clone(files), node.paths.clone());
        let (written, settings) = (pairs.clone(), renewed.settings.clone());
        let write = move || {
            worker::save_pairs(&*files, &paths, &written)?;
            worker::save_settings(&*files, &paths, &settings)
        };
        tokio::task::spawn_blocking(write).await.map_err(|_| RenewalError::Interrupted)??;
        follow_trust(node, trust, &renewed.settings)?;
        worker.set_settings(renewed.settings);
        worker.set_pairs(pairs);
        Ok(())
    }
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
        .ask::<(), _>(Method::GET, &question(&pairs.node, trust), None, Some(&pairs.node))
        .await?
        .map_err(refused)?;
    if settings == *worker.settings_now() {
        return Ok(false);
    }
    let (files, paths, written) = (Arc::clone(files), node.paths.clone(), settings.clone());
    let write = move || worker::save_settings(&*files, &paths, &written);
    tokio::task::spawn_blocking(write).await.map_err(|_| RenewalError::Interrupted)??;
    follow_trust(node, trust, &settings)?;
    Ok(worker.set_settings(settings))
}

/// With what this node believes, for those that exchange the authorities.
fn question(own: &Pair, trust: &Trust) -> String {
    let certifier = trust.api.issuer_of(own.certificate()).unwrap_or_else(|| trust.api.certifier());
    format!("{}?{}", paths::NODE_SETTINGS, NodeGenerations::of(certifier, &trust.api).query())
}

/// Whom to believe is read once. What was told is on STATE when this is asked.
fn follow_trust(node: &Node, trust: &Trust, settings: &NodeSettings) -> Result<(), RenewalError> {
    if Trust::from_bundle(&settings.trust).map_err(WorkerError::from)? != *trust {
        report::info("the cluster's authorities are exchanged: this node believes others than before");
        node.begin_anew();
    }
    Ok(())
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
