//! `keelctl kubeconfig`: access to Kubernetes' API for a day.
//!
//! The key is made here; the node certifies it. With a file to write to, a kubeconfig of this cluster is replaced, and one
//! that knows other clusters is left alone.

use std::path::Path;

use base64::{Engine, prelude::BASE64_STANDARD};
use keelson_api::{KubeconfigMaterial, KubeconfigRequest, paths};
use keelson_pki::kubeconfig::for_operator;
use serde_json::Value;

use crate::{cli, credential::Request, error::Error, output, private_file, session::Session};

/// How the names of Keelson's clusters begin.
const CLUSTER_PREFIX: &str = "keelson-";

pub(super) async fn run(mut session: Session, arguments: &cli::Kubeconfig) -> Result<(), Error> {
    let name = session.context.name.clone();
    let request = Request::new().map_err(|source| Error::Credential { context: name.clone(), source })?;
    let body = KubeconfigRequest { csr: request.csr.clone() };
    let material: KubeconfigMaterial = session.post(paths::KUBECONFIG, &body).await?;
    let server = arguments.server.as_deref().unwrap_or(&material.server);
    let mut document = for_operator(&material.cluster, server, &material.certificate_authority, &material.certificate);
    if let Some(Value::Object(user)) = document.pointer_mut("/users/0/user") {
        user.insert("client-key-data".to_owned(), BASE64_STANDARD.encode(request.key_pem()).into());
    }
    let text = serde_saphyr::to_string(&document).map_err(|error| Error::Format(error.to_string()))?;
    match &arguments.output_file {
        None => output::text(&text),
        Some(path) => {
            refuse_foreign(path)?;
            private_file::replace(path, &text)?;
            output::line(&format!("{} is written; its certificate expires {}", path.display(), material.expires))
        }
    }
}

/// A file that exists must be a kubeconfig that keelctl wrote: one context, of a Keelson cluster.
fn refuse_foreign(path: &Path) -> Result<(), Error> {
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(()) };
    let contexts = serde_saphyr::from_str::<Value>(&text).ok().and_then(|document| document.get("contexts").cloned());
    let is_ours = |context: &Value| {
        context.get("name").and_then(Value::as_str).is_some_and(|name| name.starts_with(CLUSTER_PREFIX))
    };
    let ours = match contexts.as_ref().and_then(Value::as_array).map(Vec::as_slice) {
        Some([]) => true,
        Some([context]) => is_ours(context),
        Some(_) => false,
        None => text.trim().is_empty(),
    };
    if ours { Ok(()) } else { Err(Error::ForeignKubeconfig { path: path.display().to_string() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_knows_other_clusters_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("kubeconfig");
        let taken = |text: &str| {
            std::fs::write(&path, text).expect("written");
            refuse_foreign(&path).is_ok()
        };
        assert!(refuse_foreign(&directory.path().join("absent")).is_ok());
        assert!(taken(""));
        assert!(taken("contexts: []"));
        assert!(taken("contexts:\n- name: keelson-0123\n"));
        assert!(!taken("contexts:\n- name: production\n"));
        assert!(!taken("contexts:\n- name: keelson-0123\n- name: keelson-4567\n"));
        assert!(!taken("a file of another kind"));
    }
}
