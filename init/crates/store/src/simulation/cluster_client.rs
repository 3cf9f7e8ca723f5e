//! The cluster's client, which writes keys of the cluster's own and finds those that it was told are there.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use keelson_etcd_api::etcdserverpb as pb;

use super::cluster::{Cluster, Running};
use super::{below, one_in};

const PATIENCE_MILLIS: u64 = 1500;
const PREFIX: &str = "/keelson/";

#[derive(Debug, Default)]
pub(crate) struct ClusterClient {
    pub stopping: Cell<bool>,
    /// Reads that showed all that they should.
    pub reads: Cell<usize>,
}

impl ClusterClient {
    /// Until it is told to stop; then it reads once more.
    pub(crate) async fn run(self: Rc<Self>, cluster: Rc<Cluster>) -> Result<(), String> {
        let (mut asked, mut acknowledged) = (0_u64, BTreeSet::new());
        loop {
            let stopping = self.stopping.get();
            tokio::time::sleep(Duration::from_millis(below(300))).await;
            let Some(running) = cluster.any().running() else { continue };
            if !stopping && one_in(2) {
                let key = format!("{PREFIX}{asked:06}");
                let put = pb::PutRequest { key: key.clone().into(), value: key.clone().into(), ..Default::default() };
                asked += 1;
                if answered(&running, running.services.put_own(put)).await.is_some() {
                    acknowledged.insert(key);
                }
                continue;
            }
            let Some(answer) = answered(&running, running.services.own_keys()).await else { continue };
            let found: BTreeSet<_> =
                answer.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect();
            let missing: Vec<_> = acknowledged.difference(&found).collect();
            let foreign = found.iter().any(|key| !key.starts_with(PREFIX)) || found.len() as u64 > asked;
            // Each was put once, and nothing else has changed these revisions.
            let revision = answer.header.map_or(0, |header| header.revision);
            let own_revision = usize::try_from(revision).is_ok_and(|revision| revision == found.len() + 1);
            if !missing.is_empty() || foreign || !own_revision {
                return Err(format!("not what the cluster wrote: {missing:?} of {asked} are missing in {answer:?}"));
            }
            self.reads.set(self.reads.get() + 1);
            if stopping {
                return Ok(());
            }
        }
    }
}

/// None if it was given up, or refused, or its member had no power any more.
async fn answered<T>(running: &Running, call: impl Future<Output = Result<T, tonic::Status>>) -> Option<T> {
    let patience = Duration::from_millis(100 + below(PATIENCE_MILLIS));
    let answer = tokio::time::timeout(patience, running.process.scope(call)).await.ok()?.ok()?;
    (!running.disk.is_cut()).then_some(answer)
}
