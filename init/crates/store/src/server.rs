//! The servers: etcd's v3 API over gRPC, and its HTTP paths.
//!
//! Everything is served by one kind of listener: a plain or TLS socket whose connections speak HTTP/2 (gRPC, and the HTTP
//! paths) or HTTP/1.1 (the HTTP paths). Client addresses serve all of it, as etcd's do, unless the HTTP paths have addresses of their own; metrics
//! addresses serve the HTTP paths only.
//!
//! No lock is held over I/O: services await consensus, then take the state's lock for bounded work, then encode.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::stream::StreamExt as _;
use keelson_etcd_api::concurrency::election::election_server::ElectionServer;
use keelson_etcd_api::concurrency::lock::lock_server::LockServer;
use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::grpc::health::server::health_server::HealthServer;
use keelson_etcd_api::server::auth_server::AuthServer;
use keelson_etcd_api::server::cluster_server::ClusterServer;
use keelson_etcd_api::server::kv_server::KvServer;
use keelson_etcd_api::server::lease_server::LeaseServer;
use keelson_etcd_api::server::maintenance_server::MaintenanceServer;
use keelson_etcd_api::server::watch_server::WatchServer;
use tokio::sync::watch as signal;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic::service::{InterceptorLayer, Routes};
use tower::util::{MapRequestLayer, MapResponseLayer};

use self::errors::Error;
use self::gateway::{Gateway, GatewayError};
use self::metered::Metered;
use self::metrics::Metrics;
use self::unfinished::Unfinished;
use crate::cluster_keys;
use crate::command::Command;
use crate::flags::{AutoCompaction, Endpoint, Settings, TlsFiles};
use crate::lease::keeper::Keeper;
use crate::listener::{ListenError, Listener, Opening, Room};
use crate::node::Node;
use crate::random::{Random, SystemRandom};
use crate::state::{Keys, Response, State};

mod auth;
mod auto_compaction;
mod callers;
mod cluster;
mod contest;
mod deadline;
mod election;
pub mod errors;
mod fragments;
mod gateway;
mod health;
mod http;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod metered;
mod metrics;
mod oversized;
#[cfg(test)]
pub(crate) mod simulated;
pub(crate) mod snapshot;
mod unfinished;
pub mod validate;
mod watch;

/// The etcd release whose behaviour is served. kube-apiserver reads it from the status: from 3.5.13 on it relies on progress
/// requests for consistent reads from its cache.
pub const ETCD_VERSION: &str = "3.7.3";
/// The same as a cluster's and a storage's version.
pub(crate) const ETCD_CLUSTER_VERSION: &str = "3.7.0";

/// What a request may be larger than `max_request_bytes` by, for what is around it on the wire. etcd's value.
const GRPC_OVERHEAD_BYTES: usize = 512 << 10;
/// HTTP/2 windows. A single watch or list moves megabytes; the protocol's own 64 KiB would make each wait for its peer.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Streams that a client may cancel faster than they are taken up. kube-apiserver cancels many watches at once.
const PENDING_RESETS: usize = 1024;
/// Election timeouts without a leader after which streams that asked for one are ended. etcd's value.
const LEADERLESS_TIMEOUTS: u32 = 3;
/// How long connections may take to end once the server is told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("the JSON gateway")]
    Gateway(#[from] GatewayError),
}

/// Bounds of what is served.
#[derive(Clone, Debug)]
pub struct Limits {
    pub request_bytes: usize,
    pub txn_ops: usize,
    pub min_lease_ttl_seconds: i64,
    pub watch_progress_interval: Duration,
    pub election_timeout: Duration,
    pub concurrent_streams: u32,
    /// How often idle connections are pinged, for peers that vanished without a word.
    pub keepalive_interval: Option<Duration>,
    pub keepalive_timeout: Duration,
    pub lease_checkpoints: bool,
    /// The common name of the client whose the cluster's keys are, if they are not everybody's.
    pub cluster_client: Option<String>,
    pub learners: usize,
    /// Whether metrics tell how long calls took.
    pub extensive_metrics: bool,
}

impl Limits {
    fn new(settings: &Settings) -> Self {
        // etcd's rule: a lease must outlive an election that begins when it was renewed last.
        let min_lease_ttl = (settings.election_timeout * 3 / 2).as_millis().div_ceil(1000);
        Self {
            request_bytes: settings.max_request_bytes,
            txn_ops: settings.max_txn_ops,
            min_lease_ttl_seconds: i64::try_from(min_lease_ttl).unwrap_or(i64::MAX),
            // etcd's minimum.
            watch_progress_interval: settings.watch_progress_notify_interval.max(Duration::from_millis(100)),
            election_timeout: settings.election_timeout,
            concurrent_streams: settings.max_concurrent_streams,
            keepalive_interval: Some(settings.keepalive_interval).filter(|interval| !interval.is_zero()),
            keepalive_timeout: settings.keepalive_timeout,
            lease_checkpoints: settings.lease_checkpoints,
            cluster_client: settings.cluster_client.clone(),
            learners: settings.max_learners,
            extensive_metrics: settings.extensive_metrics,
        }
    }
}

