//! A control plane is removed as compromised: the others, and a worker, exchange everything that it knew, with nobody's help.

use std::collections::BTreeSet;
use std::path::Path;

use hyper::Method;
use keelson_api::paths;
use keelson_pki::{Fingerprint, Pair};
use serde_json::{Value, json};

use super::growth::wait_for_members;
use super::power::token;
use super::world::{Node, wait_until, world_without_kubernetes};

const FOUNDER: &str = "keelson.role=control-plane keelson.bootstrap keelson.peers=none";
const PLANE: &str = "keelson.role=control-plane";
const UP: [&str; 3] = ["Member", "ServicesApplied", "ApiServerReady"];

/// While the authorities are exchanged, a node's process begins anew now and then.
async fn asked(node: &Node, path: &str) -> Value {
    let mut answer = Value::Null;
    wait_until(&format!("{} answers {path}", node.name), async || {
        let Some((200, answered)) = node.api(Method::GET, path, &Value::Null).await else { return false };
        answer = answered;
        true
    })
    .await;
    answer
}

async fn status(node: &Node) -> Value {
    asked(node, paths::STATUS).await
}

/// The keys below a node's STATE that a control plane shares with others.
fn shared_keys(node: &Node) -> BTreeSet<String> {
    let directory = node.root.join("state/pki/authorities");
    let keys = |directory: &Path| {
        let entries = std::fs::read_dir(directory).into_iter().flatten();
        let pairs = entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension() == Some("pem".as_ref()));
        pairs.map(|path| std::fs::read_to_string(path).unwrap()).collect::<Vec<_>>()
    };
    let mut all: BTreeSet<_> = keys(&directory).into_iter().chain(keys(&directory.join("second"))).collect();
    let encryption = std::fs::read(node.root.join("state/cluster/encryption.json")).unwrap();
    let encryption: Value = serde_json::from_slice(&encryption).unwrap();
    all.extend(encryption["keys"].as_array().unwrap().iter().map(|key| key["secret"].to_string()));
    all
}

