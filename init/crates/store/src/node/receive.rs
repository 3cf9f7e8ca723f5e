//! A snapshot that the leader sends.
//!
//! Pieces are spooled; the last one starts the installation, which is asked after until it is done, so that it may take as long as it
//! has to without a time limit that fits no size. One for which there is no room is refused before it comes: a disk that fills up in the middle of
//! it would end this member, after each start anew.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::{Snapshot, SnapshotMeta};
use tokio::task::JoinHandle;

use super::Node;
use crate::log::Vote;
use crate::peer::spool::Spool;
use crate::peer::{Answer, Failure, SnapshotBegin, SnapshotRows};
use crate::raft::machine;
use crate::raft::{TypeConfig, from_log_id, from_stored, from_vote, to_vote};
use crate::state::Replicated;

/// How long a question after the installation may wait for its end.
const INSTALL_POLL: Duration = Duration::from_secs(1);

/// One transfer at a time: a new one takes the place of the old.
#[derive(Debug)]
pub(super) struct Receiving {
    begin: SnapshotBegin,
    next: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Rows(Spool),
    Installing(JoinHandle<Result<Vote, Failure>>),
    Installed(Vote),
}

impl<S: Replicated> Node<S> {
    pub(super) async fn begin_snapshot(&self, begin: SnapshotBegin) -> Answer {
        self.hear_leader();
        let mut receiving = self.receiving.lock().await;
        // An installation that is under way is not interrupted; consensus refuses what is older.
        *receiving = None;
        if begin.bytes.is_some_and(|bytes| !self.space.has_room_for_rows(bytes)) {
            return Answer::Failed(Failure::NoSpace);
        }
        tracing::info!(index = begin.last.map_or(0, |id| id.index), "receiving a snapshot");
        match Spool::create(Arc::clone(&self.disk), begin.transfer) {
            Ok(spool) => {
                *receiving = Some(Receiving { begin, next: 0, stage: Stage::Rows(spool) });
                Answer::Done
            }
            Err(error) => refused(&error),
        }
    }

    pub(super) async fn receive_rows(&self, rows: SnapshotRows) -> Answer {
        self.hear_leader();
        let mut slot = self.receiving.lock().await;
        // Writing blocks, and so is done elsewhere; if this call is given up meanwhile, or the piece is not the next, the transfer is.
        let Some(Receiving { begin, next, stage: Stage::Rows(mut spool) }) = slot.take() else {
            return Answer::Failed(Failure::Snapshot);
        };
        if begin.transfer != rows.transfer || next != rows.sequence {
            return Answer::Failed(Failure::Snapshot);
        }
        let written = crate::blocking::run(move || spool.push(rows.rows).map(|()| spool)).await;
        match written.and_then(|result| result) {
            Ok(spool) => {
                *slot = Some(Receiving { begin, next: next + 1, stage: Stage::Rows(spool) });
                Answer::Done
            }
            Err(error) => refused(&error),
        }
    }

    pub(super) async fn end_snapshot(self: &Arc<Self>, transfer: u64) -> Answer {
        self.hear_leader();
        let mut slot = self.receiving.lock().await;
        let Some(receiving) = slot.take().filter(|receiving| receiving.begin.transfer == transfer) else {
            return Answer::Failed(Failure::Snapshot);
        };
        let Receiving { begin, next, stage } = receiving;
        let mut task = match stage {
            Stage::Rows(spool) => crate::blocking::spawn(install(Arc::clone(self), begin.clone(), spool)),
            Stage::Installing(task) => task,
            Stage::Installed(vote) => {
                *slot = Some(Receiving { begin, next, stage: Stage::Installed(vote) });
                return Answer::Installed { vote };
            }
        };
        let (stage, answer) = match tokio::time::timeout(INSTALL_POLL, &mut task).await {
            Err(_) => (Stage::Installing(task), Answer::Installing),
            Ok(Ok(Ok(vote))) => (Stage::Installed(vote), Answer::Installed { vote }),
            Ok(Ok(Err(failure))) => return Answer::Failed(failure),
            Ok(Err(_)) => return Answer::Failed(Failure::Snapshot),
        };
        *slot = Some(Receiving { begin, next, stage });
        answer
    }
}

fn refused(error: &io::Error) -> Answer {
    tracing::error!(%error, "a snapshot cannot be received");
    let is_full = error.kind() == io::ErrorKind::StorageFull;
    Answer::Failed(if is_full { Failure::NoSpace } else { Failure::Snapshot })
}

async fn install<S: Replicated>(node: Arc<Node<S>>, begin: SnapshotBegin, spool: Spool) -> Result<Vote, Failure> {
    let last_membership = from_stored(begin.membership_id, &begin.membership).map_err(|_| Failure::NotUnderstood)?;
    let meta = SnapshotMeta { last_log_id: begin.last.map(from_log_id), last_membership };
    let snapshot = Snapshot { meta, snapshot: machine::SnapshotRows::Received(spool) };
    let raft: &crate::raft::Raft<S> = &node.raft;
    let installed = raft.install_full_snapshot(from_vote(begin.vote), snapshot).await;
    let installed: openraft::raft::SnapshotResponse<TypeConfig> = installed.map_err(|_| Failure::Stopped)?;
    tracing::info!(index = begin.last.map_or(0, |id| id.index), "installed a snapshot");
    Ok(to_vote(&installed.vote))
}
