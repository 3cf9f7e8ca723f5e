//! Transactions: comparisons, then the checks of everything that will run, then the changes under one revision.
//!
//! All comparisons, those of nested transactions too, are made against the state before the transaction; so are all
//! checks, and only then is anything changed. Ranges inside see what came before them in the transaction.

use std::cmp::Ordering;

use keelson_etcd_api::encoded::Parts;
use keelson_etcd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use keelson_etcd_api::etcdserverpb::request_op::Request;
use keelson_etcd_api::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest};
use keelson_etcd_api::server::response_op::Response;
use keelson_etcd_api::server::{ResponseOp, TxnResponse};

use super::write::Write;
use super::{Changes, KeyRange, Mvcc};
use crate::lease::LeaseId;
use crate::state::Rejection;

/// A transaction whose comparisons are decided.
struct Plan<'r> {
    succeeded: bool,
    steps: Vec<Step<'r>>,
}

enum Step<'r> {
    Op(&'r Request),
    Txn(Plan<'r>),
}

impl Mvcc {
    pub fn put(
        &mut self,
        request: &PutRequest,
    ) -> Result<(keelson_etcd_api::server::PutResponse, Option<Changes>), Rejection> {
        self.check_put(request, self.revision)?;
        let mut write = Write::new(self);
        let response = write.put(request);
        Ok((response, write.finish()))
    }

    pub fn delete_range(
        &mut self,
        request: &keelson_etcd_api::etcdserverpb::DeleteRangeRequest,
    ) -> (keelson_etcd_api::server::DeleteRangeResponse, Option<Changes>) {
        let mut write = Write::new(self);
        let response = write.delete_range(request);
        (response, write.finish())
    }

    pub fn txn(&mut self, request: &TxnRequest) -> Result<(TxnResponse, Option<Changes>), Rejection> {
        let plan = self.plan(request, self.revision);
        self.check(&plan, self.revision)?;
        let mut write = Write::new(self);
        let mut response = run(&mut write, plan)?;
        response.header = Some(ResponseHeader { revision: write.current(), ..ResponseHeader::default() });
        Ok((response, write.finish()))
    }

    /// A transaction of ranges only, which needs no entry of the log.
    pub fn read_only_txn(&self, request: &TxnRequest, current: i64) -> Result<TxnResponse, Rejection> {
        let plan = self.plan(request, current);
        self.check(&plan, current)?;
        let mut responses = Vec::with_capacity(plan.steps.len());
        for step in &plan.steps {
            if let Step::Op(Request::RequestRange(range)) = step {
                let response = self.range(range, current)?;
                responses.push(ResponseOp { response: Some(Response::ResponseRange(response)) });
            }
        }
        let header = Some(ResponseHeader { revision: current, ..ResponseHeader::default() });
        Ok(TxnResponse { header, succeeded: plan.succeeded, responses })
    }

    /// Revokes a lease and deletes its keys.
    pub fn revoke_lease(&mut self, id: LeaseId) -> Result<Option<Changes>, Rejection> {
        let lease = self.leases.revoke(id).ok_or(Rejection::LeaseNotFound)?;
        let mut write = Write::new(self);
        for key in &lease.keys {
            write.delete_key(key);
        }
        Ok(write.finish())
    }

    fn plan<'r>(&self, request: &'r TxnRequest, current: i64) -> Plan<'r> {
        let succeeded = request.compare.iter().all(|compare| self.compare(compare, current));
        let branch = if succeeded { &request.success } else { &request.failure };
        let step = |op: &'r RequestOp| match op.request.as_ref()? {
            Request::RequestTxn(nested) => Some(Step::Txn(self.plan(nested, current))),
            op => Some(Step::Op(op)),
        };
        Plan { succeeded, steps: branch.iter().filter_map(step).collect() }
    }

    fn compare(&self, compare: &Compare, current: i64) -> bool {
        let range = KeyRange::new(&compare.key, &compare.range_end);
        let mut rows = self.live_rows(&range, current).peekable();
        if rows.peek().is_none() {
            // No value is not the empty value, so nothing compares with it; all numbers of an absent key are 0.
            return compare.target != i32::from(CompareTarget::Value) && holds(compare, &Parts::default());
        }
        rows.all(|row| holds(compare, &row.parts()))
    }

    fn check(&self, plan: &Plan<'_>, current: i64) -> Result<(), Rejection> {
        plan.steps.iter().try_for_each(|step| match step {
            Step::Op(Request::RequestRange(range)) => self.check_range(range, current),
            Step::Op(Request::RequestPut(put)) => self.check_put(put, current),
            Step::Op(Request::RequestDeleteRange(_) | Request::RequestTxn(_)) => Ok(()),
            Step::Txn(nested) => self.check(nested, current),
        })
    }

    /// Stricter than outside a transaction: a negative revision is one that is compacted.
    fn check_range(&self, request: &RangeRequest, current: i64) -> Result<(), Rejection> {
        match request.revision {
            0 => Ok(()),
            revision if revision > current => Err(Rejection::FutureRevision),
            revision if revision < self.compact_revision => Err(Rejection::Compacted),
            _ => Ok(()),
        }
    }

    fn check_put(&self, request: &PutRequest, current: i64) -> Result<(), Rejection> {
        if request.lease != 0 && self.leases.get(LeaseId(request.lease)).is_none() {
            return Err(Rejection::LeaseNotFound);
        }
        if (request.ignore_value || request.ignore_lease) && self.get(&request.key, current).is_none() {
            return Err(Rejection::KeyNotFound);
        }
        Ok(())
    }
}

