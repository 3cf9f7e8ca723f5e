//! The cluster's own keys: in a range of their own, nobody else's, and written when there is no space for anybody else.

use std::path::Path;

use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::kv_client::KvClient;
use keelson_etcd_api::etcdserverpb::lease_client::LeaseClient;
use keelson_etcd_api::etcdserverpb::maintenance_client::MaintenanceClient;
use keelson_etcd_api::etcdserverpb::request_op::Request;
use keelson_etcd_api::etcdserverpb::watch_client::WatchClient;
use keelson_etcd_api::etcdserverpb::watch_request::RequestUnion;
use rcgen::{CertificateParams, DnType, KeyPair};
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::authority::Authority;
use crate::servers::Server;
use crate::waiting::wait_until;

const OWN: &str = "/keelson/v1/nodes/a";
const PROGRAM: &str = env!("CARGO_BIN_EXE_keelson-store");
const DENIED: &str = "etcdserver: permission denied";
const FULL: &str = "etcdserver: mvcc: database space exceeded";

fn put(key: &str, bytes: usize) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: vec![b'x'; bytes].into(), ..Default::default() }
}

fn range(key: &str, range_end: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), range_end: range_end.to_owned().into(), ..Default::default() }
}

/// Says that a call is about the cluster's keys.
fn own<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("keelson-keys", "cluster".parse().unwrap());
    request
}

/// A transaction as the cluster manager's: it expects something, then writes.
fn txn(key: &str, bytes: usize) -> pb::TxnRequest {
    let compare = pb::Compare { key: key.to_owned().into(), ..Default::default() };
    let success = vec![pb::RequestOp { request: Some(Request::RequestPut(put(key, bytes))) }];
    pb::TxnRequest { compare: vec![compare], success, failure: Vec::new() }
}

/// A client that is called so in its certificate.
fn client(authority: &Authority, port: u16, name: &str) -> Channel {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.signed_by(&key, &authority.0).unwrap();
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(authority.0.pem()))
        .identity(Identity::from_pem(certificate.pem(), key.serialize_pem()))
        .domain_name("localhost");
    let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap();
    endpoint.tls_config(tls).unwrap().connect_lazy()
}

/// A store, its cluster's client, and another.
struct Store {
    server: Server,
    cluster: Channel,
    other: Channel,
    directory: tempfile::TempDir,
}

impl Store {
    async fn new(more: &[&str]) -> Self {
        let authority = Authority::new();
        let directory = tempfile::TempDir::new().unwrap();
        std::fs::write(directory.path().join("ca.crt"), authority.pem()).unwrap();
        authority.issue_to(directory.path(), "server");
        let file = |name: &str| directory.path().join(name).display().to_string();
        let flags = [
            format!("--cert-file={}", file("server.crt")),
            format!("--key-file={}", file("server.key")),
            format!("--trusted-ca-file={}", file("ca.crt")),
            "--client-cert-auth".to_owned(),
            "--cluster-client=keelson-cluster".to_owned(),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let server = Server::spawn(Path::new(PROGRAM), &flags);
        let client = |name| client(&authority, server.port, name);
        let (cluster, other) = (client("keelson-cluster"), client("kube-apiserver"));
        let store = Self { server, cluster, other, directory };
        store.ready().await;
        store
    }

    async fn ready(&self) {
        wait_until("the store serves", async || self.kv().range(range(OWN, "")).await.is_ok()).await;
    }

    fn own_kv(&self) -> KvClient<Channel> {
        KvClient::new(self.cluster.clone())
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.other.clone())
    }

    /// The public keys' revision, how many there are, and their hash.
    async fn public(&self) -> (i64, i64, u32) {
        let all = self.kv().range(range("\0", "\0")).await.unwrap().into_inner();
        let hash = MaintenanceClient::new(self.other.clone()).hash_kv(pb::HashKvRequest { revision: 0 }).await.unwrap();
        (all.header.unwrap().revision, all.count, hash.into_inner().hash)
    }

