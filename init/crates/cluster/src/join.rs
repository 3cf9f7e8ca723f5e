//! A worker's side of becoming a member.
//!
//! 1. The node's key is made and on STATE before anything is sent, so that a request that is made again is the same node's.
//! 2. Keys for the other identities and their requests are made, and sent with the token to whichever control plane answers
//!    first ([`connection`]).
//! 3. What came back is written: certificates, settings, and last the identity, whose existence says that the rest is whole.
//! 4. The token is removed.
//!
//! A power cut between any two of these leads to the same steps again; the cluster knows the node by its key.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::Method;
use keelson_api::token::TokenError;
use keelson_api::{ErrorBody, ErrorCode, JoinRequest, Joined, Token, paths};
use keelson_config::{NodeConfig, Role};
use keelson_pki::{Files, FilesError, Fingerprint, Mode, Owner};

use crate::admission::{role_of, token_role};
use crate::identity::{ClusterId, Identity, IdentityError, NodeUid};
use crate::membership::{Membership, MembershipError, Standing};
use crate::paths::Paths;
use crate::trust::{Trust, TrustError};
use crate::worker::{self, Holding, WorkerError};

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
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
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
            Self::Planes(_) | Self::Files(_) | Self::Interrupted => true,
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
    let request = JoinRequest {
        token: line,
        name: name.to_owned(),
        role: token_role(config.role),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        hardware: hardware.map(|uuid| String::from_utf8_lossy(&uuid).trim().to_owned()),
        requests: worker::requests(&keys)?,
    };
    let planes = Planes::new(token.claims.endpoints.clone(), pin);
    let joined: Joined =
        planes.ask(Method::POST, paths::JOIN, Some(&request), None).await?.map_err(JoinError::Refused)?;
    if Trust::from_bundle(&joined.settings.trust)?.fingerprint() != pin {
        return Err(JoinError::Authority);
    }
    let pairs = worker::certified(keys, joined.certificates)?;
    let identity = Identity {
        node_uid: NodeUid::from_record(&joined.node_uid),
        cluster_id: ClusterId::from_record(&joined.cluster_id),
        role: config.role,
        name: name.to_owned(),
    };
    let (files, paths) = (Arc::clone(files), paths.clone());
    let write = move || -> Result<Membership, JoinError> {
        worker::save_pairs(&*files, &paths, &pairs)?;
        worker::save_settings(&*files, &paths, &joined.settings)?;
        files.write(&paths.identity(), &identity.to_file()?, Mode::PRIVATE, Owner::ROOT)?;
        files.remove(&paths.token())?;
        let holding = Holding::read(&*files, &paths)?;
        Ok(Membership { identity, trust: holding.trust.clone(), standing: Standing::Worker(Box::new(holding)) })
    };
    tokio::task::spawn_blocking(write).await.map_err(|_| JoinError::Interrupted)?
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
