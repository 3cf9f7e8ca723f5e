//! A node's side of becoming a member.
//!
//! 1. The node's key is made and on STATE before anything is sent, so that a request that is made again is the same node's.
//! 2. Keys for the other identities and their requests are made, and sent with the token to whichever control plane answers
//!    first ([`connection`]).
//! 3. What came back is written: certificates, settings, and last the identity, whose existence says that the rest is whole.
//! 4. The token is removed.
//!
//! A control plane does the same and needs no certificates, since it gets the authorities: they and the encryption key come
//! wrapped to a key of this one request ([`crate::shared_secrets`]), and its own signing key is on STATE before the request
//! that tells its public half. Its store becomes a member in a step of its own ([`crate::place`]), which is taken once all of this is
//! on STATE, so that whoever loses power before has cost the cluster nothing.
//!
//! A power cut between any two of these leads to the same steps again; the cluster knows the node by its key.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use keelson_api::join::control_plane_message;
use keelson_api::token::TokenError;
use keelson_api::{ControlPlaneRequest, ErrorBody, ErrorCode, JoinRequest, Joined, Token, paths};
use keelson_config::{Kept as _, KeptError, NodeConfig, Role};
use keelson_pki::{Files, FilesError, Fingerprint, Key, Mode, Owner};

use crate::admission::{role_of, token_role};
use crate::identity::{ClusterId, Identity, NodeUid};
use crate::membership::{self, Membership, MembershipError};
use crate::paths::Paths;
use crate::secrets::{SecretsError, SigningKey};
use crate::shared_secrets::{Recipient, SharedSecrets, SharedSecretsError, WrappingKey};
use crate::trust::{Trust, TrustError};
use crate::worker::{self, WorkerError};

pub mod connection;
pub mod renewal;

use connection::{Planes, PlanesError};

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("a token was given, and its file is gone")]
    NoToken,
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the join token is for the role {token}, the node is a {own}")]
    Role { token: Role, own: Role },
    #[error("the join token is bound to the name {bound}, the node is {own}")]
    Name { bound: String, own: String },
    #[error("the join token names the authority {0:?}, which is no fingerprint")]
    Fingerprint(String),
    #[error("the cluster does not take this node: {}", .0.message)]
    Refused(ErrorBody),
    #[error("no control plane answers")]
    Planes(#[from] PlanesError),
    #[error("the control plane's authority is not the one of the token")]
    Authority,
    #[error("the control plane gave none of the cluster's secrets")]
    NoSecrets,
    #[error(transparent)]
    SharedSecrets(#[from] SharedSecretsError),
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    #[error("clearing what a former store left")]
    Store(#[source] std::io::Error),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("the identity on STATE")]
    Identity(#[from] KeptError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error("the work was interrupted")]
    Interrupted,
}

impl JoinError {
    /// Whether trying again soon may help: nobody answered, or the one who did could not decide.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Planes(_) | Self::Files(_) | Self::Store(_) | Self::Interrupted => true,
            Self::Refused(body) => {
                matches!(body.code, ErrorCode::Unavailable | ErrorCode::Timeout | ErrorCode::TooManyRequests)
            }
            _ => false,
        }
    }
}

/// Joins with the token that was given.
pub async fn join(
    files: &Arc<dyn Files>,
    paths: &Paths,
    config: &NodeConfig,
    name: &str,
    addresses: &[IpAddr],
) -> Result<Membership, JoinError> {
    let content = files.read(&paths.token())?.ok_or(JoinError::NoToken)?;
    let line = String::from_utf8_lossy(&content).into_owned();
    let token = Token::parse(&line)?;
    check(&token, config.role, name)?;
    let pin = Fingerprint::from_hexadecimal(&token.claims.fingerprint)
        .ok_or_else(|| JoinError::Fingerprint(token.claims.fingerprint.clone()))?;
    let hardware = files.read(&paths.hardware()).ok().flatten();
    let node_key = worker::make_key(&**files, paths)?;
    let keys = worker::make_keys(&node_key)?;
    let asking = match config.role {
        Role::ControlPlane => Some(Asking::prepare(&**files, paths, &node_key, &pin, name)?),
        Role::Worker => None,
    };
    let request = JoinRequest {
        token: line,
        name: name.to_owned(),
        role: token_role(config.role),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        hardware: hardware.map(|uuid| String::from_utf8_lossy(&uuid).trim().to_owned()),
        requests: worker::requests(&keys)?,
        control_plane: asking.as_ref().map(|asking| asking.request.clone()),
    };
    let planes = Planes::new(token.claims.endpoints.clone(), vec![pin]);
    let joined: Joined =
        planes.ask(Method::POST, paths::JOIN, Some(&request), None).await?.map_err(JoinError::Refused)?;
    if !Trust::from_bundle(&joined.settings.trust)?.fingerprints().contains(&pin) {
        return Err(JoinError::Authority);
    }
    let name = name.to_owned();
    let identity = Identity {
        node_uid: NodeUid::from_record(&joined.node_uid),
        cluster_id: ClusterId::from_record(&joined.cluster_id),
        role: config.role,
        name: name.clone(),
    };
    let (files, paths) = (Arc::clone(files), paths.clone());
    let write = move || -> Result<Membership, JoinError> {
        match asking {
            Some(asking) => asking.save(&*files, &paths, &joined, &name)?,
            None => worker::save_pairs(&*files, &paths, &worker::certified(keys, joined.certificates)?)?,
        }
        worker::save_settings(&*files, &paths, &joined.settings)?;
        files.write(&paths.identity(), &identity.to_file()?, Mode::PRIVATE, Owner::ROOT)?;
        files.remove(&paths.token())?;
        Ok(membership::take_up(&*files, &paths, identity)?)
    };
    tokio::task::spawn_blocking(write).await.map_err(|_| JoinError::Interrupted)?
}

/// What a control plane asks for besides.
#[derive(Debug)]
struct Asking {
    request: ControlPlaneRequest,
    key: WrappingKey,
}

impl Asking {
    fn prepare(
        files: &dyn Files,
        paths: &Paths,
        node_key: &Key,
        pin: &Fingerprint,
        name: &str,
    ) -> Result<Self, JoinError> {
        let key = WrappingKey::generate()?;
        let wrapping_key = key.public();
        let signing_key = STANDARD.encode(SigningKey::create(files, &paths.cluster_state())?.public_key()?);
        let message = control_plane_message(&pin.hexadecimal(), name, &wrapping_key, &signing_key);
        let signature = STANDARD.encode(node_key.sign(&message).map_err(WorkerError::Key)?);
        Ok(Self { request: ControlPlaneRequest { wrapping_key, signing_key, signature }, key })
    }

    fn save(&self, files: &dyn Files, paths: &Paths, joined: &Joined, name: &str) -> Result<(), JoinError> {
        let recipient = Recipient { cluster_id: &joined.cluster_id, name, uid: &joined.node_uid };
        let wrapped = joined.secrets.as_ref().ok_or(JoinError::NoSecrets)?;
        SharedSecrets::unwrap(wrapped, &self.key, recipient)?.save(files, paths)?;
        membership::forget_store(paths).map_err(JoinError::Store)
    }
}

/// What can be known without asking anybody.
fn check(token: &Token, own: Role, name: &str) -> Result<(), JoinError> {
    let role = role_of(token.claims.role);
    if role != own {
        return Err(JoinError::Role { token: role, own });
    }
    match &token.claims.name {
        Some(bound) if bound != name => Err(JoinError::Name { bound: bound.clone(), own: name.to_owned() }),
        _ => Ok(()),
    }
}
