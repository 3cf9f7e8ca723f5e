//! etcd's Election service.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::{self, Stream, StreamExt as _};
use keelson_etcd_api::concurrency::election::election_server::Election;
use keelson_etcd_api::encoded::KeyValue;
use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::server::WatchResponse;
use keelson_etcd_api::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
    ResignRequest, ResignResponse,
};
use tonic::{Request, Response, Status};

use super::Context;
use super::contest::{self, Client, Line, Place};

const NOT_LEADER: &str = "election: not leader";
const NO_LEADER: &str = "election: no leader";
const MISSING_LEADER: &str = "\"leader\" field must be provided";

#[derive(Clone, Debug)]
pub(super) struct ElectionService(pub(super) Arc<Context>);

/// Which contender a client means, and its lease.
fn place(leader: Option<LeaderKey>) -> Result<(Place, i64), Status> {
    let LeaderKey { key, rev, lease, .. } = leader.ok_or_else(|| Status::unknown(MISSING_LEADER))?;
    Ok((Place { key, revision: rev }, lease))
}

#[tonic::async_trait]
impl Election for ElectionService {
    async fn campaign(&self, request: Request<CampaignRequest>) -> Result<Response<CampaignResponse>, Status> {
        let client = Client::of(&self.0, &request);
        let CampaignRequest { name, lease, value } = request.into_inner();
        let lease = client.lease(lease).await?;
        let line = Line::new(&client, &name);
        let entered = line.enter(lease, value.clone()).await?;
        let place = entered.place;
        let waiting = line.waiting(&place);
        if entered.old_value.is_some_and(|old| old != value) && client.change(&place, value, lease).await?.is_none() {
            return Err(Status::unknown(NOT_LEADER));
        }
        if !entered.is_first {
            line.wait(&place).await?;
        }
        waiting.keep();
        let Place { key, revision: rev } = place;
        let leader = Some(LeaderKey { name, key, rev, lease });
        Ok(Response::new(CampaignResponse { header: entered.header, leader }))
    }

    async fn proclaim(&self, request: Request<ProclaimRequest>) -> Result<Response<ProclaimResponse>, Status> {
        let client = Client::of(&self.0, &request);
        let ProclaimRequest { leader, value } = request.into_inner();
        let (place, lease) = place(leader)?;
        let lease = client.lease(lease).await?;
        match client.change(&place, value, lease).await? {
            Some(header) => Ok(Response::new(ProclaimResponse { header })),
            None => Err(Status::unknown(NOT_LEADER)),
        }
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        let client = Client::of(&self.0, &request);
        let (header, first) = Line::new(&client, &request.into_inner().name).first().await?;
        let first = first.ok_or_else(|| Status::unknown(NO_LEADER))?;
        Ok(Response::new(LeaderResponse { header, kv: Some(contest::plain(&first)) }))
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>;

    async fn observe(&self, request: Request<LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        let client = Client::of(&self.0, &request);
        let line = Line::new(&client, &request.into_inner().name);
        let observer = Observer { client, line, answers: None, told: Vec::new() };
        let leaders = stream::unfold(Some(observer), |observer| async {
            let mut observer = observer?;
            match observer.next().await {
                Ok(leader) => Some((Ok(leader), Some(observer))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(leaders)))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let client = Client::of(&self.0, &request);
        let (place, _) = place(request.into_inner().leader)?;
        // One that is not there has resigned.
        let header = client.leave(&place).await?;
        Ok(Response::new(ResignResponse { header }))
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

/// Follows who leads, from one leader to the next.
struct Observer {
    client: Client,
    line: Line,
    /// Of the leader's key, while there is a leader.
    answers: Option<Answers>,
    /// Values that are to be told, the last one first.
    told: Vec<LeaderResponse>,
}

impl Observer {
    async fn next(&mut self) -> Result<LeaderResponse, Status> {
        loop {
            if let Some(leader) = self.told.pop() {
                return Ok(leader);
            }
            let Some(answers) = &mut self.answers else { return self.find().await };
            // It ends with the server, after an error.
            let Some(answer) = answers.next().await else { return Err(Status::unknown(NO_LEADER)) };
            let answer = answer.map_err(contest::text_alone)?;
            if answer.canceled || answer.events.iter().any(|event| event.delete) {
                // Whatever it said before it went, and then who comes next.
                self.answers = None;
            }
            let values = answer.events.iter().take_while(|event| !event.delete);
            let leader = |kv: &KeyValue| LeaderResponse { header: answer.header, kv: Some(contest::plain(kv)) };
            self.told = values.map(|event| leader(&event.kv)).collect();
            self.told.reverse();
        }
    }

    /// The present leader, or the next one to come.
    async fn find(&mut self) -> Result<LeaderResponse, Status> {
        loop {
            let (header, first) = self.line.first().await?;
            let now = header.as_ref().map_or(0, |header| header.revision);
            let (header, first) = match first {
                Some(first) => (header, first),
                None => match self.first_to_come(now).await? {
                    // Its header is that of the contender's revision: there may be more since.
                    Some((header, kv)) => (with_revision(header, kv.parts().mod_revision), kv),
                    None => continue,
                },
            };
            let request = pb::WatchCreateRequest {
                key: bytes::Bytes::copy_from_slice(first.key()),
                start_revision: header.as_ref().map_or(0, |header| header.revision) + 1,
                ..Default::default()
            };
            self.answers = Some(Box::pin(self.client.watch(request)));
            return Ok(LeaderResponse { header, kv: Some(contest::plain(&first)) });
        }
    }

    /// None if compaction took what one would have to know.
    async fn first_to_come(&mut self, from: i64) -> Result<Option<(Option<pb::ResponseHeader>, KeyValue)>, Status> {
        let mut answers = Box::pin(self.line.watch(from));
        while let Some(answer) = answers.next().await {
            let answer = answer.map_err(contest::text_alone)?;
            if answer.canceled {
                return Ok(None);
            }
            if let Some(event) = answer.events.into_iter().next() {
                return Ok(Some((answer.header, event.kv)));
            }
        }
        Err(Status::unknown(NO_LEADER))
    }
}

fn with_revision(header: Option<pb::ResponseHeader>, revision: i64) -> Option<pb::ResponseHeader> {
    header.map(|header| pb::ResponseHeader { revision, ..header })
}
