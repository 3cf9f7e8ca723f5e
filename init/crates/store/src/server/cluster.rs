//! The Cluster service. This release runs one member: the list is true, and a change that would need a second one is refused
//! by saying so, behind etcd's own checks of the request.

use std::sync::Arc;

use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::server::cluster_server::Cluster;
use tonic::{Request, Response, Status};

use super::Context;
use super::errors::Error;

#[derive(Clone, Debug)]
pub(super) struct ClusterService(pub(super) Arc<Context>);

const ONE_MEMBER: &str = "keelson-store: this release runs one member; its membership cannot be changed";

impl ClusterService {
    fn members(&self) -> Vec<pb::Member> {
        let member = |(id, member, is_learner): (crate::member::MemberId, crate::member::Member, bool)| pb::Member {
            id: id.0,
            name: member.name,
            peer_ur_ls: member.peer_urls,
            client_ur_ls: member.client_urls,
            is_learner,
        };
        self.0.node.members().into_iter().map(member).collect()
    }

    fn find(&self, id: u64) -> Result<pb::Member, Error> {
        self.members().into_iter().find(|member| member.id == id).ok_or(Error::MemberNotFound)
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
        if !valid_urls(&request.into_inner().peer_ur_ls) {
            return Err(Error::MemberBadUrls.into());
        }
        Err(Status::unimplemented(ONE_MEMBER))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        self.find(request.into_inner().id)?;
        Err(Status::unimplemented(ONE_MEMBER))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        self.find(request.into_inner().id)?;
        Err(Status::unimplemented(ONE_MEMBER))
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        if request.into_inner().linearizable {
            self.0.node.read_index().await.map_err(Error::from)?;
        }
        Ok(Response::new(pb::MemberListResponse { header: self.header(), members: self.members() }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        if self.find(request.into_inner().id)?.is_learner {
            return Err(Status::unimplemented(ONE_MEMBER));
        }
        Err(Error::MemberNotLearner.into())
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
