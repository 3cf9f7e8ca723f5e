//! Nodes that were off for longer than their certificates live, and certificates that grow old while nodes run. TLS looks at
//! the machine's clock, which all nodes here share with everybody else, so that it is the certificates that are made older.

use std::net::IpAddr;
use std::path::Path;

use hyper::Method;
use keelson_api::paths;
use keelson_cluster::authorities::Authorities;
use keelson_cluster::credentials::Circumstances;
use keelson_cluster::identity::Identity;
use keelson_cluster::{Paths, worker};
use keelson_config::{ClusterConfig, Kept as _, Role};
use keelson_pki::{AuthorityKind, Clock, Files as _, Mode, Owner, Pair, Profile, StandardFiles};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use super::growth::wait_for_members;
use super::power::token;
use super::world::{Node, wait_until, world_without_kubernetes};

const FOUNDER: &str = "keelson.role=control-plane keelson.bootstrap keelson.peers=none";
const PLANE: &str = "keelson.role=control-plane";
const WORKER: &str = "keelson.role=worker";
/// Beyond every leaf's life, which is a week.
const DAYS_OFF: i64 = 35;
/// In the last third of that life, and before its end.
const DAYS_DUE: i64 = 5;

/// Puts in the place of a node's certificates what they would be had they been made so many days ago. Says how many there are.
fn age(node: &Node, last: u8, plane: &Node, days: i64) -> usize {
    let paths = Paths::below(&node.root);
    let identity = Identity::from_file(&std::fs::read(paths.identity()).unwrap()).unwrap();
    let authorities = Authorities::read(&StandardFiles, &Paths::below(&plane.root).authorities()).unwrap();
    let (cluster, addresses) = (ClusterConfig::default(), [IpAddr::from([10, 99, 0, last])]);
    let circumstances = Circumstances { identity: &identity, cluster: &cluster, addresses: &addresses };
    let then = OffsetDateTime::now_utc() - Duration::days(days);
    let clock = Clock { now: then, floor: then - Duration::DAY };
    let replace = |path: &Path, kind: AuthorityKind, profile: &Profile, owner: Owner| {
        assert!(path.exists(), "{} is none of this node's", path.display());
        let pair = authorities.get(kind).issue(profile, clock).unwrap();
        StandardFiles.write(path, &pair.to_file(), Mode::SECRET, owner).unwrap();
    };
    if identity.role == Role::Worker {
        let leaves = worker::pair_files(&paths).zip(circumstances.node_identities()).into_array();
        for (path, (kind, profile)) in &leaves {
            replace(path, *kind, profile, Owner::ROOT);
        }
        return leaves.len();
    }
    let credentials: Vec<_> = circumstances.store().into_iter().chain(circumstances.kubernetes()).collect();
    for credential in &credentials {
        let path = paths.service(credential.service).join(credential.file);
        replace(&path, credential.authority, &credential.profile, credential.owner);
    }
    credentials.len()
}

/// Whether the node has so many certificates, and none of them is due to be renewed.
async fn are_young(node: &Node, count: usize) -> bool {
    let Some((200, list)) = node.api(Method::GET, paths::CERTIFICATES, &Value::Null).await else { return false };
    let list = list["certificates"].as_array().cloned().unwrap_or_default();
    let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap();
    list.len() == count && list.iter().all(|one| one["renewal"].as_str().is_some_and(|renewal| renewal > now.as_str()))
}

