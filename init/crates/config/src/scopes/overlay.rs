//! What a node goes by when operators have told its cluster something.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::json;

use super::Scopes;
use super::check::{anybody, changeable};
use crate::document::{self, API_VERSION, KIND};
use crate::error::{ConfigError, ConfigErrors};
use crate::merge::merge;
use crate::node::NodeConfig;
use crate::raw::Said;
use crate::resolve::validate;
use crate::source::{Origin, Scope, Source};

const VIRTUAL_ADDRESS: &str = "cluster.virtual_address";

/// The node's own word with that of the scopes over it, by the order of the sources. The same at a boot and for as long
/// as the node runs.
pub fn overlay(config: &NodeConfig, scopes: &Scopes) -> Result<NodeConfig, ConfigErrors> {
    let own = config.own();
    let said = resolved(scopes)?;
    let mut result = own.clone();
    let mut decides = |field: &str| takes(&mut result.sources, &said.sources, field);
    if decides("ntp_servers") {
        result.ntp_servers = said.ntp_servers;
    }
    if decides("labels") {
        result.labels = said.labels;
    }
    if decides("taints") {
        result.taints = said.taints;
    }
    if decides("sysctls") {
        result.sysctls = said.sysctls;
    }
    if decides("trusted_certificates") {
        result.trusted_certificates = said.trusted_certificates;
    }
    if decides("registry_mirrors") {
        result.registry_mirrors = said.registry_mirrors;
    }
    if decides("http_proxy") {
        result.http_proxy = said.http_proxy;
    }
    if decides("cluster.extra_sans") {
        result.cluster.extra_sans = said.cluster.extra_sans;
    }
    if decides(VIRTUAL_ADDRESS) {
        result.cluster.virtual_address = said.cluster.virtual_address;
    }
    if decides("cluster.extra_arguments") {
        result.cluster.extra_arguments = said.cluster.extra_arguments;
    }
    if decides("cluster.oidc") {
        result.cluster.oidc = said.cluster.oidc;
    }
    if result != *own {
        result.own = Some(Box::new(own.clone()));
    }
    Ok(result)
}

/// What the scopes alone say.
fn resolved(scopes: &Scopes) -> Result<NodeConfig, ConfigErrors> {
    let mut errors = Vec::new();
    let mut raws = Vec::new();
    for (scope, spec) in [(Scope::Node, &scopes.node), (Scope::Cluster, &scopes.cluster)] {
        let Some(spec) = spec else { continue };
        let document = json!({ "apiVersion": API_VERSION, "kind": KIND, "spec": spec });
        let (raw, faults) = document::read(document, &Origin::Cluster(scope));
        errors.extend(faults);
        raws.push(changeable(raw, scope, &mut errors));
    }
    let mut merged = merge(raws);
    let virtual_address = parsed(merged.virtual_address.take(), &mut errors);
    let mut said = validate(merged, &anybody(), errors)?.node;
    if let Some(Said { value, source }) = virtual_address {
        said.cluster.virtual_address = Some(value);
        said.sources.insert(VIRTUAL_ADDRESS.to_owned(), source);
    }
    Ok(said)
}

/// Whether it is outside the cluster's networks, a control plane has looked at: a node that has joined learns those of its
/// cluster only after it has booted.
fn parsed(said: Option<Said<String>>, errors: &mut Vec<ConfigError>) -> Option<Said<IpAddr>> {
    let Said { value, source } = said?;
    if let Ok(address) = value.parse() {
        return Some(Said::new(address, source));
    }
    errors.push(ConfigError::new(&source, "virtualAddress", "it is not valid", "an address"));
    None
}

/// Whether the scopes decide the field; then they are its source.
fn takes(own: &mut BTreeMap<String, Source>, said: &BTreeMap<String, Source>, field: &str) -> bool {
    let Some(source) = said.get(field) else { return false };
    if own.get(field).is_some_and(|own| own.precedence() < source.precedence()) {
        return false;
    }
    own.insert(field.to_owned(), source.clone());
    true
}