/// What a worker knows its API's authorities by.
fn believed(worker: &Node) -> Vec<Fingerprint> {
    let file = std::fs::read(worker.root.join("state/cluster/settings.json")).unwrap();
    let settings: Value = serde_json::from_slice(&file).unwrap();
    let anchors = keelson_pki::TrustAnchors::from_pem(settings["settings"]["trust"]["api"].as_str().unwrap());
    anchors.unwrap().fingerprints()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_compromised_control_plane_knew_is_worth_nothing_afterwards() {
    let Some(mut world) = world_without_kubernetes() else { return };
    let mut a = world.node("a", 1, FOUNDER, None);
    a.set_well(true);
    a.wait_for(&UP).await;
    let line = token(&a, "control-plane", 2).await;
    let [b, mut c] = [("b", 2), ("c", 3)].map(|(name, last)| {
        let node = world.node(name, last, PLANE, Some(&line));
        node.set_well(true);
        node
    });
    let line = token(&a, "worker", 1).await;
    let worker = world.node("w", 4, "keelson.role=worker", Some(&line));
    for node in [&b, &c] {
        node.wait_for(&UP).await;
    }
    worker.wait_for(&["Member", "ServicesApplied"]).await;
    wait_for_members(&a, &["a", "b", "c"], 3).await;
    let unused = token(&a, "worker", 1).await;

    // Somebody has copied the disk of c, and it is off.
    let known = shared_keys(&c);
    assert_eq!(known.len(), 8, "seven authorities and a key of Secrets");
    let serving = std::fs::read(c.root.join("state/pki/authorities/api.pem")).unwrap();
    let former = Fingerprint::of(Pair::from_file(&serving).unwrap().certificate());
    let signing = std::fs::read(c.root.join("state/cluster/service-account.key")).unwrap();
    assert!(!signing.is_empty());
    c.switch_off();
    let order = json!({ "compromised": true });
    let removed = a.ask(Method::POST, "/v1/nodes/c/removal", order).await;
    assert!(removed["pending"].as_str().unwrap().contains("are being exchanged"), "{removed}");
    let tokens = asked(&a, paths::TOKENS).await;
    let states: Vec<_> = tokens["tokens"].as_array().unwrap().iter().map(|token| token["state"].clone()).collect();
    assert!(!states.contains(&json!("valid")), "{tokens}");

    wait_until("the new authorities are made", async || {
        status(&a).await["rotation"]["fingerprint"].as_str().is_some_and(|text| text.starts_with("sha256:"))
    })
    .await;
    let next = status(&a).await["rotation"]["fingerprint"].as_str().unwrap().to_owned();
    assert_ne!(next, former.to_string());
    // The power goes in the middle of it.
    wait_until("both are known to a", async || shared_keys(&a).len() > 8).await;
    a.switch_off();
    a.switch_on();
    // A process that begins anew knows of no exchange at first, so the end is told by its event.
    wait_until("the exchange is over", async || {
        asked(&b, paths::EVENTS).await.to_string().contains("authorityRotationFinished")
    })
    .await;
    // An event is read from the store, and a status from what the node has heard of it.
    wait_until("b has heard of it", async || status(&b).await["rotation"].is_null()).await;

    // The same keys everywhere, and none of them is one that c knew.
    wait_until("a and b have put away the former ones", async || {
        shared_keys(&a).len() == 8 && shared_keys(&b).len() == 8
    })
    .await;
    assert_eq!(shared_keys(&a), shared_keys(&b));
    assert!(shared_keys(&a).is_disjoint(&known), "something is what it was");
    wait_until("the worker believes the new one alone", async || {
        let believed = believed(&worker);
        believed.len() == 1 && believed.iter().all(|one| one.to_string() == next)
    })
    .await;
    worker.wait_for(&["Member", "ServicesApplied"]).await;
    let pair = std::fs::read(worker.root.join("state/pki/node/node.pem")).unwrap();
    let authority = std::fs::read(a.root.join("state/pki/authorities/second/api.pem")).unwrap();
    let authority = Pair::from_file(&authority).unwrap();
    let anchors = keelson_pki::TrustAnchors::from(authority.certificate().clone());
    assert!(
        anchors.issuer_of(Pair::from_file(&pair).unwrap().certificate()).is_some(),
        "its certificate is a former one"
    );

    // Whoever knows the cluster by its former authority finds it no more, and by the new one it is found.
    let hexadecimal = next.trim_start_matches("sha256:").to_owned();
    wait_until("a is known by the new one", async || {
        worker.operator("10.99.0.1", "10.99.0.1", &hexadecimal, paths::AUTHORITY)["status"] == 200
    })
    .await;
    let events = asked(&a, paths::EVENTS).await;
    let kinds: Vec<_> = events["events"].as_array().unwrap().iter().map(|event| event["kind"].clone()).collect();
    for kind in ["authorityRotationStarted", "authorityRotationFinished"] {
        assert_eq!(kinds.iter().filter(|one| **one == kind).count(), 1, "{kind}: {events}");
    }

    // The token from before is void, and with a new one a control plane joins again.
    let mut late = world.node("late", 5, "keelson.role=worker", Some(&unused));
    wait_until("who knows the cluster by its former authority does not believe it", async || {
        let Some((_, told)) = late.api(Method::GET, "/v1/status", &Value::Null).await else { return false };
        told["conditions"].to_string().contains("UnknownIssuer")
    })
    .await;
    late.switch_off();
    a.wait_for(&UP).await;
    let line = token(&a, "control-plane", 1).await;
    let d = world.node("d", 6, PLANE, Some(&line));
    d.set_well(true);
    d.wait_for(&UP).await;
    wait_for_members(&a, &["a", "b", "d"], 3).await;
    assert_eq!(shared_keys(&d), shared_keys(&a));

    // An operator may have it done again, for no reason but time.
    let wanted = a.ask(Method::POST, paths::AUTHORITY_ROTATION, json!({})).await;
    assert_eq!((&wanted["phase"], &wanted["because"]), (&json!("sharing"), &Value::Null), "{wanted}");
    let awaited = BTreeSet::from(["a", "b", "d", "w"]);
    let awaits: BTreeSet<_> = wanted["awaits"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(awaits, awaited, "{wanted}");
    let next = async || status(&b).await["rotation"]["fingerprint"].as_str().map(str::to_owned);
    wait_until("other authorities are made once more", async || next().await.is_some()).await;
}