/// What all services share.
#[derive(Debug)]
pub struct Context {
    node: Arc<Node<State>>,
    leases: Arc<Keeper>,
    limits: Limits,
    random: Arc<dyn Random>,
    metrics: Metrics,
    unfinished: Arc<Unfinished>,
    stop: signal::Sender<bool>,
    /// True once there has been no leader for a while.
    leaderless: signal::Sender<bool>,
}

impl Context {
    pub fn new(node: Arc<Node<State>>, limits: Limits, random: Arc<dyn Random>) -> Self {
        let leases = Arc::new(Keeper::new(Arc::clone(&node), limits.election_timeout, limits.lease_checkpoints));
        let service = Arc::downgrade(&leases);
        node.set_leases(service);
        Self {
            leases,
            node,
            limits,
            random,
            metrics: Metrics::default(),
            unfinished: Unfinished::new(unfinished::MOST_BYTES),
            stop: signal::channel(false).0,
            leaderless: signal::channel(false).0,
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "the messages' field is optional")]
    fn header_at(&self, revision: i64) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader {
            cluster_id: self.node.cluster_id(),
            member_id: self.node.member_id().0,
            revision,
            raft_term: self.node.status().term,
        })
    }

    fn header(&self) -> Option<pb::ResponseHeader> {
        self.header_of(Keys::Public)
    }

    fn header_of(&self, keys: Keys) -> Option<pb::ResponseHeader> {
        self.header_at(self.node.state().of(keys).revision())
    }

    /// Completes the header of an answer that knows at most its revision.
    fn fill(&self, keys: Keys, header: &mut Option<pb::ResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = if revision == 0 { self.header_of(keys) } else { self.header_at(revision) };
    }

    /// Proposes what a client asked for.
    async fn propose_on(&self, keys: Keys, command: Command) -> Result<Response, Error> {
        if keys == Keys::Cluster && command.grows() {
            let bytes = self.node.state().of(keys).read(|mvcc, _| mvcc.bytes());
            if bytes + command.encoded_len() as u64 > cluster_keys::QUOTA_BYTES {
                return Err(Error::NoSpace);
            }
        }
        self.propose(command.on(keys)).await
    }

    /// Proposes a command, and takes its refusal for an error.
    async fn propose(&self, command: Command) -> Result<Response, Error> {
        if command.encoded_len() > self.limits.request_bytes {
            return Err(Error::RequestTooLarge);
        }
        let proposed = self.node.propose(command).await;
        if proposed.is_err() {
            self.metrics.failed_proposals.fetch_add(1, Ordering::Relaxed);
        }
        match proposed? {
            Response::Rejected(rejection) => Err(rejection.into()),
            response => Ok(response),
        }
    }

    /// Returns when the server stops.
    async fn stopping(&self) {
        // The sender is here, so the wait cannot fail.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Whether the client asked to be refused while there is no leader.
    fn require_leader(&self, metadata: &MetadataMap) -> Result<LeaderWanted, Error> {
        let wanted = metadata.get("hasleader").is_some_and(|value| value.as_bytes() == b"true");
        if wanted && self.node.status().leader.is_none() {
            return Err(Error::NoLeader);
        }
        Ok(LeaderWanted(wanted))
    }

    /// Watches for the loss of the leader, for ever.
    async fn watch_leader(&self) {
        let mut checks = 0;
        let mut last = None;
        loop {
            let leader = self.node.status().leader;
            if leader.is_some() && std::mem::replace(&mut last, leader) != leader {
                self.metrics.leader_changes.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep(self.limits.election_timeout).await;
            checks = if leader.is_none() { checks + 1 } else { 0 };
            let leaderless = checks >= LEADERLESS_TIMEOUTS;
            self.leaderless.send_if_modified(|old| std::mem::replace(old, leaderless) != leaderless);
        }
    }
}

/// A stream's wish not to outlive the leader.
#[derive(Clone, Copy, Debug)]
struct LeaderWanted(bool);

impl LeaderWanted {
    /// Returns when there has been no leader for a while and the stream asked for one.
    async fn lost(self, context: &Context) {
        if !self.0 {
            return std::future::pending().await;
        }
        let _ = context.leaderless.subscribe().wait_for(|leaderless| *leaderless).await;
    }
}

/// Bound to its addresses, and not yet serving.
#[derive(Debug)]
pub struct Server {
    context: Arc<Context>,
    clients: Vec<Listener>,
    metrics: Vec<Listener>,
    /// If there are any, clients' addresses serve gRPC only.
    http: Vec<Listener>,
    gateway: Option<Gateway>,
    auto_compaction: AutoCompaction,
}

impl Server {
    /// With room for so many connections.
    pub async fn bind(node: Arc<Node<State>>, settings: &Settings, connections: usize) -> Result<Self, ServerError> {
        let tls = settings.client_tls.as_ref();
        let room = Room::new(connections);
        Ok(Self {
            context: Arc::new(Context::new(node, Limits::new(settings), Arc::new(SystemRandom))),
            clients: listeners(&settings.listen_client, tls, &room).await?,
            metrics: listeners(&settings.listen_metrics, tls, &room).await?,
            http: listeners(&settings.listen_http, tls, &room).await?,
            gateway: settings.json_gateway.then(Gateway::new).transpose()?,
            auto_compaction: settings.auto_compaction,
        })
    }

    /// Where clients are served: differs from the settings where those let the system choose a port.
    pub fn client_addresses(&self) -> Vec<std::net::SocketAddr> {
        self.clients.iter().filter_map(Listener::address).collect()
    }

    /// Serves until `shutdown` is done and connections have ended.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) {
        let Self { context, clients, metrics, http, gateway, auto_compaction } = self;
        let mut background = tokio::task::JoinSet::new();
        let shared = Arc::clone(&context);
        background.spawn(async move { shared.leases.run().await });
        let shared = Arc::clone(&context);
        background.spawn(async move { shared.watch_leader().await });
        let own = AutoCompaction::Revisions(cluster_keys::KEPT_REVISIONS);
        for (keys, compaction) in [(Keys::Public, auto_compaction), (Keys::Cluster, own)] {
            let space = context.node.state().of(keys).clone();
            background.spawn(async move { space.remove_garbage().await });
            background.spawn(auto_compaction::run(Arc::clone(&context), keys, compaction));
        }

        let mut serving = tokio::task::JoinSet::new();
        let paths = http::client_router(&context);
        let paths = match gateway {
            Some(gateway) => {
                paths.merge(gateway.router(&client_routes(&context, http::grpc_router()), largest(&context)))
            }
            None => paths,
        };
        let clients_paths = if http.is_empty() { paths.clone() } else { http::grpc_router() };
        for listener in clients {
            serving.spawn(serve(listener, client_routes(&context, clients_paths.clone()), Arc::clone(&context)));
        }
        for listener in http {
            serving.spawn(serve(listener, Routes::from(paths.clone()), Arc::clone(&context)));
        }
        for listener in metrics {
            serving.spawn(serve(listener, http::metrics_routes(&context), Arc::clone(&context)));
        }
        shutdown.await;
        context.stop.send_replace(true);
        let ended = async { while serving.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_TIMEOUT, ended).await.is_err() {
            tracing::warn!("connections did not end in time");
        }
    }
}

