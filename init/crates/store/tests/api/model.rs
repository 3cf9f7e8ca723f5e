//! The store as one would write it without a thought for speed: a whole map for every revision.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use keelson_etcd_api::etcdserverpb::request_op::Request;
use keelson_etcd_api::etcdserverpb::response_op::Response;
use keelson_etcd_api::mvccpb::event::EventType;
use keelson_etcd_api::mvccpb::{Event, KeyValue};
use keelson_store::command::Command;
use keelson_store::state::{self, Rejection};
use prost::Message;

type Map = BTreeMap<Bytes, KeyValue>;

#[derive(Debug)]
pub(crate) struct Model {
    /// By revision; the first is that of the empty store.
    maps: Vec<Map>,
    pub(crate) compact_revision: i64,
    pub(crate) leases: BTreeSet<i64>,
    /// All events ever, in order.
    pub(crate) events: Vec<Event>,
}

/// An answer or a rejection, as bytes to compare.
pub(crate) fn encoded(response: &state::Response) -> Result<Vec<u8>, Rejection> {
    Ok(match response {
        state::Response::Put(response) => response.encode_to_vec(),
        state::Response::DeleteRange(response) => response.encode_to_vec(),
        state::Response::Txn(response) => response.encode_to_vec(),
        state::Response::Rejected(rejection) => return Err(*rejection),
        // Their answers are a header only.
        _ => Vec::new(),
    })
}

fn index(revision: i64) -> usize {
    usize::try_from(revision - 1).unwrap()
}

fn in_range(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        _ => key >= start && key < end,
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the messages' field is optional")]
fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision, ..pb::ResponseHeader::default() })
}

/// A transaction under way.
struct Work {
    /// Before the transaction: what events show as the pair before.
    base: Map,
    map: Map,
    begin: i64,
    events: Vec<Event>,
}

impl Work {
    fn current(&self) -> i64 {
        if self.events.is_empty() { self.begin } else { self.begin + 1 }
    }
}

impl Model {
    pub(crate) fn new() -> Self {
        Self { maps: vec![Map::new()], compact_revision: -1, leases: BTreeSet::new(), events: Vec::new() }
    }

    pub(crate) fn revision(&self) -> i64 {
        i64::try_from(self.maps.len()).unwrap()
    }

    fn newest(&self) -> &Map {
        self.maps.last().unwrap()
    }

    fn work(&self) -> Work {
        Work { base: self.newest().clone(), map: self.newest().clone(), begin: self.revision(), events: Vec::new() }
    }

    fn commit(&mut self, work: Work) {
        if !work.events.is_empty() {
            self.maps.push(work.map);
            self.events.extend(work.events);
        }
    }

    /// What a command is answered, in the same form.
    pub(crate) fn answer(&mut self, command: &Command) -> Result<Vec<u8>, Rejection> {
        match command {
            Command::Put(request) => self.put(request).map(|response| response.encode_to_vec()),
            Command::DeleteRange(request) => Ok(self.delete_range(request).encode_to_vec()),
            Command::Txn(request) => self.txn(request).map(|response| response.encode_to_vec()),
            Command::Compact(request) => self.compact(request.revision).map(|()| Vec::new()),
            Command::LeaseGrant(request) => self.grant(request.id).map(|()| Vec::new()),
            Command::LeaseRevoke(request) => self.revoke(request.id).map(|()| Vec::new()),
            other => panic!("the model does not know {other:?}"),
        }
    }

