//! Metrics, under the names that etcd's dashboards and alerts use.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use axum::body::HttpBody;
use axum::http::{HeaderMap, Request, Response};
use tonic::Code;
use tower::{Layer, Service};

use super::{Context, ETCD_CLUSTER_VERSION, ETCD_VERSION, deadline};
use crate::histogram::{Histogram, Snapshot};
use crate::peer::traffic::{Counters, Traffic};

/// What is counted where it happens; the rest is read when it is asked for.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    pub(super) watch_streams: AtomicI64,
    pub(super) watchers: AtomicI64,
    pub(super) events: AtomicU64,
    pub(super) defragmentations: Histogram,
    pub(super) received_bytes: AtomicU64,
    pub(super) sent_bytes: AtomicU64,
    pub(super) failed_proposals: AtomicU64,
    /// As seen once in an election timeout.
    pub(super) leader_changes: AtomicU64,
    pub(super) ranges: AtomicU64,
    pub(super) transactions: AtomicU64,
    healthy: AtomicU64,
    unhealthy: AtomicU64,
    /// By the name of a check and what it is for.
    checks: Mutex<BTreeMap<(&'static str, &'static str), Checked>>,
    calls: Mutex<BTreeMap<String, Call>>,
}

/// How often a check of health passed and failed, and whether it did the last time.
#[derive(Clone, Copy, Debug, Default)]
struct Checked {
    passed: u64,
    failed: u64,
    passes: bool,
}

/// Calls of one gRPC method. There are as many of these as methods: paths that are not served are not counted.
#[derive(Debug, Default)]
struct Call {
    started: u64,
    handled: BTreeMap<i32, u64>,
    /// How long they took, where that is asked for.
    seconds: Option<Histogram>,
}

/// Of calls' times: those of Go's Prometheus client, which etcd keeps.
const CALL_MILLIS: [u64; 11] = [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000];

fn call_times() -> Histogram {
    Histogram::new(CALL_MILLIS.into_iter().map(Duration::from_millis))
}

impl Metrics {
    pub(super) fn count_health(&self, healthy: bool) {
        let counter = if healthy { &self.healthy } else { &self.unhealthy };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_check(&self, name: &'static str, probe: &'static str, passes: bool) {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        let checked = checks.entry((name, probe)).or_default();
        let count = if passes { &mut checked.passed } else { &mut checked.failed };
        *count += 1;
        checked.passes = passes;
    }

    fn started(&self, path: &str, timed: bool) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(call) = calls.get_mut(path) {
            call.started += 1;
        } else {
            let call = Call { started: 1, handled: BTreeMap::new(), seconds: timed.then(call_times) };
            calls.insert(path.to_owned(), call);
        }
    }

    fn handled(&self, path: &str, code: i32, took: Duration) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(call) = calls.get_mut(path) {
            *call.handled.entry(code).or_default() += 1;
            if let Some(seconds) = &call.seconds {
                seconds.observe(took);
            }
        }
    }
}

/// The services whose calls are counted.
const SERVICES: [(&str, &[&str]); 9] = [
    ("etcdserverpb.KV", &["Range", "RangeStream", "Put", "DeleteRange", "Txn", "Compact"]),
    ("etcdserverpb.Watch", &["Watch"]),
    ("etcdserverpb.Lease", &["LeaseGrant", "LeaseRevoke", "LeaseKeepAlive", "LeaseTimeToLive", "LeaseLeases"]),
    ("etcdserverpb.Cluster", &["MemberAdd", "MemberRemove", "MemberUpdate", "MemberList", "MemberPromote"]),
    (
        "etcdserverpb.Maintenance",
        &["Alarm", "Status", "Defragment", "Hash", "HashKV", "Snapshot", "MoveLeader", "Downgrade"],
    ),
    ("etcdserverpb.Auth", &["AuthStatus", "Authenticate", "UserList", "RoleList"]),
    ("grpc.health.v1.Health", &["Check", "Watch"]),
    ("v3electionpb.Election", &["Campaign", "Proclaim", "Leader", "Observe", "Resign"]),
    ("v3lockpb.Lock", &["Lock", "Unlock"]),
];

