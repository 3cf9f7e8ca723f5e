//! The messages as they are sent. Their numbers are never used again.

mod answer;

use bytes::Bytes;
use prost::{DecodeError, Message, Oneof};

pub(super) use self::answer::AnswerRecord;
use super::{
    Append, Ballot, Change, Hello, Lane, Local, Refusal, Removal, Request, SnapshotBegin, SnapshotRows, Transfer,
};
use crate::command::Encoded;
use crate::log::{Entry, LogId, Payload, Vote};
use crate::member::{MemberId, Membership};
use crate::state::{Keys, Row, Table};

pub(super) const PROTOCOL_VERSION: u32 = 1;
pub(super) const OLDEST_PROTOCOL: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("a message cannot be decoded")]
    Decode(#[from] DecodeError),
    #[error("a message lacks a part, or has one that this release does not know")]
    Unknown,
    #[error("a log entry's command cannot be decoded")]
    Command(#[from] crate::command::DecodeError),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct HelloRecord {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(uint32, tag = "2")]
    pub oldest: u32,
    #[prost(fixed64, tag = "3")]
    pub cluster: u64,
    #[prost(fixed64, tag = "4")]
    pub member: u64,
    #[prost(fixed64, tag = "5")]
    pub store: u64,
    #[prost(fixed64, tag = "6")]
    pub target: u64,
    #[prost(uint32, tag = "7")]
    pub lane: u32,
    /// In an answer: why not, 0 for welcome.
    #[prost(uint32, tag = "8")]
    pub refusal: u32,
}

const LANES: [(u32, Lane); 5] =
    [(1, Lane::Control), (2, Lane::Log), (3, Lane::Snapshot), (4, Lane::Forward), (5, Lane::Join)];

impl HelloRecord {
    pub(super) fn new(hello: &Hello) -> Self {
        Self {
            version: PROTOCOL_VERSION,
            oldest: OLDEST_PROTOCOL,
            cluster: hello.from.cluster_id,
            member: hello.from.member_id.0,
            store: hello.from.store_id,
            target: hello.target.0,
            lane: LANES.iter().find(|(_, lane)| *lane == hello.lane).map_or(0, |(number, _)| *number),
            refusal: 0,
        }
    }

    pub(super) fn hello(&self) -> Result<Hello, Refusal> {
        if self.oldest > PROTOCOL_VERSION || self.version < OLDEST_PROTOCOL {
            return Err(Refusal::Version);
        }
        let lane = LANES.iter().find(|(number, _)| *number == self.lane).ok_or(Refusal::Lane)?.1;
        Ok(Hello { from: self.local(), target: MemberId(self.target), lane })
    }

    pub(super) fn local(&self) -> Local {
        Local { cluster_id: self.cluster, member_id: MemberId(self.member), store_id: self.store }
    }
}

#[derive(Clone, Copy, PartialEq, Message)]
struct LogIdRecord {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
}

impl From<LogId> for LogIdRecord {
    fn from(LogId { term, index }: LogId) -> Self {
        Self { term, index }
    }
}

impl From<LogIdRecord> for LogId {
    fn from(LogIdRecord { term, index }: LogIdRecord) -> Self {
        Self { term, index }
    }
}

#[derive(Clone, Copy, PartialEq, Message)]
struct VoteRecord {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(fixed64, tag = "2")]
    member: u64,
    #[prost(bool, tag = "3")]
    committed: bool,
}

impl From<Vote> for VoteRecord {
    fn from(vote: Vote) -> Self {
        Self { term: vote.term, member: vote.member.0, committed: vote.committed }
    }
}

fn vote(record: Option<VoteRecord>) -> Result<Vote, WireError> {
    let VoteRecord { term, member, committed } = record.ok_or(WireError::Unknown)?;
    Ok(Vote { term, member: MemberId(member), committed })
}

#[derive(Clone, PartialEq, Message)]
struct EntryRecord {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
    /// 0 blank, 1 command, 2 membership.
    #[prost(uint32, tag = "3")]
    kind: u32,
    #[prost(bytes = "bytes", tag = "4")]
    payload: Bytes,
}

