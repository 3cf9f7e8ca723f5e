//! Why a member says no, with the numbers under which that is sent.

use crate::member::MemberId;
use crate::node::{ProposeError, ReadError};

/// Why a connection is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it is of another cluster")]
    Cluster,
    #[error("it is another member than the one that was meant")]
    Target,
    #[error(
        "this member has another data directory than the one it was known by: what it promised before is lost, and it must join as a new member"
    )]
    Reborn,
    #[error("the certificate names none of the hosts of this member's peer URLs")]
    Certificate,
    #[error("it speaks another version of the protocol")]
    Version,
    #[error("it does not know this kind of connection")]
    Lane,
}

impl Refusal {
    pub(super) fn code(self) -> u32 {
        match self {
            Self::Cluster => 1,
            Self::Target => 2,
            Self::Reborn => 3,
            Self::Certificate => 4,
            Self::Version => 5,
            Self::Lane => 6,
        }
    }

    /// A reason that this release does not know is at least a no.
    pub(super) fn from_code(code: u32) -> Self {
        match code {
            1 => Self::Cluster,
            2 => Self::Target,
            3 => Self::Reborn,
            4 => Self::Certificate,
            6 => Self::Lane,
            _ => Self::Version,
        }
    }
}

/// Why a forwarded request got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nothing was done. The leader, as far as it is known.
    #[error("this member does not lead")]
    NotLeader(Option<MemberId>),
    /// Something may have been done.
    #[error("timed out")]
    Timeout,
    #[error("database space exceeded")]
    NoSpace,
    #[error("request is too large")]
    TooLarge,
    #[error("too many requests")]
    TooManyRequests,
    #[error("stopped")]
    Stopped,
    #[error("the request was not understood")]
    NotUnderstood,
    #[error("bad leader transferee")]
    BadTransferee,
    #[error("the transfer of leadership timed out")]
    TransferTimeout,
    #[error("the snapshot was refused")]
    Snapshot,
}

impl Failure {
    pub(super) fn code(self) -> (u32, u64) {
        match self {
            Self::NotLeader(leader) => (1, leader.map_or(0, |id| id.0)),
            Self::Timeout => (2, 0),
            Self::NoSpace => (3, 0),
            Self::TooLarge => (4, 0),
            Self::TooManyRequests => (5, 0),
            Self::Stopped => (6, 0),
            Self::NotUnderstood => (7, 0),
            Self::BadTransferee => (8, 0),
            Self::TransferTimeout => (9, 0),
            Self::Snapshot => (10, 0),
        }
    }

    /// One that this release does not know may have done something.
    pub(super) fn from_code(code: u32, member: u64) -> Self {
        match code {
            1 => Self::NotLeader((member != 0).then_some(MemberId(member))),
            3 => Self::NoSpace,
            4 => Self::TooLarge,
            5 => Self::TooManyRequests,
            6 => Self::Stopped,
            7 => Self::NotUnderstood,
            8 => Self::BadTransferee,
            9 => Self::TransferTimeout,
            10 => Self::Snapshot,
            _ => Self::Timeout,
        }
    }
}

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Timeout => Self::Timeout,
            ProposeError::NoLeader => Self::NotLeader(None),
            ProposeError::NoSpace => Self::NoSpace,
            ProposeError::TooLarge => Self::TooLarge,
            ProposeError::TooManyRequests => Self::TooManyRequests,
            ProposeError::Stopped => Self::Stopped,
        }
    }
}

impl From<Failure> for ProposeError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotLeader(_) => Self::NoLeader,
            Failure::NoSpace => Self::NoSpace,
            Failure::TooLarge | Failure::NotUnderstood => Self::TooLarge,
            Failure::TooManyRequests => Self::TooManyRequests,
            Failure::Stopped
            | Failure::Timeout
            | Failure::BadTransferee
            | Failure::TransferTimeout
            | Failure::Snapshot => Self::Timeout,
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NoLeader => Self::NotLeader(None),
            ReadError::Timeout => Self::Timeout,
            ReadError::Stopped => Self::Stopped,
        }
    }
}

/// Why the members were not changed, as etcd knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("member not found")]
    NotFound,
    #[error("member id already exists")]
    Exists,
    #[error("peer URLs already exist")]
    PeerUrlsExist,
    #[error("the member is no learner")]
    NotLearner,
    #[error("the learner is not in sync with the leader")]
    LearnerNotReady,
    #[error("too many learners")]
    TooManyLearners,
    #[error("not enough started members")]
    NotEnoughStarted,
    #[error("the cluster is not healthy")]
    Unhealthy,
    /// It may still take effect.
    #[error("request timed out")]
    Timeout,
    #[error("no leader")]
    NoLeader,
    #[error("stopped")]
    Stopped,
}

impl ChangeError {
    const ALL: [(u32, Self); 11] = [
        (1, Self::NotFound),
        (2, Self::Exists),
        (3, Self::PeerUrlsExist),
        (4, Self::NotLearner),
        (5, Self::LearnerNotReady),
        (6, Self::TooManyLearners),
        (7, Self::NotEnoughStarted),
        (8, Self::Unhealthy),
        (9, Self::Timeout),
        (10, Self::NoLeader),
        (11, Self::Stopped),
    ];

    pub(super) fn code(self) -> u32 {
        Self::ALL.iter().find(|(_, error)| *error == self).map_or(0, |(code, _)| *code)
    }

    pub(super) fn from_code(code: u32) -> Self {
        Self::ALL.iter().find(|(number, _)| *number == code).map_or(Self::Timeout, |(_, error)| *error)
    }
}
