//! Leases through members that do not lead, and across a change of the leader.

use std::time::Duration;

use keelson_etcd_api::etcdserverpb as pb;

use crate::harness::{Cluster, get};
use crate::waiting::wait_until;

async fn keep_alive(cluster: &Cluster, at: usize, id: i64) -> i64 {
    let request = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
    let mut answers = cluster.members[at].lease().lease_keep_alive(request).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap().ttl
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_lives_by_keep_alives_to_any_member_and_ends_everywhere() {
    let mut cluster = Cluster::founded(3, &[]).await;
    let leader = cluster.leader().await;
    let (first, second) = ((leader + 1) % 3, (leader + 2) % 3);
    let grant = pb::LeaseGrantRequest { ttl: 8, id: 0 };
    let lease = cluster.members[first].lease().lease_grant(grant).await.unwrap().into_inner();
    let request = pb::PutRequest { key: "leased".into(), value: "v".into(), lease: lease.id, ..Default::default() };
    cluster.members[second].kv().put(request).await.unwrap();
    let left = pb::LeaseTimeToLiveRequest { id: lease.id, keys: true };
    let left = cluster.members[second].lease().lease_time_to_live(left).await.unwrap().into_inner();
    assert_eq!((left.granted_ttl, left.keys.len()), (8, 1));
    assert!((2..=8).contains(&left.ttl), "{left:?}");

    // Kept alive at followers for longer than it would live by itself.
    for round in 0..12 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let at = if round % 2 == 0 { first } else { second };
        assert_eq!(keep_alive(&cluster, at, lease.id).await, 8);
    }
    // A new leader gives it its whole time again, and renews it.
    cluster.members[leader].kill();
    assert_eq!(keep_alive(&cluster, first, lease.id).await, 8);
    assert!(get(&mut cluster.members[second].kv(), "leased", false).await.is_some());
    wait_until("the lease's end", async || get(&mut cluster.members[second].kv(), "leased", false).await.is_none())
        .await;
    assert_eq!(keep_alive(&cluster, first, lease.id).await, 0);
    cluster.members[leader].start();
    cluster.members[leader].wait_until_ready().await;
    cluster.assert_equal_hashes().await;
}
