//! Signs `ServiceAccount` tokens for this node's kube-apiserver, over a unix socket.
//!
//! kube-apiserver then holds no signing key, and a cluster of several control planes needs no shared one: each signs with its
//! own, and all publish all public keys. The socket admits kube-apiserver's account and root: whoever may sign here can be any
//! `ServiceAccount`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::UnixListener;
use tonic::{Request, Response, Status};

use crate::membership::ControlPlane;
use crate::proto::signer::v1::external_jwt_signer_server::{ExternalJwtSigner, ExternalJwtSignerServer};
use crate::proto::signer::v1::{
    FetchKeysRequest, FetchKeysResponse, Key, MetadataRequest, MetadataResponse, SignJwtRequest, SignJwtResponse,
};
use crate::registry::{Registry, RemovedRecord, View};
use crate::secrets::{self, SecretsError};
use crate::unix_socket::{self, Admitted};

/// A removed node's pods lose their tokens with their Pods; what nobody deletes lives no longer than this.
const TOKEN_LIFE_SECONDS: i64 = 24 * 60 * 60;
/// New keys of other control planes are asked for at once when a token names one; this is for the published list.
const REFRESH_SECONDS: i64 = 60;
/// Claims of a bound token are below a kilobyte.
const CLAIMS_MAX: usize = 16 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    #[error("listening on {path}")]
    Listen { path: PathBuf, source: std::io::Error },
}

/// Listens; the socket exists when this returns.
pub fn listen(path: &Path, admitted: Admitted) -> Result<UnixListener, SignerError> {
    unix_socket::listen(path, admitted).map_err(|source| SignerError::Listen { path: path.to_owned(), source })
}

/// Serves until it is dropped. One connection is all that kube-apiserver opens; each is served on its own.
pub async fn serve(
    listener: UnixListener,
    admitted: Admitted,
    held: Arc<ControlPlane>,
    registry: Arc<Registry>,
) -> std::convert::Infallible {
    let service = ExternalJwtSignerServer::new(Signer { held, registry });
    loop {
        let Some(stream) = unix_socket::accept(&listener, admitted).await else {
            continue;
        };
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            // A peer that goes away in the middle of something is no fault of ours.
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

struct Signer {
    held: Arc<ControlPlane>,
    /// Where the others' public keys are.
    registry: Arc<Registry>,
}

#[tonic::async_trait]
impl ExternalJwtSigner for Signer {
    async fn sign(&self, request: Request<SignJwtRequest>) -> Result<Response<SignJwtResponse>, Status> {
        let claims = request.into_inner().claims;
        if claims.is_empty() || claims.len() > CLAIMS_MAX || URL_SAFE_NO_PAD.decode(&claims).is_err() {
            return Err(Status::invalid_argument("claims are not base64url of a reasonable size"));
        }
        let key = &self.held.secrets.signing;
        let header = json!({ "alg": "ES256", "kid": key.id(), "typ": "JWT" }).to_string();
        let header = URL_SAFE_NO_PAD.encode(header);
        let signature = key.sign(format!("{header}.{claims}").as_bytes()).map_err(|error| unavailable(&error))?;
        Ok(Response::new(SignJwtResponse { header, signature: URL_SAFE_NO_PAD.encode(signature) }))
    }

    async fn fetch_keys(&self, _: Request<FetchKeysRequest>) -> Result<Response<FetchKeysResponse>, Status> {
        let own = self.held.secrets.signing.public_key().map_err(|error| unavailable(&error))?;
        // kube-apiserver asks when it starts and for a key that it does not know, so this is worth a look at the store.
        let view = match self.registry.refresh().await {
            Ok(view) => Some(view),
            Err(_) => self.registry.view_now(),
        };
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        Ok(Response::new(FetchKeysResponse {
            keys: keys(own, view.as_deref(), now),
            data_timestamp: Some(SystemTime::now().into()),
            refresh_hint_seconds: REFRESH_SECONDS,
        }))
    }

    async fn metadata(&self, _: Request<MetadataRequest>) -> Result<Response<MetadataResponse>, Status> {
        Ok(Response::new(MetadataResponse { max_token_expiration_seconds: TOKEN_LIFE_SECONDS }))
    }
}

/// Every control plane's key, this one's first, and those of control planes whose last tokens are still good. Of one that is
/// compromised none is good: kubelets fetch their pods others, as they start again with the new authorities.
fn keys(own: Vec<u8>, view: Option<&View>, now: i64) -> Vec<Key> {
    let key = |key: Vec<u8>, exclude_from_oidc_discovery| {
        let key_id = secrets::key_id_of(&key)?;
        Some(Key { key_id, key, exclude_from_oidc_discovery })
    };
    let text = |text: &String| STANDARD.decode(text).ok();
    let mut keys: Vec<Key> = key(own, false).into_iter().collect();
    let Some(view) = view else { return keys };
    let present = view.nodes.values().filter_map(|node| key(text(node.signing_key.as_ref()?)?, false));
    let is_recent = |removed: &&RemovedRecord| removed.removed > now - TOKEN_LIFE_SECONDS;
    let recent = view.removed.values().filter(|removed| !removed.compromised).filter(is_recent);
    let former = recent.filter_map(|removed| key(text(removed.signing_key.as_ref()?)?, true));
    for other in present.chain(former) {
        if keys.iter().all(|known| known.key_id != other.key_id) {
            keys.push(other);
        }
    }
    keys
}

fn unavailable(error: &SecretsError) -> Status {
    Status::unavailable(error.to_string())
}

#[cfg(test)]
mod tests;