fn is_counted(path: &str) -> bool {
    let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else { return false };
    SERVICES.iter().any(|(name, methods)| *name == service && methods.contains(&method))
}

/// Counts gRPC calls by method and code, and ends those whose time is over.
#[derive(Clone, Debug)]
pub(super) struct CountLayer {
    context: Arc<Context>,
}

impl CountLayer {
    pub(super) fn new(context: &Arc<Context>) -> Self {
        Self { context: Arc::clone(context) }
    }
}

impl<S> Layer<S> for CountLayer {
    type Service = Count<S>;

    fn layer(&self, inner: S) -> Count<S> {
        Count { inner, context: Arc::clone(&self.context) }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Count<S> {
    inner: S,
    context: Arc<Context>,
}

impl<S, B, R> Service<Request<B>> for Count<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    R: 'static,
{
    type Response = Response<CountedBody<R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        let ending = is_counted(path).then(|| {
            self.context.metrics.started(path, self.context.limits.extensive_metrics);
            let (context, path) = (Arc::clone(&self.context), path.to_owned());
            Ending { context, path, code: Code::Cancelled as i32, began: Instant::now() }
        });
        let deadline = deadline::of(request.headers());
        let response = self.inner.call(request);
        Box::pin(async move {
            let mut ending = ending;
            let response = match deadline::within(deadline, response).await {
                Some(response) => response?.map(|body| Some(Box::pin(body))),
                None => deadline::exceeded(),
            };
            // A refusal comes in the headers, without a body.
            note_code(&mut ending, response.headers());
            Ok(response.map(|body| CountedBody { body, ending }))
        })
    }
}

fn note_code(ending: &mut Option<Ending>, headers: &HeaderMap) {
    let code = headers.get("grpc-status").and_then(|code| code.to_str().ok()?.parse().ok());
    if let (Some(ending), Some(code)) = (ending, code) {
        ending.code = code;
    }
}

/// Counts a call's end when it is dropped: one whose code never came was given up by the client.
#[derive(Debug)]
struct Ending {
    context: Arc<Context>,
    path: String,
    code: i32,
    began: Instant,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.context.metrics.handled(&self.path, self.code, self.began.elapsed());
    }
}

/// A body, if there is one, whose trailers are looked at.
#[derive(Debug)]
pub(super) struct CountedBody<B> {
    body: Option<Pin<Box<B>>>,
    ending: Option<Ending>,
}

impl<B> Default for CountedBody<B> {
    fn default() -> Self {
        Self { body: None, ending: None }
    }
}

