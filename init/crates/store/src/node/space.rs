//! Room on the disk and under the quota, watched so that writes stop before the disk is full.
//!
//! Running out is not something to react to: consensus stops on a failed write. So at a watermark the commands that grow
//! the store are refused, while the log keeps room for votes, deletions, compactions and a checkpoint; reads go on. As etcd does it, the
//! state is an alarm, which stays until somebody disarms it. What the cluster writes of its own ([`crate::cluster_keys`]) has a bounded reserve beyond that: it is what
//! nodes are removed with, for instance one whose pods fill the store.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use keelson_etcd_api::etcdserverpb as pb;

use tokio::sync::Semaphore;

use super::{BACKLOG_BYTES, Config, Node, checkpoints};
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
/// A byte of a command takes one in the log, and up to two in the checkpoint, where a large value takes a power of two of pages. One of a row that
/// another member sends takes one in the spool, and as many there.
const BYTES_FOR_EACH: u64 = 3;

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
    cluster_reserve_bytes: u64,
    /// Of them taken since there is no space.
    cluster_bytes: AtomicU64,
    exhausted: AtomicBool,
    /// Held by whoever raises the alarm.
    raising: tokio::sync::Mutex<()>,
    /// Since free space was looked at.
    proposed_bytes: AtomicU64,
    /// Log bytes that had been appended before the last durable checkpoint was begun.
    appended_at_checkpoint: AtomicU64,
}

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lack {
    over_quota: bool,
    full: bool,
}

impl Lack {
    fn is_any(self) -> bool {
        self.over_quota || self.full
    }
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
            appended_at_checkpoint: AtomicU64::new(log.appended_bytes()),
            disk,
            checkpoint,
            log,
            backlog,
            quota_bytes: config.quota_bytes,
            reserve_bytes: config.reserve_bytes,
            cluster_reserve_bytes: config.cluster_reserve_bytes,
            cluster_bytes: AtomicU64::new(0),
            exhausted: AtomicBool::new(false),
            raising: tokio::sync::Mutex::default(),
            proposed_bytes: AtomicU64::new(0),
        }
    }

    pub(super) fn checkpoint(&self) -> &Arc<Writer> {
        &self.checkpoint
    }

    pub(super) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    /// Notes a durable checkpoint, by the log bytes that had been appended before it was begun.
    pub(super) fn checkpointed(&self, appended: u64) {
        self.appended_at_checkpoint.fetch_max(appended, Ordering::Relaxed);
    }

    pub(super) fn exhausted(&self) -> bool {
        self.exhausted.load(Ordering::Relaxed)
    }

    /// Whether there is no space for a command. What the cluster's own take of their reserve is taken by this.
    pub(super) fn refuses(&self, command: &Command) -> bool {
        if !self.exhausted() || !command.grows() {
            return false;
        }
        if !matches!(command, Command::Cluster(_)) {
            return true;
        }
        let bytes = command.encoded_len() as u64;
        // One that is too large leaves its room to smaller ones.
        let more = |taken: u64| taken.checked_add(bytes).filter(|taken| *taken <= self.cluster_reserve_bytes);
        self.cluster_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err()
    }

    pub(super) fn usage(&self) -> Usage {
        self.measure().0
    }

    /// What is taken, and how many bytes of log there are since the last checkpoint.
    fn measure(&self) -> (Usage, u64) {
        let since = self.log.appended_bytes().saturating_sub(self.appended_at_checkpoint.load(Ordering::Relaxed));
        let usage = Usage {
            database_bytes: self.checkpoint.checkpoint().file_bytes(),
            in_use_bytes: self.checkpoint.bytes_in_use() + since,
            quota_bytes: self.quota_bytes,
        };
        (usage, since)
    }

    /// Notes a proposal's size, and looks at free space now and then.
    pub(super) fn proposing(&self, bytes: usize, state: &impl Replicated) {
        let bytes = bytes as u64;
        if self.proposed_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes >= LOOK_BYTES {
            self.look(state);
        }
    }

    /// Free space that is not to be taken.
    fn kept_bytes(&self) -> u64 {
        self.reserve_bytes + BYTES_FOR_EACH * self.cluster_reserve_bytes
    }

    /// Bytes that what is accepted will still need: in the log what is under way, in the checkpoint that and all since the last one,
    /// there up to twice, since a large value takes a power of two of pages.
    fn pending_bytes(&self, since_checkpoint: u64) -> u64 {
        let under_way = BACKLOG_BYTES.saturating_sub(self.backlog.available_permits()) as u64;
        under_way + 2 * (under_way + since_checkpoint)
    }

    /// Whether so many bytes of rows from another member fit: once as they come in, and up to twice in the checkpoint, beside those that they
    /// replace.
    pub(super) fn has_room_for_rows(&self, bytes: u64) -> bool {
        let needed = bytes.saturating_mul(BYTES_FOR_EACH);
        match self.disk.available() {
            Ok(available) => {
                let available = available.saturating_sub(self.kept_bytes());
                if available < needed {
                    tracing::error!(
                        needed,
                        available,
                        "no room for the state that the leader sends: free some on this disk"
                    );
                }
                available >= needed
            }
            Err(error) => {
                tracing::warn!(%error, "free space cannot be told");
                true
            }
        }
    }

    /// Looks again.
    fn look(&self, state: &impl Replicated) -> Lack {
        self.proposed_bytes.store(0, Ordering::Relaxed);
        let (usage, since) = self.measure();
        let counted = usage.in_use_bytes.saturating_sub(state.exempt_bytes());
        let over_quota = usage.quota_bytes > 0 && counted >= usage.quota_bytes;
        let full = match self.disk.available() {
            Ok(available) => available < self.kept_bytes() + self.pending_bytes(since),
            Err(error) => {
                tracing::warn!(%error, "free space cannot be told");
                false
            }
        };
        let lack = Lack { over_quota, full };
        let exhausted = lack.is_any();
        let before = self.exhausted.swap(exhausted, Ordering::Relaxed);
        if !exhausted {
            self.cluster_bytes.store(0, Ordering::Relaxed);
        }
        if exhausted && !before {
            tracing::warn!(
                over_quota,
                full,
                in_use_bytes = usage.in_use_bytes,
                quota_bytes = usage.quota_bytes,
                "no space: writes are refused until something is deleted, compacted and the alarm disarmed"
            );
        }
        lack
    }
}

