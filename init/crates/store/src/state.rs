//! The seam between consensus and the replicated state.
//!
//! Below it (log, checkpoint, raft) nothing knows what a key is; above it (mvcc, lease, watch, server) nothing knows where
//! an entry came from. Consensus hands committed commands to [`Replicated::apply`] in log order, in batches, from one task;
//! readers use the same handle at the same time under whatever locking the state has inside.
//!
//! Invariants:
//! - `apply` is deterministic and total: no clock, no randomness, no order of a hash map, no error. What a client got wrong
//!   is a [`Response`], the same on each member.
//! - the state after `load` of a checkpoint and `apply` of the entries behind it equals the state that never stopped.
//! - `take_delta` returns exactly what changed since the last `take_delta` (or `load`), so that checkpoint after checkpoint the
//!   database holds the whole state. It only moves memory about and never waits for a disk.

use std::sync::Arc;

use bytes::Bytes;
use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::server;

use crate::command::Command;
use crate::member::MemberId;
use crate::peer::BoxFuture;

mod apply;
mod hash;
mod key_space;
#[cfg(test)]
mod mutation;
mod pins;
mod snapshot;
mod store;

pub use self::key_space::{KeySpace, Revisions};
pub use self::pins::Pin;
pub use self::snapshot::Snapshot;
pub use self::store::State;

/// A committed command with its place in the log.
#[derive(Clone, Debug)]
pub struct Committed {
    pub index: u64,
    pub term: u64,
    pub command: Arc<Command>,
}

/// State that consensus replicates: a handle, whose clones see the same state.
pub trait Replicated: Clone + Send + Sync + 'static {
    /// Applies a batch in order and answers each of its commands, in the same order.
    fn apply(&self, batch: &[Committed]) -> Vec<Response>;

    /// What changed since the last call. Called between two `apply`.
    fn take_delta(&self) -> Delta;

    /// Replaces the state by that of a checkpoint: all rows, by table and key ascending. Called before the first `apply`, and when a
    /// snapshot of another member is installed. An error means that the rows are not what `take_delta` ever gave.
    fn load(&self, rows: &mut dyn Iterator<Item = Result<Row, LoadError>>) -> Result<(), LoadError>;

    /// Bytes of what a checkpoint holds that everybody's quota is not about.
    fn exempt_bytes(&self) -> u64 {
        0
    }

    /// Whether the alarm says that a member has no space. Where there are no alarms, none says so.
    fn tells_no_space(&self, _member: MemberId) -> bool {
        false
    }

    /// A hash of a range of keys at a revision, 0 for the newest, by which members are compared. None where there is no such revision, not yet or no
    /// more.
    fn hash(&self, _keys: Keys, _revision: i64) -> BoxFuture<'_, Option<Hashed>> {
        Box::pin(std::future::ready(None))
    }
}

/// A state's hash. Two of the same revision that were compacted to the same one can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashed {
    pub revision: i64,
    pub compact_revision: i64,
    pub hash: u32,
}

/// Which table of the checkpoint a row belongs to. The number is on disk and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Key: revision, big endian, main then sub (so that rows are appended); value: the key-value or tombstone at that revision.
    Revisions = 1,
    /// Key: lease id, big endian.
    Leases = 2,
    /// Few and small: current revision, compacted revision, alarms. Key: a name.
    Meta = 3,
    /// The same three of the cluster's own keys.
    ClusterRevisions = 4,
    ClusterLeases = 5,
    ClusterMeta = 6,
}

impl Table {
    pub const ALL: [Self; 6] =
        [Self::Revisions, Self::Leases, Self::Meta, Self::ClusterRevisions, Self::ClusterLeases, Self::ClusterMeta];

    /// Whose it is.
    pub fn keys(self) -> Keys {
        match self {
            Self::Revisions | Self::Leases | Self::Meta => Keys::Public,
            Self::ClusterRevisions | Self::ClusterLeases | Self::ClusterMeta => Keys::Cluster,
        }
    }
}

/// A range of keys with revisions of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Keys {
    /// What etcd's API shows, and Kubernetes uses.
    #[default]
    Public,
    /// The cluster's own ([`crate::cluster_keys`]).
    Cluster,
}

/// Where a range of keys is in a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    pub revisions: Table,
    pub leases: Table,
    pub meta: Table,
}

impl Keys {
    pub const ALL: [Self; 2] = [Self::Public, Self::Cluster];

    pub fn tables(self) -> Tables {
        match self {
            Self::Public => Tables { revisions: Table::Revisions, leases: Table::Leases, meta: Table::Meta },
            Self::Cluster => {
                Tables { revisions: Table::ClusterRevisions, leases: Table::ClusterLeases, meta: Table::ClusterMeta }
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub table: Table,
    pub key: Bytes,
    pub value: Bytes,
}

/// Rows to write and rows to remove; a key is in one of the two lists only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// By table and key ascending: appending is what makes a checkpoint cheap.
    pub puts: Vec<Row>,
    /// By table and key ascending. Removing a row that is not there is no error.
    pub deletes: Vec<(Table, Bytes)>,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the checkpoint's row {key:?} of table {table:?} cannot be decoded: {reason}")]
    Row { table: Table, key: Bytes, reason: String },
    #[error("the checkpoint cannot be read")]
    Read(#[source] std::io::Error),
    #[error("the state was compacted while its rows were read")]
    Compacted,
}

/// What applying an entry answers to the client that proposed it. Headers are filled in by the server.
#[derive(Clone, Debug)]
pub enum Response {
    /// The entry held no command: a new leader's blank entry or a change of members.
    Empty,
    Put(server::PutResponse),
    DeleteRange(server::DeleteRangeResponse),
    Txn(server::TxnResponse),
    Compact(pb::CompactionResponse),
    LeaseGrant(pb::LeaseGrantResponse),
    LeaseRevoke(pb::LeaseRevokeResponse),
    LeaseCheckpoint(pb::LeaseCheckpointResponse),
    Alarm(pb::AlarmResponse),
    /// The command was refused when it was applied, with etcd's error.
    Rejected(Rejection),
}

/// Errors that etcd decides on when it applies a command (the texts and codes to clients are the server's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    Compacted,
    FutureRevision,
    NoSpace,
    LeaseNotFound,
    LeaseExists,
    KeyNotFound,
    /// The corruption alarm is raised.
    Corrupt,
}
