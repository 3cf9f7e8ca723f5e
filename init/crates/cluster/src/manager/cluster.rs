//! How the node comes to its cluster: taken up from STATE, founded, or joined.

use std::sync::Arc;
use std::time::Duration;

use keelson_pki::Files;

use super::{RETRY_PAUSE, show};
use crate::founding::{self, FoundingError};
use crate::join::{self, JoinError};
use crate::membership::{self, Decision, Membership, MembershipError};
use crate::node::Node;
use crate::report;
use crate::status::ConditionKind;

/// After a refusal that no other try mends, in case the cluster's mind is changed.
const REFUSED_PAUSE: Duration = Duration::from_mins(1);

#[derive(Debug, thiserror::Error)]
enum FindError {
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Founding(#[from] FoundingError),
    #[error("the work was interrupted")]
    Interrupted,
}

impl FindError {
    /// Whether somebody has to change something before another try can end otherwise.
    fn is_final(&self) -> bool {
        match self {
            Self::Join(error) => !error.may_pass(),
            Self::Founding(error) => !error.may_pass(),
            Self::Membership(_) | Self::Interrupted => false,
        }
    }
}

enum Found {
    Member(Box<Membership>),
    /// There is nothing to try: the configuration must say more.
    Waiting(String),
}

/// Returns once the node has a cluster. A node that has none stays here, and says why.
pub(super) async fn find(node: &Arc<Node>, files: &Arc<dyn Files>) -> Membership {
    loop {
        let (reason, pause) = match try_to_find(node, files).await {
            Ok(Found::Member(membership)) => return *membership,
            Ok(Found::Waiting(reason)) => (reason, None),
            Err(error) => (report::chain(&error), Some(if error.is_final() { REFUSED_PAUSE } else { RETRY_PAUSE })),
        };
        if node.status.fails(ConditionKind::Member, reason.as_str()) {
            report::info(&reason);
            show(node, files, &format!("no cluster: {reason}\n")).await;
        }
        match pause {
            Some(pause) => tokio::time::sleep(pause).await,
            None => std::future::pending::<()>().await,
        }
    }
}

async fn try_to_find(node: &Arc<Node>, files: &Arc<dyn Files>) -> Result<Found, FindError> {
    let (shared, own_files) = (Arc::clone(node), Arc::clone(files));
    let decide = move || membership::decide(&*own_files, &shared.paths, &shared.config, shared.name(), shared.clock());
    match tokio::task::spawn_blocking(decide).await.map_err(|_| FindError::Interrupted)?? {
        Decision::Member(membership) => Ok(Found::Member(membership)),
        Decision::Waiting(reason) => {
            node.set_alone();
            Ok(Found::Waiting(reason))
        }
        Decision::Ask(peers) => {
            node.set_alone();
            node.status.fails(ConditionKind::Member, "asking the peers whether they have a cluster");
            founding::ask(node, &peers).await?;
            let (shared, own_files) = (Arc::clone(node), Arc::clone(files));
            let found = move || membership::found(&*own_files, &shared.paths, shared.name(), shared.clock());
            let founded = tokio::task::spawn_blocking(found).await.map_err(|_| FindError::Interrupted)??;
            Ok(Found::Member(Box::new(founded)))
        }
        Decision::Join => {
            let mut network = node.network();
            if node.addresses().is_empty() {
                node.status.fails(ConditionKind::Member, "waiting for an address of the node to join with");
                // The sender is a field of the node.
                let _ = network.wait_for(|state| !state.node_addresses.is_empty()).await;
            }
            node.status.fails(ConditionKind::Member, "joining the cluster of the token");
            let addresses = node.addresses();
            let joined = join::join(files, &node.paths, &node.config, node.name(), &addresses).await?;
            Ok(Found::Member(Box::new(joined)))
        }
    }
}