impl<B: HttpBody> HttpBody for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<B::Data>, B::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = task::ready!(body.as_mut().poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            note_code(&mut self.ending, trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.as_ref().map_or_else(|| hyper::body::SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

/// The text of `/metrics`.
pub(super) fn render(context: &Context) -> String {
    let mut page = Page::default();
    let node = &context.node;
    let status = node.status();
    let usage = node.usage();
    let flag = u8::from;
    let member = format!("server_id=\"{}\"", node.member_id());
    page.labelled("etcd_server_id", "gauge", "This member's id.", [(member, 1)]);
    page.labelled(
        "etcd_server_version",
        "gauge",
        "The etcd release that is followed.",
        [label("server_version", ETCD_VERSION)],
    );
    page.labelled("etcd_cluster_version", "gauge", "The cluster's.", [label("cluster_version", ETCD_CLUSTER_VERSION)]);
    page.value("etcd_server_has_leader", "gauge", "Whether there is a leader.", flag(status.leader.is_some()));
    page.value("etcd_server_is_leader", "gauge", "Whether this member leads.", flag(status.is_leader));
    page.value("etcd_server_is_learner", "gauge", "Whether this member learns.", flag(status.is_learner));
    page.value("etcd_server_proposals_committed_total", "gauge", "Entries committed.", status.committed);
    page.value("etcd_server_proposals_applied_total", "gauge", "Entries applied.", status.applied);
    page.value(
        "etcd_server_proposals_pending",
        "gauge",
        "Entries to be applied.",
        status.index.saturating_sub(status.applied),
    );
    page.value("etcd_server_quota_backend_bytes", "gauge", "The quota.", usage.quota_bytes);
    page.value("etcd_mvcc_db_total_size_in_bytes", "gauge", "The database's file.", usage.database_bytes);
    page.value("etcd_mvcc_db_total_size_in_use_in_bytes", "gauge", "Of which in use.", usage.in_use_bytes);
    let (sync, commit) = (node.log_sync_times().snapshot(), node.checkpoint_commit_times().snapshot());
    page.histogram("etcd_disk_wal_fsync_duration_seconds", "Syncs of the log.", &sync);
    page.histogram("etcd_disk_backend_commit_duration_seconds", "Checkpoints.", &commit);
    key_space(&mut page, context);
    let metrics = &context.metrics;
    let defragmentations = metrics.defragmentations.snapshot();
    page.histogram("etcd_disk_backend_defrag_duration_seconds", "Defragmentations.", &defragmentations);
    let load = |value: &AtomicI64| value.load(Ordering::Relaxed);
    // All that are not in the index are behind, whether or not their streams know it yet.
    let slow = load(&metrics.watchers) - i64::try_from(node.state().public().hub().synced()).unwrap_or(0);
    page.value("etcd_debugging_mvcc_watch_stream_total", "gauge", "Streams of watches.", load(&metrics.watch_streams));
    page.value("etcd_debugging_mvcc_watcher_total", "gauge", "Watches.", load(&metrics.watchers));
    page.value("etcd_debugging_mvcc_slow_watcher_total", "gauge", "Watches that are behind.", slow);
    page.value("etcd_debugging_mvcc_events_total", "counter", "Events sent.", metrics.events.load(Ordering::Relaxed));
    page.value(
        "etcd_server_health_success",
        "counter",
        "Health checks passed.",
        metrics.healthy.load(Ordering::Relaxed),
    );
    page.value(
        "etcd_server_health_failures",
        "counter",
        "Health checks failed.",
        metrics.unhealthy.load(Ordering::Relaxed),
    );
    checks(&mut page, metrics);
    counters(&mut page, context);
    leases(&mut page, context);
    network(&mut page, context);
    calls(&mut page, metrics);
    process(&mut page);
    page.0
}

fn checks(page: &mut Page, metrics: &Metrics) {
    let checks = metrics.checks.lock().unwrap_or_else(PoisonError::into_inner);
    let passes = checks
        .iter()
        .map(|((name, probe), checked)| (format!("name=\"{name}\",type=\"{probe}\""), u8::from(checked.passes)));
    page.labelled("etcd_server_healthcheck", "gauge", "Whether a check of health passed the last time.", passes);
    let counts = checks.iter().flat_map(|((name, probe), checked)| {
        [("success", checked.passed), ("error", checked.failed)]
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(move |(status, count)| (format!("name=\"{name}\",status=\"{status}\",type=\"{probe}\""), count))
    });
    page.labelled("etcd_server_healthchecks_total", "counter", "Checks of health.", counts);
}

fn counters(page: &mut Page, context: &Context) {
    let metrics = &context.metrics;
    let (puts, deletes) = context.node.state().public().changes();
    let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
    let reads = context.node.read_rounds();
    for (name, help, value) in [
        ("etcd_network_client_grpc_received_bytes_total", "Bytes from clients.", load(&metrics.received_bytes)),
        ("etcd_network_client_grpc_sent_bytes_total", "Bytes to clients.", load(&metrics.sent_bytes)),
        ("etcd_server_proposals_failed_total", "Proposals not answered in time.", load(&metrics.failed_proposals)),
        ("etcd_server_leader_changes_seen_total", "Changes of the leader.", load(&metrics.leader_changes)),
        ("etcd_mvcc_range_total", "Ranges read.", load(&metrics.ranges)),
        ("etcd_mvcc_txn_total", "Transactions.", load(&metrics.transactions)),
        ("etcd_mvcc_put_total", "Keys put.", puts),
        ("etcd_mvcc_delete_total", "Keys deleted.", deletes),
        ("etcd_server_slow_apply_total", "Batches that took long to apply.", context.node.slow_applies()),
        ("etcd_server_slow_read_indexes_total", "Rounds for reads that took long.", reads.slow),
        ("etcd_server_read_indexes_failed_total", "Rounds for reads that failed.", reads.failed),
        ("etcd_disk_wal_write_bytes_total", "Bytes of entries that the log has or had.", context.node.log_bytes()),
    ] {
        page.value(name, "counter", help, value);
    }
}

fn leases(page: &mut Page, context: &Context) {
    let (expired, renewed) = context.leases.expired_and_renewed();
    let state = context.node.state();
    let ttls = state.lease_ttls().snapshot();
    for (name, help, value) in [
        ("etcd_server_lease_expired_total", "Leases that ran out while this member led.", expired),
        ("etcd_debugging_lease_granted_total", "Leases granted.", ttls.count),
        ("etcd_debugging_lease_revoked_total", "Leases revoked.", state.leases_revoked()),
        ("etcd_debugging_lease_renewed_total", "Leases renewed while this member led.", renewed),
    ] {
        page.value(name, "counter", help, value);
    }
    page.histogram("etcd_debugging_lease_ttl_total", "Times of leases, in seconds.", &ttls);
}

/// One of the counts of a member.
type OfPeer = fn(&Counters) -> &AtomicU64;

/// What is exchanged with other members: etcd's labels are their ids.
fn network(page: &mut Page, context: &Context) {
    let local = context.node.member_id();
    let peers = context.node.traffic().map(Traffic::all).unwrap_or_default();
    let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
    let connections: [(&str, &str, &str, OfPeer); 2] = [
        ("active_peers", "gauge", "Connections to members.", |peer| &peer.connections),
        ("disconnected_peers_total", "counter", "Connections to members that have ended.", |peer| &peer.disconnects),
    ];
    for (name, kind, help, value) in connections {
        let labels = |id| format!("Local=\"{local}\",Remote=\"{id}\"");
        let values = peers.iter().map(|(id, peer)| (labels(id), load(value(peer))));
        page.labelled(&format!("etcd_network_{name}"), kind, help, values);
    }
    let exchanged: [(&str, &str, &str, OfPeer); 3] = [
        ("sent_bytes", "To", "Bytes sent.", |peer| &peer.sent_bytes),
        ("received_bytes", "From", "Bytes received.", |peer| &peer.received_bytes),
        ("sent_failures", "To", "Requests that were not answered.", |peer| &peer.failures),
    ];
    for (name, label, help, value) in exchanged {
        let values = peers.iter().map(|(id, peer)| (format!("{label}=\"{id}\""), load(value(peer))));
        page.labelled(&format!("etcd_network_peer_{name}_total"), "counter", help, values);
    }
    let round_trips = peers.iter().map(|(id, peer)| (format!("To=\"{id}\""), peer.round_trips.snapshot()));
    page.histograms("etcd_network_peer_round_trip_time_seconds", "From a heartbeat to its answer.", round_trips);
    let failed: u64 = peers.values().map(|peer| load(&peer.heartbeat_failures)).sum();
    page.value("etcd_server_heartbeat_send_failures_total", "counter", "Heartbeats that were not answered.", failed);
}

fn key_space(page: &mut Page, context: &Context) {
    let ((keys, rows, compact_revision, leases), revision) = context.node.state().public().read(|mvcc, revision| {
        ((mvcc.live_keys(), mvcc.rows(), mvcc.compact_revision(), mvcc.leases.ids().len()), revision)
    });
    page.value("etcd_debugging_mvcc_keys_total", "gauge", "Keys.", keys);
    page.value("keelson_store_mvcc_rows", "gauge", "Keys as of all revisions since the last compaction.", rows);
    page.value("etcd_debugging_mvcc_current_revision", "gauge", "The newest revision.", revision);
    page.value("etcd_debugging_mvcc_compact_revision", "gauge", "The compacted revision.", compact_revision);
    page.value("keelson_store_leases", "gauge", "Leases.", leases);
}

fn calls(page: &mut Page, metrics: &Metrics) {
    let calls = metrics.calls.lock().unwrap_or_else(PoisonError::into_inner);
    let method = |path: &str| {
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
        let kind = match method {
            "Watch" if service == "etcdserverpb.Watch" => "bidi_stream",
            "LeaseKeepAlive" => "bidi_stream",
            "Observe" | "RangeStream" | "Snapshot" | "Watch" => "server_stream",
            _ => "unary",
        };
        format!("grpc_method=\"{method}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"")
    };
    let started = calls.iter().map(|(path, call)| (method(path), call.started));
    page.labelled("grpc_server_started_total", "counter", "Calls begun.", started);
    let handled = calls.iter().flat_map(|(path, call)| {
        call.handled
            .iter()
            .map(move |(code, count)| (format!("grpc_code=\"{}\",{}", code_name(*code), method(path)), *count))
    });
    page.labelled("grpc_server_handled_total", "counter", "Calls ended.", handled);
    let mut times =
        calls.iter().filter_map(|(path, call)| Some((method(path), call.seconds.as_ref()?.snapshot()))).peekable();
    if times.peek().is_some() {
        page.histograms("grpc_server_handling_seconds", "How long calls took.", times);
    }
}

/// What Go's Prometheus client tells of every process.
fn process(page: &mut Page) {
    let Some(usage) = crate::process_usage::read() else { return };
    page.value("process_cpu_seconds_total", "counter", "Processor time.", usage.cpu_seconds);
    page.value("process_resident_memory_bytes", "gauge", "Resident memory.", usage.resident_bytes);
    page.value("process_virtual_memory_bytes", "gauge", "Address space.", usage.virtual_bytes);
    page.value("process_max_fds", "gauge", "Open file descriptors at most.", crate::open_files::limit());
    page.value("process_open_fds", "gauge", "Open file descriptors.", usage.open_files);
    page.value("process_start_time_seconds", "gauge", "When the process began.", usage.start_seconds);
}

fn label(name: &str, value: &str) -> (String, u64) {
    (format!("{name}=\"{value}\""), 1)
}

/// As Go's library writes codes.
fn code_name(code: i32) -> &'static str {
    match Code::from_i32(code) {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// Prometheus' text format.
#[derive(Debug, Default)]
struct Page(String);

impl Page {
    fn value(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }

    fn histogram(&mut self, name: &str, help: &str, times: &Snapshot) {
        self.histograms(name, help, [(String::new(), times.clone())]);
    }

    /// Of each label.
    fn histograms(&mut self, name: &str, help: &str, times: impl IntoIterator<Item = (String, Snapshot)>) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (labels, Snapshot { buckets, count, sum_seconds }) in times {
            let comma = if labels.is_empty() { "" } else { "," };
            for (bound, count) in &buckets {
                let _ = writeln!(self.0, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}");
            }
            let _ = writeln!(self.0, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
            let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
            let _ = writeln!(self.0, "{name}_sum{labels} {sum_seconds}\n{name}_count{labels} {count}");
        }
    }

    fn labelled<V: std::fmt::Display>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        values: impl IntoIterator<Item = (String, V)>,
    ) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(self.0, "{name}{{{labels}}} {value}");
        }
    }
}
