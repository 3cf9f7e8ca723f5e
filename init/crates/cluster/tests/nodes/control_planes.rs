//! Control planes and workers join in the same moment, lose their leader, are removed and come back. A client writes until the removals
//! begin, and is told of each step what it has cost.

use std::time::Instant;

use hyper::Method;
use keelson_pki::{Authority, AuthorityKind, Clock, Pair, Profile, Subject};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::growth::wait_for_members;
use super::planned::{a_control_plane_without_its_api_server_answers, the_leader_stops_in_order};
use super::power::{store_members, token};
use super::world::{Node, UP, World, wait_until, world};
use super::writer::{Writer, Written};

const FOUNDER: &str = "keelson.role=control-plane keelson.bootstrap keelson.peers=none";
const PLANE: &str = "keelson.role=control-plane";
const WORKER: &str = "keelson.role=worker";
const KUBELET: &str = "run/keelson/kubelet/client.pem";
pub(super) const MASTER: &str = "master.pem";

/// What this test itself may do: a certificate that no node has, from the authority on a control plane's disk.
pub(super) fn make_master(plane: &Node) {
    let pair = std::fs::read(plane.root.join("state/pki/authorities/kubernetes-client.pem")).unwrap();
    let authority = Authority::from_pair(AuthorityKind::KubernetesClient, Pair::from_file(&pair).unwrap()).unwrap();
    let now = OffsetDateTime::now_utc();
    let profile = Profile::client(Subject::named("test").organization("system:masters"));
    let pair = authority.issue(&profile, Clock { now, floor: now - Duration::DAY }).unwrap();
    std::fs::write(plane.root.join(MASTER), pair.to_file()).unwrap();
}

pub(super) async fn wait_for_voters(at: &Node, names: &[&str]) {
    wait_until(&format!("{names:?} vote"), async || {
        let members = store_members(at).await;
        let mut voters: Vec<_> =
            members.iter().filter(|one| one["votes"] == true).map(|one| one["node"].clone()).collect();
        voters.sort_by_key(Value::to_string);
        members.len() == names.len() && voters == names
    })
    .await;
}

/// Of three, the one that leads the store comes first.
pub(super) async fn leader_first(mut planes: [&mut Node; 3]) -> [&mut Node; 3] {
    let mut leader = None;
    wait_until("a leader of the store", async || {
        let members = store_members(planes[2]).await;
        let name = members.iter().find(|one| one["leads"] == true).map(|one| one["node"].clone());
        leader = planes.iter().position(|plane| name.as_ref().is_some_and(|name| *name == plane.name.as_str()));
        leader.is_some()
    })
    .await;
    planes.swap(0, leader.unwrap());
    planes
}

/// A worker that outlives all that happens, and a client there that writes all the time.
async fn client(world: &mut World, founder: &Node) -> (Node, Writer) {
    let line = token(founder, "worker", 1).await;
    let node = world.node("client", 30, WORKER, Some(&line));
    node.wait_for(&UP).await;
    make_master(founder);
    std::fs::copy(founder.root.join(MASTER), node.root.join(MASTER)).unwrap();
    let writer = Writer::start(&node, "written");
    writer.wait_for_more(20).await;
    (node, writer)
}

/// A `ServiceAccount` token that one API server has issued is good at another.
async fn check_service_account_tokens(issuer: &Node, verifier: &Node) {
    for plane in [issuer, verifier] {
        make_master(plane);
    }
    let mut text = Value::Null;
    wait_until("a token for a ServiceAccount", async || {
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "t" } });
        issuer.kubernetes(MASTER, "POST", "/api/v1/namespaces/default/serviceaccounts", &account);
        let path = "/api/v1/namespaces/default/serviceaccounts/t/token";
        let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
        text = issuer.kubernetes(MASTER, "POST", path, &request)["object"]["status"]["token"].clone();
        text.is_string()
    })
    .await;
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": { "token": text },
    });
    wait_until("the other API server knows the key of the token", async || {
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let answer = verifier.kubernetes(MASTER, "POST", path, &review);
        answer["object"]["status"]["authenticated"] == true
    })
    .await;
}

