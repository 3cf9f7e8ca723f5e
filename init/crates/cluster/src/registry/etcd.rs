//! The records in keelson-store, through etcd's API.
//!
//! The store's client port is on this node's loopback and speaks mutual TLS. This process holds the authority for it, so
//! each connection is made with a certificate of its own that is on no disk.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::cluster_client::ClusterClient;
use keelson_etcd_api::etcdserverpb::kv_client::KvClient;
use keelson_etcd_api::etcdserverpb::lease_client::LeaseClient;
use keelson_etcd_api::etcdserverpb::maintenance_client::MaintenanceClient;
use keelson_etcd_api::{CLUSTER_KEYS, CLUSTER_KEYS_VALUE};
use keelson_pki::{AuthorityError, AuthorityKind, Clock, Profile, Subject};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{
    Answer, Backend, Change, Entry, Glance, LeaseId, MemberChange, MemberError, RegistryError, Removal, Revision,
    StoreMember,
};
use crate::membership::ControlPlane;
use crate::store::CLIENT_NAME;

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// A store that elects a leader on a slow machine takes seconds.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Records of one answer.
const PAGE: u32 = 10_000;
/// A connection is made anew long before that.
const IDENTITY_LIFE: time::Duration = time::Duration::hours(24);

#[derive(Debug)]
pub struct Etcd {
    channel: Channel,
}

#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("certifying this process as the store's client")]
    Identity(#[from] AuthorityError),
    #[error("the certificate cannot be used")]
    Tls(#[from] rustls::Error),
}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        Self::other(error)
    }
}

impl Etcd {
    /// Connects when it is first asked. The runtime must be there already.
    pub fn new(server: SocketAddr, powers: Arc<ControlPlane>, clock_floor: OffsetDateTime) -> Self {
        let connect = move |_: Uri| {
            let powers = Arc::clone(&powers);
            async move {
                let connecting = connect(server, powers, clock_floor);
                let connected = timeout(CONNECT_DEADLINE, connecting).await;
                connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?.map(TokioIo::new)
            }
        };
        // The scheme is for HTTP's headers; the connector speaks TLS by itself.
        let endpoint = Endpoint::from_static("http://keelson-store").http2_adaptive_window(true);
        Self { channel: endpoint.connect_with_connector_lazy(tower::service_fn(connect)) }
    }

    fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    async fn change(&self, change: MemberChange) -> Result<Vec<pb::Member>, RegistryError> {
        let mut cluster = self.cluster();
        Ok(match change {
            MemberChange::Add { name, peer_url } => {
                let request = pb::MemberAddRequest { peer_ur_ls: vec![peer_url], is_learner: false, name };
                members_answer(cluster.member_add(request)).await?.members
            }
            MemberChange::Update { id, peer_url } => {
                let request = pb::MemberUpdateRequest { id, peer_ur_ls: vec![peer_url] };
                members_answer(cluster.member_update(request)).await?.members
            }
            MemberChange::Promote { id } => {
                members_answer(cluster.member_promote(pb::MemberPromoteRequest { id })).await?.members
            }
            MemberChange::Remove { id, how } => {
                let (try_only, force) = (how == Removal::Try, how == Removal::Force);
                members_answer(cluster.member_remove(pb::MemberRemoveRequest { id, try_only, force })).await?.members
            }
        })
    }

    fn leases(&self) -> LeaseClient<Own> {
        LeaseClient::with_interceptor(self.channel.clone(), own as Mark)
    }

    /// The API has a stream for it, of which one question and its answer are needed. The TTL of a lease that has ended is none.
    async fn renew(&self, lease: LeaseId) -> Result<bool, RegistryError> {
        let mut leases = self.leases();
        let question = tokio_stream::once(pb::LeaseKeepAliveRequest { id: lease.0 });
        let call = async move {
            let mut answers = leases.lease_keep_alive(question).await?.into_inner();
            let first = answers.message().await?;
            first.map(tonic::Response::new).ok_or_else(|| tonic::Status::unavailable("the answer did not come"))
        };
        Ok(answer(call).await?.ttl > 0)
    }

