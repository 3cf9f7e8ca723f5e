//! When to make a checkpoint, and how much log to keep behind it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::space::Space;
use crate::raft::Raft;
use crate::state::Replicated;

/// By bytes and by time. Bytes bound what recovery replays and what the log takes; time bounds it for a store with few writes.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// A checkpoint is made after this many bytes of new log.
    pub every_bytes: u64,
    /// And after this time, if there is anything new.
    pub every: Duration,
    /// Log kept behind a checkpoint, so that a member that was away for a while is given entries and not the whole state.
    pub keep_bytes: u64,
    /// How often to look.
    pub poll: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { every_bytes: 8 << 20, every: Duration::from_mins(5), keep_bytes: 8 << 20, poll: Duration::from_secs(1) }
    }
}

/// How often the wish for a checkpoint is repeated.
const REPEAT: Duration = Duration::from_millis(100);

pub(super) async fn run<S: Replicated>(policy: Policy, raft: Raft<S>, space: Arc<Space>) {
    let log = space.log();
    let mut made_at = Instant::now();
    let mut made_bytes = log.appended_bytes();
    let mut poll = tokio::time::interval(policy.poll);
    poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        poll.tick().await;
        let new = log.appended_bytes().saturating_sub(made_bytes);
        let due = new >= policy.every_bytes || (new > 0 && made_at.elapsed() >= policy.every);
        if !due {
            continue;
        }
        made_bytes = log.appended_bytes();
        made_at = Instant::now();
        if make(&raft, &space).await.is_none() {
            return;
        }
        if let Some(last) = log.purge_point(policy.keep_bytes) {
            // openraft itself refuses to purge beyond the checkpoint.
            if raft.trigger().purge_log(last).await.is_err() {
                return;
            }
        }
    }
}

/// Makes a checkpoint of what is applied now and waits until it is durable; None once consensus has stopped.
///
/// One that was begun before does not count, and while it is under way openraft drops the wish for another: so the wish is
/// repeated. How far openraft says to have applied does not tell: that lags behind the answers that clients have.
pub(super) async fn make<S: Replicated>(raft: &Raft<S>, space: &Space) -> Option<()> {
    let writer = space.checkpoint();
    let before = writer.begun();
    // What is appended from here on may not be in it.
    let appended = space.log().appended_bytes();
    loop {
        raft.trigger().snapshot().await.ok()?;
        if tokio::time::timeout(REPEAT, writer.later_than(before)).await.is_ok() {
            space.checkpointed(appended);
            return Some(());
        }
    }
}

/// The checkpoint before a stop.
pub(super) async fn last<S: Replicated>(raft: &Raft<S>, space: &Space, timeout: Duration) {
    if tokio::time::timeout(timeout, make(raft, space)).await.is_err() {
        tracing::warn!("the last checkpoint took too long; the next start replays the log instead");
    }
}
