//! The KV service.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::stream::{self, Stream};
use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::server::kv_server::Kv;
use keelson_etcd_api::server::{DeleteRangeResponse, PutResponse, RangeResponse, RangeStreamResponse, TxnResponse};
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::errors::Error;
use super::{Context, callers, validate};
use crate::command::Command;
use crate::mvcc::range::{Scan, has_revision_filters, is_default_order};
use crate::mvcc::{Mvcc, txn};
use crate::state::{self, KeySpace, Keys, Pin as RevisionPin, Rejection};

/// Keys visited under one hold of the lock: about a millisecond, after which a waiting write goes first.
const SCAN_KEYS: usize = 4096;
/// Keys in the first piece of a streamed range. The next ones are as large as the bytes of the last suggest.
const FIRST_PIECE_KEYS: i64 = 10;

#[derive(Clone, Debug)]
pub(super) struct KvService(pub(super) Arc<Context>);

impl KvService {
    async fn linearize(&self, serializable: bool) -> Result<(), Error> {
        if !serializable {
            self.0.node.read_index().await?;
        }
        Ok(())
    }
}

/// How a scan is made, beyond what the request says.
#[derive(Clone, Copy, Debug)]
struct Manner {
    /// Count what lies behind the limit.
    total_count: bool,
    /// Keep the revision from compaction when the scan is done, for another at it.
    keep_pin: bool,
}

