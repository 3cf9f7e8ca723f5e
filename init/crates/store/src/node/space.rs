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
/// A byte of a command takes one in the log, and up to two in the checkpoint, where a large value takes a power of two of pages.
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
            cluster_reserve_bytes: config.cluster_reserve_bytes,
            cluster_bytes: AtomicU64::new(0),
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
    pub(super) fn proposing(&self, bytes: usize, state: &impl Replicated) {
        let bytes = bytes as u64;
        if self.proposed_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes >= LOOK_BYTES {
            self.look(state);
        }
    }

    /// Bytes that what is accepted will still need: in the log what is under way, in the checkpoint that and all since the last one,
    /// there up to twice, since a large value takes a power of two of pages.
    fn pending_bytes(&self, since_checkpoint: u64) -> u64 {
        let under_way = BACKLOG_BYTES.saturating_sub(self.backlog.available_permits()) as u64;
        under_way + 2 * (under_way + since_checkpoint)
    }

    /// Looks again; returns whether there is no space.
    fn look(&self, state: &impl Replicated) -> bool {
        self.proposed_bytes.store(0, Ordering::Relaxed);
        let (usage, since) = self.measure();
        let counted = usage.in_use_bytes.saturating_sub(state.exempt_bytes());
        let over_quota = usage.quota_bytes > 0 && counted >= usage.quota_bytes;
        let full = match self.disk.available() {
            Ok(available) => {
                let reserve = self.reserve_bytes + BYTES_FOR_EACH * self.cluster_reserve_bytes;
                available < reserve + self.pending_bytes(since)
            }
            Err(error) => {
                tracing::warn!(%error, "free space cannot be told");
                false
            }
        };
        let exhausted = over_quota || full;
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
        exhausted
    }
}

/// Watches space as long as the node lives, and raises the alarm.
pub(super) async fn watch<S: Replicated>(node: Weak<Node<S>>) {
    let mut poll = tokio::time::interval(POLL);
    poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        poll.tick().await;
        let Some(node) = node.upgrade() else { return };
        if node.space.look(&node.state) {
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