/// Runs a checked plan. The error is that of a range, and the check has seen to it that there is none.
fn run(write: &mut Write<'_>, plan: Plan<'_>) -> Result<TxnResponse, Rejection> {
    let mut responses = Vec::with_capacity(plan.steps.len());
    for step in plan.steps {
        let response = match step {
            Step::Op(Request::RequestRange(range)) => Response::ResponseRange(write.range(range)?),
            Step::Op(Request::RequestPut(put)) => Response::ResponsePut(write.put(put)),
            Step::Op(Request::RequestDeleteRange(delete)) => Response::ResponseDeleteRange(write.delete_range(delete)),
            Step::Txn(nested) => Response::ResponseTxn(run(write, nested)?),
            // The plan holds nested transactions as plans.
            Step::Op(Request::RequestTxn(_)) => continue,
        };
        responses.push(ResponseOp { response: Some(response) });
    }
    // Only the outermost transaction's header is filled in; that of a nested one is there and empty, as etcd has it.
    Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded: plan.succeeded, responses })
}

fn holds(compare: &Compare, parts: &Parts<'_>) -> bool {
    let union = compare.target_union.as_ref();
    // A union that is absent, or of another target than the one named, compares with zero.
    let order = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Version) => number(parts.version, union, |union| match union {
            TargetUnion::Version(value) => Some(*value),
            _ => None,
        }),
        Ok(CompareTarget::Create) => number(parts.create_revision, union, |union| match union {
            TargetUnion::CreateRevision(value) => Some(*value),
            _ => None,
        }),
        Ok(CompareTarget::Mod) => number(parts.mod_revision, union, |union| match union {
            TargetUnion::ModRevision(value) => Some(*value),
            _ => None,
        }),
        Ok(CompareTarget::Lease) => number(parts.lease, union, |union| match union {
            TargetUnion::Lease(value) => Some(*value),
            _ => None,
        }),
        Ok(CompareTarget::Value) => {
            let value = match union {
                Some(TargetUnion::Value(value)) => &value[..],
                _ => &[],
            };
            parts.value.cmp(value)
        }
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order.is_eq(),
        Ok(CompareResult::NotEqual) => order.is_ne(),
        Ok(CompareResult::Greater) => order.is_gt(),
        Ok(CompareResult::Less) => order.is_lt(),
        Err(_) => true,
    }
}

fn number(value: i64, union: Option<&TargetUnion>, other: fn(&TargetUnion) -> Option<i64>) -> Ordering {
    value.cmp(&union.and_then(other).unwrap_or(0))
}

/// Whether a transaction can be answered without an entry of the log. A nested one counts as a change, as in etcd.
pub fn is_read_only(request: &TxnRequest) -> bool {
    ops(request).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether a read-only transaction asks for no more than this member's own state.
pub fn is_serializable(request: &TxnRequest) -> bool {
    ops(request).all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}

fn ops(request: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    request.success.iter().chain(&request.failure)
}

/// Whether a transaction could add data, on either branch: refused while the space alarm is raised.
pub fn puts_something(request: &TxnRequest) -> bool {
    ops(request).any(|op| match &op.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(nested)) => puts_something(nested),
        _ => false,
    })
}
