//! The Cluster service. How members are changed, and where that differs from etcd, is said in `node::changes`.

use std::sync::Arc;

use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::server::cluster_server::Cluster;
use tonic::{Request, Response, Status};

use super::Context;
use super::errors::Error;
use crate::member::{Member, MemberId, Membership};
use crate::peer::{Change, Removal};

#[derive(Clone, Debug)]
pub(super) struct ClusterService(pub(super) Arc<Context>);

fn member((id, member, is_learner): (MemberId, Member, bool)) -> pb::Member {
    pb::Member {
        id: id.0,
        name: member.name,
        peer_ur_ls: member.peer_urls,
        client_ur_ls: member.client_urls,
        is_learner,
    }
}

impl ClusterService {
    async fn change(&self, change: Change) -> Result<Vec<pb::Member>, Error> {
        let Membership { voters, members } = self.0.node.change(change).await?.membership;
        let votes = |id: &MemberId| voters.iter().any(|set| set.contains(id));
        Ok(members.into_iter().map(|(id, record)| member((id, record, !votes(&id)))).collect())
    }

    /// Members that were added to learn only. Those that are to vote learn first, which is not their number's matter.
    fn learners(&self) -> usize {
        self.0.node.members().iter().filter(|(_, member, learns)| *learns && !member.wants_vote).count()
    }

    /// etcd's headers of this service carry no revision.
    fn header(&self) -> Option<pb::ResponseHeader> {
        self.0.header_at(0)
    }
}

/// What etcd takes for a list of members' URLs: not empty, each with a scheme of its own, a host with a port, and no path.
fn valid_urls(urls: &[String]) -> bool {
    let valid = |url: &String| {
        let Some((scheme, rest)) = url.split_once("://") else { return false };
        match scheme {
            "unix" | "unixs" => !rest.is_empty(),
            "http" | "https" => {
                let port = rest.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
                port.is_some_and(|(host, _)| !host.contains(['/', '?', '#', '@']))
            }
            _ => false,
        }
    };
    !urls.is_empty() && urls.iter().all(valid)
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        let request = request.into_inner();
        if !valid_urls(&request.peer_ur_ls) {
            return Err(Error::MemberBadUrls.into());
        }
        if request.is_learner && self.learners() >= self.0.limits.learners {
            return Err(Error::TooManyLearners.into());
        }
        let id = MemberId(self.0.random.next_u64().max(1));
        let (peer_urls, learner, name) = (request.peer_ur_ls, request.is_learner, request.name);
        let change = Change::Add { peer_urls, learner, id, name };
        let members = self.change(change).await?;
        let member = members.iter().find(|member| member.id == id.0).cloned();
        Ok(Response::new(pb::MemberAddResponse { header: self.header(), member, members }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        let request = request.into_inner();
        let how = match (request.try_only, request.force) {
            (false, false) => Removal::Safe,
            (true, _) => Removal::Try,
            (false, true) => Removal::Force,
        };
        let members = self.change(Change::Remove { id: MemberId(request.id), how }).await?;
        Ok(Response::new(pb::MemberRemoveResponse { header: self.header(), members }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        let request = request.into_inner();
        if !valid_urls(&request.peer_ur_ls) {
            return Err(Error::MemberBadUrls.into());
        }
        let change = Change::Update { id: MemberId(request.id), peer_urls: request.peer_ur_ls };
        let members = self.change(change).await?;
        Ok(Response::new(pb::MemberUpdateResponse { header: self.header(), members }))
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        if request.into_inner().linearizable {
            self.0.node.read_index().await.map_err(Error::from)?;
        }
        Ok(Response::new(pb::MemberListResponse {
            header: self.header(),
            members: self.0.node.members().into_iter().map(member).collect(),
        }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        let members = self.change(Change::Promote(MemberId(request.into_inner().id))).await?;
        Ok(Response::new(pb::MemberPromoteResponse { header: self.header(), members }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_urls_are_checked_as_etcd_does() {
        for url in ["http://10.0.0.1:2380", "https://[::1]:2380", "https://host.example:1", "unix:///run/peer"] {
            assert!(valid_urls(&[url.to_owned()]), "{url}");
        }
        for url in ["", "10.0.0.1:2380", "http://10.0.0.1", "ftp://a:1", "http://a:1/path", "http://a:port"] {
            assert!(!valid_urls(&[url.to_owned()]), "{url}");
        }
        assert!(!valid_urls(&[]));
    }
}