    fn client(&self) -> KvClient<Own> {
        KvClient::with_interceptor(self.channel.clone(), own as Mark).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    fn kubernetes_client(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

type Mark = fn(tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status>;
type Own = InterceptedService<Channel, Mark>;

/// Says that a call is about the cluster's own keys, and not about Kubernetes'.
#[expect(clippy::unnecessary_wraps, reason = "as interceptors are")]
fn own(mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
    request.metadata_mut().insert(CLUSTER_KEYS, MetadataValue::from_static(CLUSTER_KEYS_VALUE));
    Ok(request)
}

async fn connect(
    server: SocketAddr,
    powers: Arc<ControlPlane>,
    clock_floor: OffsetDateTime,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let config = tls(&powers, Clock::system(clock_floor))?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::from(server.ip()), stream).await
}

fn tls(powers: &ControlPlane, clock: Clock) -> Result<ClientConfig, ConnectError> {
    let authority = powers.authorities.get(AuthorityKind::StoreClient);
    let pair = authority.issue(&Profile::client(Subject::named(CLIENT_NAME)).life(IDENTITY_LIFE), clock)?;
    let roots = powers.authorities.anchors(AuthorityKind::StoreClient).roots()?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![pair.certificate().clone()], pair.private_key())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

async fn answer<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>> + Send,
) -> Result<T, RegistryError> {
    match timeout(REQUEST_DEADLINE, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(RegistryError::Unavailable(status.into())),
        Err(elapsed) => Err(RegistryError::Unavailable(elapsed.into())),
    }
}

/// The store's reasons are for the caller to act on.
async fn members_answer<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>> + Send,
) -> Result<T, RegistryError> {
    match timeout(REQUEST_DEADLINE, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(match MemberError::from_text(status.message()) {
            Some(reason) => reason.into(),
            None => RegistryError::Unavailable(status.into()),
        }),
        Err(elapsed) => Err(RegistryError::Unavailable(elapsed.into())),
    }
}

fn member(member: pb::Member) -> StoreMember {
    StoreMember { id: member.id, name: member.name, peer_urls: member.peer_ur_ls, votes: !member.is_learner }
}

fn entries(response: pb::RangeResponse) -> Vec<Entry> {
    let entry = |kv: keelson_etcd_api::mvccpb::KeyValue| Entry {
        key: String::from_utf8_lossy(&kv.key).into_owned(),
        revision: kv.mod_revision,
        value: kv.value.to_vec(),
    };
    response.kvs.into_iter().map(entry).collect()
}

/// What follows all keys that begin with `prefix`. Ours end in a slash, whose successor is a valid byte.
fn range_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// From the first key behind `after`.
fn page(prefix: &str, after: String, limit: u32) -> pb::RangeRequest {
    let key = if after.is_empty() { prefix.to_owned() } else { after + "\0" };
    pb::RangeRequest {
        range_end: range_end(prefix).into(),
        key: key.into_bytes().into(),
        limit: limit.into(),
        ..Default::default()
    }
}

/// The filter cuts what is answered, not what is counted.
fn glance(prefix: String, after: Revision) -> pb::RangeRequest {
    pb::RangeRequest {
        range_end: range_end(&prefix).into(),
        key: prefix.into_bytes().into(),
        min_mod_revision: after + 1,
        keys_only: true,
        limit: 1,
        ..Default::default()
    }
}

fn request(change: Change) -> pb::TxnRequest {
    let lease = change.lease.map_or(0, |lease| lease.0);
    let compare = |(key, revision): (String, i64)| pb::Compare {
        result: pb::compare::CompareResult::Equal.into(),
        target: pb::compare::CompareTarget::Mod.into(),
        key: key.into_bytes().into(),
        target_union: Some(pb::compare::TargetUnion::ModRevision(revision)),
        ..Default::default()
    };
    let operation = move |(key, value): (String, Option<Vec<u8>>)| {
        let key = key.into_bytes().into();
        let request = match value {
            Some(value) => pb::request_op::Request::RequestPut(pb::PutRequest {
                key,
                value: value.into(),
                lease,
                ..Default::default()
            }),
            None => pb::request_op::Request::RequestDeleteRange(pb::DeleteRangeRequest { key, ..Default::default() }),
        };
        pb::RequestOp { request: Some(request) }
    };
    pb::TxnRequest {
        compare: change.expected.into_iter().map(compare).collect(),
        success: change.writes.into_iter().map(operation).collect(),
        failure: Vec::new(),
    }
}

impl Backend for Etcd {
    fn get(&self, key: String) -> Answer<'_, Option<Entry>> {
        Box::pin(async move {
            let request = pb::RangeRequest { key: key.into_bytes().into(), ..Default::default() };
            Ok(entries(answer(self.client().range(request)).await?).pop())
        })
    }

