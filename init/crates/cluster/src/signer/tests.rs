use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use tonic::transport::Endpoint;

use super::*;
use crate::membership::tests::found_in_memory;
use crate::proto::signer::v1::external_jwt_signer_client::ExternalJwtSignerClient;

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
    let task = tokio::spawn(serve(listener, Admitted::ROOT, Arc::clone(found_in_memory().control_plane().unwrap())));
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
