//! The HTTP paths: health in etcd's three forms, version, metrics.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{RawQuery, Request, State};
use axum::handler::Handler;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use keelson_etcd_api::etcdserverpb::AlarmType;
use tonic::Status;
use tonic::service::Routes;

use super::{Context, ETCD_CLUSTER_VERSION, ETCD_VERSION};

/// What the checks are for, as metrics name it.
const LIVE: &str = "livez";
const READY: &str = "readyz";

/// Only the HTTP paths, for a metrics address.
pub(super) fn metrics_routes(context: &Arc<Context>) -> Routes {
    Routes::from(router().with_state(Arc::clone(context)))
}

/// The HTTP paths, to which gRPC's services are added.
pub(super) fn client_router(context: &Arc<Context>) -> Router {
    router().fallback(unknown).with_state(Arc::clone(context))
}

/// What is left of them on client addresses where the HTTP paths have addresses of their own.
pub(super) fn grpc_router() -> Router {
    Router::new().fallback(unknown)
}

fn router() -> Router<Arc<Context>> {
    let one = |probe, check| only_get(move |context, query| one(context, query, probe, check));
    Router::new()
        .route("/health", only_get(health))
        .route("/livez", only_get(livez))
        .route("/livez/serializable_read", one(LIVE, Check::SerializableRead))
        .route("/readyz", only_get(readyz))
        .route("/readyz/data_corruption", one(READY, Check::DataCorruption))
        .route("/readyz/serializable_read", one(READY, Check::SerializableRead))
        .route("/readyz/linearizable_read", one(READY, Check::LinearizableRead))
        .route("/readyz/non_learner", one(READY, Check::NonLearner))
        .route("/version", only_get(version))
        .route("/metrics", get(metrics))
}

/// As etcd's: HEAD is not let pass as a GET.
fn only_get<H, T>(handler: H) -> MethodRouter<Arc<Context>>
where
    H: Handler<T, Arc<Context>>,
    T: 'static,
{
    get(handler).head(not_allowed).fallback(not_allowed)
}

async fn not_allowed() -> impl IntoResponse {
    (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET")], "Method Not Allowed\n")
}

/// A gRPC service that is not served is told so in gRPC's way.
async fn unknown(request: Request) -> Response<Body> {
    let grpc = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if grpc.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
        let service = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
        return Status::unimplemented(format!("unknown service {service}")).into_http();
    }
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}

struct Query(String);

impl Query {
    fn new(query: Option<String>) -> Self {
        Self(query.unwrap_or_default())
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let pairs = self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.filter(move |(key, _)| *key == name).map(|(_, value)| value)
    }
}

/// etcd's older form: one answer in JSON, 503 if it is not healthy.
async fn health(State(context): State<Arc<Context>>, RawQuery(query): RawQuery) -> Response {
    let query = Query::new(query);
    let serializable = query.values("serializable").any(|value| value == "true");
    let reason = unhealthy(&context, &query, serializable).await;
    context.metrics.count_health(reason.is_none());
    match reason {
        None => ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], "{\"health\":\"true\",\"reason\":\"\"}")
            .into_response(),
        Some(reason) => {
            tracing::warn!(reason, "unhealthy");
            let body = format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n");
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

async fn unhealthy(context: &Context, query: &Query, serializable: bool) -> Option<String> {
    for alarm in context.node.state().alarms() {
        let name = match AlarmType::try_from(alarm.alarm) {
            Ok(AlarmType::Nospace) => "NOSPACE",
            Ok(AlarmType::Corrupt) => "CORRUPT",
            _ => "UNKNOWN",
        };
        if !query.values("exclude").any(|excluded| excluded == name) {
            return Some(format!("ALARM {name}"));
        }
    }
    if serializable {
        return None;
    }
    if context.node.status().leader.is_none() {
        return Some("RAFT NO LEADER".to_owned());
    }
    let read = context.node.read_index().await;
    read.err().map(|error| format!("RANGE ERROR:{}", super::errors::Error::from(error)))
}

/// The checks of `/livez` and `/readyz`, under etcd's names.
#[derive(Clone, Copy, Debug)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    const LIVE: [Self; 1] = [Self::SerializableRead];
    const READY: [Self; 4] = [Self::DataCorruption, Self::SerializableRead, Self::LinearizableRead, Self::NonLearner];

    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    async fn run(self, context: &Context) -> Result<(), String> {
        match self {
            // The state's lock is all that such a read needs.
            Self::SerializableRead => {
                context.node.state().public().read(|_, _| ());
                Ok(())
            }
            Self::LinearizableRead => {
                context.node.read_index().await.map_err(|error| super::errors::Error::from(error).to_string())
            }
            Self::DataCorruption => {
                let corrupt = i32::from(AlarmType::Corrupt);
                let raised = context.node.state().alarms().into_iter().any(|alarm| alarm.alarm == corrupt);
                if raised { Err("alarm activated: CORRUPT".to_owned()) } else { Ok(()) }
            }
            Self::NonLearner => {
                if context.node.status().is_learner {
                    Err("not supported for learner".to_owned())
                } else {
                    Ok(())
                }
            }
        }
    }
}

async fn livez(State(context): State<Arc<Context>>, RawQuery(query): RawQuery) -> Response {
    run_checks(&context, &Query::new(query), LIVE, &Check::LIVE).await
}

async fn readyz(State(context): State<Arc<Context>>, RawQuery(query): RawQuery) -> Response {
    run_checks(&context, &Query::new(query), READY, &Check::READY).await
}

async fn one(
    State(context): State<Arc<Context>>,
    RawQuery(query): RawQuery,
    probe: &'static str,
    check: Check,
) -> Response {
    run_checks(&context, &Query::new(query), probe, &[check]).await
}

async fn run_checks(context: &Context, query: &Query, probe: &'static str, checks: &[Check]) -> Response {
    let mut report = String::new();
    let mut failed = false;
    for check in checks {
        if query.values("exclude").any(|excluded| excluded == check.name()) {
            continue;
        }
        let result = check.run(context).await;
        context.metrics.count_check(check.name(), probe, result.is_ok());
        let line = match result {
            Ok(()) => format!("[+]{} ok", check.name()),
            Err(reason) => {
                failed = true;
                format!("[-]{} failed: {reason}", check.name())
            }
        };
        // Writing to a string cannot fail.
        let _ = writeln!(report, "{line}");
    }
    if failed {
        tracing::warn!(report, "health check failed");
        return (StatusCode::SERVICE_UNAVAILABLE, report).into_response();
    }
    let verbose = query.values("verbose").next().is_some();
    let body = if verbose { report + "ok\n" } else { "ok\n".to_owned() };
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
}

async fn version() -> Response {
    let body = format!(
        "{{\"etcdserver\":\"{ETCD_VERSION}\",\"etcdcluster\":\"{ETCD_CLUSTER_VERSION}\",\"storage\":\"{ETCD_CLUSTER_VERSION}\"}}"
    );
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn metrics(State(context): State<Arc<Context>>) -> Response {
    let body = super::metrics::render(&context);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], body).into_response()
}
