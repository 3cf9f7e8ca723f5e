//! Linearizable reads: one round with the quorum for all who wait.
//!
//! A read may only join a round that starts after the read arrived, or it could miss a write that was acknowledged in between. So
//! those who arrive while a round is under way wait for the next.

use std::sync::{Arc, Mutex, PoisonError};

use openraft::ReadPolicy;
use openraft::errors::RaftError;
use tokio::sync::{Notify, oneshot};

use crate::raft::Raft;
use crate::state::Replicated;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("no leader")]
    NoLeader,
    #[error("request timed out")]
    Timeout,
    #[error("server stopped")]
    Stopped,
}

type Waiting = oneshot::Sender<Result<(), ReadError>>;

#[derive(Debug, Default)]
pub(super) struct Rounds {
    waiting: Mutex<Vec<Waiting>>,
    arrived: Notify,
}

impl Rounds {
    /// Waits for the next round to end.
    pub(super) async fn join(&self) -> Result<(), ReadError> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        self.arrived.notify_one();
        receiver.await.unwrap_or(Err(ReadError::Stopped))
    }

    /// Holds rounds for ever.
    pub(super) async fn run<S: Replicated>(self: Arc<Self>, raft: Raft<S>) {
        loop {
            self.arrived.notified().await;
            let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            if waiting.is_empty() {
                continue;
            }
            let result = match raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
                Ok(_) => Ok(()),
                Err(RaftError::APIError(_)) => Err(ReadError::NoLeader),
                Err(RaftError::Fatal(_)) => Err(ReadError::Stopped),
            };
            for reader in waiting {
                // A reader that gave up is not there any more.
                _ = reader.send(result);
            }
        }
    }
}
