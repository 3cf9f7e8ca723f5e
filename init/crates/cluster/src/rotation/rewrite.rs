//! Every Secret is encrypted anew, with the key that writes now.
//!
//! What counts is what the store has: each value says which key it was encrypted with, and whatever is not the new one's is written once more
//! through the API server, until a look at all of them finds none. Every API server writes with the new key when this begins, so none is
//! added meanwhile.

use serde_json::json;

use crate::kubernetes_api::{KubernetesApi, KubernetesApiError};
use crate::registry::{Entry, Registry, RegistryError};

/// Where kube-apiserver keeps them (`--etcd-prefix`).
const SECRETS: &str = "/registry/secrets/";
/// A Secret has a megabyte at most.
const PAGE: u32 = 20;
/// Each look rewrites what it finds; somebody would have to write with the former key all the time.
const LOOKS_MAX: u32 = 10;

#[derive(Debug, thiserror::Error)]
pub(super) enum RewriteError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("writing the Secret {secret} anew")]
    Write { secret: String, source: KubernetesApiError },
    #[error("Secrets are still written with a former key")]
    Endless,
}

pub(super) async fn all(registry: &Registry, api: &KubernetesApi, key: &str) -> Result<(), RewriteError> {
    for _ in 0..LOOKS_MAX {
        if look(registry, api, key).await? == 0 {
            return Ok(());
        }
    }
    Err(RewriteError::Endless)
}

/// Says how many had to be written.
async fn look(registry: &Registry, api: &KubernetesApi, key: &str) -> Result<usize, RewriteError> {
    let (mut after, mut written) = (String::new(), 0);
    loop {
        let page = registry.kubernetes_page(SECRETS, &after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(written) };
        after.clone_from(&last.key);
        let stale: Vec<_> = page.iter().filter_map(|entry| stale(entry, key)).collect();
        written += stale.len();
        rewrite(api, &stale).await?;
    }
}

/// `NAMESPACE/NAME`, if it was encrypted with another key (kubernetes.io, "Encrypting Confidential Data at Rest": the prefix of the value).
fn stale<'a>(entry: &'a Entry, key: &str) -> Option<&'a str> {
    let expected = format!("k8s:enc:secretbox:v1:{key}:");
    if entry.value.starts_with(expected.as_bytes()) { None } else { entry.key.strip_prefix(SECRETS) }
}

/// A change of nothing is written if what is stored is of a former key (`apiserver/pkg/storage/value`: it is stale).
async fn rewrite(api: &KubernetesApi, secrets: &[&str]) -> Result<(), RewriteError> {
    let Some(first) = secrets.first() else { return Ok(()) };
    let failed = |secret: &str, source: KubernetesApiError| RewriteError::Write { secret: secret.to_owned(), source };
    // It lives for minutes, which a page takes less than.
    let masters = api.masters().map_err(|error| failed(first, error))?;
    for secret in secrets {
        let (namespace, name) = secret.split_once('/').unwrap_or(("", secret));
        match masters.merge(&format!("/api/v1/namespaces/{namespace}/secrets/{name}"), &json!({})).await {
            Ok(_) => {}
            // It is gone, or was written by somebody else meanwhile.
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => return Err(failed(secret, error.into())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_key_has_encrypted_is_stale_and_so_is_plain_text() {
        let entry = |value: &[u8]| Entry {
            key: "/registry/secrets/kube-system/s".to_owned(),
            revision: 1,
            value: value.to_vec(),
        };
        assert_eq!(stale(&entry(b"k8s:enc:secretbox:v1:key-new:\x00"), "key-new"), None);
        for value in [&b"k8s:enc:secretbox:v1:key-old:\x00"[..], b"k8s\x00plain", b""] {
            assert_eq!(stale(&entry(value), "key-new"), Some("kube-system/s"), "{value:?}");
        }
    }
}
