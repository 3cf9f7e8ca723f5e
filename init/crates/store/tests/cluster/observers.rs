//! What health checks and dashboards see of several members.

use std::time::Duration;

use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::grpc::health::v1::HealthCheckRequest;
use keelson_etcd_api::grpc::health::v1::health_client::HealthClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Cluster, Member, get, put};
use crate::waiting::wait_until;

async fn metrics(member: &Member) -> String {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", member.place.client_port)).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    page
}

/// The values of all lines that begin so.
fn values(page: &str, start: &str) -> Vec<f64> {
    let lines = page.lines().filter(|line| line.starts_with(start));
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect()
}

async fn is_serving(member: &Member) -> bool {
    let request = HealthCheckRequest { service: String::new() };
    HealthClient::new(member.channel()).check(request).await.unwrap().into_inner().status == 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dashboards_see_the_members_and_what_is_between_them() {
    let mut cluster = Cluster::founded(3, &[]).await;
    let leader = cluster.leader().await;
    let others: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    for number in 0..20 {
        cluster.members[others[0]].kv().put(put(&format!("k{number}"), vec![b'v'; 10_000])).await.unwrap();
    }
    let ids = [cluster.members[others[0]].id().await, cluster.members[others[1]].id().await];
    let own = cluster.members[leader].id().await;
    for id in ids {
        // A put is acknowledged when one of the two has it; the other one may get many at once, and answers them as one.
        wait_until("all entries to be with each follower", async || {
            let page = metrics(&cluster.members[leader]).await;
            let value = |name: &str| match values(&page, &format!("etcd_network_peer_{name}=\"{id:x}\"}} "))[..] {
                [value] => value,
                ref values => panic!("{name} of {id:x} has {values:?}: {page}"),
            };
            value("sent_bytes_total{To") > 200_000.0
                && value("received_bytes_total{From") > 0.0
                && value("round_trip_time_seconds_count{To") > 0.0
        })
        .await;
        let page = metrics(&cluster.members[leader]).await;
        let active = values(&page, &format!("etcd_network_active_peers{{Local=\"{own:x}\",Remote=\"{id:x}\"}} "));
        assert!(matches!(active[..], [streams] if streams >= 1.0), "{active:?}");
    }
    let page = metrics(&cluster.members[others[0]]).await;
    let received = values(&page, "etcd_network_peer_received_bytes_total");
    assert!(received.iter().sum::<f64>() > 200_000.0, "{received:?}");

    cluster.members[others[0]].kill();
    let start = format!("etcd_network_peer_sent_failures_total{{To=\"{:x}\"}}", ids[0]);
    wait_until("failures are counted", async || values(&metrics(&cluster.members[leader]).await, &start)[0] >= 3.0)
        .await;
    assert!(values(&metrics(&cluster.members[leader]).await, "etcd_server_heartbeat_send_failures_total")[0] > 0.0);
}

/// As etcd: whoever balances by health keeps the reads that such a member can still answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_a_leader_serves_what_needs_none() {
    let mut cluster = Cluster::founded(3, &[]).await;
    let left = cluster.leader().await;
    cluster.members[left].kv().put(put("key", "value")).await.unwrap();
    for number in (0..3).filter(|number| *number != left) {
        cluster.members[number].kill();
    }
    let lonely = &cluster.members[left];
    wait_until("the loss of the leader", async || {
        let status = lonely.maintenance().status(pb::StatusRequest {}).await.unwrap().into_inner();
        status.leader == 0 && status.errors == ["etcdserver: no leader"]
    })
    .await;
    assert!(is_serving(lonely).await);
    assert_eq!(get(&mut lonely.kv(), "key", true).await.as_deref(), Some("value"));

    // Those who ask for a leader are told that there is none, a stream after a while.
    let mut request =
        tonic::Request::new(pb::RangeRequest { key: "key".into(), serializable: true, ..Default::default() });
    request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    let refused = lonely.kv().range(request).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (tonic::Code::Unavailable, "etcdserver: no leader"));
    assert!(values(&metrics(lonely).await, "etcd_server_has_leader")[0] < 0.5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_wants_a_leader_ends_when_there_is_none() {
    let mut cluster = Cluster::founded(3, &[]).await;
    let left = cluster.leader().await;
    let create = pb::WatchCreateRequest { key: "key".into(), ..Default::default() };
    let create = pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
    let mut request = tonic::Request::new(tokio_stream::iter([create]));
    request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    let mut answers = cluster.members[left].watch().watch(request).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().unwrap().created);
    for number in (0..3).filter(|number| *number != left) {
        cluster.members[number].kill();
    }
    let ended = tokio::time::timeout(Duration::from_mins(1), answers.message()).await.unwrap().unwrap_err();
    assert_eq!((ended.code(), ended.message()), (tonic::Code::Unavailable, "etcdserver: no leader"));
}
