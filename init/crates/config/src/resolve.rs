//! From everything that was said to one valid [`NodeConfig`], or to every reason why there is none.

use std::collections::BTreeMap;

use crate::error::{ConfigError, ConfigErrors, shown};
use crate::merge::merge;
use crate::node::{NodeConfig, Peers, Role, StateSelection};
use crate::raw::{RawConfig, Said};
use crate::resolved::{Remembered, Resolved};
use crate::smbios;
use crate::source::{Origin, Source};
use crate::words::{self, Statement, spelling};

mod check;
mod cluster;
mod network;
mod node;
pub(crate) mod syntax;
mod virtual_address;

use check::Checker;

/// What the sources hold, as bytes. A source that does not exist on a machine is empty.
///
/// A new source (NoCloud, vsock, HTTP, metadata) is one more field here and one more call in `statements`; its
/// place in the order is its [`Origin`]'s rank.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// `/proc/cmdline`
    pub command_line: Vec<u8>,
    /// Path on the EFI system partition (`keelson/role`) to the file's content.
    pub esp: BTreeMap<String, Vec<u8>>,
    /// `/sys/firmware/dmi/tables/DMI`
    pub dmi_table: Vec<u8>,
    /// Item name (`opt/keelson/role`) to the content of `/sys/firmware/qemu_fw_cfg/by_name/<name>/raw`.
    pub fw_cfg: BTreeMap<String, Vec<u8>>,
}

/// Reads all sources and says what they mean.
pub fn resolve(inputs: &Inputs, remembered: &Remembered) -> Result<Resolved, ConfigErrors> {
    let (raw, errors) = read(inputs);
    validate(raw, remembered, errors)
}

/// Which disk holds STATE: the one question that has to be answered before STATE can say anything. Faults in other
/// fields are left to [`resolve`].
pub fn state_selection(inputs: &Inputs) -> Result<StateSelection, ConfigErrors> {
    let (raw, _) = read(inputs);
    let mut check = Checker::default();
    let state = node::state(&mut check, raw.state.as_ref());
    check.finish(state)
}

/// What the sources said, merged, and what was wrong in the saying.
pub fn read(inputs: &Inputs) -> (RawConfig, Vec<ConfigError>) {
    let mut raws = Vec::new();
    let mut errors = Vec::new();
    for statement in statements(inputs) {
        raws.push(statement.words);
        raws.extend(statement.documents);
        errors.extend(statement.errors);
    }
    (merge(raws), errors)
}

fn statements(inputs: &Inputs) -> [Statement; 4] {
    [
        words::from_command_line(&inputs.command_line),
        words::from_esp(&inputs.esp),
        smbios::from_table(&inputs.dmi_table),
        words::from_fw_cfg(&inputs.fw_cfg),
    ]
}

/// Judges a merged configuration. `errors` are those that reading it brought up; they are reported with the others.
pub fn validate(
    mut raw: RawConfig,
    remembered: &Remembered,
    errors: Vec<ConfigError>,
) -> Result<Resolved, ConfigErrors> {
    let mut check = Checker::new(errors);
    node::take_from_links(&mut raw);
    let role = role(&mut check, raw.role.as_ref(), remembered);
    let name = name(&mut check, raw.name.as_ref(), remembered);
    let bootstrap = node::bootstrap(&mut check, raw.bootstrap.as_ref());
    let peers = node::peers(&mut check, raw.peers.as_ref());
    let state = node::state(&mut check, raw.state.as_ref());
    let network = network::network(&mut check, &raw);
    let cluster = cluster::cluster(&mut check, &raw);
    let secrets = node::secrets(&mut check, &raw);
    let config = NodeConfig {
        role: role.unwrap_or(Role::Worker),
        name,
        cluster_id: remembered.cluster_id.clone(),
        bootstrap,
        peers,
        operator_keys: node::operator_keys(&mut check, raw.operator_keys.as_ref()),
        state,
        token_given: secrets.token.is_some(),
        network,
        ntp_servers: node::ntp(&mut check, raw.ntp.as_ref()),
        labels: cluster::labels(&mut check, raw.labels.as_ref()),
        taints: cluster::taints(&mut check, raw.taints.as_ref()),
        sysctls: node::sysctls(&mut check, raw.sysctls.as_ref()),
        trusted_certificates: node::certificates(&mut check, raw.trusted_certificates.as_ref()),
        registry_mirrors: cluster::mirrors(&mut check, raw.registry_mirrors.as_ref()),
        http_proxy: cluster::http_proxy(&mut check, raw.http_proxy.as_ref()),
        cluster,
        sources: node::sources(&raw),
        own: None,
    };
    consistency(&mut check, &config, role, &raw);
    network::overlaps(&mut check, &config, &raw);
    check.finish(Resolved { node: config, secrets })
}

