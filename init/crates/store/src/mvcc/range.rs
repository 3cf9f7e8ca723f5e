//! Reads: which pairs a range request answers with.
//!
//! A [`Scan`] walks the keys in steps, so that a large read need not hold the lock throughout: it stays at the revision it
//! began with. (Whoever lets go of the lock between steps must hold back physical compaction of that revision, and look at each step whether
//! that still holds: a [`crate::state::Pin`] does both.)

use bytes::Bytes;
use keelson_etcd_api::encoded::KeyValue;
use keelson_etcd_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use keelson_etcd_api::etcdserverpb::{RangeRequest, ResponseHeader};
use keelson_etcd_api::server::RangeResponse;

use super::{KeyRange, Mvcc, Row};
use crate::state::Rejection;

/// A range request under way.
#[derive(Debug)]
pub struct Scan {
    range: KeyRange,
    /// At which keys are read.
    revision: i64,
    /// The newest revision when the scan began; the answer's header.
    current: i64,
    /// Pairs to collect, one more than the request's limit to learn whether there are more; none means all.
    fetch: Option<usize>,
    count_only: bool,
    /// False: stop counting at `fetch`.
    count_all: bool,
    kvs: Vec<KeyValue>,
    count: i64,
    resume: Option<Bytes>,
}

impl Scan {
    /// `current` is the newest revision that the reader sees: inside a transaction that has changed something, its own.
    pub fn new(mvcc: &Mvcc, request: &RangeRequest, current: i64) -> Result<Self, Rejection> {
        if request.revision > current {
            return Err(Rejection::FutureRevision);
        }
        let scan = Self::pinned(request, current);
        if scan.revision < mvcc.compact_revision {
            return Err(Rejection::Compacted);
        }
        Ok(scan)
    }

    /// A scan at a revision that an earlier one was allowed to read, and that is kept from compaction since.
    pub fn pinned(request: &RangeRequest, current: i64) -> Self {
        let revision = if request.revision <= 0 { current } else { request.revision };
        // A limit cuts the answer; it can cut the collecting only where neither order nor filter is in between.
        let cuts = request.limit > 0 && is_default_order(request) && !has_revision_filters(request);
        let fetch = cuts.then(|| usize::try_from(request.limit).unwrap_or(usize::MAX).saturating_add(1));
        Self {
            range: KeyRange::new(&request.key, &request.range_end),
            revision,
            current,
            fetch,
            count_only: request.count_only,
            count_all: true,
            kvs: Vec::new(),
            count: 0,
            resume: None,
        }
    }

    /// Stops at the limit instead of counting what lies behind it.
    #[must_use]
    pub fn without_total_count(mut self) -> Self {
        self.count_all = false;
        self
    }

    pub fn revision(&self) -> i64 {
        self.revision
    }

    pub fn current(&self) -> i64 {
        self.current
    }

    /// Visits about `limit` keys. True when the scan is complete.
    pub fn step(&mut self, mvcc: &Mvcc, limit: usize) -> bool {
        if let Some(key) = self.range.as_key() {
            if let Some(row) = mvcc.get(key, self.revision) {
                self.count = 1;
                if !self.count_only {
                    self.kvs.push(row.kv().clone());
                }
            }
            return true;
        }
        let wanted = if self.count_only { 0 } else { self.fetch.unwrap_or(usize::MAX) };
        let resume = self.resume.take();
        let mut visited = 0;
        for history in mvcc.index.range(&self.range, resume.as_deref()) {
            if self.kvs.len() >= wanted || visited == limit {
                self.resume = Some(Bytes::copy_from_slice(history.key()));
                break;
            }
            visited += 1;
            if let Some(row) = history.live_at(self.revision) {
                self.count += 1;
                self.kvs.push(row.kv().clone());
            }
        }
        if self.resume.is_none() {
            return true;
        }
        if self.kvs.len() < wanted {
            return false;
        }
        if !self.count_only && !self.count_all {
            return true;
        }
        let counted = mvcc.index.count(&self.range, self.resume.as_deref(), self.revision, limit - visited);
        self.count += i64::try_from(counted.keys).unwrap_or(i64::MAX);
        self.resume = counted.resume.map(Bytes::from);
        self.resume.is_none()
    }

