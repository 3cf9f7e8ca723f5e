//! The requests.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use keelson_etcd_api::etcdserverpb::kv_client::KvClient;
use keelson_etcd_api::etcdserverpb::request_op::Request;
use keelson_etcd_api::etcdserverpb::response_op::Response;
use tonic::Status;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;

use crate::server::{self, ANSWER_BYTES};

/// Keys that puts and reads are spread over.
const KEYS: u64 = 10_000;
/// Of an object in Kubernetes.
const OBJECT_BYTES: usize = 1024;
/// kube-apiserver's page.
const PAGE: i64 = 500;

/// Keys that [`Kind::Create`] makes are never used again, whoever makes them.
static CREATED: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Put {
        bytes: usize,
    },
    /// A transaction that makes a key which is not there, as kube-apiserver creates an object.
    Create,
    /// A transaction on the revision that was read last, as kube-apiserver updates one.
    Update,
    Get {
        serializable: bool,
    },
    /// All keys of [`LISTED`], with values.
    List,
    /// The same in pages.
    Pages,
    Count,
    /// What a busy kube-apiserver sends: of 100 requests 45 updates, 35 reads, 8 creates, 5 deletes, 5 pages and 2 counts.
    Mix,
}

/// What [`Kind::List`] lists: so many keys of 256 bytes.
pub(crate) const LISTED: &str = "/registry/listed/";
pub(crate) const LISTED_KEYS: u64 = KEYS;
const LISTED_BYTES: usize = 256;

fn key(prefix: &str, number: u64) -> Bytes {
    Bytes::from(format!("/registry/{prefix}/{number:016}"))
}

/// The end of the range of keys that begin with a prefix ending in `/`.
pub(crate) fn range_end(prefix: &str) -> Bytes {
    let mut end = prefix.trim_end_matches('/').to_owned();
    end.push('0');
    end.into()
}

/// An answer to a range whose pairs stay encoded.
#[derive(Clone, PartialEq, prost::Message)]
struct Listed {
    #[prost(message, optional, tag = "1")]
    header: Option<pb::ResponseHeader>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pairs: Vec<Bytes>,
}

/// Where a client's request numbers come from: the same on both sides, and spread.
#[derive(Debug)]
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64*.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}

/// One client: it sends a request when the answer to the one before is there.
#[derive(Debug)]
pub(crate) struct Client {
    kv: KvClient<Channel>,
    raw: Grpc<Channel>,
    kind: Kind,
    number: u64,
    numbers: Numbers,
    value: Bytes,
    /// Of its own key.
    mod_revision: i64,
    created: Option<Bytes>,
}

impl Client {
    pub(crate) fn new(channel: Channel, kind: Kind, number: u64) -> Self {
        let bytes = match kind {
            Kind::Put { bytes } => bytes,
            _ => OBJECT_BYTES,
        };
        let mut numbers = Numbers((number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let value: Vec<u8> = (0..bytes).map(|_| u8::try_from(numbers.below(256)).unwrap_or(0)).collect();
        let raw = Grpc::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES);
        let kv = server::kv(channel);
        Self { kv, raw, kind, number, numbers, value: value.into(), mod_revision: 0, created: None }
    }

    pub(crate) async fn run(&mut self) -> Result<(), Status> {
        match self.kind {
            Kind::Put { .. } => self.put().await,
            Kind::Create => self.create().await,
            Kind::Update => self.update().await,
            Kind::Get { serializable } => self.get(serializable).await,
            Kind::List => self.list(0).await,
            Kind::Pages => self.pages().await,
            Kind::Count => self.count().await,
            Kind::Mix => self.mix().await,
        }
    }

    async fn put(&mut self) -> Result<(), Status> {
        let key = key("put", self.numbers.below(KEYS));
        let request = pb::PutRequest { key, value: self.value.clone(), ..Default::default() };
        self.kv.put(request).await.map(drop)
    }

    async fn write_if(&mut self, key: Bytes, mod_revision: i64) -> Result<pb::TxnResponse, Status> {
        let compare = pb::Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: key.clone(),
            target_union: Some(TargetUnion::ModRevision(mod_revision)),
            ..Default::default()
        };
        let put = pb::PutRequest { key: key.clone(), value: self.value.clone(), ..Default::default() };
        let get = pb::RangeRequest { key, ..Default::default() };
        let request = pb::TxnRequest {
            compare: vec![compare],
            success: vec![pb::RequestOp { request: Some(Request::RequestPut(put)) }],
            failure: vec![pb::RequestOp { request: Some(Request::RequestRange(get)) }],
        };
        self.kv.txn(request).await.map(tonic::Response::into_inner)
    }

