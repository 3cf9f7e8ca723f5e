//! What etcd's lock and election services share: contenders for a name stand in line as keys below it, each under a lease. The one that was
//! created first has what they contend for, and when its key goes, by its own will or with its lease, the next one has it.
//!
//! etcd answers these services with a client of its own server, and this does the same: nothing here knows more, or may do more, than the client that
//! asked. What that would be told with a code is told as its text alone, since that is what comes out of etcd's.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt as _};
use keelson_etcd_api::encoded::KeyValue;
use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use keelson_etcd_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use keelson_etcd_api::etcdserverpb::watch_create_request::FilterType;
use keelson_etcd_api::etcdserverpb::watch_request::RequestUnion;
use keelson_etcd_api::mvccpb;
use keelson_etcd_api::server::kv_server::Kv as _;
use keelson_etcd_api::server::lease_server::Lease as _;
use keelson_etcd_api::server::response_op::Response as OpResponse;
use keelson_etcd_api::server::{RangeResponse, TxnResponse, WatchResponse};
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Status};

use super::kv::KvService;
use super::lease::LeaseService;
use super::{Context, LeaderWanted, watch};

/// Of a lease that the client did not bring. etcd's value.
const LEASE_TTL_SECONDS: i64 = 60;

type Header = Option<pb::ResponseHeader>;

/// A client of this server, in the name of the one that asked.
#[derive(Clone, Debug)]
pub(super) struct Client {
    context: Arc<Context>,
    /// What is known of that one.
    extensions: Extensions,
}

/// The line for one name.
#[derive(Clone, Debug)]
pub(super) struct Line {
    client: Client,
    /// The name and a slash.
    prefix: Bytes,
}

/// A contender's key, and the revision of its creation: one that comes later under the same key is another one.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) key: Bytes,
    pub(super) revision: i64,
}

/// Where a contender stands that came, or was there already.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) place: Place,
    pub(super) header: Header,
    /// Its value, if it was there already.
    pub(super) old_value: Option<Bytes>,
    pub(super) is_first: bool,
}

/// Leaves the line when it is dropped, unless it is kept: nobody must wait for one that has given up.
#[derive(Debug)]
pub(super) struct Waiting {
    client: Client,
    place: Option<Place>,
}

impl Waiting {
    pub(super) fn keep(mut self) {
        self.place = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Where it does not come to that, the lease ends it.
        if let Some(place) = self.place.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let client = self.client.clone();
            runtime.spawn(async move { drop(client.leave(&place).await) });
        }
    }
}

impl Line {
    pub(super) fn new(client: &Client, name: &[u8]) -> Self {
        Self { client: client.clone(), prefix: [name, b"/"].concat().into() }
    }

    /// Takes a place under a lease, or finds the one that is there.
    pub(super) async fn enter(&self, lease: i64, value: Bytes) -> Result<Entered, Status> {
        let key = Bytes::from([&*self.prefix, Hex(lease).to_string().as_bytes()].concat());
        let first = range_op(self.range(SortOrder::Ascend, 0));
        let request = pb::TxnRequest {
            compare: vec![created_at(&key, 0)],
            success: vec![put_op(&key, value, lease), first.clone()],
            failure: vec![range_op(pb::RangeRequest { key: key.clone(), ..Default::default() }), first],
        };
        let TxnResponse { header, succeeded, responses } = self.client.txn(request).await?;
        let mut ranges = responses.iter().filter_map(|op| match &op.response {
            Some(OpResponse::ResponseRange(range)) => Some(range.kvs.first()),
            _ => None,
        });
        let there = if succeeded { None } else { ranges.next().flatten() };
        let now = header.as_ref().map_or(0, |header| header.revision);
        let revision = there.map_or(now, |kv| kv.parts().create_revision);
        let is_first = ranges.next().flatten().is_none_or(|kv| kv.parts().create_revision == revision);
        let old_value = there.map(|kv| Bytes::copy_from_slice(kv.parts().value));
        Ok(Entered { place: Place { key, revision }, header, old_value, is_first })
    }

    /// To be held while waiting.
    pub(super) fn waiting(&self, place: &Place) -> Waiting {
        Waiting { client: self.client.clone(), place: Some(place.clone()) }
    }

    /// Waits until all that came before have gone. Each waits for the one before it, so that not all wake when one goes.
    pub(super) async fn wait(&self, place: &Place) -> Result<(), Status> {
        loop {
            let (header, last) = self.client.get(self.range(SortOrder::Descend, place.revision - 1)).await?;
            let Some(last) = last else { return Ok(()) };
            let request = pb::WatchCreateRequest {
                key: Bytes::copy_from_slice(last.key()),
                start_revision: header.map_or(0, |header| header.revision),
                filters: vec![FilterType::Noput.into()],
                ..Default::default()
            };
            let mut answers = pin!(self.client.watch(request));
            while let Some(answer) = answers.next().await {
                let answer = answer.map_err(text_alone)?;
                // Where compaction was faster, one has to look again.
                if answer.canceled || !answer.events.is_empty() {
                    break;
                }
            }
        }
    }

    /// The first in line.
    pub(super) async fn first(&self) -> Result<(Header, Option<KeyValue>), Status> {
        self.client.get(self.range(SortOrder::Ascend, 0)).await
    }

