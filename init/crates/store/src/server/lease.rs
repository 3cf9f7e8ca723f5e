//! The Lease service.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::{self, Stream};
use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::server::lease_server::Lease;
use tonic::{Request, Response, Status, Streaming};

use super::errors::Error;
use super::kv::unexpected;
use super::{Context, callers};
use crate::command::Command;
use crate::lease::keeper::KeepError;
use crate::lease::{LeaseId, MAX_TTL_SECONDS};
use crate::state::{self, Keys};

#[derive(Clone, Debug)]
pub(super) struct LeaseService(pub(super) Arc<Context>);

/// Tries at an id of our choosing. 63 random bits meet an id in use about never.
const ID_TRIES: usize = 3;

impl From<KeepError> for Error {
    fn from(error: KeepError) -> Self {
        match error {
            KeepError::Read(error) => error.into(),
            KeepError::Propose(error) => error.into(),
        }
    }
}

impl LeaseService {
    async fn grant(&self, keys: Keys, id: i64, ttl: i64) -> Result<state::Response, Error> {
        self.0.propose_on(keys, Command::LeaseGrant(pb::LeaseGrantRequest { ttl, id })).await
    }

    fn random_id(&self) -> i64 {
        // Positive, as etcd chooses them, and not 0.
        ((self.0.random.next_u64() >> 1) | 1).cast_signed()
    }
}

#[tonic::async_trait]
impl Lease for LeaseService {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let keys = callers::keys(&request)?;
        let request = request.into_inner();
        if request.ttl > MAX_TTL_SECONDS {
            return Err(Error::LeaseTtlTooLarge.into());
        }
        let ttl = request.ttl.max(self.0.limits.min_lease_ttl_seconds);
        let mut answer = Err(Error::LeaseExists);
        if request.id == 0 {
            for _ in 0..ID_TRIES {
                answer = self.grant(keys, self.random_id(), ttl).await;
                if !matches!(answer, Err(Error::LeaseExists)) {
                    break;
                }
            }
        } else {
            answer = self.grant(keys, request.id, ttl).await;
        }
        match answer? {
            state::Response::LeaseGrant(mut response) => {
                self.0.fill(keys, &mut response.header);
                Ok(Response::new(response))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let keys = callers::keys(&request)?;
        match self.0.propose_on(keys, Command::LeaseRevoke(request.into_inner())).await? {
            state::Response::LeaseRevoke(mut response) => {
                self.0.fill(keys, &mut response.header);
                Ok(Response::new(response))
            }
            other => Err(unexpected(&other)),
        }
    }

    type LeaseKeepAliveStream = Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let leader = self.0.require_leader(request.metadata())?;
        let keys = callers::keys(&request)?;
        let requests = request.into_inner();
        let context = Arc::clone(&self.0);
        let answers = stream::unfold(Some(requests), move |requests| {
            let context = Arc::clone(&context);
            async move {
                let mut requests = requests?;
                let request = tokio::select! {
                    request = requests.message() => request,
                    () = leader.lost(&context) => Err(Error::NoLeader.into()),
                    () = context.stopping() => Err(Error::Stopped.into()),
                };
                match request {
                    Ok(None) => None,
                    Ok(Some(request)) => {
                        let answer = keep_alive(&context, keys, request).await;
                        let more = answer.is_ok().then_some(requests);
                        Some((answer.map_err(Status::from), more))
                    }
                    Err(status) => Some((Err(status), None)),
                }
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let keys = callers::keys(&request)?;
        let request = request.into_inner();
        let id = LeaseId(request.id);
        let lease = self.0.leases.time_to_live(id, request.keys).await.map_err(Error::from)?;
        let lease = lease.filter(|_| self.0.node.state().lease_keys(id).is_none_or(|owner| owner == keys));
        let header = self.0.header_of(keys);
        let response = match lease {
            None => pb::LeaseTimeToLiveResponse { header, id: request.id, ttl: -1, granted_ttl: 0, keys: Vec::new() },
            Some(lease) => pb::LeaseTimeToLiveResponse {
                header,
                id: request.id,
                ttl: lease.remaining_seconds,
                granted_ttl: lease.granted_seconds,
                keys: lease.keys,
            },
        };
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let state = self.0.node.state();
        let keys = callers::keys(&request)?;
        let mut ids: Vec<LeaseId> = state.of(keys).read(|mvcc, _| mvcc.leases.ids().collect());
        // Those that end first come first.
        let deadlines = state.deadlines();
        ids.sort_by_key(|id| deadlines.get(*id));
        drop(deadlines);
        let leases = ids.into_iter().map(|id| pb::LeaseStatus { id: id.0 }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header: self.0.header_of(keys), leases }))
    }
}

async fn keep_alive(
    context: &Context,
    keys: Keys,
    request: pb::LeaseKeepAliveRequest,
) -> Result<pb::LeaseKeepAliveResponse, Error> {
    // Before the renewal: its revision must not be later than that of a revocation which the renewal does not know.
    let header = context.header_of(keys);
    let id = LeaseId(request.id);
    if context.node.state().lease_keys(id).is_some_and(|owner| owner != keys) {
        // There is none, as far as this client is concerned.
        return Ok(pb::LeaseKeepAliveResponse { header, id: request.id, ttl: 0 });
    }
    let ttl = context.leases.renew(id).await?;
    Ok(pb::LeaseKeepAliveResponse { header, id: request.id, ttl: ttl.unwrap_or(0) })
}