impl From<Entry> for EntryRecord {
    fn from(entry: Entry) -> Self {
        let (kind, payload) = match entry.payload {
            Payload::Blank => (0, Bytes::new()),
            Payload::Command(command) => (1, command.bytes().clone()),
            Payload::Membership(membership) => (2, membership.encode().into()),
        };
        Self { term: entry.id.term, index: entry.id.index, kind, payload }
    }
}

impl EntryRecord {
    fn entry(self) -> Result<Entry, WireError> {
        let payload = match self.kind {
            0 => Payload::Blank,
            // Its own bytes: a slice would keep the whole frame in memory for as long as a key of it lives.
            1 => Payload::Command(Encoded::from_bytes(Bytes::copy_from_slice(&self.payload))?),
            2 => Payload::Membership(Membership::decode(self.payload)?.into()),
            _ => return Err(WireError::Unknown),
        };
        Ok(Entry { id: LogId { term: self.term, index: self.index }, payload })
    }
}

#[derive(Clone, PartialEq, Message)]
struct AppendRecord {
    #[prost(message, optional, tag = "1")]
    vote: Option<VoteRecord>,
    #[prost(message, optional, tag = "2")]
    previous: Option<LogIdRecord>,
    #[prost(message, optional, tag = "3")]
    committed: Option<LogIdRecord>,
    #[prost(message, repeated, tag = "4")]
    entries: Vec<EntryRecord>,
}

/// A ballot and its answer, a transfer of leadership, the end of a snapshot.
#[derive(Clone, Copy, PartialEq, Message)]
struct BallotRecord {
    #[prost(message, optional, tag = "1")]
    vote: Option<VoteRecord>,
    #[prost(message, optional, tag = "2")]
    last: Option<LogIdRecord>,
    /// Asked for by the leader; in an answer: granted.
    #[prost(bool, tag = "3")]
    flag: bool,
    #[prost(fixed64, tag = "4")]
    to: u64,
}

impl BallotRecord {
    fn new(vote: Vote, last: Option<LogId>, flag: bool) -> Self {
        Self { vote: Some(vote.into()), last: last.map(Into::into), flag, to: 0 }
    }

    fn ballot(self) -> Result<Ballot, WireError> {
        Ok(Ballot { vote: vote(self.vote)?, last: self.last.map(Into::into), leadership_transfer: self.flag })
    }
}

#[derive(Clone, PartialEq, Message)]
struct SnapshotBeginRecord {
    #[prost(fixed64, tag = "1")]
    transfer: u64,
    #[prost(message, optional, tag = "2")]
    vote: Option<VoteRecord>,
    #[prost(message, optional, tag = "3")]
    last: Option<LogIdRecord>,
    #[prost(bytes = "bytes", tag = "4")]
    membership: Bytes,
    #[prost(message, optional, tag = "5")]
    membership_id: Option<LogIdRecord>,
    #[prost(uint64, optional, tag = "6")]
    bytes: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct RowRecord {
    #[prost(uint32, tag = "1")]
    table: u32,
    #[prost(bytes = "bytes", tag = "2")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct SnapshotRowsRecord {
    #[prost(fixed64, tag = "1")]
    transfer: u64,
    #[prost(uint64, tag = "2")]
    sequence: u64,
    #[prost(message, repeated, tag = "3")]
    rows: Vec<RowRecord>,
}

/// Rows as they are sent, which is also how a snapshot is spooled.
pub(super) fn encode_rows(rows: Vec<Row>) -> Vec<u8> {
    SnapshotRowsRecord { transfer: 0, sequence: 0, rows: row_records(rows) }.encode_to_vec()
}

pub(super) fn decode_rows(bytes: Bytes) -> Result<Vec<Row>, WireError> {
    SnapshotRowsRecord::decode(bytes)?.rows()
}

fn row_records(rows: Vec<Row>) -> Vec<RowRecord> {
    rows.into_iter().map(|Row { table, key, value }| RowRecord { table: table as u32, key, value }).collect()
}

impl SnapshotRowsRecord {
    fn rows(self) -> Result<Vec<Row>, WireError> {
        let row = |RowRecord { table, key, value }: RowRecord| {
            let table = Table::ALL.into_iter().find(|known| *known as u32 == table).ok_or(WireError::Unknown)?;
            Ok(Row { table, key, value })
        };
        self.rows.into_iter().map(row).collect()
    }
}

#[derive(Clone, PartialEq, Message)]
struct ChangeRecord {
    /// 1 add, 2 remove, 3 promote, 4 update, 5 publish.
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(fixed64, tag = "2")]
    id: u64,
    #[prost(string, repeated, tag = "3")]
    urls: Vec<String>,
    #[prost(bool, tag = "4")]
    learner: bool,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(fixed64, tag = "6")]
    store: u64,
    /// Of a removal: 1 try, 2 force.
    #[prost(uint32, tag = "7")]
    how: u32,
    /// Of what is published.
    #[prost(uint32, tag = "8")]
    level: u32,
}