    /// What is told of the line from a revision on.
    pub(super) fn watch(&self, start_revision: i64) -> impl Stream<Item = Result<WatchResponse, Status>> + use<> {
        let filters = vec![FilterType::Nodelete.into()];
        let (key, range_end) = (self.prefix.clone(), self.end());
        self.client.watch(pb::WatchCreateRequest { key, range_end, start_revision, filters, ..Default::default() })
    }

    /// The end of all keys below the name: they have a slash where this has what comes next.
    fn end(&self) -> Bytes {
        let name = self.prefix.strip_suffix(b"/").unwrap_or_default();
        [name, b"0"].concat().into()
    }

    /// The first or the last in line, of all, or of those that were created up to a revision.
    fn range(&self, order: SortOrder, max_create_revision: i64) -> pb::RangeRequest {
        pb::RangeRequest {
            key: self.prefix.clone(),
            range_end: self.end(),
            limit: 1,
            sort_order: order.into(),
            sort_target: SortTarget::Create.into(),
            max_create_revision,
            ..Default::default()
        }
    }
}

/// A lease's id as Go prints a signed number.
struct Hex(i64);

impl std::fmt::Display for Hex {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(formatter, "{sign}{:x}", self.0.unsigned_abs())
    }
}

impl Client {
    pub(super) fn of<T>(context: &Arc<Context>, request: &Request<T>) -> Self {
        Self { context: Arc::clone(context), extensions: request.extensions().clone() }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(MetadataMap::new(), self.extensions.clone(), message)
    }

    fn kv(&self) -> KvService {
        KvService(Arc::clone(&self.context))
    }

    /// The lease to contend under: the one that was brought, or a new one.
    pub(super) async fn lease(&self, given: i64) -> Result<i64, Status> {
        if given != 0 {
            return Ok(given);
        }
        let request = self.request(pb::LeaseGrantRequest { ttl: LEASE_TTL_SECONDS, id: 0 });
        let granted = LeaseService(Arc::clone(&self.context)).lease_grant(request).await;
        granted.map(|granted| granted.into_inner().id).map_err(text_alone)
    }

    /// Gives a place up, if it is still that one.
    pub(super) async fn leave(&self, place: &Place) -> Result<Header, Status> {
        let request = pb::DeleteRangeRequest { key: place.key.clone(), ..Default::default() };
        let delete = pb::RequestOp { request: Some(pb::request_op::Request::RequestDeleteRange(request)) };
        let compare = vec![created_at(&place.key, place.revision)];
        let request = pb::TxnRequest { compare, success: vec![delete], failure: Vec::new() };
        self.txn(request).await.map(|response| response.header)
    }

    /// Changes the value of a place; none if it is not there any more.
    pub(super) async fn change(&self, place: &Place, value: Bytes, lease: i64) -> Result<Option<Header>, Status> {
        let request = pb::TxnRequest {
            compare: vec![created_at(&place.key, place.revision)],
            success: vec![put_op(&place.key, value, lease)],
            failure: Vec::new(),
        };
        let response = self.txn(request).await?;
        Ok(response.succeeded.then_some(response.header))
    }

    pub(super) async fn delete(&self, key: Bytes) -> Result<Header, Status> {
        let request = self.request(pb::DeleteRangeRequest { key, ..Default::default() });
        let deleted = self.kv().delete_range(request).await.map_err(text_alone)?;
        Ok(deleted.into_inner().header)
    }

    /// The first pair that a range has now.
    pub(super) async fn get(&self, request: pb::RangeRequest) -> Result<(Header, Option<KeyValue>), Status> {
        let answer = self.kv().range(self.request(request)).await.map_err(text_alone)?;
        let RangeResponse { header, kvs, .. } = answer.into_inner();
        Ok((header, kvs.into_iter().next()))
    }

    /// What a watch is told, until the server stops. Whatever is watched was read before, so that the client may see it.
    pub(super) fn watch(
        &self,
        request: pb::WatchCreateRequest,
    ) -> impl Stream<Item = Result<WatchResponse, Status>> + use<> {
        let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(request)) };
        let space = self.context.node.state().public().clone();
        watch::answers(Arc::clone(&self.context), stream::iter([Ok(create)]), LeaderWanted(false), space)
    }

    async fn txn(&self, request: pb::TxnRequest) -> Result<TxnResponse, Status> {
        let answer = self.kv().txn(self.request(request)).await;
        answer.map(tonic::Response::into_inner).map_err(text_alone)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as errors are mapped")]
pub(super) fn text_alone(status: Status) -> Status {
    Status::unknown(status.message())
}

pub(super) fn plain(kv: &KeyValue) -> mvccpb::KeyValue {
    let parts = kv.parts();
    mvccpb::KeyValue {
        key: Bytes::copy_from_slice(parts.key),
        create_revision: parts.create_revision,
        mod_revision: parts.mod_revision,
        version: parts.version,
        value: Bytes::copy_from_slice(parts.value),
        lease: parts.lease,
    }
}

fn created_at(key: &Bytes, revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

fn put_op(key: &Bytes, value: Bytes, lease: i64) -> pb::RequestOp {
    let put = pb::PutRequest { key: key.clone(), value, lease, ..Default::default() };
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
}

fn range_op(request: pb::RangeRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(request)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_written_as_go_writes_them() {
        for (lease, text) in
            [(0x1a2b, "1a2b"), (i64::MAX, "7fffffffffffffff"), (-31, "-1f"), (i64::MIN, "-8000000000000000")]
        {
            assert_eq!(Hex(lease).to_string(), text);
        }
    }
}
