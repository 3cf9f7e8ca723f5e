//! Whether this node has a cluster, founds one, or waits.
//!
//! A cluster is founded when it is asked for (`keelson.bootstrap`), STATE holds no cluster, and the peers are declared to
//! be none. That is one-shot: once STATE holds an identity, `keelson.bootstrap` means nothing. Everything else is a state
//! that one can see, not an error: the node runs, its console and its status say what is missing.
//!
//! A worker and another control plane join with a token ([`crate::join`]); what they were given then is on their STATE and is
//! taken up at each boot.
//!
//! Founding writes the authorities and secrets first and the identity last, so a power cut leaves either no cluster (and what
//! was made is taken up again) or a whole one. A node that was removed forgets in an order that a cut may interrupt as well
//! ([`forget`]).

use std::sync::Arc;

use keelson_api::NodeSettings;
use keelson_config::{Kept as _, KeptError, NodeConfig, Peers, Role};
use keelson_pki::{Clock, Files, FilesError, Mode, Owner};

use crate::authorities::{Authorities, AuthoritiesError};
use crate::identity::{ClusterId, Identity, NodeUid};
use crate::paths::Paths;
use crate::secrets::{Secrets, SecretsError};
use crate::trust::Trust;
use crate::worker::{self, Holding, WorkerError};

