//! What is wrong with a request by itself, before anything is proposed or read.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use keelson_etcd_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use keelson_etcd_api::etcdserverpb::request_op::Request;
use keelson_etcd_api::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

use super::errors::Error;

/// How deep transactions may be nested. The decoder takes a hundred messages inside each other: two of each transaction, of requests as of
/// answers, and up to three of the innermost operation's answer, which a member that forwards decodes. etcd bounds only the operations, of which each level
/// takes at least one.
const MOST_NESTED: usize = 48;

pub fn range(request: &RangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err() {
        return Err(Error::InvalidSortOption);
    }
    Ok(())
}

pub fn put(request: &PutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), Error> {
    if request.key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

pub fn txn(request: &TxnRequest, max_ops: usize) -> Result<(), Error> {
    txn_ops(request, max_ops, MOST_NESTED)?;
    // Behind the check of the size, so that many overlaps cannot cost much.
    intervals(&request.success)?;
    intervals(&request.failure)?;
    Ok(())
}

/// A nested transaction may use what the outer one left of both allowances.
fn txn_ops(request: &TxnRequest, max_ops: usize, most_nested: usize) -> Result<(), Error> {
    let used = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = max_ops.checked_sub(used).ok_or(Error::TooManyOps)?;
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    request.success.iter().chain(&request.failure).try_for_each(|op| match &op.request {
        Some(Request::RequestRange(request)) => range(request),
        Some(Request::RequestPut(request)) => put(request),
        Some(Request::RequestDeleteRange(request)) => delete_range(request),
        Some(Request::RequestTxn(request)) => {
            txn_ops(request, left, most_nested.checked_sub(1).ok_or(Error::TooManyOps)?)
        }
        None => Err(Error::KeyNotFound),
    })
}

/// Keys that a list of operations puts, and ranges that it deletes.
#[derive(Default)]
struct Changes<'r> {
    puts: HashSet<&'r Bytes>,
    deletes: Ranges<'r>,
}

/// Refuses a list of operations that could put a key twice, or put and delete it. The two branches of a nested transaction
/// may overlap each other, since only one of them runs.
fn intervals(ops: &[RequestOp]) -> Result<Changes<'_>, Error> {
    let mut changes = Changes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(request)) = &op.request {
            changes.deletes.insert(&request.key, &request.range_end);
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(nested)) = &op.request else { continue };
        let success = intervals(&nested.success)?;
        let failure = intervals(&nested.failure)?;
        let either: HashSet<&Bytes> = success.puts.union(&failure.puts).copied().collect();
        for key in &either {
            if changes.puts.contains(key) || changes.deletes.contain(key) {
                return Err(Error::DuplicateKey);
            }
        }
        changes.puts.extend(either);
        changes.deletes.append(success.deletes);
        changes.deletes.append(failure.deletes);
    }
    for op in ops {
        if let Some(Request::RequestPut(request)) = &op.request
            && (changes.deletes.contain(&request.key) || !changes.puts.insert(&request.key))
        {
            return Err(Error::DuplicateKey);
        }
    }
    Ok(changes)
}

/// Ranges of keys, in which a key is looked up in logarithmic time: they are joined where they overlap.
#[derive(Default)]
struct Ranges<'r> {
    /// Start to exclusive end; disjoint.
    ranges: BTreeMap<&'r [u8], &'r [u8]>,
    keys: HashSet<&'r [u8]>,
}

impl<'r> Ranges<'r> {
    /// A range without an end (`\0`) counts as empty here, as it does in etcd: such a deletion may overlap a put.
    fn insert(&mut self, key: &'r [u8], range_end: &'r [u8]) {
        if range_end.is_empty() {
            self.keys.insert(key);
        } else if key < range_end {
            self.join(key, range_end);
        }
    }

    fn join(&mut self, mut start: &'r [u8], mut end: &'r [u8]) {
        while let Some((&other_start, &other_end)) = self.ranges.range(..=end).next_back()
            && other_end >= start
        {
            start = start.min(other_start);
            end = end.max(other_end);
            self.ranges.remove(other_start);
        }
        self.ranges.insert(start, end);
    }

    fn append(&mut self, other: Self) {
        for (start, end) in other.ranges {
            self.join(start, end);
        }
        self.keys.extend(other.keys);
    }