impl From<Change> for ChangeRecord {
    fn from(change: Change) -> Self {
        let record = |kind, id: MemberId| Self { kind, id: id.0, ..Self::default() };
        match change {
            Change::Add { peer_urls, learner, id, name } => Self { urls: peer_urls, learner, name, ..record(1, id) },
            Change::Remove { id, how } => {
                let how = match how {
                    Removal::Safe => 0,
                    Removal::Try => 1,
                    Removal::Force => 2,
                };
                Self { how, ..record(2, id) }
            }
            Change::Promote(id) => record(3, id),
            Change::Update { id, peer_urls } => Self { urls: peer_urls, ..record(4, id) },
            Change::Publish { id, name, client_urls, store_id, level } => {
                Self { urls: client_urls, name, store: store_id, level, ..record(5, id) }
            }
        }
    }
}

impl ChangeRecord {
    fn change(self) -> Result<Change, WireError> {
        let id = MemberId(self.id);
        Ok(match self.kind {
            1 => Change::Add { peer_urls: self.urls, learner: self.learner, id, name: self.name },
            2 => {
                let how = match self.how {
                    0 => Removal::Safe,
                    1 => Removal::Try,
                    2 => Removal::Force,
                    _ => return Err(WireError::Unknown),
                };
                Change::Remove { id, how }
            }
            3 => Change::Promote(id),
            4 => Change::Update { id, peer_urls: self.urls },
            5 => {
                let Self { name, urls: client_urls, store: store_id, level, .. } = self;
                Change::Publish { id, name, client_urls, store_id, level }
            }
            _ => return Err(WireError::Unknown),
        })
    }
}

#[derive(Clone, Copy, PartialEq, Message)]
struct LeaseRecord {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(bool, tag = "2")]
    keys: bool,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RequestRecord {
    #[prost(oneof = "RequestBody", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16")]
    body: Option<RequestBody>,
}

#[derive(Clone, PartialEq, Oneof)]
enum RequestBody {
    #[prost(message, tag = "1")]
    Append(AppendRecord),
    #[prost(message, tag = "2")]
    Vote(BallotRecord),
    #[prost(message, tag = "3")]
    PreVote(BallotRecord),
    #[prost(message, tag = "4")]
    Transfer(BallotRecord),
    #[prost(message, tag = "5")]
    SnapshotBegin(SnapshotBeginRecord),
    #[prost(message, tag = "6")]
    SnapshotRows(SnapshotRowsRecord),
    #[prost(fixed64, tag = "7")]
    SnapshotEnd(u64),
    #[prost(bytes = "bytes", tag = "8")]
    Propose(Bytes),
    #[prost(message, tag = "9")]
    ReadIndex(Nothing),
    #[prost(message, tag = "10")]
    Change(ChangeRecord),
    #[prost(fixed64, tag = "11")]
    MoveLeader(u64),
    #[prost(int64, tag = "12")]
    Renew(i64),
    #[prost(message, tag = "13")]
    TimeToLive(LeaseRecord),
    #[prost(message, tag = "14")]
    ClusterInfo(Nothing),
    #[prost(int64, tag = "15")]
    Hash(i64),
    #[prost(int64, tag = "16")]
    ClusterHash(i64),
}

