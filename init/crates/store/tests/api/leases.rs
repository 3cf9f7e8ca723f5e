//! Leases, with real time.

use std::time::{Duration, Instant};

use keelson_etcd_api::etcdserverpb as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::servers::{Clients, Server, within};
use crate::waiting::wait_until;

async fn grant(clients: &Clients, ttl: i64) -> i64 {
    let answer = clients.lease.clone().lease_grant(pb::LeaseGrantRequest { ttl, id: 0 }).await.unwrap().into_inner();
    assert_eq!(answer.ttl, ttl);
    assert!(answer.id > 0);
    answer.id
}

async fn put(clients: &Clients, key: &str, lease: i64) {
    let request = pb::PutRequest { key: key.to_owned().into(), value: "v".into(), lease, ..Default::default() };
    clients.kv.clone().put(request).await.unwrap();
}

async fn time_to_live(clients: &Clients, id: i64) -> pb::LeaseTimeToLiveResponse {
    let request = pb::LeaseTimeToLiveRequest { id, keys: true };
    clients.lease.clone().lease_time_to_live(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_go_when_their_lease_runs_out_and_not_before() {
    let server = Server::keelson(&[]).await;
    let clients = server.clients();
    let start = Instant::now();
    let (short, long) = (grant(&clients, 2).await, grant(&clients, 3600).await);
    assert_ne!(short, long);
    put(&clients, "a", short).await;
    put(&clients, "b", short).await;
    put(&clients, "c", long).await;
    // The key changes leases: the old one does not take it along.
    put(&clients, "b", long).await;
    wait_until("the key goes with its lease", async || clients.get("a").await.is_none()).await;
    assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(clients.get("b").await.is_some() && clients.get("c").await.is_some());
    assert_eq!(time_to_live(&clients, short).await.ttl, -1);
    let left = time_to_live(&clients, long).await;
    assert_eq!((left.granted_ttl, left.keys.len()), (3600, 2));
    assert!(left.ttl > 3500 && left.ttl <= 3600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_kept_alive_stays() {
    let server = Server::keelson(&[]).await;
    let clients = server.clients();
    let id = grant(&clients, 2).await;
    put(&clients, "a", id).await;
    let (requests, receiver) = mpsc::channel(4);
    requests.send(pb::LeaseKeepAliveRequest { id }).await.unwrap();
    let answers = clients.lease.clone().lease_keep_alive(ReceiverStream::new(receiver)).await.unwrap();
    let mut answers = answers.into_inner();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        let answer = within("a keep-alive's answer", answers.message()).await.unwrap().unwrap();
        assert_eq!((answer.id, answer.ttl), (id, 2));
        assert!(clients.get("a").await.is_some());
        tokio::time::sleep(Duration::from_millis(300)).await;
        requests.send(pb::LeaseKeepAliveRequest { id }).await.unwrap();
    }
    clients.lease.clone().lease_revoke(pb::LeaseRevokeRequest { id }).await.unwrap();
    assert!(clients.get("a").await.is_none());
    // The answers to requests before the revocation may still be on their way.
    wait_until("a keep-alive of no lease answers 0", async || {
        requests.send(pb::LeaseKeepAliveRequest { id }).await.unwrap();
        answers.message().await.unwrap().unwrap().ttl == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_outlive_a_crash_and_still_end() {
    let mut server = Server::keelson(&[]).await;
    let clients = server.clients();
    let id = grant(&clients, 3).await;
    put(&clients, "a", id).await;
    server.crash_and_restart().await;
    let clients = server.clients();
    let left = time_to_live(&clients, id).await;
    assert_eq!((left.granted_ttl, left.keys), (3, vec![bytes::Bytes::from("a")]));
    let start = Instant::now();
    assert!(clients.get("a").await.is_some());
    wait_until("the key goes with its lease", async || clients.get("a").await.is_none()).await;
    assert!(start.elapsed() >= Duration::from_secs(2), "the full time begins again: {:?}", start.elapsed());
}