/// One story, because API servers' starts are what costs.
#[tokio::test(flavor = "multi_thread")]
async fn control_planes_join_serve_fail_over_are_removed_and_come_back() {
    let Some(mut world) = world() else { return };
    let mut a = world.node("a", 1, FOUNDER, None);
    a.wait_for(&["Member", "ApiServerReady", "AccessApplied"]).await;
    let (_client, writer) = client(&mut world, &a).await;

    // Two control planes and ten workers in the same second, nobody asked twice.
    let (planes, workers) = (token(&a, "control-plane", 2).await, token(&a, "worker", 10).await);
    let begun = Instant::now();
    let mut b = world.node("b", 2, PLANE, Some(&planes));
    let mut c = world.node("c", 3, PLANE, Some(&planes));
    let workers: Vec<_> =
        (0..10).map(|number| world.node(&format!("w{number}"), 10 + number, WORKER, Some(&workers))).collect();
    println!("twelve nodes were switched on within {} ms", begun.elapsed().as_millis());
    for worker in &workers {
        worker.wait_for(&UP).await;
    }
    println!("ten workers reach the API server: {} ms", begun.elapsed().as_millis());
    for plane in [&b, &c] {
        plane.wait_for(&UP).await;
        assert!(!plane.root.join("run/keelson/config/token").exists(), "the token was used");
    }
    println!("two control planes serve: {} ms", begun.elapsed().as_millis());
    wait_for_voters(&c, &["a", "b", "c"]).await;
    wait_until("it is told once of each that it votes now", async || {
        let events = c.ask(Method::GET, "/v1/events", Value::Null).await;
        let events = events["events"].as_array().cloned().unwrap_or_default();
        let mut promoted: Vec<_> = events
            .iter()
            .filter(|event| event["kind"] == "storeMemberPromoted")
            .map(|event| event["node"].as_str().unwrap_or_default().to_owned())
            .collect();
        promoted.sort();
        promoted == ["b", "c"]
    })
    .await;
    let key = |plane: &Node| std::fs::read(plane.root.join("state/cluster/service-account.key")).unwrap();
    assert!(key(&a) != key(&b) && key(&b) != key(&c), "each control plane signs with a key of its own");
    check_service_account_tokens(&a, &c).await;
    let grown = writer.so_far();
    grown.tell("from one control plane to three, and ten workers", &Written::default());
    assert!(grown.failed.is_empty(), "writes failed: {:?}", grown.failed);

    // Who leads the store loses power: the others go on, and so do the workers.
    let registered = workers[0].kubernetes(KUBELET, "POST", "/api/v1/nodes", &workers[0].node_object());
    assert_eq!(registered["status"], 200, "{registered}");
    assert!(workers[0].reaches("10.99.0.1:6443"), "no API server");
    assert!(!workers[0].reaches("10.99.0.1:6444"), "a proxy serves other machines");
    leader_loses_power(&mut world, [&mut a, &mut b, &mut c], &workers[0], &writer).await;
    the_leader_stops_in_order([&mut a, &mut b, &mut c], &writer).await;
    a_control_plane_without_its_api_server_answers(&b, "w0").await;
    let written = writer.stop();
    assert_eq!(written.lost(&c), Vec::<&str>::new(), "of {} acknowledged writes", written.acknowledged.len());
    removals(&mut a, &mut b, &mut c).await;
}

async fn leader_loses_power(world: &mut World, planes: [&mut Node; 3], worker: &Node, writer: &Writer) {
    let [leader, other, _] = leader_first(planes).await;
    let before = writer.so_far();
    let begun = Instant::now();
    leader.switch_off();
    wait_until("the store has another leader", async || {
        let request = json!({ "role": "worker" });
        other.api(Method::POST, "/v1/tokens", &request).await.is_some_and(|(status, _)| status == 200)
    })
    .await;
    wait_until("a worker reaches another API server", async || {
        worker.kubernetes(KUBELET, "GET", "/api/v1/nodes/w0", &Value::Null)["status"] == 200
    })
    .await;
    println!("from the cut of {}'s power to a worker's next answer: {} ms", leader.name, begun.elapsed().as_millis());
    writer.wait_for_more(20).await;
    writer.so_far().tell("the cut of the leader's power", &before);
    nodes_join_beside_one_that_is_off(world, other).await;
    leader.switch_on();
    leader.wait_for(&UP).await;
    wait_for_voters(other, &["a", "b", "c"]).await;
}

