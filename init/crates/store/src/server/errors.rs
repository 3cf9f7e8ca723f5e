//! Errors as clients of etcd know them: they match on the code and on the exact text.

use tonic::{Code, Status};

use crate::node::{ProposeError, ReadError};
use crate::peer::{ChangeError, Failure};
use crate::state::Rejection;

/// What a request is refused with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    #[error("etcdserver: key not found")]
    KeyNotFound,
    #[error("etcdserver: value is provided")]
    ValueProvided,
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    #[error("etcdserver: invalid sort option")]
    InvalidSortOption,
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    #[error("etcdserver: watch canceled")]
    WatchCanceled,
    #[error("etcdserver: given member URLs are invalid")]
    MemberBadUrls,
    #[error("etcdserver: member not found")]
    MemberNotFound,
    #[error("etcdserver: can only promote a learner member")]
    MemberNotLearner,
    #[error("etcdserver: member ID already exist")]
    MemberExist,
    #[error("etcdserver: Peer URLs already exists")]
    PeerUrlExist,
    #[error("etcdserver: re-configuration failed due to not enough started members")]
    MemberNotEnoughStarted,
    #[error("etcdserver: can only promote a learner member which is in sync with leader")]
    LearnerNotReady,
    #[error("etcdserver: too many learner members in cluster")]
    TooManyLearners,
    #[error("etcdserver: unhealthy cluster")]
    Unhealthy,
    #[error("etcdserver: request timed out, leader transfer took too long")]
    TimeoutLeaderTransfer,
    #[error("etcdserver: request is too large")]
    RequestTooLarge,
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    #[error("etcdserver: no leader")]
    NoLeader,
    #[error("etcdserver: not leader")]
    NotLeader,
    #[error("etcdserver: server stopped")]
    Stopped,
    #[error("etcdserver: request timed out")]
    Timeout,
    /// In etcd a write waits for a leader until its own time is over, and is answered with Go's words for that.
    #[error("context deadline exceeded")]
    DeadlineExceeded,
    #[error("etcdserver: corrupt cluster")]
    Corrupt,
    #[error("etcdserver: bad leader transferee")]
    BadLeaderTransferee,
    #[error("etcdserver: wrong downgrade target version format")]
    WrongDowngradeVersionFormat,
    #[error("etcdserver: invalid downgrade target version")]
    InvalidDowngradeTargetVersion,
    #[error("etcdserver: root user does not exist")]
    RootUserNotExist,
    #[error("etcdserver: user name is empty")]
    UserEmpty,
    #[error("etcdserver: role name is empty")]
    RoleEmpty,
    #[error("etcdserver: user name not found")]
    UserNotFound,
    #[error("etcdserver: role name not found")]
    RoleNotFound,
    #[error("etcdserver: authentication is not enabled")]
    AuthNotEnabled,
    #[error("etcdserver: permission denied")]
    PermissionDenied,
}

impl Error {
    pub fn code(self) -> Code {
        match self {
            Self::EmptyKey
            | Self::KeyNotFound
            | Self::ValueProvided
            | Self::LeaseProvided
            | Self::TooManyOps
            | Self::DuplicateKey
            | Self::InvalidSortOption
            | Self::MemberBadUrls
            | Self::RequestTooLarge
            | Self::UserEmpty
            | Self::RoleEmpty
            | Self::WrongDowngradeVersionFormat
            | Self::InvalidDowngradeTargetVersion => Code::InvalidArgument,
            Self::Compacted | Self::FutureRevision | Self::LeaseTtlTooLarge => Code::OutOfRange,
            Self::NoSpace | Self::TooManyRequests => Code::ResourceExhausted,
            Self::LeaseNotFound | Self::MemberNotFound => Code::NotFound,
            Self::LeaseExists
            | Self::MemberNotLearner
            | Self::MemberExist
            | Self::PeerUrlExist
            | Self::MemberNotEnoughStarted
            | Self::LearnerNotReady
            | Self::TooManyLearners
            | Self::NotLeader
            | Self::BadLeaderTransferee
            | Self::RootUserNotExist
            | Self::UserNotFound
            | Self::RoleNotFound
            | Self::AuthNotEnabled => Code::FailedPrecondition,
            Self::WatchCanceled => Code::Cancelled,
            Self::NoLeader | Self::Stopped | Self::Timeout | Self::Unhealthy | Self::TimeoutLeaderTransfer => {
                Code::Unavailable
            }
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::Corrupt => Code::DataLoss,
            Self::PermissionDenied => Code::PermissionDenied,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<Rejection> for Error {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::Compacted => Self::Compacted,
            Rejection::FutureRevision => Self::FutureRevision,
            Rejection::NoSpace => Self::NoSpace,
            Rejection::LeaseNotFound => Self::LeaseNotFound,
            Rejection::LeaseExists => Self::LeaseExists,
            Rejection::KeyNotFound => Self::KeyNotFound,
            Rejection::Corrupt => Self::Corrupt,
        }
    }
}

impl From<ProposeError> for Error {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Timeout => Self::Timeout,
            ProposeError::NoLeader => Self::DeadlineExceeded,
            ProposeError::NoSpace => Self::NoSpace,
            ProposeError::TooLarge => Self::RequestTooLarge,
            ProposeError::TooManyRequests => Self::TooManyRequests,
            ProposeError::Stopped => Self::Stopped,
        }
    }
}

impl From<ChangeError> for Error {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::NotFound => Self::MemberNotFound,
            ChangeError::Exists => Self::MemberExist,
            ChangeError::PeerUrlsExist => Self::PeerUrlExist,
            ChangeError::NotLearner => Self::MemberNotLearner,
            ChangeError::LearnerNotReady => Self::LearnerNotReady,
            ChangeError::TooManyLearners => Self::TooManyLearners,
            ChangeError::NotEnoughStarted => Self::MemberNotEnoughStarted,
            ChangeError::Unhealthy => Self::Unhealthy,
            ChangeError::Timeout => Self::Timeout,
            ChangeError::NoLeader => Self::NoLeader,
            ChangeError::Stopped => Self::Stopped,
        }
    }
}

/// Of a transfer of leadership.
impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotLeader(_) => Self::NotLeader,
            Failure::BadTransferee => Self::BadLeaderTransferee,
            Failure::Stopped => Self::Stopped,
            _ => Self::TimeoutLeaderTransfer,
        }
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NoLeader => Self::NoLeader,
            ReadError::Timeout => Self::Timeout,
            ReadError::Stopped => Self::Stopped,
        }
    }
}
