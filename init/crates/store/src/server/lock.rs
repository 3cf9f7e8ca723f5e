//! etcd's Lock service.

use std::sync::Arc;

use keelson_etcd_api::concurrency::lock::lock_server::Lock;
use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use tonic::{Request, Response, Status};

use super::Context;
use super::contest::{Client, Line};

const SESSION_EXPIRED: &str = "mutex: session is expired";

#[derive(Clone, Debug)]
pub(super) struct LockService(pub(super) Arc<Context>);

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let client = Client::of(&self.0, &request);
        let LockRequest { name, lease } = request.into_inner();
        let lease = client.lease(lease).await?;
        let line = Line::new(&client, &name);
        let entered = line.enter(lease, bytes::Bytes::new()).await?;
        let key = entered.place.key.clone();
        if entered.is_first {
            return Ok(Response::new(LockResponse { header: entered.header, key }));
        }
        let waiting = line.waiting(&entered.place);
        line.wait(&entered.place).await?;
        // The lease may have ended while it was waited.
        let own = pb::RangeRequest { key: key.clone(), ..Default::default() };
        let (header, own) = client.get(own).await?;
        if own.is_none() {
            return Err(Status::unknown(SESSION_EXPIRED));
        }
        waiting.keep();
        Ok(Response::new(LockResponse { header, key }))
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let client = Client::of(&self.0, &request);
        let header = client.delete(request.into_inner().key).await?;
        Ok(Response::new(UnlockResponse { header }))
    }
}