async fn nodes_join_beside_one_that_is_off(world: &mut World, at: &Node) {
    let (for_worker, for_plane) = (token(at, "worker", 1).await, token(at, "control-plane", 1).await);
    let begun = Instant::now();
    let worker = world.node("late", 31, WORKER, Some(&for_worker));
    let plane = world.node("d", 4, PLANE, Some(&for_plane));
    for node in [&worker, &plane] {
        node.wait_for(&UP).await;
    }
    println!("a worker and a control plane have joined while a member is off: {} ms", begun.elapsed().as_millis());
    assert_eq!(store_members(at).await.len(), 4);
    at.ask(Method::POST, "/v1/nodes/d/removal", json!({})).await;
    wait_until("d has learnt it", async || plane.root.join("rebooted").exists()).await;
}

async fn removals(a: &mut Node, b: &mut Node, c: &mut Node) {
    // Removed at its own request; what was copied from its disk before opens nothing.
    std::fs::copy(a.root.join(KUBELET), b.root.join("stolen.pem")).unwrap();
    let begun = Instant::now();
    a.ask(Method::POST, "/v1/nodes/a/removal", json!({})).await;
    wait_until("a's certificate is denied", async || {
        b.kubernetes("stolen.pem", "GET", "/api/v1/nodes/w0", &Value::Null)["status"] == 403
    })
    .await;
    println!("from the order to the denial: {} ms", begun.elapsed().as_millis());
    wait_until("a has learnt it, and forgets the cluster", async || a.root.join("rebooted").exists()).await;
    println!("from the order to the reboot: {} ms", begun.elapsed().as_millis());
    for file in ["state/identity.json", "state/pki/authorities/api.pem", "state/cluster/encryption.json"] {
        assert!(!a.root.join(file).exists(), "{file} is still there");
    }
    wait_for_members(b, &["b", "c"], 1).await;
    a.switch_off();

    // It comes back under its name, as another.
    std::fs::remove_file(a.root.join("rebooted")).unwrap();
    let node = std::fs::read_to_string(a.root.join("run/keelson/config/node.json")).unwrap();
    let mut node: Value = serde_json::from_str(&node).unwrap();
    node["bootstrap"] = false.into();
    std::fs::write(a.root.join("run/keelson/config/node.json"), node.to_string()).unwrap();
    a.give_token(&token(b, "control-plane", 1).await);
    a.switch_on();
    a.wait_for(&UP).await;
    wait_for_voters(b, &["a", "b", "c"]).await;
    assert_eq!(b.kubernetes("stolen.pem", "GET", "/api/v1/nodes/w0", &Value::Null)["status"], 403);

    // Off while it is removed: it learns it before anything of it runs.
    c.switch_off();
    b.ask(Method::POST, "/v1/nodes/c/removal", json!({})).await;
    wait_for_members(b, &["a", "b"], 1).await;
    c.switch_on();
    wait_until("c has learnt it", async || c.root.join("rebooted").exists()).await;
    let log = std::fs::read_to_string(c.root.join("node.log")).unwrap();
    assert!(!log.contains("handed"), "it has handed services to PID 1: {log}");
    assert!(!c.root.join("run/keelson/store/config.json").exists(), "its store was told to start");

    // Whoever was asked loses power at once: the work is finished all the same, whichever of the two votes.
    b.ask(Method::POST, "/v1/nodes/a/removal", json!({})).await;
    b.switch_off();
    b.switch_on();
    wait_until("a has learnt it", async || a.root.join("rebooted").exists()).await;
    wait_for_voters(b, &["b"]).await;
    let (status, refusal) = b.api(Method::POST, "/v1/nodes/b/removal", &json!({})).await.unwrap();
    assert_eq!((status, refusal["field"].as_str()), (400, Some("name")), "the last one stays: {refusal}");
}