/// Watches space as long as the node lives, and raises the alarm.
pub(super) async fn watch<S: Replicated>(node: Weak<Node<S>>) {
    let mut poll = tokio::time::interval(POLL);
    poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        poll.tick().await;
        let Some(node) = node.upgrade() else { return };
        if node.space.look(&node.state).is_any() {
            raise_alarm(&node).await;
        }
    }
}

/// Raises the alarm, unless somebody does or has; whoever is refused for lack of space does so first. One that was disarmed while there is no
/// space is raised again, as in etcd.
pub(super) async fn raise_alarm<S: Replicated>(node: &Node<S>) {
    let Ok(_one_at_a_time) = node.space.raising.try_lock() else { return };
    if node.state.tells_no_space(node.member_id()) || !lacks(node).await {
        return;
    }
    let alarm = pb::AlarmRequest {
        action: pb::alarm_request::AlarmAction::Activate.into(),
        member_id: node.member_id().0,
        alarm: pb::AlarmType::Nospace.into(),
    };
    if let Err(error) = node.propose(Command::Alarm(alarm)).await {
        tracing::warn!(%error, "the alarm cannot be raised");
    }
}

/// Whether there is no space now. What was deleted and compacted counts only with the next checkpoint, and whoever disarmed the alarm may have made
/// one on another member only. A disk that is full is not made fuller for it.
async fn lacks<S: Replicated>(node: &Node<S>) -> bool {
    let lack = node.space.look(&node.state);
    if lack.full || !lack.over_quota {
        return lack.full;
    }
    checkpoints::make(&node.raft, &node.space).await.is_some() && node.space.look(&node.state).is_any()
}
