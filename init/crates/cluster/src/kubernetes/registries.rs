//! The operator's credentials for registries without mirrors, in the form that kubelet looks for in its home directory
//! (`.docker/config.json`) and hands to containerd with each pull.
//!
//! The home directory is below `/run`: credentials come with the configuration at each boot and are on no disk.

use std::collections::BTreeMap;

use keelson_config::Component;
use keelson_pki::{Files, Mode, Owner};
use serde_json::{Value, json};

use super::{KubernetesError, Settings};
use crate::registry_credentials::RegistryCredentials;

pub(super) fn configure(files: &dyn Files, settings: Settings<'_>) -> Result<(), KubernetesError> {
    let credentials = RegistryCredentials::read(files, settings.paths)?;
    let given = credentials.without_mirrors(&settings.config.registry_mirrors);
    if given.is_empty() {
        return Ok(());
    }
    let directory = settings.file(Component::Kubelet, ".docker");
    files.directory(&directory, Mode::PRIVATE_DIRECTORY, Owner::ROOT)?;
    let content = serde_json::to_vec(&docker_configuration(&given))?;
    files.update(&directory.join("config.json"), &content, Mode::SECRET, Owner::ROOT)?;
    Ok(())
}

/// User name and password in one word, by registry.
fn docker_configuration(given: &BTreeMap<&str, String>) -> Value {
    let entries: BTreeMap<_, _> = given
        .iter()
        .map(|(host, word)| {
            // The one name that Docker's habits give to its own registry.
            let host = if *host == "docker.io" { "https://index.docker.io/v1/" } else { host };
            (host, json!({ "auth": word }))
        })
        .collect();
    json!({ "auths": entries })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_user_and_password_in_one_word() {
        let given = BTreeMap::from([("registry.example", "dTpw".to_owned()), ("docker.io", "ZDpx".to_owned())]);
        let auths = docker_configuration(&given)["auths"].clone();
        assert_eq!(auths["registry.example"]["auth"], "dTpw");
        assert_eq!(auths["https://index.docker.io/v1/"]["auth"], "ZDpx");
    }
}
