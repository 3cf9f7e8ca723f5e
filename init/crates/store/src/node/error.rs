//! Why a node does not start, and why it takes no write.

use std::io;

use crate::checkpoint::CheckpointError;
use crate::identity::IdentityError;
use crate::log::OpenError;
use crate::state::LoadError;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("open the log")]
    Log(#[source] OpenError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("load the state from the checkpoint")]
    Load(#[from] LoadError),
    #[error(
        "this data directory was in use and its log is gone: what this member promised to others is lost. Remove it from the cluster, \
         empty its data directory and let it join as a new member"
    )]
    LogLost,
    #[error(
        "the checkpoint ends at entry {checkpoint}, and the log begins after {purged}: entries between them are lost. Remove this member from \
         the cluster, empty its data directory and let it join as a new member"
    )]
    Hole { checkpoint: u64, purged: u64 },
    #[error(
        "the log ends at entry {log}, and the checkpoint has entry {checkpoint}, which could not be committed before it was durable here: the end of \
         the log is lost, and what this member promised to others with it. Restore a snapshot, or make a cluster of what is left with \
         keelson-store recover"
    )]
    EndLost { log: u64, checkpoint: u64 },
    #[error("consensus settings")]
    Config(#[source] openraft::ConfigError),
    #[error("start consensus: {0}")]
    Raft(String),
    #[error("tidy the data directory up")]
    Disk(#[source] io::Error),
    #[error("set up threads")]
    Thread(#[source] io::Error),
    #[error("consensus stopped before this member served")]
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It may still take effect: never try again without looking.
    #[error("request timed out")]
    Timeout,
    #[error("no leader")]
    NoLeader,
    #[error("database space exceeded")]
    NoSpace,
    #[error("request is too large")]
    TooLarge,
    #[error("too many requests")]
    TooManyRequests,
    #[error("server stopped")]
    Stopped,
}