    fn list(&self, prefix: String) -> Answer<'_, Vec<Entry>> {
        Box::pin(async move {
            let (mut all, mut revision) = (Vec::<Entry>::new(), 0);
            loop {
                let after = all.last().map_or_else(String::new, |entry| entry.key.clone());
                let request = pb::RangeRequest { revision, ..page(&prefix, after, PAGE) };
                let response = answer(self.client().range(request)).await?;
                // The pages that follow are of the same moment.
                revision = response.header.map_or(revision, |header| revision.max(header.revision));
                let is_last = !response.more;
                all.extend(entries(response));
                if is_last {
                    return Ok(all);
                }
            }
        })
    }

    fn kubernetes_page(&self, prefix: String, after: String, limit: u32) -> Answer<'_, Vec<Entry>> {
        Box::pin(async move { Ok(entries(answer(self.kubernetes_client().range(page(&prefix, after, limit))).await?)) })
    }

    fn glance(&self, prefix: String, after: Revision) -> Answer<'_, Glance> {
        Box::pin(async move {
            let response = answer(self.client().range(glance(prefix, after))).await?;
            let revision = response.header.map_or(0, |header| header.revision);
            Ok(Glance { revision, keys: response.count, written: !response.kvs.is_empty() })
        })
    }

    fn commit(&self, change: Change) -> Answer<'_, bool> {
        Box::pin(async move { Ok(answer(self.client().txn(request(change))).await?.succeeded) })
    }

    fn grant(&self, seconds: u32) -> Answer<'_, LeaseId> {
        Box::pin(async move {
            let mut leases = self.leases();
            // The store chooses the id.
            let request = pb::LeaseGrantRequest { ttl: seconds.into(), id: 0 };
            Ok(LeaseId(answer(leases.lease_grant(request)).await?.id))
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, bool> {
        Box::pin(self.renew(lease))
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        Box::pin(async move {
            let mut leases = self.leases();
            let call = async move {
                match leases.lease_revoke(pb::LeaseRevokeRequest { id: lease.0 }).await {
                    Err(status) if status.code() == tonic::Code::NotFound => Ok(tonic::Response::new(())),
                    outcome => outcome.map(|_| tonic::Response::new(())),
                }
            };
            answer(call).await
        })
    }

    fn members(&self) -> Answer<'_, Vec<StoreMember>> {
        Box::pin(async move {
            let mut cluster = self.cluster();
            let list = cluster.member_list(pb::MemberListRequest { linearizable: true });
            Ok(members_answer(list).await?.members.into_iter().map(member).collect())
        })
    }

    fn leader(&self) -> Answer<'_, Option<u64>> {
        Box::pin(async move {
            let mut maintenance = MaintenanceClient::new(self.channel.clone());
            let leader = answer(maintenance.status(pb::StatusRequest {})).await?.leader;
            Ok(Some(leader).filter(|id| *id != 0))
        })
    }

    fn change_members(&self, change: MemberChange) -> Answer<'_, Vec<StoreMember>> {
        Box::pin(async move { Ok(self.change(change).await?.into_iter().map(member).collect()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_behind_the_last_key_with_the_prefix() {
        let end = range_end("/keelson/v1/nodes/");
        assert_eq!(end, b"/keelson/v1/nodes0");
        assert!(b"/keelson/v1/nodes/zzz".as_slice() < end.as_slice());
    }

    #[test]
    fn a_page_begins_behind_the_last_key_of_the_one_before() {
        let keys = |after: &str| {
            let request = page("/r/s/", after.to_owned(), 20);
            (request.key.to_vec(), request.range_end.to_vec(), request.limit)
        };
        assert_eq!(keys(""), (b"/r/s/".to_vec(), b"/r/s0".to_vec(), 20));
        assert_eq!(keys("/r/s/a"), (b"/r/s/a\0".to_vec(), b"/r/s0".to_vec(), 20));
    }

    #[test]
    fn a_change_compares_every_expected_revision_before_it_writes() {
        let change = Change {
            expected: vec![("a".to_owned(), 0), ("b".to_owned(), 7)],
            writes: vec![("a".to_owned(), Some(b"1".to_vec())), ("b".to_owned(), None)],
            lease: Some(LeaseId(42)),
        };
        let request = request(change);
        let revisions: Vec<_> = request.compare.iter().map(|compare| compare.target_union.clone()).collect();
        let expected = [0, 7].map(|revision| Some(pb::compare::TargetUnion::ModRevision(revision)));
        assert_eq!(revisions, expected);
        assert!(
            matches!(&request.success[0].request, Some(pb::request_op::Request::RequestPut(put)) if put.lease == 42)
        );
        assert!(matches!(request.success[1].request, Some(pb::request_op::Request::RequestDeleteRange(_))));
    }
}
