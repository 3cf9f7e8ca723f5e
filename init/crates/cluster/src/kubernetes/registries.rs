//! The operator's credentials for registries, in the form that kubelet looks for in its home directory (`.docker/config.json`) and
//! hands to containerd with each pull.
//!
//! The home directory is below `/run`: credentials come with the configuration at each boot and are on no disk.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keelson_config::{Component, REGISTRY_CREDENTIALS_PATH};
use keelson_pki::{Files, Mode, Owner};
use serde_json::{Value, json};

use super::{KubernetesError, Settings};

/// User name and password by registry host, as PID 1 writes them.
type Credentials = BTreeMap<String, (String, String)>;

pub(super) fn configure(files: &dyn Files, settings: Settings<'_>) -> Result<(), KubernetesError> {
    let Some(content) = files.read(&settings.paths.at(REGISTRY_CREDENTIALS_PATH))? else {
        return Ok(());
    };
    let credentials: Credentials = serde_json::from_slice(&content).map_err(KubernetesError::Credential)?;
    let directory = settings.file(Component::Kubelet, ".docker");
    files.directory(&directory, Mode::PRIVATE_DIRECTORY, Owner::ROOT)?;
    let content = serde_json::to_vec(&docker_configuration(&credentials))?;
    files.update(&directory.join("config.json"), &content, Mode::SECRET, Owner::ROOT)?;
    Ok(())
}

fn docker_configuration(credentials: &Credentials) -> Value {
    let entries: BTreeMap<_, _> = credentials
        .iter()
        .map(|(host, (user, password))| {
            // The one name that Docker's habits give to its own registry.
            let host = if host == "docker.io" { "https://index.docker.io/v1/" } else { host };
            (host, json!({ "auth": STANDARD.encode(format!("{user}:{password}")) }))
        })
        .collect();
    json!({ "auths": entries })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_user_and_password_in_one_word() {
        let credentials = Credentials::from([
            ("registry.example".to_owned(), ("u".to_owned(), "p:w".to_owned())),
            ("docker.io".to_owned(), ("d".to_owned(), "q".to_owned())),
        ]);
        let auths = docker_configuration(&credentials)["auths"].clone();
        assert_eq!(auths["registry.example"]["auth"], STANDARD.encode("u:p:w"));
        assert_eq!(auths["https://index.docker.io/v1/"]["auth"], STANDARD.encode("d:q"));
    }
}