/// Runs a scan to its end without holding the lock for long. With a pin it reads what that one keeps; without, it makes one if it needs one.
async fn scan(
    space: &KeySpace,
    request: &pb::RangeRequest,
    manner: Manner,
    pin: &mut Option<RevisionPin>,
) -> Result<Scan, Error> {
    let begin = |scan: Scan, mvcc: &Mvcc| {
        let mut scan = if manner.total_count { scan } else { scan.without_total_count() };
        let done = scan.step(mvcc, SCAN_KEYS);
        (scan, done)
    };
    let (mut scan, mut done) = match pin {
        Some(pin) => pin.read(|mvcc, current| begin(Scan::pinned(request, current), mvcc))?,
        None => space.read(|mvcc, current| {
            let (scan, done) = begin(Scan::new(mvcc, request, current)?, mvcc);
            *pin = (!done || manner.keep_pin).then(|| space.pin(scan.revision()));
            Ok::<_, Rejection>((scan, done))
        })?,
    };
    while !done && let Some(pin) = pin {
        tokio::task::yield_now().await;
        done = pin.read(|mvcc, _| scan.step(mvcc, SCAN_KEYS))?;
    }
    Ok(scan)
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let keys = callers::keys(&request)?;
        let request = request.into_inner();
        validate::range(&request)?;
        self.0.metrics.ranges.fetch_add(1, Ordering::Relaxed);
        self.linearize(request.serializable).await?;
        let manner = Manner { total_count: true, keep_pin: false };
        let scan = scan(self.0.node.state().of(keys), &request, manner, &mut None).await?;
        let mut response = scan.finish(&request);
        self.0.fill(keys, &mut response.header);
        Ok(Response::new(response))
    }

    type RangeStreamStream = Pin<Box<dyn Stream<Item = Result<RangeStreamResponse, Status>> + Send>>;

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let keys = callers::keys(&request)?;
        let request = request.into_inner();
        validate::range(&request)?;
        if !is_default_order(&request) {
            return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
        }
        if has_revision_filters(&request) {
            return Err(Status::unimplemented("RangeStream does not support revision filters"));
        }
        self.linearize(request.serializable).await?;
        let pieces = Pieces::new(Arc::clone(&self.0), keys, request);
        let pieces = stream::unfold(Some(pieces), |pieces| async {
            let mut pieces = pieces?;
            match pieces.next().await {
                Ok((piece, last)) => Some((Ok(piece), (!last).then_some(pieces))),
                Err(error) => Some((Err(error.into()), None)),
            }
        });
        Ok(Response::new(Box::pin(pieces)))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<PutResponse>, Status> {
        let keys = callers::keys(&request)?;
        let request = request.into_inner();
        validate::put(&request)?;
        match self.0.propose_on(keys, Command::Put(request)).await? {
            state::Response::Put(mut response) => {
                self.0.fill(keys, &mut response.header);
                Ok(Response::new(response))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let keys = callers::keys(&request)?;
        let request = request.into_inner();
        validate::delete_range(&request)?;
        match self.0.propose_on(keys, Command::DeleteRange(request)).await? {
            state::Response::DeleteRange(mut response) => {
                self.0.fill(keys, &mut response.header);
                Ok(Response::new(response))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let keys = callers::keys(&request)?;
        let request = request.into_inner();
        validate::txn(&request, self.0.limits.txn_ops)?;
        self.0.metrics.transactions.fetch_add(1, Ordering::Relaxed);
        let mut response = if txn::is_read_only(&request) {
            self.linearize(txn::is_serializable(&request)).await?;
            self.0
                .node
                .state()
                .of(keys)
                .read(|mvcc, current| mvcc.read_only_txn(&request, current))
                .map_err(Error::from)?
        } else {
            match self.0.propose_on(keys, Command::Txn(request)).await? {
                state::Response::Txn(response) => response,
                other => return Err(unexpected(&other)),
            }
        };
        self.0.fill(keys, &mut response.header);
        Ok(Response::new(response))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let keys = callers::keys(&request)?;
        let request = request.into_inner();
        match self.0.propose_on(keys, Command::Compact(request)).await? {
            state::Response::Compact(mut response) => {
                if request.physical {
                    self.0.node.state().of(keys).compacted(request.revision).await;
                }
                self.0.fill(keys, &mut response.header);
                Ok(Response::new(response))
            }
            other => Err(unexpected(&other)),
        }
    }
}

/// An answer of another kind than the command: a defect, told to one client instead of ending the process.
pub(super) fn unexpected(response: &state::Response) -> Status {
    tracing::error!(?response, "applying a command gave an answer of another kind");
    Status::internal("keelson-store: an answer of another kind")
}

/// A streamed range: pieces at one revision, which is kept from compaction as long as the client takes them.
struct Pieces {
    context: Arc<Context>,
    keys: Keys,
    request: pb::RangeRequest,
    /// Pairs that may still be sent.
    left: i64,
    sent: i64,
    /// The newest revision when the stream began.
    header_revision: i64,
    pin: Option<RevisionPin>,
}

impl Pieces {
    fn new(context: Arc<Context>, keys: Keys, mut request: pb::RangeRequest) -> Self {
        let left = if request.limit > 0 { request.limit } else { i64::MAX };
        request.limit = FIRST_PIECE_KEYS.min(left);
        Self { context, keys, request, left, sent: 0, header_revision: 0, pin: None }
    }

    /// The next piece, and whether it is the last.
    async fn next(&mut self) -> Result<(RangeStreamResponse, bool), Error> {
        let manner = Manner { total_count: self.request.count_only, keep_pin: true };
        let scan = scan(self.context.node.state().of(self.keys), &self.request, manner, &mut self.pin).await?;
        let (revision, current) = (scan.revision(), scan.current());
        let mut response = scan.finish(&self.request);
        if self.header_revision == 0 {
            self.header_revision = current;
            self.request.revision = revision;
        }
        let sent = i64::try_from(response.kvs.len()).unwrap_or(i64::MAX);
        self.sent += sent;
        self.left -= sent;
        let next_key = response.kvs.last().filter(|_| response.more).map(|kv| {
            let key = kv.parts().key;
            Bytes::from([key, b"\0"].concat())
        });
        let Some(next_key) = next_key.clone().filter(|_| self.left > 0) else {
            // The last piece: what it does not hold is counted, not sent.
            if !self.request.count_only {
                response.count = self.sent + self.count_behind(next_key).await?;
            }
            response.header = Some(pb::ResponseHeader { revision: self.header_revision, ..Default::default() });
            self.context.fill(self.keys, &mut response.header);
            return Ok((RangeStreamResponse { range_response: Some(response) }, true));
        };
        let size = response.encoded_len();
        let target = self.context.limits.request_bytes;
        if size < target / 2 {
            self.request.limit = self.request.limit.saturating_mul(2);
        } else if size > target.saturating_mul(2) {
            self.request.limit = (self.request.limit / 2).max(1);
        }
        self.request.limit = self.request.limit.min(self.left);
        self.request.key = next_key;
        let piece = RangeResponse { kvs: response.kvs, ..RangeResponse::default() };
        Ok((RangeStreamResponse { range_response: Some(piece) }, false))
    }

    /// Keys that the limit left out.
    async fn count_behind(&mut self, next_key: Option<Bytes>) -> Result<i64, Error> {
        let Some(key) = next_key else { return Ok(0) };
        let request = pb::RangeRequest {
            key,
            range_end: self.request.range_end.clone(),
            revision: self.request.revision,
            count_only: true,
            ..pb::RangeRequest::default()
        };
        let manner = Manner { total_count: true, keep_pin: true };
        let scan = scan(self.context.node.state().of(self.keys), &request, manner, &mut self.pin).await?;
        Ok(scan.finish(&request).count)
    }
}
