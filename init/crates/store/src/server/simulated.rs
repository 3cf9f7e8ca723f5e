//! The services as a simulation calls them: all of them but what carries their messages.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{Stream, StreamExt as _};
use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::server::auth_server::Auth as _;
use keelson_etcd_api::server::kv_server::Kv as _;
use keelson_etcd_api::server::lease_server::Lease as _;
use keelson_etcd_api::server::maintenance_server::Maintenance as _;
use keelson_etcd_api::{CLUSTER_KEYS, CLUSTER_KEYS_VALUE};
use prost::Message;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status};

use super::auth::AuthService;
use super::callers::Caller;
use super::kv::KvService;
use super::lease::LeaseService;
use super::maintenance::MaintenanceService;
use super::{Context, LeaderWanted, Limits, watch};
use crate::lease::LeaseId;
use crate::node::Node;
use crate::random::Random;
use crate::state::{Keys, State};

/// A member's services, with the tasks that a server has.
#[derive(Debug)]
pub(crate) struct Services {
    context: Arc<Context>,
    tasks: Vec<JoinHandle<()>>,
}

pub(crate) type Answers<A> = Pin<Box<dyn Stream<Item = Result<A, Status>>>>;

/// Ours are messages with parts in wire form; a client sees the plain ones.
fn plain<A: Message, B: Message + Default>(answer: Response<A>) -> B {
    B::decode(answer.into_inner().encode_to_vec().as_slice()).unwrap()
}

impl Services {
    pub(crate) fn start(node: Arc<Node<State>>, election_timeout: Duration, random: Arc<dyn Random>) -> Self {
        let limits = Limits {
            request_bytes: 64 << 10,
            txn_ops: 128,
            min_lease_ttl_seconds: 1,
            watch_progress_interval: Duration::from_millis(400),
            election_timeout,
            concurrent_streams: u32::MAX,
            keepalive_interval: None,
            keepalive_timeout: Duration::from_secs(20),
            lease_checkpoints: true,
            cluster_client: None,
            learners: 16,
            extensive_metrics: false,
        };
        let context = Arc::new(Context::new(node, limits, random));
        let (leases, leader) = (Arc::clone(&context), Arc::clone(&context));
        let [public, cluster] = Keys::ALL.map(|keys| context.node.state().of(keys).clone());
        let tasks = vec![
            crate::blocking::spawn(async move { leases.leases.run().await }),
            crate::blocking::spawn(async move { leader.watch_leader().await }),
            crate::blocking::spawn(async move { public.remove_garbage().await }),
            crate::blocking::spawn(async move { cluster.remove_garbage().await }),
        ];
        Self { context, tasks }
    }

    pub(crate) fn node(&self) -> &Arc<Node<State>> {
        &self.context.node
    }

    /// Ends all of it where it is, as a loss of power does.
    pub(crate) async fn kill(&self) {
        for task in &self.tasks {
            task.abort();
        }
        self.context.node.kill().await;
    }

    fn kv(&self) -> KvService {
        KvService(Arc::clone(&self.context))
    }

