//! Clients, and what each was answered.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use keelson_etcd_api::etcdserverpb::request_op::Request;
use tonic::Status;

use super::cluster::{Cluster, Running};
use super::{Bug, below, one_in, pick, record};
use crate::server::simulated::Services;

/// Keys that are put and read one by one only, for the checker that takes at most 128 operations on each.
pub(crate) const REGISTERS: [&str; 3] = ["register/0", "register/1", "register/2"];
const OPERATIONS_PER_REGISTER: usize = 110;
const KEYS: [&str; 4] = ["key/a", "key/b", "key/c", "key/d"];
/// How long a client waits for an answer before it goes elsewhere.
const PATIENCE_MILLIS: u64 = 1500;
const GOODBYE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub(crate) enum Asked {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(i64),
    Grant { id: i64, ttl: i64 },
    Revoke(i64),
    KeepAlive(i64),
}

#[derive(Clone, Debug)]
pub(crate) enum Answered {
    Range(pb::RangeResponse),
    Put(pb::PutResponse),
    Delete(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    /// The revision that the answer names.
    Done(i64),
    Kept(Option<i64>),
}

/// What a client asked, and what it knows of the outcome: one that was given up may have taken effect, or may yet.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub asked: Asked,
    pub called: u64,
    pub called_at: Duration,
    pub returned: Option<(u64, Result<Answered, Status>)>,
}

#[derive(Debug, Default)]
pub(crate) struct Clients {
    pub operations: RefCell<Vec<Operation>>,
    pub stopping: Cell<bool>,
    leases: RefCell<Vec<i64>>,
    registers: [Cell<usize>; 3],
    /// The newest revision that anybody was told of.
    revision: Cell<i64>,
}

pub(crate) fn range(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..pb::RangeRequest::default() }
}

fn all() -> pb::RangeRequest {
    pb::RangeRequest { range_end: Bytes::from_static(b"\0"), ..range("\0") }
}

fn put_op(request: pb::PutRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(Request::RequestPut(request)) }
}

/// A comparison that always holds, and tells a transaction from all others.
fn mark(number: usize) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Version.into(),
        key: format!("mark/{number}").into(),
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::Version(0)),
    }
}

impl Clients {
    /// One client, until it is told to stop.
    pub(crate) async fn run(self: Rc<Self>, cluster: Rc<Cluster>) {
        while !self.stopping.get() {
            tokio::time::sleep(Duration::from_millis(below(60))).await;
            let Some(running) = cluster.any().running() else { continue };
            let Some(asked) = self.choose() else { continue };
            let patience = Duration::from_millis(100 + below(PATIENCE_MILLIS));
            self.operate(&running, asked, patience).await;
        }
    }

    /// Asks, and notes what came of it.
    pub(crate) async fn operate(&self, running: &Running, asked: Asked, patience: Duration) -> Option<Answered> {
        let number = {
            // It is part of the history from now on: what is applied may be read before it is answered.
            let operation =
                Operation { asked: asked.clone(), called: record::tick(), called_at: record::now(), returned: None };
            let mut operations = self.operations.borrow_mut();
            operations.push(operation);
            operations.len() - 1
        };
        let answering = running.process.scope(answer(&running.services, asked));
        let answer = tokio::time::timeout(patience, answering).await.ok()?;
        if running.disk.is_cut() {
            return None;
        }
        if let Ok(answered) = &answer {
            self.revision.set(self.revision.get().max(answered.revision()));
        }
        let done = answer.as_ref().ok().cloned();
        self.operations.borrow_mut()[number].returned = Some((record::tick(), answer));
        done
    }

    /// A last write, so that there is news for whoever was told everything.
    pub(crate) async fn say_goodbye(&self, cluster: &Cluster) -> Result<i64, String> {
        let slot = super::operator::leader(cluster).ok_or("nobody leads")?;
        let running = slot.running().ok_or("the leader is down")?;
        let said = self.operate(&running, Asked::Put(self.put(KEYS[0])), GOODBYE).await;
        said.map(|answer| answer.revision()).ok_or_else(|| "the last write is not answered".to_owned())
    }

    fn value(&self) -> Bytes {
        // The number of the operation that is about to be noted, and something to fill logs with.
        let number = self.operations.borrow().len();
        let width = usize::try_from(below(300)).unwrap();
        format!("{number:<width$}").into()
    }

    fn put(&self, key: &str) -> pb::PutRequest {
        let prev_kv = one_in(3);
        pb::PutRequest { key: key.to_owned().into(), value: self.value(), prev_kv, ..pb::PutRequest::default() }
    }

