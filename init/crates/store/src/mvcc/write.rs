//! Changes: one transaction's puts and deletions under one revision.

use keelson_etcd_api::encoded::{Event, KeyValue, Parts};
use keelson_etcd_api::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, ResponseHeader};
use keelson_etcd_api::server::{DeleteRangeResponse, PutResponse, RangeResponse};

use super::{Changes, KeyRange, Mvcc, Revision, Row};
use crate::lease::LeaseId;
use crate::state::Rejection;

/// A transaction that is changing the store. Every check comes before it: nothing in it can fail.
#[derive(Debug)]
pub(super) struct Write<'a> {
    mvcc: &'a mut Mvcc,
    begin: i64,
    events: Vec<Event>,
}

impl<'a> Write<'a> {
    pub(super) fn new(mvcc: &'a mut Mvcc) -> Self {
        Self { begin: mvcc.revision, mvcc, events: Vec::new() }
    }

    /// The newest revision as this transaction sees it.
    pub(super) fn current(&self) -> i64 {
        if self.events.is_empty() { self.begin } else { self.begin + 1 }
    }

    #[expect(clippy::unnecessary_wraps, reason = "the messages' field is optional")]
    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader { revision: self.current(), ..ResponseHeader::default() })
    }

    fn next_revision(&self) -> Revision {
        Revision { main: self.begin + 1, sub: u32::try_from(self.events.len()).unwrap_or(u32::MAX) }
    }

    pub(super) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Rejection> {
        self.mvcc.range(request, self.current())
    }

    pub(super) fn put(&mut self, request: &PutRequest) -> PutResponse {
        let revision = self.next_revision();
        let previous = self.mvcc.get(&request.key, revision.main).map(|row| row.kv().clone());
        let old = previous.as_ref().map(KeyValue::parts).unwrap_or_default();
        let parts = Parts {
            key: &request.key,
            create_revision: if previous.is_some() { old.create_revision } else { revision.main },
            mod_revision: revision.main,
            // As Go counts: only a forged one is that high.
            version: old.version.wrapping_add(1),
            value: if request.ignore_value { old.value } else { &request.value },
            lease: if request.ignore_lease { old.lease } else { request.lease },
        };
        if old.lease != parts.lease {
            self.mvcc.leases.detach(LeaseId(old.lease), parts.key);
            self.mvcc.leases.attach(LeaseId(parts.lease), parts.key);
        }
        self.append(Row::new(revision, &parts));
        PutResponse { header: self.header(), prev_kv: previous.filter(|_| request.prev_kv) }
    }

    pub(super) fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let range = KeyRange::new(&request.key, &request.range_end);
        let previous: Vec<KeyValue> = self.mvcc.live_rows(&range, self.current()).map(|row| row.kv().clone()).collect();
        for kv in &previous {
            self.delete(kv);
        }
        DeleteRangeResponse {
            header: self.header(),
            deleted: i64::try_from(previous.len()).unwrap_or(i64::MAX),
            prev_kvs: if request.prev_kv { previous } else { Vec::new() },
        }
    }

    /// Deletes the keys of a lease that is being revoked; its set of keys is in order.
    pub(super) fn delete_key(&mut self, key: &[u8]) {
        if let Some(kv) = self.mvcc.get(key, self.current()).map(|row| row.kv().clone()) {
            self.delete(&kv);
        }
    }

    fn delete(&mut self, previous: &KeyValue) {
        let Parts { key, lease, .. } = previous.parts();
        if lease != 0 {
            self.mvcc.leases.detach(LeaseId(lease), key);
        }
        self.append(Row::new(self.next_revision(), &Parts { key, ..Parts::default() }));
    }

    fn append(&mut self, row: Row) {
        self.events.push(self.mvcc.event(&row, true));
        self.mvcc.append(row);
    }

    /// Ends the transaction. None if it changed nothing, which then takes no revision.
    pub(super) fn finish(self) -> Option<Changes> {
        let revision = self.current();
        self.mvcc.revision = revision;
        (!self.events.is_empty()).then_some(Changes { revision, events: self.events })
    }
}

/// What a watch is told of a deletion.
pub(super) fn deletion(key: &[u8], revision: i64) -> KeyValue {
    KeyValue::encode(&Parts { key, mod_revision: revision, ..Parts::default() })
}
