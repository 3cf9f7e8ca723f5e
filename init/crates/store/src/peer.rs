//! What members say to each other: consensus, forwarded requests, changes of members.
//!
//! # Why a protocol of its own
//!
//! gRPC was the other choice. Members exchange a dozen messages, in two shapes (request and answer), over connections that live as
//! long as both do. HTTP/2 would add header frames, flow control windows and a second layer of buffers to each heartbeat and each append; what
//! it gives in return, many streams on a connection, is here an id in front of each message. Nobody but this program speaks it.
//!
//! # Layout, version 1
//!
//! A connection is TCP or a unix socket, with mutual TLS where the peer URL says `https`. Both sides send frames, integers little endian:
//!
//! ```text
//!  0  u32  length of what follows this field and the next (8 and the body)
//!  4  u32  CRC-32 of it: without TLS nothing else would notice a flipped bit
//!  8  u64  id: an answer carries that of its request
//! 16  ...  body, a protobuf message of `wire`
//! ```
//!
//! The first frame of each side is a hello: protocol version and the oldest one it understands, cluster id, member id, store id, the member id that is
//! meant, and the lane. It holds for all messages of the connection; whoever is not meant, or is of another cluster, refuses and says
//! why. Heartbeats and votes, log, snapshots, and forwarded requests each have a connection, a lane: none waits behind a megabyte of another.
//!
//! Upgrade rule: fields are added to messages, never changed; a message that an old release does not know is sent only to a member whose level, which
//! the membership has ([`crate::member::LEVEL`]), is that of one that does.
//!
//! # Invariants
//!
//! - A member is who it says: its store id must be the one that the membership has, so one that lost its disk cannot vote under its old id; with mutual TLS
//!   its certificate must name a host of its peer URLs, or the member itself (`--peer-cert-names-member`), so no member can speak for another. What
//!   a message says of its sender must be whoever the connection is of.
//! - One that this member does not know may be newer than what this member knows. It may lead this one, or stand for election, while no leader is heard
//!   besides; is answered nothing else but who the members are; and proves who it is as soon as it is known. Whoever was removed is not listened to.
//! - Everything is bounded: frames by a limit that is checked before memory is taken (and before the hello, by a small one), connections by
//!   number, requests under way by lane.
//! - A request whose answer did not come may have been carried out. [`CallError::NotSent`] alone says that it was not.

mod frame;
mod hints;
mod link;
pub mod links;
mod record;
mod response;
pub mod server;
pub mod spool;
pub mod traffic;
mod wire;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls_pki_types::CertificateDer;

use crate::command::Encoded;
use crate::log::{Entry, LogId, Vote};
use crate::member::{Member, MemberId, Membership};
use crate::state::{Hashed, Keys, Response, Row};

pub use self::record::{ChangeError, Failure, Refusal};
use self::traffic::{Counters, Traffic};

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Heartbeats, votes, transfers of leadership: small, and not to wait.
    Control,
    Log,
    Snapshot,
    /// What clients asked of a member that does not lead.
    Forward,
    /// Who are you? From one that is no member yet.
    Join,
}

/// Who speaks on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    pub cluster_id: u64,
    pub member_id: MemberId,
    pub store_id: u64,
}

/// How a connection begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub from: Local,
    /// The member that is meant; 0 on the joining lane.
    pub target: MemberId,
    pub lane: Lane,
}

#[derive(Clone, Debug)]
pub enum Request {
    Append(Append),
    Vote(Ballot),
    PreVote(Ballot),
    Transfer(Transfer),
    SnapshotBegin(SnapshotBegin),
    SnapshotRows(SnapshotRows),
    /// Asks for the snapshot to be installed, then how that goes.
    SnapshotEnd(u64),
    Propose(Encoded),
    ReadIndex,
    Change(Change),
    MoveLeader(MemberId),
    Renew(i64),
    TimeToLive {
        id: i64,
        keys: bool,
    },
    ClusterInfo,
    /// The hash of a range of keys at a revision. Level 1.
    Hash(Keys, i64),
}