#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    #[error("the identity on STATE")]
    Identity(#[from] KeptError),
    #[error(transparent)]
    Authorities(#[from] AuthoritiesError),
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(
        "{field} is {configured:?} in the configuration and {on_state:?} on STATE: STATE wins, correct one of them"
    )]
    Contradiction { field: &'static str, configured: String, on_state: String },
}

/// A node's place in its cluster.
#[derive(Debug)]
pub struct Membership {
    pub identity: Identity,
    pub trust: Trust,
    pub standing: Standing,
}

#[derive(Debug)]
pub enum Standing {
    ControlPlane(Arc<ControlPlane>),
    Worker(Box<Holding>),
}

/// What a control plane holds, and nobody else.
#[derive(Debug)]
pub struct ControlPlane {
    pub authorities: Authorities,
    pub secrets: Secrets,
    /// What the cluster told one that joined; the founder's configuration is the cluster's.
    pub settings: Option<NodeSettings>,
}

impl Membership {
    pub fn control_plane(&self) -> Option<&Arc<ControlPlane>> {
        match &self.standing {
            Standing::ControlPlane(held) => Some(held),
            Standing::Worker(_) => None,
        }
    }
}

#[derive(Debug)]
pub enum Decision {
    Member(Box<Membership>),
    /// A token was given, and this node is in no cluster yet.
    Join,
    /// This node is to found a cluster unless one of these has one.
    Ask(Vec<String>),
    /// In words for the operator: why this node is in no cluster.
    Waiting(String),
}

/// Takes up the cluster on STATE, or founds one, or says what is missing.
pub fn decide(
    files: &dyn Files,
    paths: &Paths,
    config: &NodeConfig,
    name: &str,
    clock: Clock,
) -> Result<Decision, MembershipError> {
    if files.read(&paths.leaving())?.is_some() {
        forget(files, paths)?;
        // DATA was made anew before this process began.
        files.remove(&paths.leaving())?;
    }
    if let Some(content) = files.read(&paths.identity())? {
        let identity = Identity::from_file(&content)?;
        check(config, &identity)?;
        // A member needs none, and PID 1 writes what it was told at each boot.
        files.remove(&paths.token())?;
        return Ok(Decision::Member(Box::new(take_up(files, paths, identity)?)));
    }
    let token = files.read(&paths.token())?.is_some();
    let left = files.read(&paths.left())?.is_some();
    match obstacle(config) {
        // Who is told to found a cluster does so, whatever else the whole fleet is told; but only once.
        _ if token && (left || !config.bootstrap) => Ok(Decision::Join),
        _ if left && config.bootstrap => Ok(Decision::Waiting(
            "this node was removed from its cluster and founds no other: to join one, give it a token (keelson.token); to found one, \
             erase its disk"
                .to_owned(),
        )),
        Some(reason) => Ok(Decision::Waiting(reason)),
        None => match &config.peers {
            Peers::Named(peers) => Ok(Decision::Ask(peers.clone())),
            _ => Ok(Decision::Member(Box::new(found(files, paths, name, clock)?))),
        },
    }
}

/// Why this node, which has no cluster, does not found one.
fn obstacle(config: &NodeConfig) -> Option<String> {
    let joining = "to join one, make a token with keelctl token create --role control-plane and set keelson.token";
    match (config.role, config.bootstrap, &config.peers) {
        (Role::Worker, _, _) => Some(
            "the node is a worker, belongs to no cluster and has no token; make one with keelctl token create --role worker \
             and set keelson.token"
                .to_owned(),
        ),
        (Role::ControlPlane, false, _) => Some(format!(
            "the node is a control plane, belongs to no cluster and was not told to found one; to found one set \
             keelson.bootstrap and keelson.peers=none; {joining}"
        )),
        (Role::ControlPlane, true, Peers::DeclaredNone | Peers::Named(_)) => None,
        (Role::ControlPlane, true, Peers::Unsaid) => Some(
            "keelson.bootstrap is set but nothing is said of peers: a reinstalled node cannot be told from a new one. \
             If no cluster exists, set keelson.peers=none, or keelson.peers to the other control planes, which are asked"
                .to_owned(),
        ),
    }
}

/// STATE wins over the configuration; a contradiction holds.
fn check(config: &NodeConfig, identity: &Identity) -> Result<(), MembershipError> {
    if config.role != identity.role {
        return Err(MembershipError::Contradiction {
            field: "role",
            configured: config.role.to_string(),
            on_state: identity.role.to_string(),
        });
    }
    if let Some(name) = config.name.as_ref().filter(|name| **name != identity.name) {
        return Err(MembershipError::Contradiction {
            field: "name",
            configured: name.clone(),
            on_state: identity.name.clone(),
        });
    }
    if let Some(id) = config.cluster_id.as_ref().filter(|id| *id != identity.cluster_id.as_str()) {
        return Err(MembershipError::Contradiction {
            field: "cluster id",
            configured: id.clone(),
            on_state: identity.cluster_id.to_string(),
        });
    }
    Ok(())
}

/// What the identity's holder has on STATE.
pub fn take_up(files: &dyn Files, paths: &Paths, identity: Identity) -> Result<Membership, MembershipError> {
    if identity.role == Role::Worker {
        let holding = Holding::read(files, paths)?;
        return Ok(Membership {
            identity,
            trust: holding.trust.clone(),
            standing: Standing::Worker(Box::new(holding)),
        });
    }
    let authorities = Authorities::read(files, &paths.authorities())?;
    let secrets = Secrets::read(files, &paths.cluster_state())?;
    let settings = worker::read_settings(files, paths)?;
    Ok(control_plane(identity, ControlPlane { authorities, secrets, settings }))
}

fn control_plane(identity: Identity, held: ControlPlane) -> Membership {
    let trust = Trust::of(&held.authorities);
    Membership { identity, trust, standing: Standing::ControlPlane(Arc::new(held)) }
}

/// Forgets the cluster: first that the node is a member of it, then everything that it got there. The marker is there from
/// before the first step until the next boot has made DATA anew, so that a cut in between leaves nothing that a later cluster would
/// take up. The store's data is not a file of this process and goes with [`forget_store`].
pub fn forget(files: &dyn Files, paths: &Paths) -> Result<(), FilesError> {
    files.directory(&paths.cluster_state(), Mode::PRIVATE_DIRECTORY, Owner::ROOT)?;
    files.update(&paths.leaving(), b"", Mode::PRIVATE, Owner::ROOT)?;
    files.update(&paths.left(), b"", Mode::PRIVATE, Owner::ROOT)?;
    files.remove(&paths.identity())?;
    Authorities::forget(files, &paths.authorities())?;
    Secrets::forget(files, &paths.cluster_state())?;
    files.remove(&paths.store_members())?;
    files.remove(&paths.operators())?;
    files.remove(&paths.configuration())?;
    worker::forget(files, paths)
}

/// A node without an identity has no claim on what a store left there, and a member that comes anew must not find it.
pub fn forget_store(paths: &Paths) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(paths.store_data()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Founds a cluster; nobody else may have one. A token that the node was given with the rest of its fleet is of no use to it.
pub fn found(files: &dyn Files, paths: &Paths, name: &str, clock: Clock) -> Result<Membership, MembershipError> {
    files.remove(&paths.token())?;
    let identity = Identity {
        node_uid: NodeUid::generate(),
        cluster_id: ClusterId::generate(),
        role: Role::ControlPlane,
        name: name.to_owned(),
    };
    let authorities = Authorities::create(files, &paths.authorities(), &identity.cluster_id, clock)?;
    let secrets = Secrets::create(files, &paths.cluster_state())?;
    files.write(&paths.identity(), &identity.to_file()?, Mode::PRIVATE, Owner::ROOT)?;
    Ok(control_plane(identity, ControlPlane { authorities, secrets, settings: None }))
}

#[cfg(test)]
pub(crate) mod tests;
