//! etcd's services for locks and elections, ours and, where there is one, etcd's.

use std::time::Duration;

use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::v3electionpb::{CampaignRequest, LeaderRequest, ProclaimRequest, ResignRequest};
use keelson_etcd_api::v3lockpb::{LockRequest, UnlockRequest};
use tonic::{Code, Status};

use crate::servers::{Clients, Server, etcd_program, within};
use crate::waiting::wait_until;

/// In which nothing happens that is waited for.
const A_WHILE: Duration = Duration::from_millis(300);

async fn servers() -> Vec<Server> {
    let mut servers = vec![Server::keelson(&[]).await];
    if let Some(program) = etcd_program("KEELSON_ETCD") {
        servers.push(Server::etcd(&program).await);
    }
    servers
}

async fn grant(clients: &Clients, id: i64) -> i64 {
    clients.lease.clone().lease_grant(pb::LeaseGrantRequest { ttl: 600, id }).await.unwrap().into_inner().id
}

async fn revoke(clients: &Clients, id: i64) {
    clients.lease.clone().lease_revoke(pb::LeaseRevokeRequest { id }).await.unwrap();
}

/// Keys below a name: who stands in line.
async fn line(clients: &Clients, name: &str) -> Vec<String> {
    let (key, range_end) = (format!("{name}/").into(), format!("{name}0").into());
    let request = pb::RangeRequest { key, range_end, ..Default::default() };
    let kvs = clients.kv.clone().range(request).await.unwrap().into_inner().kvs;
    kvs.into_iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
}

/// Asks in a task of its own, and returns when it stands in line.
async fn lock_behind(clients: &Clients, lease: i64) -> tokio::task::JoinHandle<Result<String, Status>> {
    let mut lock = clients.lock.clone();
    let asked = tokio::spawn(async move {
        let locked = lock.lock(LockRequest { name: "name".into(), lease }).await?;
        Ok(String::from_utf8(locked.into_inner().key.to_vec()).unwrap())
    });
    let key = format!("name/{lease:x}");
    wait_until("the next in line", async || line(clients, "name").await.contains(&key)).await;
    asked
}

