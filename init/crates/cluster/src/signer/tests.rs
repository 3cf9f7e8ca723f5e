use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use tonic::transport::Endpoint;

use super::*;
use crate::membership::tests::found_in_memory;
use crate::proto::signer::v1::external_jwt_signer_client::ExternalJwtSignerClient;
use crate::registry::memory::Memory;
use crate::registry::records::tests::node;
use crate::registry::{NodeRecord, RemovedRecord};

struct Served {
    _directory: tempfile::TempDir,
    client: ExternalJwtSignerClient<tonic::transport::Channel>,
    task: tokio::task::JoinHandle<std::convert::Infallible>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve_in_memory() -> Served {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("signer.sock");
    let listener = listen(&path, Admitted::ROOT).unwrap();
    let registry = Arc::new(Registry::new(Arc::new(Memory::default())));
    let held = Arc::clone(found_in_memory().control_plane().unwrap());
    let task = tokio::spawn(serve(listener, Admitted::ROOT, held, registry));
    let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).unwrap();
    let client = ExternalJwtSignerClient::new(endpoint.connect().await.unwrap());
    Served { _directory: directory, client, task }
}

#[tokio::test]
async fn a_token_is_verified_by_the_published_key() {
    let mut served = serve_in_memory().await;
    let claims = URL_SAFE_NO_PAD.encode(br#"{"sub":"system:serviceaccount:default:t"}"#);
    let signed = served.client.sign(SignJwtRequest { claims: claims.clone() }).await.unwrap().into_inner();
    let keys = served.client.fetch_keys(FetchKeysRequest {}).await.unwrap().into_inner();
    assert!(keys.refresh_hint_seconds > 0);

    let header: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(&signed.header).unwrap()).unwrap();
    assert_eq!(header, json!({ "alg": "ES256", "kid": keys.keys[0].key_id, "typ": "JWT" }));
    let message = format!("{}.{claims}", signed.header);
    let signature = URL_SAFE_NO_PAD.decode(&signed.signature).unwrap();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &keys.keys[0].key).verify(message.as_bytes(), &signature).unwrap();
    let other = format!("{}.{claims}x", signed.header);
    assert!(
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &keys.keys[0].key)
            .verify(other.as_bytes(), &signature)
            .is_err()
    );
}

#[tokio::test]
async fn what_are_no_claims_is_not_signed() {
    let mut served = serve_in_memory().await;
    for claims in [String::new(), "not base64!".to_owned(), "a".repeat(CLAIMS_MAX + 1)] {
        let refused = served.client.sign(SignJwtRequest { claims }).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }
}

#[tokio::test]
async fn tokens_live_long_enough_for_kubernetes_and_no_longer_than_a_day() {
    let mut served = serve_in_memory().await;
    let metadata = served.client.metadata(MetadataRequest {}).await.unwrap().into_inner();
    assert!(metadata.max_token_expiration_seconds >= 600);
    assert!(metadata.max_token_expiration_seconds <= 24 * 60 * 60);
}

#[test]
fn every_control_planes_key_is_published_and_a_former_ones_until_its_tokens_have_expired() {
    let signing = || {
        let membership = found_in_memory();
        let key = &membership.control_plane().unwrap().secrets.signing;
        (key.id().to_owned(), key.public_key().unwrap(), key.public_text().unwrap())
    };
    let (own, other, former, old) = (signing(), signing(), signing(), signing());
    let plane = |name: &str, key: &str| NodeRecord { signing_key: Some(key.to_owned()), ..node(name) };
    let now = 1_800_000_000;
    let removed = |name: &str, key: &str, at| {
        let record = RemovedRecord::of(&plane(name, key), at, "ann".to_owned());
        (record.uid.clone(), record)
    };
    let view = View {
        nodes: [plane("a", &own.2), plane("b", &other.2), node("w"), plane("bad", "AAAA")]
            .map(|node| (node.name.clone(), node))
            .into(),
        removed: [removed("c", &former.2, now - 60), removed("d", &old.2, now - TOKEN_LIFE_SECONDS)].into(),
        ..View::default()
    };
    let found: Vec<_> = keys(own.1.clone(), Some(&view), now)
        .into_iter()
        .map(|key| (key.key_id, key.exclude_from_oidc_discovery))
        .collect();
    assert_eq!(found, [(own.0.clone(), false), (other.0, false), (former.0, true)]);
    assert_eq!(keys(own.1, None, now).len(), 1);
}
