//! Compaction by the server itself, if it is asked for. kube-apiserver compacts on its own and wants this off.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use keelson_etcd_api::etcdserverpb as pb;
use tokio::time::Instant;

use super::Context;
use crate::command::Command;
use crate::flags::AutoCompaction;
use crate::state::{Rejection, Response};

/// etcd's intervals: a revision count is looked at every five minutes; a period is kept to within a tenth of it, and is
/// acted upon once an hour if it is longer than that.
const REVISION_INTERVAL: Duration = Duration::from_mins(5);
const LONGEST_PERIOD_INTERVAL: Duration = Duration::from_hours(1);
const SAMPLES: u32 = 10;

/// Compacts as long as this member leads, for ever.
pub(super) async fn run(context: Arc<Context>, mode: AutoCompaction) {
    match mode {
        AutoCompaction::Off => std::future::pending().await,
        AutoCompaction::Revisions(kept) => loop {
            tokio::time::sleep(REVISION_INTERVAL).await;
            compact(&context, context.node.state().revision() - kept).await;
        },
        AutoCompaction::Periodic(period) => periodic(&context, period).await,
    }
}

async fn periodic(context: &Context, period: Duration) {
    let interval = period.min(LONGEST_PERIOD_INTERVAL) / SAMPLES;
    let mut samples = VecDeque::from([(Instant::now(), context.node.state().revision())]);
    loop {
        tokio::time::sleep(interval).await;
        let now = Instant::now();
        samples.push_back((now, context.node.state().revision()));
        // The last sample that is old enough; those before it are of no more use.
        let mut target = None;
        while let Some((taken, revision)) = samples.front().copied()
            && now - taken >= period
        {
            target = Some(revision);
            samples.pop_front();
        }
        if let Some(revision) = target {
            compact(context, revision).await;
        }
    }
}

async fn compact(context: &Context, revision: i64) {
    let done = context.node.state().read(|mvcc, _| mvcc.compact_revision());
    if revision <= done.max(0) || !context.node.status().is_leader {
        return;
    }
    match context.node.propose(Command::Compact(pb::CompactionRequest { revision, physical: false })).await {
        Ok(Response::Rejected(Rejection::Compacted)) => {}
        Ok(Response::Rejected(rejection)) => tracing::warn!(revision, ?rejection, "automatic compaction"),
        Ok(_) => tracing::info!(revision, "compacted automatically"),
        Err(error) => tracing::warn!(revision, %error, "automatic compaction"),
    }
}