    /// The revision of the cluster's keys, and all of them.
    async fn own(&self) -> (i64, Vec<String>) {
        let all = self.own_kv().range(own(range("\0", "\0"))).await.unwrap().into_inner();
        let keys = all.kvs.iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect();
        (all.header.unwrap().revision, keys)
    }
}

fn assert_denied<T: std::fmt::Debug>(answer: Result<T, tonic::Status>) {
    let status = answer.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, DENIED));
}

fn watch_all(start_revision: i64) -> impl futures::Stream<Item = pb::WatchRequest> {
    let (key, range_end) = ("\0".into(), "\0".into());
    let create = pb::WatchCreateRequest { key, range_end, start_revision, ..Default::default() };
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    futures::StreamExt::chain(futures::stream::iter([request]), futures::stream::pending())
}

/// The keys and revisions of the first events of a watch.
async fn events(answers: &mut tonic::Streaming<pb::WatchResponse>, count: usize) -> Vec<(String, i64)> {
    let mut found = Vec::new();
    while found.len() < count {
        for event in answers.message().await.unwrap().unwrap().events {
            let kv = event.kv.unwrap();
            found.push((String::from_utf8(kv.key.to_vec()).unwrap(), kv.mod_revision));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn they_have_revisions_and_watches_of_their_own_and_are_nowhere_else() {
    let store = Store::new(&[]).await;
    let (mut own_kv, mut kv) = (store.own_kv(), store.kv());
    kv.put(put("/registry/pods/a", 5)).await.unwrap();
    let before = store.public().await;
    let mut watch = WatchClient::new(store.other.clone()).watch(watch_all(1)).await.unwrap().into_inner();
    let mut own_watch = WatchClient::new(store.cluster.clone()).watch(own(watch_all(1))).await.unwrap().into_inner();

    own_kv.put(own(put(OWN, 5))).await.unwrap();
    assert!(own_kv.txn(own(txn("/keelson/v1/nodes/b", 5))).await.unwrap().into_inner().succeeded);
    assert_eq!(store.public().await, before, "revision, keys and hash are what they were");
    assert_eq!(store.own().await, (3, vec![OWN.to_owned(), "/keelson/v1/nodes/b".to_owned()]));

    // The same key is another one to others, whom nothing of this is refused.
    assert_eq!(kv.range(range(OWN, "")).await.unwrap().into_inner().count, 0);
    kv.put(put(OWN, 7)).await.unwrap();
    kv.delete_range(pb::DeleteRangeRequest { key: "/".into(), range_end: "0".into(), ..Default::default() })
        .await
        .unwrap();
    assert_eq!(store.own().await.1.len(), 2);
    let seen = events(&mut watch, 4).await;
    let expected = [("/registry/pods/a", 2), (OWN, 3), (OWN, 4), ("/registry/pods/a", 4)];
    assert_eq!(seen, expected.map(|(key, revision)| (key.to_owned(), revision)));
    assert_eq!(events(&mut own_watch, 2).await, [(OWN.to_owned(), 2), ("/keelson/v1/nodes/b".to_owned(), 3)]);

    // Who compacts theirs does not compact these, and the other way round.
    kv.compact(pb::CompactionRequest { revision: 4, physical: true }).await.unwrap();
    let old = pb::RangeRequest { revision: 2, ..range(OWN, "") };
    assert_eq!(own_kv.range(own(old.clone())).await.unwrap().into_inner().count, 1);
    own_kv.compact(own(pb::CompactionRequest { revision: 3, physical: true })).await.unwrap();
    assert_eq!(own_kv.range(own(old)).await.unwrap_err().code(), Code::OutOfRange);
    // Without saying so, the cluster's client is as any other.
    assert_eq!(own_kv.range(range("\0", "\0")).await.unwrap().into_inner().count, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_asks_for_them() {
    let store = Store::new(&[]).await;
    let other = || store.other.clone();
    store.own_kv().put(own(put(OWN, 5))).await.unwrap();
    let mut kv = store.kv();
    assert_denied(kv.range(own(range(OWN, ""))).await);
    assert_denied(kv.range_stream(own(range(OWN, ""))).await);
    assert_denied(kv.put(own(put(OWN, 5))).await);
    assert_denied(kv.txn(own(txn(OWN, 5))).await);
    assert_denied(kv.delete_range(own(pb::DeleteRangeRequest { key: OWN.into(), ..Default::default() })).await);
    assert_denied(kv.compact(own(pb::CompactionRequest { revision: 2, physical: false })).await);
    assert_denied(WatchClient::new(other()).watch(own(watch_all(1))).await);
    assert_denied(MaintenanceClient::new(other()).hash_kv(own(pb::HashKvRequest { revision: 0 })).await);
    assert_denied(MaintenanceClient::new(other()).snapshot(pb::SnapshotRequest {}).await);
    let mut leases = LeaseClient::new(other());
    assert_denied(leases.lease_grant(own(pb::LeaseGrantRequest { ttl: 600, id: 0 })).await);
    assert_denied(leases.lease_leases(own(pb::LeaseLeasesRequest {})).await);
    assert_eq!(store.own().await, (2, vec![OWN.to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn their_leases_are_no_ones_else_and_run_out() {
    let store = Store::new(&[]).await;
    let (mut own_leases, mut leases) = (LeaseClient::new(store.cluster.clone()), LeaseClient::new(store.other.clone()));
    let id = own_leases.lease_grant(own(pb::LeaseGrantRequest { ttl: 2, id: 0 })).await.unwrap().into_inner().id;
    let kept = own_leases.lease_grant(own(pb::LeaseGrantRequest { ttl: 600, id: 0 })).await.unwrap().into_inner().id;
    for (key, lease) in [(OWN, id), ("/keelson/kept", kept)] {
        store.own_kv().put(own(pb::PutRequest { lease, ..put(key, 5) })).await.unwrap();
    }
    let listed = leases.lease_leases(pb::LeaseLeasesRequest {}).await.unwrap().into_inner().leases;
    assert!(listed.is_empty(), "{listed:?}");
    let ask = pb::LeaseTimeToLiveRequest { id: kept, keys: true };
    assert_eq!(leases.lease_time_to_live(ask).await.unwrap().into_inner().ttl, -1);
    let found = own_leases.lease_time_to_live(own(ask)).await.unwrap().into_inner();
    assert_eq!((found.granted_ttl, found.keys), (600, vec!["/keelson/kept".into()]));
    let revoked = leases.lease_revoke(pb::LeaseRevokeRequest { id: kept }).await.unwrap_err();
    assert_eq!(revoked.code(), Code::NotFound);
    let attached = store.kv().put(pb::PutRequest { lease: kept, ..put("/registry/a", 5) }).await.unwrap_err();
    assert_eq!(attached.code(), Code::NotFound);
    let keep = || futures::stream::iter([pb::LeaseKeepAliveRequest { id: kept }]);
    let mut answers = leases.lease_keep_alive(keep()).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().ttl, 0);
    let mut answers = own_leases.lease_keep_alive(own(keep())).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().ttl, 600);
    wait_until("the short one has run out", async || store.own().await.1 == ["/keelson/kept"]).await;
    own_leases.lease_revoke(own(pb::LeaseRevokeRequest { id: kept })).await.unwrap();
    assert!(store.own().await.1.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn they_survive_a_crash_and_are_in_a_snapshot() {
    let mut store = Store::new(&[]).await;
    for number in 0..20 {
        store.own_kv().put(own(put(&format!("/keelson/{number:02}"), 100))).await.unwrap();
    }
    store.kv().put(put("/registry/pods/a", 5)).await.unwrap();
    let (public, own_keys) = (store.public().await, store.own().await);
    store.server.kill_and_spawn();
    store.ready().await;
    assert_eq!((store.public().await, store.own().await), (public, own_keys.clone()));

    let mut maintenance = MaintenanceClient::new(store.cluster.clone());
    let mut pieces = maintenance.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    let (file, mut content) = (store.directory.path().join("snapshot"), Vec::new());
    while let Some(piece) = pieces.message().await.unwrap() {
        content.extend_from_slice(&piece.blob);
    }
    std::fs::write(&file, content).unwrap();
    store.server.kill();
    std::fs::remove_dir_all(store.server.data_dir()).unwrap();
    let restored = std::process::Command::new(PROGRAM)
        .args([
            "snapshot",
            "restore",
            file.to_str().unwrap(),
            "--name=default",
            "--bump-revision=1000",
            "--mark-compacted",
        ])
        .arg(format!("--data-dir={}", store.server.data_dir().display()))
        .status();
    assert!(restored.unwrap().success());
    store.server.kill_and_spawn();
    store.ready().await;
    assert_eq!((store.own().await, store.public().await.0), ((own_keys.0 + 1000, own_keys.1), public.0 + 1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn they_take_nothing_of_everybodys_quota() {
    let store = Store::new(&["--quota-backend-bytes=6000000"]).await;
    for number in 0..80 {
        store.own_kv().put(own(put(&format!("/keelson/{number}"), 100_000))).await.unwrap();
    }
    for number in 0..20 {
        store.kv().put(put(&format!("/registry/{number}"), 100_000)).await.unwrap();
    }
    let alarms = MaintenanceClient::new(store.cluster.clone()).alarm(pb::AlarmRequest::default()).await.unwrap();
    assert_eq!(alarms.into_inner().alarms, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_writes_its_keys_when_there_is_no_space_for_others() {
    let store = Store::new(&["--quota-backend-bytes=6000000"]).await;
    let (mut own_kv, mut kv) = (store.own_kv(), store.kv());
    let mut refused = None;
    for number in 0..1000 {
        if let Err(status) = kv.put(put(&format!("/registry/{number}"), 100_000)).await {
            refused = Some(status);
            break;
        }
    }
    assert_eq!(refused.expect("the quota is smaller").message(), FULL);
    let alarms = MaintenanceClient::new(store.cluster.clone()).alarm(pb::AlarmRequest::default()).await.unwrap();
    assert_eq!(alarms.into_inner().alarms.len(), 1);

    assert!(own_kv.txn(own(txn(OWN, 1000))).await.unwrap().into_inner().succeeded);
    LeaseClient::new(store.cluster.clone()).lease_grant(own(pb::LeaseGrantRequest { ttl: 600, id: 0 })).await.unwrap();
    assert_eq!(own_kv.put(put("/registry/more", 1)).await.unwrap_err().message(), FULL, "it is no reserve for others");

    // It ends as well: a cluster that writes without end must not fill the disk.
    let mut written = 0;
    let refused = loop {
        match own_kv.put(own(put(&format!("/keelson/v1/events/{written}"), 100_000))).await {
            Ok(_) => written += 1,
            Err(status) => break status,
        }
        assert!(written < 100, "there is no end to it");
    };
    assert_eq!(refused.message(), FULL);
    assert!(written > 20, "{written} of the cluster's writes fitted");
}

/// A cluster that keeps more than it ever could is told so, and can still delete.
#[tokio::test(flavor = "multi_thread")]
async fn they_have_a_bound_of_their_own() {
    const PART: usize = 1 << 20;
    const BOUND: usize = 256 << 20;
    let store = Store::new(&[]).await;
    let mut own_kv = store.own_kv();
    let mut written = 0;
    let refused = loop {
        match own_kv.put(own(put(&format!("/keelson/{written}"), PART))).await {
            Ok(_) => written += PART,
            Err(status) => break status,
        }
        assert!(written <= BOUND, "there is no end to it");
    };
    assert_eq!(refused.message(), FULL);
    assert!(written > BOUND - 2 * PART, "{written} bytes of values fitted");
    store.kv().put(put("/registry/a", PART)).await.unwrap();
    let all = pb::DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    let deleted = own_kv.delete_range(own(all)).await.unwrap().into_inner().deleted;
    assert_eq!(deleted, i64::try_from(written / PART).unwrap());
}