    pub(crate) async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        self.kv().range(Request::new(request)).await.map(plain)
    }

    pub(crate) async fn range_stream(
        &self,
        request: pb::RangeRequest,
    ) -> Result<Answers<pb::RangeStreamResponse>, Status> {
        let pieces = self.kv().range_stream(Request::new(request)).await?.into_inner();
        Ok(Box::pin(pieces.map(|piece| piece.map(|piece| plain(Response::new(piece))))))
    }

    pub(crate) async fn put(&self, request: pb::PutRequest) -> Result<pb::PutResponse, Status> {
        self.kv().put(Request::new(request)).await.map(plain)
    }

    pub(crate) async fn delete(&self, request: pb::DeleteRangeRequest) -> Result<pb::DeleteRangeResponse, Status> {
        self.kv().delete_range(Request::new(request)).await.map(plain)
    }

    pub(crate) async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        self.kv().txn(Request::new(request)).await.map(plain)
    }

    pub(crate) async fn compact(&self, revision: i64) -> Result<pb::CompactionResponse, Status> {
        let request = pb::CompactionRequest { revision, physical: false };
        self.kv().compact(Request::new(request)).await.map(Response::into_inner)
    }

    pub(crate) async fn grant(&self, id: i64, ttl: i64) -> Result<pb::LeaseGrantResponse, Status> {
        let service = LeaseService(Arc::clone(&self.context));
        service.lease_grant(Request::new(pb::LeaseGrantRequest { id, ttl })).await.map(Response::into_inner)
    }

    pub(crate) async fn revoke(&self, id: i64) -> Result<pb::LeaseRevokeResponse, Status> {
        let service = LeaseService(Arc::clone(&self.context));
        service.lease_revoke(Request::new(pb::LeaseRevokeRequest { id })).await.map(Response::into_inner)
    }

    /// The TTL of a lease that was renewed; none if there is none.
    pub(crate) async fn keep_alive(&self, id: i64) -> Result<Option<i64>, Status> {
        let renewed = self.context.leases.renew(LeaseId(id)).await;
        renewed.map_err(|error| Status::from(super::Error::from(error)))
    }

    /// Seconds that a lease has left; none if there is none.
    pub(crate) async fn time_to_live(&self, id: i64) -> Result<Option<i64>, Status> {
        let left = self.context.leases.time_to_live(LeaseId(id), false).await;
        let left = left.map_err(|error| Status::from(super::Error::from(error)))?;
        Ok(left.map(|left| left.remaining_seconds))
    }

    /// As the cluster's client, of a key of the cluster's own.
    pub(crate) async fn put_own(&self, request: pb::PutRequest) -> Result<pb::PutResponse, Status> {
        self.kv().put(own(request)).await.map(plain)
    }

    /// All of the cluster's own.
    pub(crate) async fn own_keys(&self) -> Result<pb::RangeResponse, Status> {
        let all = pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..pb::RangeRequest::default() };
        self.kv().range(own(all)).await.map(plain)
    }

    pub(crate) async fn disarm(&self) -> Result<(), Status> {
        let service = MaintenanceService(Arc::clone(&self.context));
        let raised = service.alarm(Request::new(pb::AlarmRequest::default())).await?.into_inner().alarms;
        for alarm in raised {
            let request = pb::AlarmRequest {
                action: pb::alarm_request::AlarmAction::Deactivate.into(),
                member_id: alarm.member_id,
                alarm: alarm.alarm,
            };
            service.alarm(Request::new(request)).await?;
        }
        Ok(())
    }

    pub(crate) async fn hash(&self, revision: i64) -> Result<pb::HashKvResponse, Status> {
        let service = MaintenanceService(Arc::clone(&self.context));
        let mut hash = service.hash_kv(Request::new(pb::HashKvRequest { revision })).await?.into_inner();
        hash.header = None;
        Ok(hash)
    }

    pub(crate) async fn enable_authentication(&self) -> Result<(), Status> {
        let service = AuthService(Arc::clone(&self.context));
        service.auth_enable(Request::new(pb::AuthEnableRequest {})).await.map(|_| ())
    }

    /// A stream of watches.
    pub(crate) fn watch<R>(&self, requests: R) -> Answers<pb::WatchResponse>
    where
        R: Stream<Item = pb::WatchRequest> + Unpin + 'static,
    {
        let space = self.context.node.state().public().clone();
        let answers = watch::answers(Arc::clone(&self.context), requests.map(Ok), LeaderWanted(false), space);
        Box::pin(answers.map(|answer| answer.map(|answer| plain(Response::new(answer)))))
    }
}

/// A request of the cluster's client that is about its keys.
fn own<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Caller::Cluster);
    let value = CLUSTER_KEYS_VALUE.parse().expect("it is a name");
    request.metadata_mut().insert(CLUSTER_KEYS, value);
    request
}