#[derive(Clone, Debug)]
pub struct Append {
    pub vote: Vote,
    pub previous: Option<LogId>,
    pub committed: Option<LogId>,
    pub entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ballot {
    pub vote: Vote,
    pub last: Option<LogId>,
    /// Not to be refused for what is owed to the leader: it asked for this itself, or its process is gone. In a pre-vote, the question whether
    /// the latter is so.
    pub leadership_transfer: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    pub from: Vote,
    pub to: MemberId,
    pub last: Option<LogId>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotBegin {
    /// Tells transfers apart.
    pub transfer: u64,
    pub vote: Vote,
    pub last: Option<LogId>,
    pub membership: Membership,
    pub membership_id: Option<LogId>,
    /// Bytes of all rows. An older release does not say.
    pub bytes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotRows {
    pub transfer: u64,
    /// From 0, without a gap.
    pub sequence: u64,
    pub rows: Vec<Row>,
}

/// A change of the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Add {
        peer_urls: Vec<String>,
        learner: bool,
        id: MemberId,
        /// Empty where it is not known before the member says it.
        name: String,
    },
    Remove {
        id: MemberId,
        how: Removal,
    },
    Promote(MemberId),
    Update {
        id: MemberId,
        peer_urls: Vec<String>,
    },
    /// A member tells what only it knows of itself.
    Publish {
        id: MemberId,
        name: String,
        client_urls: Vec<String>,
        store_id: u64,
        level: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// If those that stay have a quorum, and are there.
    Safe,
    /// Says whether that would be done, and does nothing.
    Try,
    /// Together with the voters that do not answer.
    Force,
}

#[derive(Clone, Debug)]
pub enum Answer {
    Appended,
    Conflict,
    HigherVote(Vote),
    Voted {
        vote: Vote,
        granted: bool,
        last: Option<LogId>,
    },
    /// Done, and there is nothing to tell.
    Done,
    Installing,
    Installed {
        vote: Vote,
    },
    Proposed {
        at: LogId,
        response: Response,
    },
    ReadIndex(LogId),
    Cluster(ClusterInfo),
    /// None if there is no such lease.
    Renewed {
        ttl: Option<i64>,
    },
    TimeToLive(Option<TimeToLive>),
    /// None where the revision is not there.
    Hashed(Option<Hashed>),
    Failed(Failure),
    ChangeFailed(ChangeError),
}

/// What a member knows of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterInfo {
    pub cluster_id: u64,
    /// The committed membership, and the entry that holds it.
    pub membership: Membership,
    pub membership_id: Option<LogId>,
    pub leader: Option<MemberId>,
}

/// What a lease has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeToLive {
    pub remaining_seconds: i64,
    pub granted_seconds: i64,
    pub keys: Vec<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The other member has not got the request.
    #[error("member {target} cannot be reached: {reason}")]
    NotSent { target: MemberId, reason: String },
    /// It may have got it.
    #[error("member {target} did not answer: {reason}")]
    Lost { target: MemberId, reason: &'static str },
    #[error("member {target} refuses the connection: {refusal}")]
    Refused { target: MemberId, refusal: Refusal },
}

/// How requests get to other members.
pub trait Transport: Debug + Send + Sync + 'static {
    fn call(
        &self,
        target: MemberId,
        lane: Lane,
        request: Request,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Answer, CallError>>;

    /// Whether the machine of a member says that nobody listens there: its process is gone. Silence says nothing.
    fn is_gone(&self, _member: MemberId, _timeout: Duration) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }

    /// Learns where members are. One that is not among them is no longer spoken to.
    fn set_members(&self, members: Vec<(MemberId, Member)>);

    /// The data directory that a member had when it was spoken to first, if it was.
    fn store_of(&self, _member: MemberId) -> Option<u64> {
        None
    }

    /// What is exchanged with the others, if it is counted.
    fn traffic(&self) -> Option<&Traffic> {
        None
    }
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A member's, who has proven it.
    Member,
    /// Of somebody whom this member does not know: before each request it is asked again.
    Stranger,
}

/// Who answers requests of other members.
pub trait Handler: Send + Sync + 'static {
    fn local(&self) -> Local;

    /// Whether a connection is let in.
    fn admit(&self, hello: &Hello, certificate: Option<&CertificateDer<'_>>) -> Result<Standing, Refusal>;

    fn handle(self: Arc<Self>, from: MemberId, request: Request) -> BoxFuture<'static, Answer>;

    /// A member's connection for what must not wait has ended.
    fn hung_up(&self, from: MemberId);

    /// Where what is exchanged with a member is counted, if it is.
    fn counters(&self, _from: MemberId) -> Option<Arc<Counters>> {
        None
    }
}

/// For a member that has no others.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeers;

impl Transport for NoPeers {
    fn call(
        &self,
        target: MemberId,
        _lane: Lane,
        _request: Request,
        _timeout: Duration,
    ) -> BoxFuture<'_, Result<Answer, CallError>> {
        Box::pin(async move { Err(CallError::NotSent { target, reason: "this member runs alone".to_owned() }) })
    }

    fn set_members(&self, _members: Vec<(MemberId, Member)>) {}
}