/// The role, or none after a fault: rules about a role that nobody asked for would only distract from it.
fn role(check: &mut Checker, said: Option<&Said<String>>, remembered: &Remembered) -> Option<Role> {
    const ALLOWED: &str = "control-plane or worker";
    let parsed = said.and_then(|said| match said.value.as_str() {
        "control-plane" => Some((Role::ControlPlane, &said.source)),
        "worker" => Some((Role::Worker, &said.source)),
        other => {
            check.fault(&said.source, "keelson.role", format!("{} is no role", shown(other)), ALLOWED);
            None
        }
    });
    match (remembered.role, parsed) {
        (Some(kept), Some((said, source))) if kept != said => {
            disagreement(check, source, "role", kept.as_str(), said.as_str());
            Some(kept)
        }
        (Some(kept), _) => Some(kept),
        (None, Some((said, _))) => Some(said),
        (None, None) => {
            if said.is_none() {
                check.unsaid("keelson.role", "no source says the node's role", ALLOWED);
            }
            None
        }
    }
}

fn name(check: &mut Checker, said: Option<&Said<String>>, remembered: &Remembered) -> Option<String> {
    let parsed = said.and_then(|said| {
        check.text(said, "keelson.name", syntax::is_node_name, syntax::NODE_NAME).map(|name| (name, &said.source))
    });
    match (&remembered.name, parsed) {
        (Some(kept), Some((said, source))) if *kept != said => {
            disagreement(check, source, "name", kept, &said);
            Some(kept.clone())
        }
        (Some(kept), _) => Some(kept.clone()),
        (None, parsed) => parsed.map(|(name, _)| name),
    }
}

/// STATE is the node's identity: a source that contradicts it describes another node, or this one after a mistake.
fn disagreement(check: &mut Checker, source: &Source, key: &str, kept: &str, said: &str) {
    let state = Source::word(Origin::State);
    check.fault(
        source,
        &spelling(key),
        format!("it says {}, but {state} remembers {}", shown(said), shown(kept)),
        &format!("{kept}, or an empty {state}"),
    );
}

/// Rules between fields.
fn consistency(check: &mut Checker, config: &NodeConfig, role: Option<Role>, raw: &RawConfig) {
    if let Some(said) = raw.bootstrap.as_ref().filter(|_| config.bootstrap) {
        if role == Some(Role::Worker) {
            check.fault(&said.source, "keelson.bootstrap", "a worker cannot found a cluster", "role control-plane");
        }
        // A wiped node cannot be told from a new one, so founding a cluster takes a statement about the others.
        if config.peers == Peers::Unsaid && config.cluster_id.is_none() {
            check.fault(
                &said.source,
                "keelson.bootstrap",
                "nobody says whether there are other control planes",
                "keelson.peers=none, or keelson.peers with their names",
            );
        }
    }
    if let Some(said) = raw.state.as_ref().filter(|_| config.state == StateSelection::Ram)
        && role == Some(Role::ControlPlane)
    {
        check.fault(
            &said.source,
            "keelson.state",
            "a control plane must not keep its vote in memory",
            "auto or LABEL=…; ram is for workers",
        );
    }
}

#[cfg(test)]
mod tests;
