//! Whether a document may be what operators say of a scope.

use serde_json::{Map, Value};

use super::{FIELDS, value};
use crate::document;
use crate::error::{ConfigError, ConfigErrors};
use crate::node::{ClusterConfig, Role};
use crate::raw::{RawConfig, Said};
use crate::resolve::validate;
use crate::resolved::Remembered;
use crate::source::{Origin, Scope, Source};

const FOR_LIFE: &str = "a node has it for life, from the sources of its machine";
const BEFORE_A_CLUSTER: &str = "it says how a machine comes to its cluster, so only the machine's own sources can";
const OPERATORS: &str = "operators are added and removed with keelctl operator";
const BEFORE_STATE: &str = "a machine has to know it before it finds STATE";
const NETWORK: &str = "a machine has to have its network before anybody can tell it anything";
const SECRET: &str = "a secret is kept in no record: only the machine's own sources can say it";
const FOUNDED: &str = "it was fixed when the cluster was founded";
const ALIKE: &str = "all control planes have it alike, so it is said of the cluster and not of a node";

/// The document's spec in the form in which it is kept, or everything that is wrong with it. `cluster` has the networks
/// that the cluster was founded with.
pub fn check(document: Value, scope: Scope, cluster: &ClusterConfig) -> Result<Value, ConfigErrors> {
    let spec = document.get("spec").map_or_else(|| Value::Object(Map::new()), normalized);
    let (raw, mut errors) = document::read(document, &Origin::Cluster(scope));
    let raw = changeable(raw, scope, &mut errors);
    validate(within(cluster, raw), &anybody(), errors)?;
    Ok(spec)
}

/// The rules between fields ask for a role; what is changeable is the same for both.
pub(super) fn anybody() -> Remembered {
    Remembered { role: Some(Role::ControlPlane), ..Remembered::default() }
}

/// With the networks of the cluster, which the rules of other fields ask for.
fn within(cluster: &ClusterConfig, raw: RawConfig) -> RawConfig {
    let founded = |network: &dyn ToString| Some(Said::new(network.to_string(), Source::word(Origin::State)));
    RawConfig { pod_cidr: founded(&cluster.pod_cidr), service_cidr: founded(&cluster.service_cidr), ..raw }
}

/// What may be said of the scope; all else is refused. Taken apart, so that a new field has to be judged here.
pub(super) fn changeable(raw: RawConfig, scope: Scope, errors: &mut Vec<ConfigError>) -> RawConfig {
    let RawConfig {
        role,
        name,
        token,
        bootstrap,
        peers,
        operator_keys,
        state,
        ntp,
        links,
        nameservers,
        search,
        vlans,
        bonds,
        routes,
        node_subnets,
        pod_cidr,
        service_cidr,
        cluster_domain,
        dns_address,
        mut extra_sans,
        mut virtual_address,
        labels,
        taints,
        extra_arguments,
        sysctls,
        registry_mirrors,
        registry_credentials,
        trusted_certificates,
        http_proxy,
        mut oidc,
    } = raw;
    let mut refusals = Refusals(errors);
    refusals.add(role, FOR_LIFE).add(name, FOR_LIFE);
    refusals.add(token, BEFORE_A_CLUSTER).add(bootstrap, BEFORE_A_CLUSTER).add(peers, BEFORE_A_CLUSTER);
    refusals.add(operator_keys, OPERATORS).add(state, BEFORE_STATE);
    refusals.add(links, NETWORK).add(vlans, NETWORK).add(bonds, NETWORK).add(routes, NETWORK);
    refusals.add(nameservers, NETWORK).add(search, NETWORK).add(node_subnets, NETWORK);
    refusals.add(pod_cidr, FOUNDED).add(service_cidr, FOUNDED).add(cluster_domain, FOUNDED).add(dns_address, FOUNDED);
    refusals.add(registry_credentials, SECRET);
    if scope == Scope::Node {
        refusals.add(extra_sans.take(), ALIKE).add(virtual_address.take(), ALIKE).add(oidc.take(), ALIKE);
    }
    RawConfig {
        ntp,
        extra_sans,
        virtual_address,
        labels,
        taints,
        extra_arguments,
        sysctls,
        registry_mirrors,
        trusted_certificates,
        http_proxy,
        oidc,
        ..RawConfig::default()
    }
}

struct Refusals<'a>(&'a mut Vec<ConfigError>);

impl Refusals<'_> {
    fn add<T>(&mut self, said: Option<Said<T>>, problem: &str) -> &mut Self {
        if let Some(Said { source, .. }) = said {
            let field = source.field.clone().unwrap_or_default();
            self.0.push(ConfigError::new(&source, field, problem, ""));
        }
        self
    }
}

/// What the spec says, without the nothings beside it.
fn normalized(spec: &Value) -> Value {
    let mut kept = Map::new();
    for field in FIELDS {
        let Some(value) = value(spec, field).cloned().map(without_nulls) else { continue };
        let path = field.strip_prefix("spec.").unwrap_or(field);
        match path.split_once('.') {
            None => drop(kept.insert(path.to_owned(), value)),
            Some((part, name)) => {
                let part = kept.entry(part).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(fields) = part {
                    fields.insert(name.to_owned(), value);
                }
            }
        }
    }
    Value::Object(kept)
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let said = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(said.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        Value::Array(values) => values.into_iter().map(without_nulls).collect(),
        other => other,
    }
}
