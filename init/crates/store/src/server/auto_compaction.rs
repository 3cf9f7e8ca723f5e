//! Compaction by the server itself, if it is asked for. kube-apiserver compacts on its own and wants this off.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use keelson_etcd_api::etcdserverpb as pb;
use tokio::time::Instant;

use super::Context;
use crate::command::Command;
use crate::flags::AutoCompaction;
use crate::state::{Keys, Rejection, Response};

/// etcd's intervals: a revision count is looked at every five minutes; a period is kept to within a tenth of it, and is
/// acted upon once an hour if it is longer than that.
const REVISION_INTERVAL: Duration = Duration::from_mins(5);
const LONGEST_PERIOD_INTERVAL: Duration = Duration::from_hours(1);
const SAMPLES: u32 = 10;

/// Compacts as long as this member leads, for ever.
pub(super) async fn run(context: Arc<Context>, keys: Keys, mode: AutoCompaction) {
    match mode {
        AutoCompaction::Off => std::future::pending().await,
        AutoCompaction::Revisions(kept) => loop {
            tokio::time::sleep(REVISION_INTERVAL).await;
            compact(&context, keys, context.node.state().of(keys).revision() - kept).await;
        },
        AutoCompaction::Periodic(period) => periodic(&context, keys, period).await,
    }
}

async fn periodic(context: &Context, keys: Keys, period: Duration) {
    let interval = period.min(LONGEST_PERIOD_INTERVAL) / SAMPLES;
    let revision = || context.node.state().of(keys).revision();
    let mut samples = VecDeque::from([(Instant::now(), revision())]);
    loop {
        tokio::time::sleep(interval).await;
        let now = Instant::now();
        samples.push_back((now, revision()));
        // The last sample that is old enough; those before it are of no more use.
        let mut target = None;
        while let Some((taken, revision)) = samples.front().copied()
            && now - taken >= period
        {
            target = Some(revision);
            samples.pop_front();
        }
        if let Some(revision) = target {
            compact(context, keys, revision).await;
        }
    }
}

async fn compact(context: &Context, keys: Keys, revision: i64) {
    let done = context.node.state().of(keys).read(|mvcc, _| mvcc.compact_revision());
    if revision <= done.max(0) || !context.node.status().is_leader {
        return;
    }
    let compact = Command::Compact(pb::CompactionRequest { revision, physical: false });
    match context.node.propose(compact.on(keys)).await {
        Ok(Response::Rejected(Rejection::Compacted)) => {}
        Ok(Response::Rejected(rejection)) => tracing::warn!(?keys, revision, ?rejection, "automatic compaction"),
        Ok(_) => tracing::info!(?keys, revision, "compacted automatically"),
        Err(error) => tracing::warn!(?keys, revision, %error, "automatic compaction"),
    }
}
