//! Members are added, promoted, moved and removed.

use keelson_etcd_api::etcdserverpb as pb;

use crate::harness::{Cluster, get, put};
use crate::waiting::wait_until;

fn add(url: &str, is_learner: bool) -> pb::MemberAddRequest {
    pb::MemberAddRequest { peer_ur_ls: vec![url.to_owned()], is_learner, ..Default::default() }
}

async fn voters(cluster: &Cluster, at: usize) -> usize {
    cluster.members[at].members().await.iter().filter(|member| !member.is_learner).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_grows_from_one_to_three_and_shrinks_to_one() {
    let mut cluster = Cluster::founded(1, &[]).await;
    let mut kv = cluster.members[0].kv();
    for number in 0..50 {
        kv.put(put(&format!("key-{number}"), number.to_string())).await.unwrap();
    }
    for name in ["m1", "m2"] {
        let number = cluster.prepare(name);
        let url = cluster.members[number].peer_url.clone();
        let added = cluster.members[0].cluster().member_add(add(&url, false)).await.unwrap().into_inner();
        assert_eq!(added.members.len(), number + 1);
        let again = cluster.members[0].cluster().member_add(add(&url, false)).await.unwrap_err();
        assert_eq!(again.message(), "etcdserver: Peer URLs already exists");
        cluster.join(number, &[]);
        cluster.members[number].wait_until_ready().await;
        if number == 1 {
            // Two voters would survive nothing that one does not.
            assert_eq!(voters(&cluster, 0).await, 1);
            assert_eq!(get(&mut cluster.members[1].kv(), "key-7", false).await.as_deref(), Some("7"));
            cluster.members[1].kv().put(put("by-a-learner", "1")).await.unwrap();
        }
    }
    wait_until("three voters", async || voters(&cluster, 2).await == 3).await;
    cluster.assert_equal_hashes().await;
    let leader = cluster.leader().await;
    cluster.members[leader].kill();
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    cluster.members[next].kv().put(put("after", "1")).await.unwrap();
    cluster.members[leader].start();
    cluster.members[leader].wait_until_ready().await;
    cluster.assert_equal_hashes().await;

    // Back to one, and each time it is the leader that goes: one of the two that stay votes, and when that one goes, the other takes over.
    for members in [2, 1] {
        let leader = cluster.leader().await;
        let id = cluster.members[leader].id().await;
        let mut left = Vec::new();
        // Refused as long as the new leader has not heard from those that stay.
        wait_until("a healthy cluster", async || {
            match cluster.members[leader]
                .cluster()
                .member_remove(pb::MemberRemoveRequest { id, ..Default::default() })
                .await
            {
                Ok(removed) => left = removed.into_inner().members,
                Err(refused) => assert_eq!(refused.message(), "etcdserver: unhealthy cluster"),
            }
            !left.is_empty()
        })
        .await;
        assert!(left.iter().all(|member| member.id != id));
        assert_eq!(cluster.members[leader].wait().await, Some(1));
        assert!(cluster.members[leader].log().contains("this member was removed from the cluster"));
        let next = cluster.leader().await;
        assert_eq!(cluster.members[next].members().await.len(), members);
        assert_eq!(voters(&cluster, next).await, 1);
    }
    let last = cluster.leader().await;
    let mut kv = cluster.members[last].kv();
    kv.put(put("alone", "1")).await.unwrap();
    assert_eq!(get(&mut kv, "key-49", false).await.as_deref(), Some("49"));
    assert_eq!(cluster.members[last].members().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_is_promoted_by_name_and_leadership_is_moved() {
    let mut cluster = Cluster::founded(1, &[]).await;
    let number = cluster.prepare("m1");
    let url = cluster.members[number].peer_url.clone();
    let added = cluster.members[0].cluster().member_add(add(&url, true)).await.unwrap().into_inner();
    let id = added.member.unwrap().id;
    let early = cluster.members[0].cluster().member_promote(pb::MemberPromoteRequest { id }).await.unwrap_err();
    assert_eq!(early.message(), "etcdserver: can only promote a learner member which is in sync with leader");
    let not_yet =
        cluster.members[0].maintenance().move_leader(pb::MoveLeaderRequest { target_id: id }).await.unwrap_err();
    assert_eq!(not_yet.message(), "etcdserver: bad leader transferee");
    cluster.join(number, &[]);
    cluster.members[number].wait_until_ready().await;
    assert!(cluster.members[number].status().await.unwrap().is_learner);
    // Asked of the learner: the leader is asked by it.
    wait_until("the promotion", async || {
        cluster.members[1].cluster().member_promote(pb::MemberPromoteRequest { id }).await.is_ok()
    })
    .await;
    let again = cluster.members[1].cluster().member_promote(pb::MemberPromoteRequest { id }).await.unwrap_err();
    assert_eq!(again.message(), "etcdserver: can only promote a learner member");
    let refused =
        cluster.members[1].maintenance().move_leader(pb::MoveLeaderRequest { target_id: id }).await.unwrap_err();
    assert_eq!(refused.message(), "etcdserver: not leader");
    cluster.members[0].maintenance().move_leader(pb::MoveLeaderRequest { target_id: id }).await.unwrap();
    wait_until("the new leader", async || cluster.members[1].status().await.is_some_and(|status| status.leader == id))
        .await;
    let unknown = pb::MemberRemoveRequest { id: 12345, ..Default::default() };
    let unknown = cluster.members[0].cluster().member_remove(unknown).await.unwrap_err();
    assert_eq!(unknown.message(), "etcdserver: member not found");
    let update = pb::MemberUpdateRequest { id, peer_ur_ls: vec!["https://127.0.0.1:1".to_owned()] };
    let members = cluster.members[0].cluster().member_update(update).await.unwrap().into_inner().members;
    let moved = members.iter().find(|member| member.id == id).unwrap();
    assert_eq!(moved.peer_ur_ls, ["https://127.0.0.1:1"]);
    let back = pb::MemberUpdateRequest { id, peer_ur_ls: vec![url] };
    cluster.members[1].cluster().member_update(back).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_removed_while_it_was_off_stops_and_says_why() {
    let mut cluster = Cluster::founded(3, &[]).await;
    let gone = (cluster.leader().await + 1) % 3;
    let id = cluster.members[gone].id().await;
    cluster.members[gone].kill();
    let leader = cluster.leader().await;
    cluster.members[leader]
        .cluster()
        .member_remove(pb::MemberRemoveRequest { id, ..Default::default() })
        .await
        .unwrap();
    cluster.members[leader].kv().put(put("key", "value")).await.unwrap();
    cluster.members[gone].start();
    assert_eq!(cluster.members[gone].wait().await, Some(1));
    assert!(cluster.members[gone].log().contains("this member was removed from the cluster"));
}

/// Nobody can tell it: it never heard of a member that it could ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_removed_before_its_first_entry_stops_and_says_why() {
    let mut cluster = Cluster::founded(1, &[]).await;
    let number = cluster.prepare("m1");
    let url = cluster.members[number].peer_url.clone();
    let added = cluster.members[0].cluster().member_add(add(&url, true)).await.unwrap().into_inner();
    // Not where others look for it, so that no entry reaches it.
    cluster.join(number, &["--listen-peer-urls=https://127.0.0.1:0"]);
    let identity = cluster.members[number].data_dir().join("identity");
    wait_until("the member knows who it is", async || identity.exists()).await;
    let id = added.member.unwrap().id;
    cluster.members[0].cluster().member_remove(pb::MemberRemoveRequest { id, ..Default::default() }).await.unwrap();
    assert_eq!(cluster.members[number].wait().await, Some(1));
    assert!(cluster.members[number].log().contains("the cluster knows no member with the peer URLs"));
}

/// Its id is made from the same list, but what it promised under that id is lost with the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_its_disk_does_not_come_back_under_its_id() {
    let mut cluster = Cluster::founded(3, &[]).await;
    let lost = cluster.leader().await;
    cluster.members[lost].kill();
    std::fs::remove_dir_all(cluster.members[lost].data_dir()).unwrap();
    cluster.members[lost].start();
    assert_eq!(cluster.members[lost].wait().await, Some(1));
    assert!(cluster.members[lost].log().contains("has already been bootstrapped"));
    let leader = cluster.leader().await;
    cluster.members[leader].kv().put(put("key", "value")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_host_speaks_for_no_member() {
    let mut cluster = Cluster::founded(3, &[]).await;
    let other = (cluster.leader().await + 1) % 3;
    cluster.members[other].kill();
    let directory = cluster.members[other].directory().to_owned();
    cluster.certify(&directory, "elsewhere.example");
    cluster.members[other].start();
    let leader = cluster.leader().await;
    // As a client it is refused by name; as a server nobody accepts it.
    cluster.members[leader].wait_for_log("the certificate names none of the hosts").await;
    cluster.members[leader].kv().put(put("key", "value")).await.unwrap();
    cluster.members[other].kill();
    cluster.certify(&directory, "127.0.0.1");
    cluster.members[other].start();
    cluster.members[other].wait_until_ready().await;
    assert_eq!(get(&mut cluster.members[other].kv(), "key", false).await.as_deref(), Some("value"));
}