async fn are_all_young(nodes: &[(Node, u8)], count: usize) -> bool {
    for (node, _) in nodes {
        if !are_young(node, count).await {
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_certificates_have_all_expired_renews_them_by_its_key_or_learns_that_it_was_removed() {
    let Some(mut world) = world_without_kubernetes() else { return };
    let mut plane = world.node("a", 1, FOUNDER, None);
    plane.wait_for(&["Member", "ServicesApplied"]).await;
    wait_for_members(&plane, &["a"], 1).await;
    let line = token(&plane, "worker", 2).await;
    let [mut stays, mut goes] =
        [("stays", 4), ("goes", 5)].map(|(name, last)| world.node(name, last, WORKER, Some(&line)));
    for node in [&stays, &goes] {
        node.wait_for(&["Member", "ServicesApplied"]).await;
        assert!(are_young(node, 6).await, "{}'s certificates are as they were given", node.name);
    }
    for (node, last) in [(&mut stays, 4), (&mut goes, 5)] {
        node.switch_off();
        assert_eq!(age(node, last, &plane, DAYS_OFF), 6);
    }
    plane.ask(Method::POST, "/v1/nodes/goes/removal", json!({})).await;
    plane.switch_off();

    // While nobody answers it goes on with what it has, and says so.
    stays.switch_on();
    stays.wait_for(&["Member"]).await;
    wait_until("nobody renews its certificates", async || {
        std::fs::read_to_string(stays.root.join("node.log")).unwrap().contains("no control plane answers")
    })
    .await;
    assert!(!are_young(&stays, 6).await, "who has renewed them?");
    plane.switch_on();
    wait_until("its certificates are new", async || are_young(&stays, 6).await).await;
    let kubelet = stays.root.join("run/keelson/kubelet/client.pem");
    wait_until("kubelet has its own", async || {
        let pair = Pair::from_file(&std::fs::read(&kubelet).unwrap()).unwrap();
        pair.validity().unwrap().not_after > OffsetDateTime::now_utc()
    })
    .await;

    goes.switch_on();
    wait_until("the other one has learnt it", async || goes.root.join("rebooted").exists()).await;
    assert!(!goes.root.join("state/identity.json").exists());
    let log = std::fs::read_to_string(goes.root.join("node.log")).unwrap();
    assert!(!log.contains("handed"), "it has handed services to PID 1: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn control_planes_renew_theirs_unnoticed_and_come_back_after_a_month() {
    let Some(mut world) = world_without_kubernetes() else { return };
    let a = world.node("a", 1, FOUNDER, None);
    a.wait_for(&["Member", "ServicesApplied"]).await;
    wait_for_members(&a, &["a"], 1).await;
    let line = token(&a, "control-plane", 2).await;
    let [b, c] = [("b", 2), ("c", 3)].map(|(name, last)| world.node(name, last, PLANE, Some(&line)));
    let mut planes = [(a, 1), (b, 2), (c, 3)];
    for (plane, _) in &planes {
        plane.wait_for(&["Member", "ServicesApplied"]).await;
    }
    wait_for_members(&planes[0].0, &["a", "b", "c"], 3).await;

    // Two thirds of their life are over, and no write fails for that.
    let count = planes.iter().map(|(plane, last)| age(plane, *last, &planes[0].0, DAYS_DUE)).max().unwrap();
    // With what the API serves with, which is in memory.
    let count = count + 1;
    assert!(!are_all_young(&planes, count).await, "they are due");
    wait_until("they are new, and every write in between was acknowledged", async || {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        token(&planes[1].0, "worker", 1).await;
        are_all_young(&planes, count).await
    })
    .await;

    let kept = token(&planes[1].0, "worker", 1).await;
    for (plane, _) in &mut planes {
        plane.switch_off();
    }
    for (plane, last) in &planes {
        age(plane, *last, &planes[0].0, DAYS_OFF);
    }
    for (plane, _) in &mut planes {
        plane.switch_on();
    }
    wait_for_members(&planes[1].0, &["a", "b", "c"], 3).await;
    wait_until("a month later they are new", async || are_all_young(&planes, count).await).await;
    let id = keelson_api::Token::parse(&kept).unwrap().claims.id;
    let list = planes[2].0.ask(Method::GET, paths::TOKENS, Value::Null).await;
    let tokens = list["tokens"].as_array().cloned().unwrap_or_default();
    assert!(tokens.iter().any(|token| token["id"] == id.as_str()), "what was written before is gone: {list}");
}
