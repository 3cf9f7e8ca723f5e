//! gRPC's health service, as etcd has it: one unnamed service, which is served from the moment that there is somebody to answer.
//! Whether there is a leader is not its matter: a client that balances by it would lose the serializable reads of a member that is cut off.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::{self, Stream, StreamExt as _};
use keelson_etcd_api::grpc::health::server::health_server::Health;
use keelson_etcd_api::grpc::health::v1::health_check_response::ServingStatus;
use keelson_etcd_api::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use tonic::{Request, Response, Status};

use super::Context;

#[derive(Clone, Debug)]
pub(super) struct HealthService(pub(super) Arc<Context>);

fn status(service: &str) -> ServingStatus {
    if service.is_empty() { ServingStatus::Serving } else { ServingStatus::ServiceUnknown }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match status(&request.into_inner().service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found("unknown service")),
            status => Ok(Response::new(HealthCheckResponse { status: status.into() })),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let answer = HealthCheckResponse { status: status(&request.into_inner().service).into() };
        let context = Arc::clone(&self.0);
        let statuses = stream::once(std::future::ready(Ok(answer))).chain(stream::pending());
        let statuses = statuses.take_until(async move { context.stopping().await });
        Ok(Response::new(Box::pin(statuses)))
    }
}
