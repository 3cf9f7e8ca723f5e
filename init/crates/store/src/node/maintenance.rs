//! What an operator asks of a member's own disk.

use std::sync::Arc;

use super::{Node, checkpoints};
use crate::checkpoint::CheckpointError;
use crate::state::Replicated;

#[derive(Debug, thiserror::Error)]
pub enum MaintenanceError {
    #[error("server stopped")]
    Stopped,
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl<S: Replicated> Node<S> {
    /// Makes a checkpoint of what is applied now, so that what was deleted is gone from the file too and the bytes in use are true.
    pub async fn checkpoint(&self) -> Result<(), MaintenanceError> {
        checkpoints::make(&self.raft, &self.space).await.ok_or(MaintenanceError::Stopped)
    }

    /// Gives the checkpoint's free space back to the disk.
    pub async fn defragment(&self) -> Result<(), MaintenanceError> {
        self.checkpoint().await?;
        let done = self.space.checkpoint().defragment(Arc::clone(self.space.disk()));
        Ok(done.await.map_err(|_| MaintenanceError::Stopped)??)
    }
}