impl From<Request> for RequestRecord {
    fn from(request: Request) -> Self {
        let body = match request {
            Request::Append(append) => RequestBody::Append(AppendRecord {
                vote: Some(append.vote.into()),
                previous: append.previous.map(Into::into),
                committed: append.committed.map(Into::into),
                entries: append.entries.into_iter().map(Into::into).collect(),
            }),
            Request::Vote(Ballot { vote, last, leadership_transfer }) => {
                RequestBody::Vote(BallotRecord::new(vote, last, leadership_transfer))
            }
            Request::PreVote(Ballot { vote, last, leadership_transfer }) => {
                RequestBody::PreVote(BallotRecord::new(vote, last, leadership_transfer))
            }
            Request::Transfer(Transfer { from, to, last }) => {
                RequestBody::Transfer(BallotRecord { to: to.0, ..BallotRecord::new(from, last, true) })
            }
            Request::SnapshotBegin(begin) => RequestBody::SnapshotBegin(SnapshotBeginRecord {
                transfer: begin.transfer,
                vote: Some(begin.vote.into()),
                last: begin.last.map(Into::into),
                membership: begin.membership.encode().into(),
                membership_id: begin.membership_id.map(Into::into),
                bytes: begin.bytes,
            }),
            Request::SnapshotRows(SnapshotRows { transfer, sequence, rows }) => {
                RequestBody::SnapshotRows(SnapshotRowsRecord { transfer, sequence, rows: row_records(rows) })
            }
            Request::SnapshotEnd(transfer) => RequestBody::SnapshotEnd(transfer),
            Request::Propose(command) => RequestBody::Propose(command.bytes().clone()),
            Request::ReadIndex => RequestBody::ReadIndex(Nothing {}),
            Request::Change(change) => RequestBody::Change(change.into()),
            Request::MoveLeader(id) => RequestBody::MoveLeader(id.0),
            Request::Renew(id) => RequestBody::Renew(id),
            Request::TimeToLive { id, keys } => RequestBody::TimeToLive(LeaseRecord { id, keys }),
            Request::ClusterInfo => RequestBody::ClusterInfo(Nothing {}),
            Request::Hash(Keys::Public, revision) => RequestBody::Hash(revision),
            Request::Hash(Keys::Cluster, revision) => RequestBody::ClusterHash(revision),
        };
        Self { body: Some(body) }
    }
}

impl RequestRecord {
    pub(super) fn request(self) -> Result<Request, WireError> {
        Ok(match self.body.ok_or(WireError::Unknown)? {
            RequestBody::Append(append) => Request::Append(Append {
                vote: vote(append.vote)?,
                previous: append.previous.map(Into::into),
                committed: append.committed.map(Into::into),
                entries: append.entries.into_iter().map(EntryRecord::entry).collect::<Result<_, _>>()?,
            }),
            RequestBody::Vote(ballot) => Request::Vote(ballot.ballot()?),
            RequestBody::PreVote(ballot) => Request::PreVote(ballot.ballot()?),
            RequestBody::Transfer(transfer) => Request::Transfer(Transfer {
                from: vote(transfer.vote)?,
                to: MemberId(transfer.to),
                last: transfer.last.map(Into::into),
            }),
            RequestBody::SnapshotBegin(begin) => Request::SnapshotBegin(SnapshotBegin {
                transfer: begin.transfer,
                vote: vote(begin.vote)?,
                last: begin.last.map(Into::into),
                membership: Membership::decode(begin.membership)?,
                membership_id: begin.membership_id.map(Into::into),
                bytes: begin.bytes,
            }),
            RequestBody::SnapshotRows(rows) => Request::SnapshotRows(SnapshotRows {
                transfer: rows.transfer,
                sequence: rows.sequence,
                rows: rows.rows()?,
            }),
            RequestBody::SnapshotEnd(transfer) => Request::SnapshotEnd(transfer),
            RequestBody::Propose(command) => Request::Propose(Encoded::from_bytes(Bytes::copy_from_slice(&command))?),
            RequestBody::ReadIndex(_) => Request::ReadIndex,
            RequestBody::Change(change) => Request::Change(change.change()?),
            RequestBody::MoveLeader(id) => Request::MoveLeader(MemberId(id)),
            RequestBody::Renew(id) => Request::Renew(id),
            RequestBody::TimeToLive(LeaseRecord { id, keys }) => Request::TimeToLive { id, keys },
            RequestBody::ClusterInfo(_) => Request::ClusterInfo,
            RequestBody::Hash(revision) => Request::Hash(Keys::Public, revision),
            RequestBody::ClusterHash(revision) => Request::Hash(Keys::Cluster, revision),
        })
    }
}