    pub(crate) fn range(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Rejection> {
        self.range_in(request, self.newest(), self.revision())
    }

    fn range_in(&self, request: &pb::RangeRequest, newest: &Map, current: i64) -> Result<pb::RangeResponse, Rejection> {
        if request.revision > current {
            return Err(Rejection::FutureRevision);
        }
        let revision = if request.revision <= 0 { current } else { request.revision };
        if revision < self.compact_revision {
            return Err(Rejection::Compacted);
        }
        let map = if revision == current { newest } else { &self.maps[index(revision)] };
        let matching = map.values().filter(|kv| in_range(&kv.key, &request.key, &request.range_end));
        let mut kvs: Vec<KeyValue> = matching.cloned().collect();
        let count = i64::try_from(kvs.len()).unwrap();
        if request.count_only {
            return Ok(pb::RangeResponse { header: header(current), kvs: Vec::new(), more: false, count });
        }
        kvs.retain(|kv| {
            (request.min_mod_revision == 0 || kv.mod_revision >= request.min_mod_revision)
                && (request.max_mod_revision == 0 || kv.mod_revision <= request.max_mod_revision)
                && (request.min_create_revision == 0 || kv.create_revision >= request.min_create_revision)
                && (request.max_create_revision == 0 || kv.create_revision <= request.max_create_revision)
        });
        match request.sort_target {
            0 => {}
            1 => kvs.sort_by_key(|kv| kv.version),
            2 => kvs.sort_by_key(|kv| kv.create_revision),
            3 => kvs.sort_by_key(|kv| kv.mod_revision),
            _ => kvs.sort_by(|left, right| left.value.cmp(&right.value)),
        }
        if request.sort_order == 2 {
            // Ties keep the order of their keys, so this is no plain reversal.
            match request.sort_target {
                0 => kvs.reverse(),
                1 => kvs.sort_by_key(|kv| std::cmp::Reverse(kv.version)),
                2 => kvs.sort_by_key(|kv| std::cmp::Reverse(kv.create_revision)),
                3 => kvs.sort_by_key(|kv| std::cmp::Reverse(kv.mod_revision)),
                _ => kvs.sort_by(|left, right| right.value.cmp(&left.value)),
            }
        }
        let limit = usize::try_from(request.limit).unwrap();
        let more = limit > 0 && kvs.len() > limit;
        if more {
            kvs.truncate(limit);
        }
        if request.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
                if request.sort_target != 4 {
                    kv.lease = 0;
                }
            }
        }
        Ok(pb::RangeResponse { header: header(current), kvs, more, count })
    }

    pub(crate) fn put(&mut self, request: &pb::PutRequest) -> Result<pb::PutResponse, Rejection> {
        self.check_put(request)?;
        let mut work = self.work();
        let response = Self::put_in(&mut work, request);
        self.commit(work);
        Ok(response)
    }

    fn check_put(&self, request: &pb::PutRequest) -> Result<(), Rejection> {
        if request.lease != 0 && !self.leases.contains(&request.lease) {
            return Err(Rejection::LeaseNotFound);
        }
        if (request.ignore_value || request.ignore_lease) && !self.newest().contains_key(&request.key) {
            return Err(Rejection::KeyNotFound);
        }
        Ok(())
    }

    fn put_in(work: &mut Work, request: &pb::PutRequest) -> pb::PutResponse {
        let revision = work.begin + 1;
        let old = work.map.get(&request.key).cloned();
        let mut kv = KeyValue {
            key: request.key.clone(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            value: request.value.clone(),
            lease: request.lease,
        };
        if let Some(old) = &old {
            kv.create_revision = old.create_revision;
            kv.version = old.version + 1;
            if request.ignore_value {
                kv.value = old.value.clone();
            }
            if request.ignore_lease {
                kv.lease = old.lease;
            }
        }
        work.map.insert(request.key.clone(), kv.clone());
        work.events.push(Event {
            r#type: EventType::Put.into(),
            kv: Some(kv),
            prev_kv: work.base.get(&request.key).cloned(),
        });
        pb::PutResponse { header: header(revision), prev_kv: old.filter(|_| request.prev_kv) }
    }

    pub(crate) fn delete_range(&mut self, request: &pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        let mut work = self.work();
        let response = Self::delete_in(&mut work, request);
        self.commit(work);
        response
    }

    fn delete_in(work: &mut Work, request: &pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        let matching = work.map.values().filter(|kv| in_range(&kv.key, &request.key, &request.range_end));
        let gone: Vec<KeyValue> = matching.cloned().collect();
        for kv in &gone {
            work.map.remove(&kv.key);
            let deletion = KeyValue { key: kv.key.clone(), mod_revision: work.begin + 1, ..KeyValue::default() };
            let event = Event {
                r#type: EventType::Delete.into(),
                kv: Some(deletion),
                prev_kv: work.base.get(&kv.key).cloned(),
            };
            work.events.push(event);
        }
        pb::DeleteRangeResponse {
            header: header(work.current()),
            deleted: i64::try_from(gone.len()).unwrap(),
            prev_kvs: if request.prev_kv { gone } else { Vec::new() },
        }
    }

    pub(crate) fn txn(&mut self, request: &pb::TxnRequest) -> Result<pb::TxnResponse, Rejection> {
        self.check(request)?;
        let mut work = self.work();
        let mut response = self.txn_in(&mut work, request);
        response.header = header(work.current());
        self.commit(work);
        Ok(response)
    }

    fn branch<'r>(&self, request: &'r pb::TxnRequest) -> (bool, &'r [pb::RequestOp]) {
        let holds = request.compare.iter().all(|compare| self.holds(compare));
        (holds, if holds { &request.success } else { &request.failure })
    }

    fn check(&self, request: &pb::TxnRequest) -> Result<(), Rejection> {
        for op in self.branch(request).1 {
            match op.request.as_ref().unwrap() {
                Request::RequestRange(range) => {
                    if range.revision > self.revision() {
                        return Err(Rejection::FutureRevision);
                    }
                    if range.revision != 0 && range.revision < self.compact_revision {
                        return Err(Rejection::Compacted);
                    }
                }
                Request::RequestPut(put) => self.check_put(put)?,
                Request::RequestDeleteRange(_) => {}
                Request::RequestTxn(nested) => self.check(nested)?,
            }
        }
        Ok(())
    }

    fn txn_in(&self, work: &mut Work, request: &pb::TxnRequest) -> pb::TxnResponse {
        let (succeeded, ops) = self.branch(request);
        let run = |op: &pb::RequestOp| {
            let response = match op.request.as_ref().unwrap() {
                Request::RequestRange(range) => {
                    Response::ResponseRange(self.range_in(range, &work.map, work.current()).unwrap())
                }
                Request::RequestPut(put) => Response::ResponsePut(Self::put_in(work, put)),
                Request::RequestDeleteRange(delete) => Response::ResponseDeleteRange(Self::delete_in(work, delete)),
                Request::RequestTxn(nested) => Response::ResponseTxn(self.txn_in(work, nested)),
            };
            pb::ResponseOp { response: Some(response) }
        };
        let responses = ops.iter().map(run).collect();
        pb::TxnResponse { header: Some(pb::ResponseHeader::default()), succeeded, responses }
    }

    fn holds(&self, compare: &pb::Compare) -> bool {
        let one = |kv: &KeyValue| {
            let union = compare.target_union.clone();
            // A union of another target than the one named counts as none.
            let order = match (CompareTarget::try_from(compare.target).unwrap(), union) {
                (CompareTarget::Version, Some(TargetUnion::Version(value))) => kv.version.cmp(&value),
                (CompareTarget::Version, _) => kv.version.cmp(&0),
                (CompareTarget::Create, Some(TargetUnion::CreateRevision(value))) => kv.create_revision.cmp(&value),
                (CompareTarget::Create, _) => kv.create_revision.cmp(&0),
                (CompareTarget::Mod, Some(TargetUnion::ModRevision(value))) => kv.mod_revision.cmp(&value),
                (CompareTarget::Mod, _) => kv.mod_revision.cmp(&0),
                (CompareTarget::Lease, Some(TargetUnion::Lease(value))) => kv.lease.cmp(&value),
                (CompareTarget::Lease, _) => kv.lease.cmp(&0),
                (CompareTarget::Value, Some(TargetUnion::Value(value))) => kv.value.cmp(&value),
                (CompareTarget::Value, _) => kv.value.cmp(&Bytes::new()),
            };
            match CompareResult::try_from(compare.result).unwrap() {
                CompareResult::Equal => order.is_eq(),
                CompareResult::NotEqual => order.is_ne(),
                CompareResult::Greater => order.is_gt(),
                CompareResult::Less => order.is_lt(),
            }
        };
        let matching = self.newest().values().filter(|kv| in_range(&kv.key, &compare.key, &compare.range_end));
        let matching: Vec<&KeyValue> = matching.collect();
        if matching.is_empty() {
            return compare.target != i32::from(CompareTarget::Value) && one(&KeyValue::default());
        }
        matching.into_iter().all(one)
    }

    pub(crate) fn compact(&mut self, revision: i64) -> Result<(), Rejection> {
        if revision <= self.compact_revision {
            return Err(Rejection::Compacted);
        }
        if revision > self.revision() {
            return Err(Rejection::FutureRevision);
        }
        self.compact_revision = revision;
        Ok(())
    }

    pub(crate) fn grant(&mut self, id: i64) -> Result<(), Rejection> {
        if self.leases.insert(id) { Ok(()) } else { Err(Rejection::LeaseExists) }
    }

    pub(crate) fn revoke(&mut self, id: i64) -> Result<(), Rejection> {
        if !self.leases.remove(&id) {
            return Err(Rejection::LeaseNotFound);
        }
        let mut work = self.work();
        let keys: Vec<Bytes> = work.map.values().filter(|kv| kv.lease == id).map(|kv| kv.key.clone()).collect();
        for key in keys {
            Self::delete_in(&mut work, &pb::DeleteRangeRequest { key, ..pb::DeleteRangeRequest::default() });
        }
        self.commit(work);
        Ok(())
    }

    /// What a watch from `from` on is told, and can be told: the pair before an event may be compacted.
    pub(crate) fn events_from(&self, from: i64) -> Vec<Event> {
        let modified = |event: &Event| event.kv.as_ref().unwrap().mod_revision;
        let events = self.events.iter().filter(|event| modified(event) >= from).cloned();
        let shown = events.map(|mut event| {
            let kv = event.kv.as_ref().unwrap();
            let created = event.r#type == i32::from(EventType::Put) && kv.create_revision == kv.mod_revision;
            if created || kv.mod_revision - 1 < self.compact_revision {
                event.prev_kv = None;
            }
            event
        });
        shown.collect()
    }
}
