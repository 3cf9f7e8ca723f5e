//! Answers as they are sent.

use bytes::Bytes;
use prost::{Message, Oneof};

use super::{BallotRecord, LogIdRecord, Nothing, VoteRecord, WireError, vote};
use crate::member::{MemberId, Membership};
use crate::peer::{Answer, Ballot, ChangeError, ClusterInfo, Failure, TimeToLive, response};
use crate::state::Hashed;

#[derive(Clone, PartialEq, Message)]
struct ProposedRecord {
    #[prost(message, optional, tag = "1")]
    at: Option<LogIdRecord>,
    #[prost(uint32, tag = "2")]
    kind: u32,
    #[prost(bytes = "bytes", tag = "3")]
    body: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct ClusterRecord {
    #[prost(fixed64, tag = "1")]
    cluster: u64,
    #[prost(bytes = "bytes", tag = "2")]
    membership: Bytes,
    #[prost(message, optional, tag = "3")]
    membership_id: Option<LogIdRecord>,
    #[prost(fixed64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, Message)]
struct TimeToLiveRecord {
    #[prost(bool, tag = "1")]
    exists: bool,
    #[prost(int64, tag = "2")]
    remaining: i64,
    #[prost(int64, tag = "3")]
    granted: i64,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    keys: Vec<Bytes>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct HashRecord {
    #[prost(bool, tag = "1")]
    exists: bool,
    #[prost(int64, tag = "2")]
    revision: i64,
    #[prost(int64, tag = "3")]
    compacted: i64,
    #[prost(fixed32, tag = "4")]
    hash: u32,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct FailureRecord {
    #[prost(uint32, tag = "1")]
    code: u32,
    #[prost(fixed64, tag = "2")]
    member: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::peer) struct AnswerRecord {
    #[prost(oneof = "AnswerBody", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15")]
    body: Option<AnswerBody>,
}

#[derive(Clone, PartialEq, Oneof)]
enum AnswerBody {
    #[prost(message, tag = "1")]
    Appended(Nothing),
    #[prost(message, tag = "2")]
    Conflict(Nothing),
    #[prost(message, tag = "3")]
    HigherVote(VoteRecord),
    #[prost(message, tag = "4")]
    Voted(BallotRecord),
    #[prost(message, tag = "5")]
    Done(Nothing),
    #[prost(message, tag = "6")]
    Installing(Nothing),
    #[prost(message, tag = "7")]
    Installed(VoteRecord),
    #[prost(message, tag = "8")]
    Proposed(ProposedRecord),
    #[prost(message, tag = "9")]
    ReadIndex(LogIdRecord),
    #[prost(message, tag = "10")]
    Cluster(ClusterRecord),
    /// -1 if there is no such lease.
    #[prost(sint64, tag = "11")]
    Renewed(i64),
    #[prost(message, tag = "12")]
    TimeToLive(TimeToLiveRecord),
    #[prost(message, tag = "13")]
    Failed(FailureRecord),
    #[prost(uint32, tag = "14")]
    ChangeFailed(u32),
    #[prost(message, tag = "15")]
    Hashed(HashRecord),
}

impl From<Answer> for AnswerRecord {
    fn from(answer: Answer) -> Self {
        let body = match answer {
            Answer::Appended => AnswerBody::Appended(Nothing {}),
            Answer::Conflict => AnswerBody::Conflict(Nothing {}),
            Answer::HigherVote(vote) => AnswerBody::HigherVote(vote.into()),
            Answer::Voted { vote, granted, last } => AnswerBody::Voted(BallotRecord::new(vote, last, granted)),
            Answer::Done => AnswerBody::Done(Nothing {}),
            Answer::Installing => AnswerBody::Installing(Nothing {}),
            Answer::Installed { vote } => AnswerBody::Installed(vote.into()),
            Answer::Proposed { at, response } => {
                let (kind, body) = response::encode(&response);
                AnswerBody::Proposed(ProposedRecord { at: Some(at.into()), kind, body })
            }
            Answer::ReadIndex(id) => AnswerBody::ReadIndex(id.into()),
            Answer::Cluster(info) => AnswerBody::Cluster(ClusterRecord {
                cluster: info.cluster_id,
                membership: info.membership.encode().into(),
                membership_id: info.membership_id.map(Into::into),
                leader: info.leader.map_or(0, |id| id.0),
            }),
            Answer::Renewed { ttl } => AnswerBody::Renewed(ttl.unwrap_or(-1)),
            Answer::TimeToLive(lease) => AnswerBody::TimeToLive(match lease {
                None => TimeToLiveRecord::default(),
                Some(TimeToLive { remaining_seconds: remaining, granted_seconds: granted, keys }) => {
                    TimeToLiveRecord { exists: true, remaining, granted, keys }
                }
            }),
            Answer::Hashed(hashed) => AnswerBody::Hashed(match hashed {
                None => HashRecord::default(),
                Some(Hashed { revision, compact_revision: compacted, hash }) => {
                    HashRecord { exists: true, revision, compacted, hash }
                }
            }),
            Answer::Failed(failure) => {
                let (code, member) = failure.code();
                AnswerBody::Failed(FailureRecord { code, member })
            }
            Answer::ChangeFailed(error) => AnswerBody::ChangeFailed(error.code()),
        };
        Self { body: Some(body) }
    }
}

impl AnswerRecord {
    pub(in crate::peer) fn answer(self) -> Result<Answer, WireError> {
        Ok(match self.body.ok_or(WireError::Unknown)? {
            AnswerBody::Appended(_) => Answer::Appended,
            AnswerBody::Conflict(_) => Answer::Conflict,
            AnswerBody::HigherVote(higher) => Answer::HigherVote(vote(Some(higher))?),
            AnswerBody::Voted(ballot) => {
                let Ballot { vote, last, leadership_transfer: granted } = ballot.ballot()?;
                Answer::Voted { vote, granted, last }
            }
            AnswerBody::Done(_) => Answer::Done,
            AnswerBody::Installing(_) => Answer::Installing,
            AnswerBody::Installed(own) => Answer::Installed { vote: vote(Some(own))? },
            AnswerBody::Proposed(proposed) => Answer::Proposed {
                at: proposed.at.ok_or(WireError::Unknown)?.into(),
                response: response::decode(proposed.kind, proposed.body)?.ok_or(WireError::Unknown)?,
            },
            AnswerBody::ReadIndex(id) => Answer::ReadIndex(id.into()),
            AnswerBody::Cluster(info) => Answer::Cluster(ClusterInfo {
                cluster_id: info.cluster,
                membership: Membership::decode(info.membership)?,
                membership_id: info.membership_id.map(Into::into),
                leader: (info.leader != 0).then_some(MemberId(info.leader)),
            }),
            AnswerBody::Renewed(ttl) => Answer::Renewed { ttl: (ttl >= 0).then_some(ttl) },
            AnswerBody::TimeToLive(lease) => Answer::TimeToLive(lease.exists.then_some(TimeToLive {
                remaining_seconds: lease.remaining,
                granted_seconds: lease.granted,
                keys: lease.keys,
            })),
            AnswerBody::Hashed(HashRecord { exists, revision, compacted: compact_revision, hash }) => {
                Answer::Hashed(exists.then_some(Hashed { revision, compact_revision, hash }))
            }
            AnswerBody::Failed(failure) => Answer::Failed(Failure::from_code(failure.code, failure.member)),
            AnswerBody::ChangeFailed(code) => Answer::ChangeFailed(ChangeError::from_code(code)),
        })
    }
}
