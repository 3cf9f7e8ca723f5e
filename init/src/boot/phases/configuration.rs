//! What the node was told: parsed by keelson-exec, because the sources hold bytes that strangers may have written.

use keelson_job::{Configuration, Request};

use super::{Machine, PhaseResult};
use crate::boot::job;
use crate::console::Console;

pub(super) fn run(machine: &mut Machine, console: &mut Console) -> PhaseResult {
    let configuration: Configuration = job::run(console, &Request::Configuration)?;
    for note in &configuration.notes {
        console.info("configuration", note);
    }
    let sentence = describe(&configuration);
    machine.token = configuration.token;
    machine.node = Some(*configuration.node);
    Ok(sentence)
}

fn describe(configuration: &Configuration) -> String {
    let node = &configuration.node;
    let name = node.name.as_deref().map(|name| format!(" named {name}")).unwrap_or_default();
    let origin = node.sources.get("role").map(|source| format!(", as the {source} says")).unwrap_or_default();
    format!("{}{name}{origin}", node.role)
}