    fn contain(&self, key: &[u8]) -> bool {
        let in_range = self.ranges.range(..=key).next_back().is_some_and(|(_, end)| key < *end);
        in_range || self.keys.contains(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_op(key: &'static str) -> RequestOp {
        let request = PutRequest { key: Bytes::from(key), ..PutRequest::default() };
        RequestOp { request: Some(Request::RequestPut(request)) }
    }

    fn delete_op(key: &'static str, range_end: &'static str) -> RequestOp {
        let request = DeleteRangeRequest { key: Bytes::from(key), range_end: Bytes::from(range_end), prev_kv: false };
        RequestOp { request: Some(Request::RequestDeleteRange(request)) }
    }

    fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        let request = TxnRequest { compare: Vec::new(), success, failure };
        RequestOp { request: Some(Request::RequestTxn(request)) }
    }

    fn check(success: Vec<RequestOp>) -> Result<(), Error> {
        txn(&TxnRequest { success, ..TxnRequest::default() }, 128)
    }

    #[test]
    fn a_key_is_put_at_most_once() {
        assert_eq!(check(vec![put_op("a"), put_op("b")]), Ok(()));
        assert_eq!(check(vec![put_op("a"), put_op("a")]), Err(Error::DuplicateKey));
        assert_eq!(check(vec![put_op("a"), nested(vec![put_op("a")], vec![])]), Err(Error::DuplicateKey));
        assert_eq!(check(vec![nested(vec![put_op("a")], vec![put_op("a")])]), Ok(()));
        let twice = vec![nested(vec![put_op("a")], vec![]), nested(vec![], vec![put_op("a")])];
        assert_eq!(check(twice), Err(Error::DuplicateKey));
    }

    #[test]
    fn a_key_is_not_put_and_deleted() {
        assert_eq!(check(vec![put_op("b"), delete_op("a", "c")]), Err(Error::DuplicateKey));
        assert_eq!(check(vec![put_op("b"), delete_op("b", "")]), Err(Error::DuplicateKey));
        assert_eq!(check(vec![put_op("c"), delete_op("a", "c")]), Ok(()));
        assert_eq!(check(vec![delete_op("a", "c"), nested(vec![put_op("b")], vec![])]), Err(Error::DuplicateKey));
        assert_eq!(check(vec![put_op("b"), nested(vec![], vec![delete_op("a", "c")])]), Err(Error::DuplicateKey));
        assert_eq!(check(vec![delete_op("a", "c"), delete_op("b", "d")]), Ok(()));
        assert_eq!(check(vec![put_op("b"), delete_op("a", "\0")]), Ok(()), "etcd does not see this one");
    }

    #[test]
    fn ranges_join_where_they_touch() {
        let mut ranges = Ranges::default();
        for (start, end) in [("d", "f"), ("a", "b"), ("h", "k"), ("b", "e"), ("i", "j"), ("x", "a")] {
            ranges.insert(start.as_bytes(), end.as_bytes());
        }
        let joined: Vec<_> = ranges.ranges.iter().map(|(start, end)| (*start, *end)).collect();
        assert_eq!(joined, [(&b"a"[..], &b"f"[..]), (&b"h"[..], &b"k"[..])]);
        assert!(ranges.contain(b"e") && !ranges.contain(b"f") && ranges.contain(b"jzz") && !ranges.contain(b"k"));
    }

    #[test]
    fn allowance_counts_the_longest_list_and_shrinks_with_depth() {
        let ops = |count: usize| (0..count).map(|_| delete_op("a", "")).collect::<Vec<_>>();
        let request = TxnRequest { success: ops(3), failure: ops(2), ..TxnRequest::default() };
        assert_eq!(txn(&request, 3), Ok(()));
        assert_eq!(txn(&request, 2), Err(Error::TooManyOps));
        let request = TxnRequest { success: vec![nested(ops(2), vec![])], ..TxnRequest::default() };
        assert_eq!(txn(&request, 3), Ok(()));
        assert_eq!(txn(&request, 2), Err(Error::TooManyOps));
    }

    #[test]
    fn a_transaction_is_nested_no_deeper_than_its_answer_can_be_decoded() {
        use keelson_etcd_api::encoded::KeyValue;
        use keelson_etcd_api::server;
        use keelson_etcd_api::server::response_op::Response;
        use prost::Message as _;

        let request = |depth| {
            let innermost = TxnRequest { success: vec![put_op("a")], ..TxnRequest::default() };
            (0..depth).fold(innermost, |inner, _| {
                let op = RequestOp { request: Some(Request::RequestTxn(inner)) };
                TxnRequest { success: vec![op], ..TxnRequest::default() }
            })
        };
        let answer = |depth| {
            let put = server::PutResponse { header: None, prev_kv: Some(KeyValue::default()) };
            (0..=depth).fold(Response::ResponsePut(put), |inner, _| {
                let op = server::ResponseOp { response: Some(inner) };
                Response::ResponseTxn(server::TxnResponse { responses: vec![op], ..Default::default() })
            })
        };
        let decodes = |depth| {
            let Response::ResponseTxn(answer) = answer(depth) else { panic!("not of a transaction") };
            server::TxnResponse::decode(&*answer.encode_to_vec()).is_ok()
        };
        assert_eq!(txn(&request(MOST_NESTED), 128), Ok(()));
        assert_eq!(txn(&request(MOST_NESTED + 1), 128), Err(Error::TooManyOps));
        assert!(
            TxnRequest::decode(&*request(MOST_NESTED + 1).encode_to_vec()).is_ok(),
            "it comes here and would be applied"
        );
        assert!(decodes(MOST_NESTED) && !decodes(MOST_NESTED + 1));
    }

    #[test]
    fn fields_are_checked_at_every_depth() {
        assert_eq!(check(vec![put_op("")]), Err(Error::EmptyKey));
        assert_eq!(check(vec![nested(vec![delete_op("", "")], vec![])]), Err(Error::EmptyKey));
        assert_eq!(check(vec![RequestOp { request: None }]), Err(Error::KeyNotFound));
        let request = PutRequest { key: "a".into(), value: "x".into(), ignore_value: true, ..PutRequest::default() };
        assert_eq!(put(&request), Err(Error::ValueProvided));
        let request = PutRequest { key: "a".into(), lease: 1, ignore_lease: true, ..PutRequest::default() };
        assert_eq!(put(&request), Err(Error::LeaseProvided));
        let request = RangeRequest { key: "a".into(), sort_order: 3, ..RangeRequest::default() };
        assert_eq!(range(&request), Err(Error::InvalidSortOption));
    }
}
