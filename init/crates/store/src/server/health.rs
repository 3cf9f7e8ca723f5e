//! gRPC's health service, as etcd has it: one unnamed service, serving while there is a leader.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, Stream};
use keelson_etcd_api::grpc::health::server::health_server::Health;
use keelson_etcd_api::grpc::health::v1::health_check_response::ServingStatus;
use keelson_etcd_api::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use tonic::{Request, Response, Status};

use super::Context;

#[derive(Clone, Debug)]
pub(super) struct HealthService(pub(super) Arc<Context>);

/// How often a watched status is looked at.
const POLL: Duration = Duration::from_secs(1);

fn status(context: &Context, service: &str) -> ServingStatus {
    if !service.is_empty() {
        ServingStatus::ServiceUnknown
    } else if context.node.status().leader.is_some() {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match status(&self.0, &request.into_inner().service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found("unknown service")),
            status => Ok(Response::new(HealthCheckResponse { status: status.into() })),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let context = Arc::clone(&self.0);
        let statuses = stream::unfold((context, service, None), |(context, service, last)| async move {
            loop {
                let now = status(&context, &service);
                if last != Some(now) {
                    let answer = HealthCheckResponse { status: now.into() };
                    return Some((Ok(answer), (context, service, Some(now))));
                }
                tokio::select! {
                    () = tokio::time::sleep(POLL) => {}
                    () = context.stopping() => return None,
                }
            }
        });
        Ok(Response::new(Box::pin(statuses)))
    }
}
