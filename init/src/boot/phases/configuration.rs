//! What the node was told: parsed by keelson-exec, because the sources hold bytes that strangers may have written. What STATE
//! remembers goes before the sources, and a contradiction is a fault like any other. A fault in what operators have told
//! the cluster is not: the machine goes without it, to where they can mend it.

use keelson_config::{RegistryCredential, Secret, Secrets};
use keelson_job::{Configuration, Request};

use super::{Machine, PhaseResult, command_line};
use crate::console::Console;

pub(super) fn run(machine: &mut Machine, console: &mut Console) -> PhaseResult {
    let remembered = machine.state()?.remembered.clone();
    let request = Request::Configuration { command_line: command_line()?, remembered };
    let configuration: Configuration = machine.job(console, &request)?;
    if let Some(note) = &configuration.note {
        console.warn("configuration", note);
    }
    let sentence = describe(&configuration);
    machine.secrets = secrets(configuration.token, configuration.registry_credentials);
    machine.node = Some(*configuration.node);
    Ok(sentence)
}

fn describe(configuration: &Configuration) -> String {
    let node = &configuration.node;
    let name = node.name.as_deref().map(|name| format!(" named {name}")).unwrap_or_default();
    let origin = node.sources.get("role").map(|source| format!(", by {source}")).unwrap_or_default();
    format!("{}{name}{origin}", node.role)
}

fn secrets(token: Option<String>, registries: impl IntoIterator<Item = (String, (String, String))>) -> Secrets {
    let credential = |(username, password)| RegistryCredential { username, password: Secret::new(password) };
    let registry_credentials = registries.into_iter().map(|(host, given)| (host, credential(given))).collect();
    Secrets { token: token.map(Secret::new), registry_credentials }
}
