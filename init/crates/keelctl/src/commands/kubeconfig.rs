//! `keelctl kubeconfig`: access to Kubernetes' API for a day.
//!
//! The key is made here; the node certifies it. With a file to write to, a kubeconfig of this cluster is replaced, and whatever
//! else is there is left alone.

use std::{fs, io::ErrorKind, path::Path};

use base64::{Engine, prelude::BASE64_STANDARD};
use keelson_api::{KubeconfigMaterial, KubeconfigRequest, paths};
use keelson_pki::kubeconfig::for_operator;
use serde_json::Value;

use crate::{cli, credential::Request, error::Error, output, private_file, session::Session};

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
            refuse_foreign(path, &material.cluster)?;
            private_file::replace(path, &text)?;
            output::line(&format!("{} is written; its certificate expires {}", path.display(), material.expires))
        }
    }
}

/// A file that exists must be a kubeconfig as keelctl wrote it: of one context, which is named like the cluster.
fn refuse_foreign(path: &Path, cluster: &str) -> Result<(), Error> {
    let content = match fs::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::UnreadableKubeconfig { path: path.to_owned(), source }),
    };
    if is_of(cluster, &content) {
        return Ok(());
    }
    Err(Error::ForeignKubeconfig { path: path.to_owned(), cluster: cluster.to_owned() })
}

/// One without a context knows no cluster.
fn is_of(cluster: &str, content: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(content) else { return false };
    let known = serde_saphyr::from_str::<Value>(text).ok().and_then(|document| document.get("contexts").cloned());
    match known.as_ref().and_then(Value::as_array).map(Vec::as_slice) {
        Some([]) => true,
        Some([only]) => only.get("name").and_then(Value::as_str) == Some(cluster),
        Some(_) => false,
        None => text.trim().is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "keelson-01234567";

    #[test]
    fn a_file_that_knows_other_clusters_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("kubeconfig");
        let taken = |content: &[u8]| {
            fs::write(&path, content).expect("written");
            refuse_foreign(&path, CLUSTER).is_ok()
        };
        assert!(refuse_foreign(&directory.path().join("absent"), CLUSTER).is_ok());
        assert!(taken(b""));
        assert!(taken(b"contexts: []"));
        assert!(taken(b"contexts:\n- name: keelson-01234567\n"));
        assert!(!taken(b"contexts:\n- name: production\n"));
        assert!(!taken(b"contexts:\n- name: keelson-89abcdef\n"), "another cluster of Keelson's");
        assert!(!taken(b"contexts:\n- name: keelson-01234567\n- name: keelson-89abcdef\n"));
        assert!(!taken(b"a file of another kind"));
        assert!(!taken(b"contexts:\n- name: keelson-01234567\n# \xff\n"), "it is no text");
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_absent() {
        let directory = tempfile::tempdir().expect("a directory");
        // Who may read everything cannot read a directory either.
        let error = refuse_foreign(directory.path(), CLUSTER).expect_err("it is there");
        assert!(matches!(error, Error::UnreadableKubeconfig { .. }), "{error:?}");
    }
}