    fn lease(&self) -> Option<i64> {
        let leases = self.leases.borrow();
        (!leases.is_empty()).then(|| pick(&leases))
    }

    /// None if it is nothing this time.
    fn choose(&self) -> Option<Asked> {
        Some(match below(20) {
            0..=6 => return self.choose_register(),
            7..=8 => Asked::Range(range(pick(&KEYS))),
            9 => Asked::Range(all()),
            10 => Asked::Range(pb::RangeRequest { serializable: true, ..all() }),
            11..=12 => {
                let lease = if one_in(2) { self.lease() } else { None };
                Asked::Put(pb::PutRequest { lease: lease.unwrap_or(0), ..self.put(pick(&KEYS)) })
            }
            13..=14 => Asked::Txn(self.txn()),
            15 => {
                let key = pick(&KEYS);
                // The end only marks it: nothing else lies before it.
                let range_end = format!("{key}\0{}", self.operations.borrow().len()).into();
                Asked::Delete(pb::DeleteRangeRequest { key: key.into(), range_end, prev_kv: one_in(2) })
            }
            16 if one_in(3) => Asked::Compact((self.revision.get() - below(20).cast_signed()).max(1)),
            17 => {
                let id = i64::try_from(self.operations.borrow().len()).unwrap() + 1;
                self.leases.borrow_mut().push(id);
                Asked::Grant { id, ttl: 1 + below(4).cast_signed() }
            }
            18 if one_in(4) => Asked::Revoke(self.lease()?),
            _ => Asked::KeepAlive(self.lease()?),
        })
    }

    fn choose_register(&self) -> Option<Asked> {
        let which = usize::try_from(below(REGISTERS.len() as u64)).unwrap();
        let used = &self.registers[which];
        if used.get() >= OPERATIONS_PER_REGISTER {
            return None;
        }
        used.set(used.get() + 1);
        let key = REGISTERS[which];
        Some(if one_in(2) { Asked::Put(self.put(key)) } else { Asked::Range(range(key)) })
    }

    /// Writes several keys at one revision, if one of them is as it was seen last.
    fn txn(&self) -> pb::TxnRequest {
        let key = pick(&KEYS);
        let guess = pb::Compare {
            result: pick(&[CompareResult::Less, CompareResult::Greater]).into(),
            target: CompareTarget::Mod.into(),
            key: key.into(),
            range_end: Bytes::new(),
            target_union: Some(TargetUnion::ModRevision(self.revision.get() - below(12).cast_signed())),
        };
        let mut success: Vec<_> = KEYS.iter().filter(|_| one_in(2)).map(|key| put_op(self.put(key))).collect();
        let read = pb::RequestOp { request: Some(Request::RequestRange(all())) };
        if success.is_empty() {
            // One that only reads is not proposed.
            success.push(put_op(self.put(key)));
        }
        success.push(read.clone());
        pb::TxnRequest { compare: vec![mark(self.operations.borrow().len()), guess], success, failure: vec![read] }
    }
}

impl Answered {
    /// The revision that the answer is of.
    pub(crate) fn revision(&self) -> i64 {
        let header = match self {
            Self::Range(answer) => &answer.header,
            Self::Put(answer) => &answer.header,
            Self::Delete(answer) => &answer.header,
            Self::Txn(answer) => &answer.header,
            Self::Done(revision) => return *revision,
            Self::Kept(_) => &None,
        };
        header.as_ref().map_or(0, |header| header.revision)
    }
}

async fn answer(services: &Services, asked: Asked) -> Result<Answered, Status> {
    let revision = |header: Option<pb::ResponseHeader>| header.map_or(0, |header| header.revision);
    Ok(match asked {
        Asked::Range(mut request) => {
            // The defect: whoever asks is not told that the answer may be old.
            request.serializable |= super::has(Bug::NoReadIndex);
            Answered::Range(services.range(request).await?)
        }
        Asked::Put(request) => Answered::Put(services.put(request).await?),
        Asked::Delete(request) => Answered::Delete(services.delete(request).await?),
        Asked::Txn(request) => Answered::Txn(services.txn(request).await?),
        Asked::Compact(at) => Answered::Done(revision(services.compact(at).await?.header)),
        Asked::Grant { id, ttl } => Answered::Done(revision(services.grant(id, ttl).await?.header)),
        Asked::Revoke(id) => Answered::Done(revision(services.revoke(id).await?.header)),
        Asked::KeepAlive(id) => Answered::Kept(services.keep_alive(id).await?),
    })
}
