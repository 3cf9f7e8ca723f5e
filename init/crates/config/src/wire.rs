//! How keelson-exec hands the result to PID 1, over a memfd that both hold: JSON, secrets included, never on a disk.
//!
//! Both ends come from one image, so the form has no version. This is the one place where secrets are serialised.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::ConfigErrors;
use crate::node::{NodeConfig, Role};
use crate::secret::{RegistryCredential, Secret, Secrets};

/// What STATE remembers of this node. It goes before every source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub role: Option<Role>,
    pub name: Option<String>,
    pub cluster_id: Option<String>,
}

/// The result of a resolution that went well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub node: NodeConfig,
    pub secrets: Secrets,
}

/// What the parsing of the sources came to.
pub type Outcome = Result<Resolved, ConfigErrors>;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Wire {
    Valid { node: Box<NodeConfig>, token: Option<String>, registries: BTreeMap<String, (String, String)> },
    Faults(ConfigErrors),
}

/// The bytes for the memfd.
pub fn to_bytes(outcome: &Outcome) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&match outcome {
        Ok(Resolved { node, secrets }) => Wire::Valid {
            node: Box::new(node.clone()),
            token: secrets.token.as_ref().map(|token| token.expose().to_owned()),
            registries: secrets
                .registry_credentials
                .iter()
                .map(|(host, given)| (host.clone(), (given.username.clone(), given.password.expose().to_owned())))
                .collect(),
        },
        Err(errors) => Wire::Faults(errors.clone()),
    })
}

/// What came out of the memfd. The error never shows the content.
pub fn from_bytes(bytes: &[u8]) -> Result<Outcome, NotAnOutcome> {
    Ok(match serde_json::from_slice(bytes).map_err(|_| NotAnOutcome)? {
        Wire::Valid { node, token, registries } => {
            let credential = |(username, password)| RegistryCredential { username, password: Secret::new(password) };
            let registry_credentials = registries.into_iter().map(|(host, given)| (host, credential(given))).collect();
            Ok(Resolved { node: *node, secrets: Secrets { token: token.map(Secret::new), registry_credentials } })
        }
        Wire::Faults(errors) => Err(errors),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what keelson-exec handed back is not the outcome of a configuration")]
pub struct NotAnOutcome;
