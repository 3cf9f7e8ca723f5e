//! Room on the disk and under the quota, watched so that writes stop before the disk is full.
//!
//! Running out is not something to react to: consensus stops on a failed write. So at a watermark the commands that grow
//! the store are refused, while the log keeps room for votes, deletions, compactions and a checkpoint; reads go on. As etcd does it, the
//! state is an alarm, which stays until somebody disarms it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use keelson_etcd_api::etcdserverpb as pb;

use tokio::sync::Semaphore;

use super::{BACKLOG_BYTES, Config, Node};
use crate::checkpoint::writer::Writer;
use crate::command::Command;
use crate::disk::Disk;
use crate::log::Log;
use crate::state::Replicated;

/// etcd's default.
pub const DEFAULT_QUOTA_BYTES: u64 = 2 << 30;
/// Two log segments, and a checkpoint of as much as the log holds between two of them.
pub const DEFAULT_RESERVE_BYTES: u64 = 64 << 20;
/// How often free space is looked at: others use the disk too.
const POLL: Duration = Duration::from_millis(500);
/// And after so many bytes of proposals, since a fast disk takes more than the reserve between two polls.
const LOOK_BYTES: u64 = 4 << 20;

/// What the store takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Size of the checkpoint's file.
    pub database_bytes: u64,
    /// Of which keys and values, old revisions included, as of the last checkpoint, and the log since then.
    pub in_use_bytes: u64,
    pub quota_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Space {
    disk: Arc<dyn Disk>,
    checkpoint: Arc<Writer>,
    log: Log,
    /// Its permits are bytes that no proposal has taken.
    backlog: Arc<Semaphore>,
    quota_bytes: u64,
    reserve_bytes: u64,
    exhausted: AtomicBool,
    /// The alarm was raised for the present lack of space.
    alarm_raised: AtomicBool,
    /// Since free space was looked at.
    proposed_bytes: AtomicU64,
    /// Log bytes appended when `checkpoint_bytes` was last seen to change.
    appended_at_checkpoint: AtomicU64,
    checkpoint_bytes: AtomicU64,
}

impl Space {
    pub(super) fn new(
        config: &Config,
        disk: Arc<dyn Disk>,
        checkpoint: Arc<Writer>,
        log: Log,
        backlog: Arc<Semaphore>,
    ) -> Self {
        Self {
            checkpoint_bytes: AtomicU64::new(checkpoint.bytes_in_use()),
            appended_at_checkpoint: AtomicU64::new(log.appended_bytes()),
            disk,
            checkpoint,
            log,
            backlog,
            quota_bytes: config.quota_bytes,
            reserve_bytes: config.reserve_bytes,
            exhausted: AtomicBool::new(false),
            alarm_raised: AtomicBool::new(false),
            proposed_bytes: AtomicU64::new(0),
        }
    }

    pub(super) fn checkpoint(&self) -> &Arc<Writer> {
        &self.checkpoint
    }

    pub(super) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    pub(super) fn exhausted(&self) -> bool {
        self.exhausted.load(Ordering::Relaxed)
    }

    pub(super) fn usage(&self) -> Usage {
        self.measure().0
    }

    /// What is taken, and how many bytes of log there are since the last checkpoint.
    fn measure(&self) -> (Usage, u64) {
        let in_use = self.checkpoint.bytes_in_use();
        if self.checkpoint_bytes.swap(in_use, Ordering::Relaxed) != in_use {
            self.appended_at_checkpoint.store(self.log.appended_bytes(), Ordering::Relaxed);
        }
        let since = self.log.appended_bytes().saturating_sub(self.appended_at_checkpoint.load(Ordering::Relaxed));
        let usage = Usage {
            database_bytes: self.checkpoint.checkpoint().file_bytes(),
            in_use_bytes: in_use + since,
            quota_bytes: self.quota_bytes,
        };
        (usage, since)
    }

    /// Notes a proposal's size, and looks at free space now and then.
    pub(super) fn proposing(&self, bytes: usize) {
        let bytes = bytes as u64;
        if self.proposed_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes >= LOOK_BYTES {
            self.look();
        }
    }

    /// Bytes that what is accepted will still need: in the log what is under way, in the checkpoint that and all since the last one,
    /// there up to twice, since a large value takes a power of two of pages.
    fn pending_bytes(&self, since_checkpoint: u64) -> u64 {
        let under_way = BACKLOG_BYTES.saturating_sub(self.backlog.available_permits()) as u64;
        under_way + 2 * (under_way + since_checkpoint)
    }

    /// Looks again; returns whether there is no space.
    fn look(&self) -> bool {
        self.proposed_bytes.store(0, Ordering::Relaxed);
        let (usage, since) = self.measure();
        let over_quota = usage.quota_bytes > 0 && usage.in_use_bytes >= usage.quota_bytes;
        let full = match self.disk.available() {
            Ok(available) => available < self.reserve_bytes + self.pending_bytes(since),
            Err(error) => {
                tracing::warn!(%error, "free space cannot be told");
                false
            }
        };
        let exhausted = over_quota || full;
        let before = self.exhausted.swap(exhausted, Ordering::Relaxed);
        if exhausted && !before {
            tracing::warn!(
                over_quota,
                full,
                in_use_bytes = usage.in_use_bytes,
                quota_bytes = usage.quota_bytes,
                "no space: writes are refused until something is deleted, compacted and the alarm disarmed"
            );
        }
        exhausted
    }
}

/// Whether a command makes the store larger. What makes it smaller must always pass.
pub(super) fn grows(command: &Command) -> bool {
    match command {
        Command::Put(_) | Command::LeaseGrant(_) => true,
        Command::Txn(txn) => txn.success.iter().chain(&txn.failure).any(operation_grows),
        Command::DeleteRange(_)
        | Command::Compact(_)
        | Command::LeaseRevoke(_)
        | Command::LeaseCheckpoint(_)
        | Command::Alarm(_) => false,
    }
}

fn operation_grows(operation: &pb::RequestOp) -> bool {
    use pb::request_op::Request;
    match &operation.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(txn)) => txn.success.iter().chain(&txn.failure).any(operation_grows),
        Some(Request::RequestRange(_) | Request::RequestDeleteRange(_)) | None => false,
    }
}

/// Watches space as long as the node lives, and raises the alarm.
pub(super) async fn watch<S: Replicated>(node: Weak<Node<S>>) {
    let mut poll = tokio::time::interval(POLL);
    poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        poll.tick().await;
        let Some(node) = node.upgrade() else { return };
        if node.space.look() {
            raise_alarm(&node).await;
        } else {
            node.space.alarm_raised.store(false, Ordering::Relaxed);
        }
    }
}

/// Raises the alarm, unless somebody does or has; whoever is refused for lack of space does so first.
pub(super) async fn raise_alarm<S: Replicated>(node: &Node<S>) {
    if node.space.alarm_raised.swap(true, Ordering::Relaxed) {
        return;
    }
    let alarm = pb::AlarmRequest {
        action: pb::alarm_request::AlarmAction::Activate.into(),
        member_id: node.member_id().0,
        alarm: pb::AlarmType::Nospace.into(),
    };
    if let Err(error) = node.propose(Command::Alarm(alarm)).await {
        tracing::warn!(%error, "the alarm cannot be raised");
        node.space.alarm_raised.store(false, Ordering::Relaxed);
    }
}
