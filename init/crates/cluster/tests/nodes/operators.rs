//! Operators belong to the cluster, not to the node that they came with.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use keelson_api::{paths, proof};
use keelson_pki::Fingerprint;
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _, SigningKey as _};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::power::{store_members, token};
use super::world::{Node, wait_until, world_without_kubernetes};

const FOUNDER: &str = "keelson.role=control-plane keelson.bootstrap keelson.peers=none";
const JOINER: &str = "keelson.role=control-plane";

/// What a node answers to the proof of a key.
async fn prove(node: &Node, key: &KeyPair) -> Option<(u16, Value)> {
    let (_, authority) = node.api(Method::GET, paths::AUTHORITY, &Value::Null).await?;
    let authority = CertificateDer::from_pem_slice(authority["certificate"].as_str()?.as_bytes()).unwrap();
    let fingerprint = Fingerprint::of(&authority).hexadecimal();
    let (_, challenge) = node.api(Method::GET, paths::CHALLENGE, &Value::Null).await?;
    let nonce = challenge["nonce"].as_str()?;
    let csr = CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    let request = json!({
        "csr": csr, "nonce": nonce, "operatorKey": STANDARD.encode(key.subject_public_key_info()),
        "signature": STANDARD.encode(key.sign(&proof::message(&fingerprint, nonce, &csr)).unwrap()),
    });
    node.api(Method::POST, paths::OPERATOR_CERTIFICATE, &request).await
}

async fn obtains(node: &Node, key: &KeyPair) -> bool {
    matches!(prove(node, key).await, Some((200, answer)) if answer["operator"] == "ann")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_of_the_founders_obtains_a_certificate_elsewhere_once_the_founder_is_gone() {
    let Some(mut world) = world_without_kubernetes() else { return };
    let (ann, stranger) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let key = format!("keelson.operator-key=ann:{}", STANDARD.encode(ann.subject_public_key_info()));
    let mut founder = world.node("a", 1, &format!("{FOUNDER} {key}"), None);
    founder.wait_for(&["Member", "ServicesApplied"]).await;
    wait_until("a's record is there", async || !store_members(&founder).await.is_empty()).await;
    let line = token(&founder, "control-plane", 1).await;
    let mut other = world.node("b", 2, JOINER, Some(&line));
    wait_until("b's store is one of the cluster's", async || store_members(&other).await.len() == 2).await;
    wait_until("b knows the founder's operator", async || obtains(&other, &ann).await).await;
    assert_eq!(prove(&other, &stranger).await.map(|(status, _)| status), Some(401));
    let events = other.ask(Method::GET, paths::EVENTS, Value::Null).await;
    let told: Vec<_> = events["events"].as_array().unwrap().iter().map(|event| event["kind"].clone()).collect();
    for kind in ["operatorAdded", "tokenCreated", "nodeJoined", "tokenUsed"] {
        assert!(told.contains(&kind.into()), "{kind} is not in {events}");
    }

    // One that is removed is denied by every API server, whatever certificates it has.
    let public_key = STANDARD.encode(KeyPair::generate().unwrap().subject_public_key_info());
    let added = founder.ask(Method::POST, paths::OPERATORS, json!({ "name": "cid", "publicKey": public_key })).await;
    founder.ask(Method::DELETE, &paths::operator("cid"), Value::Null).await;
    let id = added["id"].as_str().unwrap();
    for node in [&founder, &other] {
        let denials = node.root.join("run/keelson/kube-apiserver/authorization.json");
        let is_denied = async || std::fs::read_to_string(&denials).is_ok_and(|text| text.contains(id));
        wait_until(&format!("{} denies the removed operator", node.name), is_denied).await;
    }

    // Two are no safer than one: without the founder the store answers nothing, and b has STATE alone after a reboot.
    let kept = other.root.join("state/cluster/operators.json");
    wait_until("b has kept it", async || std::fs::read_to_string(&kept).is_ok_and(|text| text.contains("ann"))).await;
    founder.switch_off();
    other.switch_off();
    other.switch_on();
    wait_until("b goes by what it kept", async || obtains(&other, &ann).await).await;
    let (status, refusal) = other.api(Method::GET, paths::OPERATORS, &Value::Null).await.unwrap();
    assert_eq!(status, 503, "the store answers: {refusal}");
    assert_eq!(prove(&other, &stranger).await.map(|(status, _)| status), Some(401));
}