    /// The answer to a request whose scan is complete.
    pub fn finish(mut self, request: &RangeRequest) -> RangeResponse {
        self.filter(request);
        self.sort(request);
        let mut more = false;
        if let Ok(limit) = usize::try_from(request.limit)
            && limit > 0
            && self.kvs.len() > limit
        {
            self.kvs.truncate(limit);
            more = true;
        }
        if request.keys_only {
            // Sorted by value, etcd reads whole pairs and only blanks the value; else it answers from its index, which
            // knows no leases.
            let keep_lease = request.sort_target == i32::from(SortTarget::Value);
            for kv in &mut self.kvs {
                *kv = if keep_lease { kv.without_value() } else { key_only(kv) };
            }
        }
        RangeResponse {
            header: Some(ResponseHeader { revision: self.current, ..ResponseHeader::default() }),
            kvs: self.kvs,
            more,
            count: self.count,
        }
    }

    fn filter(&mut self, request: &RangeRequest) {
        if !has_revision_filters(request) {
            return;
        }
        let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
        self.kvs.retain(|kv| {
            let parts = kv.parts();
            within(parts.mod_revision, request.min_mod_revision, request.max_mod_revision)
                && within(parts.create_revision, request.min_create_revision, request.max_create_revision)
        });
    }

    /// Ties keep the order of their keys.
    fn sort(&mut self, request: &RangeRequest) {
        let target = SortTarget::try_from(request.sort_target).unwrap_or_default();
        let order = SortOrder::try_from(request.sort_order).unwrap_or_default();
        let descend = order == SortOrder::Descend;
        if target == SortTarget::Key && !descend {
            return;
        }
        self.kvs.sort_by(|left, right| {
            let (left, right) = (left.parts(), right.parts());
            let order = match target {
                SortTarget::Key => left.key.cmp(right.key),
                SortTarget::Version => left.version.cmp(&right.version),
                SortTarget::Create => left.create_revision.cmp(&right.create_revision),
                SortTarget::Mod => left.mod_revision.cmp(&right.mod_revision),
                SortTarget::Value => left.value.cmp(right.value),
            };
            if descend { order.reverse() } else { order }
        });
    }
}

impl Mvcc {
    /// Answers a range request in one go.
    pub fn range(&self, request: &RangeRequest, current: i64) -> Result<RangeResponse, Rejection> {
        let mut scan = Scan::new(self, request, current)?;
        scan.step(self, usize::MAX);
        Ok(scan.finish(request))
    }

    /// Rows of a range as of `revision`, in key order.
    pub(super) fn live_rows<'a>(&'a self, range: &'a KeyRange, revision: i64) -> impl Iterator<Item = &'a Row> {
        self.index.range(range, None).filter_map(move |history| history.live_at(revision))
    }
}

fn key_only(kv: &KeyValue) -> KeyValue {
    KeyValue::encode(&keelson_etcd_api::encoded::Parts { value: &[], lease: 0, ..kv.parts() })
}

/// Whether pairs come in the order of the keys as they lie. A sort target without an order counts as that too, although
/// the answer is then sorted: the limit is applied before. So does etcd.
pub fn is_default_order(request: &RangeRequest) -> bool {
    let ascending_keys =
        request.sort_target == i32::from(SortTarget::Key) && request.sort_order == i32::from(SortOrder::Ascend);
    request.sort_order == i32::from(SortOrder::None) || ascending_keys
}

pub fn has_revision_filters(request: &RangeRequest) -> bool {
    let RangeRequest { min_mod_revision, max_mod_revision, min_create_revision, max_create_revision, .. } = request;
    [min_mod_revision, max_mod_revision, min_create_revision, max_create_revision].into_iter().any(|bound| *bound != 0)
}