fn text(status: &Status) -> (Code, &str) {
    (status.code(), status.message())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_held_by_one_and_handed_on_in_turn() {
    for server in servers().await {
        let clients = server.clients();
        for id in 0xa0..0xa4 {
            grant(&clients, id).await;
        }
        let Clients { mut lock, .. } = clients.clone();
        let held = lock.lock(LockRequest { name: "name".into(), lease: 0xa0 }).await.unwrap().into_inner();
        assert_eq!(held.key, "name/a0");
        let revision = held.header.unwrap().revision;
        // Whoever holds it and asks again holds it still.
        let again = lock.lock(LockRequest { name: "name".into(), lease: 0xa0 }).await.unwrap().into_inner();
        assert_eq!((&again.key[..], again.header.unwrap().revision), (&b"name/a0"[..], revision));

        let second = lock_behind(&clients, 0xa1).await;
        let given_up = lock_behind(&clients, 0xa2).await;
        let third = lock_behind(&clients, 0xa3).await;
        given_up.abort();
        wait_until("who gave up leaves", async || !line(&clients, "name").await.contains(&"name/a2".to_owned())).await;
        tokio::time::sleep(A_WHILE).await;
        assert!(!second.is_finished() && !third.is_finished());

        lock.unlock(UnlockRequest { key: held.key }).await.unwrap();
        assert_eq!(within("the second", second).await.unwrap().unwrap(), "name/a1");
        tokio::time::sleep(A_WHILE).await;
        assert!(!third.is_finished());
        // The lease's end is the lock's.
        revoke(&clients, 0xa1).await;
        assert_eq!(within("the third", third).await.unwrap().unwrap(), "name/a3");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_lock_under_a_lease_that_ends_is_told() {
    for server in servers().await {
        let clients = server.clients();
        let Clients { mut lock, .. } = clients.clone();
        for id in [0xa0, 0xa1] {
            grant(&clients, id).await;
        }
        let held = lock.lock(LockRequest { name: "name".into(), lease: 0xa0 }).await.unwrap().into_inner();
        let second = lock_behind(&clients, 0xa1).await;
        revoke(&clients, 0xa1).await;
        lock.unlock(UnlockRequest { key: held.key }).await.unwrap();
        let refused = within("the answer", second).await.unwrap().unwrap_err();
        assert_eq!(text(&refused), (Code::Unknown, "mutex: session is expired"));

        let refused = lock.lock(LockRequest { name: "name".into(), lease: 0xdead }).await.unwrap_err();
        assert_eq!(text(&refused), (Code::Unknown, "etcdserver: requested lease not found"));
        let refused = lock.unlock(UnlockRequest { key: "".into() }).await.unwrap_err();
        assert_eq!(text(&refused), (Code::Unknown, "etcdserver: key is not provided"));

        // Without a lease of the client's there is one of a minute.
        let held = lock.lock(LockRequest { name: "own".into(), lease: 0 }).await.unwrap().into_inner();
        let key = String::from_utf8(held.key.to_vec()).unwrap();
        let id = i64::from_str_radix(key.strip_prefix("own/").unwrap(), 16).unwrap();
        let request = pb::LeaseTimeToLiveRequest { id, keys: true };
        let lease = clients.lease.clone().lease_time_to_live(request).await.unwrap().into_inner();
        assert_eq!((lease.granted_ttl, &lease.keys[..]), (60, &[held.key][..]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_election_has_one_leader_whom_observers_follow() {
    for server in servers().await {
        let clients = server.clients();
        let Clients { mut election, .. } = clients.clone();
        let name = || bytes::Bytes::from("name");
        for id in [0xb0, 0xb1] {
            grant(&clients, id).await;
        }
        let refused = election.leader(LeaderRequest { name: name() }).await.unwrap_err();
        assert_eq!(text(&refused), (Code::Unknown, "election: no leader"));
        let campaign = |lease, value: &'static str| CampaignRequest { name: name(), lease, value: value.into() };

        let won = election.campaign(campaign(0xb0, "one")).await.unwrap().into_inner();
        let first = won.leader.unwrap();
        assert_eq!((&first.name[..], &first.key[..], first.lease), (&b"name"[..], &b"name/b0"[..], 0xb0));
        assert_eq!(first.rev, won.header.unwrap().revision);
        let mut observed = election.observe(LeaderRequest { name: name() }).await.unwrap().into_inner();
        let mut last = None;
        // etcd tells some of it twice.
        let mut next = async || loop {
            let leader = within("the leader", observed.message()).await.unwrap().unwrap();
            let kv = leader.kv.unwrap();
            assert!(leader.header.unwrap().revision >= kv.mod_revision);
            let told = [kv.key, kv.value].map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
            if last.replace(told.clone()).as_ref() != Some(&told) {
                break told;
            }
        };
        assert_eq!(next().await, ["name/b0", "one"]);

        let second = {
            let (mut election, request) = (election.clone(), campaign(0xb1, "two"));
            tokio::spawn(async move { election.campaign(request).await })
        };
        wait_until("the second contender", async || line(&clients, "name").await.len() == 2).await;
        // By proclaiming, and by a campaign of the leader itself.
        let proclaim = ProclaimRequest { leader: Some(first.clone()), value: "uno".into() };
        election.proclaim(proclaim.clone()).await.unwrap();
        assert_eq!(next().await, ["name/b0", "uno"]);
        let again = election.campaign(campaign(0xb0, "eins")).await.unwrap().into_inner().leader.unwrap();
        assert_eq!(again.rev, first.rev);
        assert_eq!(next().await, ["name/b0", "eins"]);
        let leader = election.leader(LeaderRequest { name: name() }).await.unwrap().into_inner().kv.unwrap();
        assert_eq!((&leader.value[..], leader.create_revision), (&b"eins"[..], first.rev));
        assert!(!second.is_finished());

        election.resign(ResignRequest { leader: Some(first.clone()) }).await.unwrap();
        let second = within("the second leader", second).await.unwrap().unwrap().into_inner().leader.unwrap();
        assert_eq!(&second.key[..], b"name/b1");
        assert_eq!(next().await, ["name/b1", "two"]);
        let refused = election.proclaim(proclaim).await.unwrap_err();
        assert_eq!(text(&refused), (Code::Unknown, "election: not leader"));
        // Who has resigned may do so again.
        election.resign(ResignRequest { leader: Some(first) }).await.unwrap();
        let refused = election.resign(ResignRequest { leader: None }).await.unwrap_err();
        assert_eq!(text(&refused), (Code::Unknown, "\"leader\" field must be provided"));

        // With nobody there, an observer waits for who comes.
        revoke(&clients, 0xb1).await;
        wait_until("the end of the line", async || line(&clients, "name").await.is_empty()).await;
        grant(&clients, 0xb2).await;
        election.campaign(campaign(0xb2, "three")).await.unwrap();
        assert_eq!(next().await, ["name/b2", "three"]);
    }
}