    async fn create(&mut self) -> Result<(), Status> {
        let key = key("created", CREATED.fetch_add(1, Ordering::Relaxed));
        self.created = Some(key.clone());
        let answer = self.write_if(key, 0).await?;
        if answer.succeeded { Ok(()) } else { Err(Status::internal("a new key was there")) }
    }

    async fn update(&mut self) -> Result<(), Status> {
        let answer = self.write_if(key("updated", self.number), self.mod_revision).await?;
        self.mod_revision = if answer.succeeded {
            answer.header.map_or(0, |header| header.revision)
        } else {
            // The first of a client whose key was there.
            let found = answer.responses.into_iter().next().and_then(|response| response.response);
            match found {
                Some(Response::ResponseRange(range)) => range.kvs.first().map_or(0, |kv| kv.mod_revision),
                _ => 0,
            }
        };
        Ok(())
    }

    async fn get(&mut self, serializable: bool) -> Result<(), Status> {
        let key = key("listed", self.numbers.below(LISTED_KEYS));
        let request = pb::RangeRequest { key, serializable, ..Default::default() };
        let answer = self.kv.range(request).await?.into_inner();
        if answer.kvs.len() == 1 { Ok(()) } else { Err(Status::internal("a key is missing")) }
    }

    async fn list(&mut self, limit: i64) -> Result<(), Status> {
        let request =
            pb::RangeRequest { key: LISTED.into(), range_end: range_end(LISTED), limit, ..Default::default() };
        self.listed(request).await.map(drop)
    }

    async fn pages(&mut self) -> Result<(), Status> {
        let mut revision = 0;
        for first in (0..LISTED_KEYS).step_by(usize::try_from(PAGE).unwrap_or(1)) {
            let request = pb::RangeRequest {
                key: key("listed", first),
                range_end: range_end(LISTED),
                limit: PAGE,
                revision,
                ..Default::default()
            };
            revision = self.listed(request).await?.header.map_or(0, |header| header.revision);
        }
        Ok(())
    }

    /// Ten thousand pairs take longer to decode than to send, and it is not the decoding that is measured: they are only counted.
    async fn listed(&mut self, request: pb::RangeRequest) -> Result<Listed, Status> {
        let expected = if request.limit > 0 { request.limit.cast_unsigned() } else { LISTED_KEYS };
        self.raw.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Range");
        let codec = tonic_prost::ProstCodec::<pb::RangeRequest, Listed>::default();
        let answer = self.raw.unary(tonic::Request::new(request), path, codec).await?.into_inner();
        if answer.pairs.len() as u64 == expected { Ok(answer) } else { Err(Status::internal("keys are missing")) }
    }

    async fn count(&mut self) -> Result<(), Status> {
        let request = pb::RangeRequest {
            key: LISTED.into(),
            range_end: range_end(LISTED),
            count_only: true,
            ..Default::default()
        };
        self.kv.range(request).await.map(drop)
    }

    async fn mix(&mut self) -> Result<(), Status> {
        match self.numbers.below(100) {
            0..45 => self.update().await,
            45..80 => self.get(false).await,
            80..88 => self.create().await,
            88..93 => match self.created.take() {
                Some(key) => {
                    let request = pb::DeleteRangeRequest { key, ..Default::default() };
                    self.kv.delete_range(request).await.map(drop)
                }
                None => self.create().await,
            },
            93..98 => self.list(PAGE).await,
            _ => self.count().await,
        }
    }
}

/// Fills what is listed and read.
pub(crate) async fn fill(kv: &mut KvClient<Channel>) -> Result<(), Status> {
    let value = Bytes::from(vec![b'v'; LISTED_BYTES]);
    for first in (0..LISTED_KEYS).step_by(100) {
        let puts = (first..first + 100).map(|number| {
            let put = pb::PutRequest { key: key("listed", number), value: value.clone(), ..Default::default() };
            pb::RequestOp { request: Some(Request::RequestPut(put)) }
        });
        kv.txn(pb::TxnRequest { success: puts.collect(), ..Default::default() }).await?;
    }
    Ok(())
}

/// Puts keys of their own, `count` from `first` on, in transactions of a hundred.
pub(crate) async fn grow(kv: &mut KvClient<Channel>, first: u64, count: u64) -> Result<(), Status> {
    let value = Bytes::from(vec![b'g'; 256]);
    for from in (first..first + count).step_by(100) {
        let puts = (from..(from + 100).min(first + count)).map(|number| {
            let put = pb::PutRequest { key: key("grown", number), value: value.clone(), ..Default::default() };
            pb::RequestOp { request: Some(Request::RequestPut(put)) }
        });
        kv.txn(pb::TxnRequest { success: puts.collect(), ..Default::default() }).await?;
    }
    Ok(())
}
