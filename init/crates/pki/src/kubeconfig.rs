//! Kubeconfigs, written as JSON, which every reader of the YAML form accepts.
//!
//! A component's kubeconfig names its pair's file instead of containing it: client-go reads the file again when it changes,
//! so a renewal needs no new kubeconfig and no restart.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The name of the one cluster, user and context inside.
const NAME: &str = "keelson";

/// For a component on this node: authority and pair by path.
pub fn for_component(server: &str, authority: &Path, pair: &Path) -> Value {
    let user = json!({ "client-certificate": pair, "client-key": pair });
    document(NAME, &json!({ "server": server, "certificate-authority": authority }), &user)
}

/// For an operator, who adds the key: all else inside, so that the file can be carried anywhere.
pub fn for_operator(name: &str, server: &str, authority_pem: &str, certificate_pem: &str) -> Value {
    let cluster = json!({ "server": server, "certificate-authority-data": STANDARD.encode(authority_pem) });
    document(name, &cluster, &json!({ "client-certificate-data": STANDARD.encode(certificate_pem) }))
}

fn document(name: &str, cluster: &Value, user: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": name, "cluster": cluster }],
        "users": [{ "name": name, "user": user }],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
        "current-context": name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_names_its_pair_for_certificate_and_key() {
        let config = for_component("https://127.0.0.1:6443", Path::new("/run/ca.crt"), Path::new("/run/pair.pem"));
        assert_eq!(config["users"][0]["user"]["client-certificate"], "/run/pair.pem");
        assert_eq!(config["users"][0]["user"]["client-key"], "/run/pair.pem");
        assert_eq!(config["current-context"], config["contexts"][0]["name"]);
        assert_eq!(config["contexts"][0]["context"]["user"], config["users"][0]["name"]);
    }

    #[test]
    fn an_operator_gets_no_key() {
        let config = for_operator("vm", "https://127.0.0.1:1", "CA", "CERT");
        assert!(config["users"][0]["user"].get("client-key-data").is_none());
        assert_eq!(config["clusters"][0]["cluster"]["certificate-authority-data"], STANDARD.encode("CA"));
    }
}