async fn listeners(endpoints: &[Endpoint], tls: Option<&TlsFiles>, room: &Room) -> Result<Vec<Listener>, ServerError> {
    let mut listeners = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        listeners.push(Listener::bind(endpoint, tls, room).await?);
    }
    Ok(listeners)
}

fn client_routes(context: &Arc<Context>, paths: axum::Router) -> Routes {
    let share = || Arc::clone(context);
    let largest = largest(context);
    Routes::from(paths)
        .add_service(KvServer::new(kv::KvService(share())).max_decoding_message_size(largest))
        .add_service(WatchServer::new(watch::WatchService(share())).max_decoding_message_size(largest))
        .add_service(LeaseServer::new(lease::LeaseService(share())).max_decoding_message_size(largest))
        .add_service(ClusterServer::new(cluster::ClusterService(share())).max_decoding_message_size(largest))
        .add_service(
            MaintenanceServer::new(maintenance::MaintenanceService(share())).max_decoding_message_size(largest),
        )
        .add_service(AuthServer::new(auth::AuthService(share())).max_decoding_message_size(largest))
        .add_service(LockServer::new(lock::LockService(share())).max_decoding_message_size(largest))
        .add_service(ElectionServer::new(election::ElectionService(share())).max_decoding_message_size(largest))
        .add_service(HealthServer::new(health::HealthService(share())))
        .prepare()
}

/// Of a client's messages.
fn largest(context: &Context) -> usize {
    context.limits.request_bytes + GRPC_OVERHEAD_BYTES
}

async fn serve(listener: Listener, routes: Routes, context: Arc<Context>) {
    let name = listener.name().to_owned();
    let leader = Arc::clone(&context);
    let stopping = Arc::clone(&context);
    let metering = Arc::clone(&context);
    let unfinished = Arc::clone(&context.unfinished);
    let incoming = listener
        .incoming(Opening::Http)
        .map(move |connection| connection.map(|connection| Metered::new(connection, &metering)));
    let result = tonic::transport::Server::builder()
        .accept_http1(true)
        .max_concurrent_streams(context.limits.concurrent_streams)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(context.limits.keepalive_interval)
        .http2_keepalive_timeout(Some(context.limits.keepalive_timeout))
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
        .layer(metrics::CountLayer::new(&context))
        .layer(MapResponseLayer::new(oversized::reword))
        .layer(MapRequestLayer::new(move |request| unfinished.count(request)))
        .layer(InterceptorLayer::new(move |request: tonic::Request<()>| {
            leader.require_leader(request.metadata()).map_err(Status::from)?;
            Ok(request)
        }))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, async move { stopping.stopping().await })
        .await;
    if let Err(error) = result {
        tracing::error!(address = name, %error, "serving has ended");
    }
}
