//! The members of the store, as the store itself knows them: Raft's membership is the only record of who takes part in it.
//!
//! A member's name in the store is the UID of its node, so that records and members are matched without a second list.

use keelson_config::Role;

use super::View;

/// One of the store's members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreMember {
    pub id: u64,
    /// The UID of its node.
    pub name: String,
    pub peer_urls: Vec<String>,
    pub votes: bool,
}

/// What can be asked of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    /// It learns first, and votes by itself once it has caught up and the number of voters stays odd.
    Add {
        name: String,
        peer_url: String,
    },
    Update {
        id: u64,
        peer_url: String,
    },
    Promote {
        id: u64,
    },
    Remove {
        id: u64,
        how: Removal,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    Safe,
    /// Says whether it could be done.
    Try,
    /// Together with voters that do not answer.
    Force,
}

/// Why the store does not change its members. The texts of the others are the store's own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    #[error("too few of the members that stay have begun to serve")]
    NotEnoughStarted,
    #[error("too few of the members that stay answer")]
    Unhealthy,
    #[error("the store has no such member")]
    NotFound,
    #[error("the store has that member already")]
    Exists,
    #[error("the member has not caught up yet")]
    NotReady,
    #[error("the store refuses it: {0}")]
    Refused(String),
}

impl MemberError {
    /// etcd tells its reasons by text only.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let reason = text.strip_prefix("etcdserver: ")?;
        Some(match reason {
            "re-configuration failed due to not enough started members" => Self::NotEnoughStarted,
            "unhealthy cluster" => Self::Unhealthy,
            "member not found" => Self::NotFound,
            "member ID already exist" | "Peer URLs already exists" => Self::Exists,
            "can only promote a learner member which is in sync with leader" => Self::NotReady,
            "request timed out" | "no leader" | "server stopped" => return None,
            other => Self::Refused(other.to_owned()),
        })
    }
}

/// Those that have to go: their nodes were removed.
pub fn removed<'a>(members: &'a [StoreMember], view: &View) -> Vec<&'a StoreMember> {
    members.iter().filter(|member| view.removed.contains_key(&member.name)).collect()
}

/// Control planes by the UID of their node.
pub fn node_of<'a>(view: &'a View, uid: &str) -> Option<&'a str> {
    let mut planes = view.nodes.values().filter(|node| node.role == Role::ControlPlane);
    planes.find(|node| node.uid == uid).map(|node| node.name.as_str())
}
