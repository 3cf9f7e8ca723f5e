//! The network: messages take time, are lost, and do not pass where it is cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::process::Process;
use super::{Bug, below};
use crate::disk::fake::FakeDisk;
use crate::member::{Member, MemberId};
use crate::peer::{Answer, BoxFuture, CallError, Handler, Hello, Lane, Local, Request, Transport};

#[derive(Clone, Debug, Default)]
pub(crate) struct Network(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    nodes: BTreeMap<MemberId, (Arc<dyn Handler>, FakeDisk, Process)>,
    /// From, to.
    cuts: BTreeSet<(MemberId, MemberId)>,
    /// Of a thousand messages.
    lost: u64,
    slowest_millis: u64,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("cuts", &self.cuts).finish_non_exhaustive()
    }
}

impl Network {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub(crate) fn attach(&self, id: MemberId, handler: Arc<dyn Handler>, disk: FakeDisk, process: Process) {
        self.lock().nodes.insert(id, (handler, disk, process));
    }

    pub(crate) fn detach(&self, id: MemberId) {
        self.lock().nodes.remove(&id);
    }

    pub(crate) fn cut(&self, from: MemberId, to: MemberId) {
        self.lock().cuts.insert((from, to));
    }

    pub(crate) fn set_weather(&self, lost: u64, slowest_millis: u64) {
        let mut inner = self.lock();
        (inner.lost, inner.slowest_millis) = (lost, slowest_millis);
    }

    pub(crate) fn heal(&self) {
        let mut inner = self.lock();
        inner.cuts.clear();
        (inner.lost, inner.slowest_millis) = (0, 2);
    }

    /// Carries a message one way; false if it does not arrive.
    async fn pass(&self, from: MemberId, to: MemberId) -> bool {
        let (passes, millis) = {
            let inner = self.lock();
            (!inner.cuts.contains(&(from, to)) && below(1000) >= inner.lost, inner.slowest_millis)
        };
        tokio::time::sleep(Duration::from_micros(50 + below(1 + millis * 1000))).await;
        passes
    }

    /// Ends a member's connections to all whom it can tell, as the end of its process does, and now and then something on the way.
    pub(crate) fn hang_up(&self, id: MemberId) {
        let inner = self.lock();
        for (other, (handler, _, process)) in &inner.nodes {
            if *other == id || inner.cuts.contains(&(id, *other)) {
                continue;
            }
            let pause = Duration::from_micros(50 + below(1 + inner.slowest_millis * 1000));
            let handler = Arc::clone(handler);
            tokio::spawn(process.scope(async move {
                tokio::time::sleep(pause).await;
                handler.hung_up(id);
            }));
        }
    }

    fn node(&self, id: MemberId) -> Option<(Arc<dyn Handler>, Process)> {
        let inner = self.lock();
        // One without power answers nothing, from that very moment.
        let node = inner.nodes.get(&id).filter(|(_, disk, _)| !disk.is_cut());
        node.map(|(handler, _, process)| (Arc::clone(handler), process.clone()))
    }
}

#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) network: Network,
    pub(crate) local: Local,
    pub(crate) disk: FakeDisk,
}

impl Wire {
    async fn exchange(&self, target: MemberId, lane: Lane, request: Request) -> Result<Answer, CallError> {
        let own = self.local.member_id;
        if self.disk.is_cut() {
            // It does nothing any more.
            std::future::pending::<()>().await;
        }
        if !self.network.pass(own, target).await {
            std::future::pending::<()>().await;
        }
        let Some((handler, process)) = self.network.node(target) else {
            return Err(CallError::NotSent { target, reason: "nobody is there".to_owned() });
        };
        let hello = Hello { from: self.local, target, lane };
        if let Err(refusal) = handler.admit(&hello, None) {
            return Err(CallError::Refused { target, refusal });
        }
        // What was asked for goes on when whoever asked gives up.
        let answer = tokio::spawn(process.scope(handler.handle(own, request))).await;
        let Ok(answer) = answer else { return Err(CallError::Lost { target, reason: "it died" }) };
        if self.network.node(target).is_none() || !self.network.pass(target, own).await || self.disk.is_cut() {
            std::future::pending::<()>().await;
        }
        Ok(answer)
    }
}

impl Wire {
    async fn is_refused(&self, target: MemberId) -> bool {
        if super::has(Bug::HastySuccession) {
            return true;
        }
        let own = self.local.member_id;
        if self.disk.is_cut() || !self.network.pass(own, target).await {
            std::future::pending::<()>().await;
        }
        let gone = self.network.node(target).is_none();
        if !self.network.pass(target, own).await || self.disk.is_cut() {
            std::future::pending::<()>().await;
        }
        gone
    }
}

impl Transport for Wire {
    fn call(
        &self,
        target: MemberId,
        lane: Lane,
        request: Request,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Answer, CallError>> {
        Box::pin(async move {
            let lost = Err(CallError::Lost { target, reason: "timed out" });
            tokio::time::timeout(timeout, self.exchange(target, lane, request)).await.unwrap_or(lost)
        })
    }

    fn is_gone(&self, member: MemberId, timeout: Duration) -> BoxFuture<'_, bool> {
        Box::pin(async move { tokio::time::timeout(timeout, self.is_refused(member)).await.unwrap_or(false) })
    }

    fn set_members(&self, _members: Vec<(MemberId, Member)>) {}
}
