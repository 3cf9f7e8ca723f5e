//! What this node goes by: its own configuration, with the cluster's settings where it has joined one, and the source of each
//! value; and what operators say of the cluster and of its nodes, which a control plane changes.
//!
//! Secrets are not in the configuration, and no URL with a password is; that one was said is told, and nothing more.

use keelson_api::{
    Configuration, ConfigurationField, NextValue, ScopeConfiguration, ScopeConfigurationChange,
    ScopeConfigurationRequest,
};
use keelson_config::{NodeConfig, Source};
use serde_json::Value;

use super::members::{Powers, refusal};
use super::respond::Refusal;
use super::router::Context;
use crate::configuration::is_of_operators;
use crate::node::Node;

const HIDDEN: &str = "(hidden)";
const DEFAULT: &str = "default";
const CLUSTER: &str = "the cluster";

/// The document's path, where the value is in the configuration's JSON, and what its sources call it.
const FIELDS: [(&str, &str, &str); 28] = [
    ("spec.role", "/role", "role"),
    ("spec.name", "/name", "name"),
    ("spec.bootstrap", "/bootstrap", "bootstrap"),
    ("spec.peers", "/peers", "peers"),
    ("spec.operatorKeys", "/operator_keys", "operator_keys"),
    ("spec.state", "/state", "state"),
    ("spec.timeServers", "/ntp_servers", "ntp_servers"),
    ("spec.network.links", "/network/links", "network.links"),
    ("spec.network.vlans", "/network/vlans", "network.vlans"),
    ("spec.network.bonds", "/network/bonds", "network.bonds"),
    ("spec.network.routes", "/network/routes", "network.routes"),
    ("spec.network.nameservers", "/network/nameservers", "network.nameservers"),
    ("spec.network.search", "/network/search", "network.search"),
    ("spec.network.nodeSubnets", "/network/node_subnets", "network.node_subnets"),
    ("spec.node.labels", "/labels", "labels"),
    ("spec.node.taints", "/taints", "taints"),
    ("spec.node.sysctls", "/sysctls", "sysctls"),
    ("spec.cluster.podCIDR", "/cluster/pod_cidr", "cluster.pod_cidr"),
    ("spec.cluster.serviceCIDR", "/cluster/service_cidr", "cluster.service_cidr"),
    ("spec.cluster.domain", "/cluster/cluster_domain", "cluster.cluster_domain"),
    ("spec.cluster.dnsAddress", "/cluster/dns_address", "cluster.dns_address"),
    ("spec.cluster.extraSANs", "/cluster/extra_sans", "cluster.extra_sans"),
    ("spec.cluster.virtualAddress", "/cluster/virtual_address", "cluster.virtual_address"),
    ("spec.cluster.extraArguments", "/cluster/extra_arguments", "cluster.extra_arguments"),
    ("spec.cluster.oidc", "/cluster/oidc", "cluster.oidc"),
    ("spec.registries.mirrors", "/registry_mirrors", "registry_mirrors"),
    ("spec.trustedCertificates", "/trusted_certificates", "trusted_certificates"),
    ("spec.httpProxy", "/http_proxy", "http_proxy"),
];

/// Those of which nothing but the source is told.
const SECRETS: [(&str, &str); 2] = [("spec.token", "token"), ("spec.registries.credentials", "registry_credentials")];

/// What a node that has joined takes from its cluster.
const OF_THE_CLUSTER: [&str; 4] =
    ["cluster.pod_cidr", "cluster.service_cidr", "cluster.cluster_domain", "cluster.dns_address"];

/// Below these, keys are the operator's and not ours.
const FREE_KEYS: [&str; 5] = ["labels", "sysctls", "options", "required_claims", "extra_arguments"];

pub(super) fn show(node: &Node) -> Result<Configuration, serde_json::Error> {
    let (config, settled) = (node.effective(), node.settled());
    let (values, later) = (serde_json::to_value(&config)?, serde_json::to_value(&*settled)?);
    let said = |name: &str| config.sources.get(name).map(ToString::to_string);
    let source = |name: &str| {
        if node.has_joined() && OF_THE_CLUSTER.contains(&name) {
            return CLUSTER.to_owned();
        }
        said(name).unwrap_or_else(|| DEFAULT.to_owned())
    };
    let mut fields: Vec<_> = FIELDS
        .into_iter()
        .map(|(field, pointer, name)| {
            let value = match field {
                // Derived from the machine's identity where nobody has said it.
                "spec.name" => Value::from(node.name()),
                _ => values.pointer(pointer).cloned().unwrap_or_default(),
            };
            let next =
                later.pointer(pointer).filter(|next| **next != value).filter(|_| changes(&config, &settled, name));
            let next = next.map(|next| NextValue {
                value: shown(next.clone(), is_free(name)),
                source: settled.sources.get(name).map_or_else(|| DEFAULT.to_owned(), ToString::to_string),
            });
            let value = shown(value, is_free(name));
            ConfigurationField { field: field.to_owned(), value, source: source(name), next }
        })
        .collect();
    for (field, name) in SECRETS {
        let said = said(name);
        let value = said.as_ref().map_or(Value::Null, |_| Value::from(HIDDEN));
        let source = said.unwrap_or_else(|| DEFAULT.to_owned());
        fields.push(ConfigurationField { field: field.to_owned(), value, source, next: None });
    }
    Ok(Configuration { fields })
}

/// Whether operators have said something of the field, now or before this boot: nothing else changes with a boot that this one
/// could know of.
fn changes(config: &NodeConfig, settled: &NodeConfig, name: &str) -> bool {
    let by_operators = |source: Option<&Source>| source.is_some_and(is_of_operators);
    by_operators(config.sources.get(name)) || by_operators(settled.sources.get(name))
}

/// Of the node, or of the cluster.
pub(super) async fn scope(context: &Context, node: Option<&str>) -> Result<ScopeConfiguration, Refusal> {
    let powers = Powers::of(context)?;
    powers.admission(context).configuration(node).await.map_err(|error| refusal(&error))
}

pub(super) async fn set_scope(
    context: &Context,
    node: Option<&str>,
    request: &ScopeConfigurationRequest,
    operator: &str,
) -> Result<ScopeConfigurationChange, Refusal> {
    let powers = Powers::of(context)?;
    let changed = powers.admission(context).set_configuration(node, request, operator).await;
    let changed = changed.map_err(|error| refusal(&error))?;
    powers.renew_view().await;
    Ok(changed)
}

fn is_free(name: &str) -> bool {
    FREE_KEYS.contains(&name.rsplit('.').next().unwrap_or(name))
}

/// With the document's spelling of our own keys.
fn shown(value: Value, free_keys: bool) -> Value {
    match value {
        Value::Object(fields) => {
            let spell = |(key, value): (String, Value)| {
                let value = shown(value, free_keys || is_free(&key));
                (if free_keys { key } else { in_camel_case(&key) }, value)
            };
            Value::Object(fields.into_iter().map(spell).collect())
        }
        Value::Array(values) => values.into_iter().map(|value| shown(value, free_keys)).collect(),
        other => other,
    }
}

fn in_camel_case(key: &str) -> String {
    let mut parts = key.split('_');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part {
            "url" | "id" => text.push_str(&part.to_uppercase()),
            part => {
                let mut letters = part.chars();
                text.extend(letters.next().map(|first| first.to_ascii_uppercase()));
                text.push_str(letters.as_str());
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use keelson_config::{Inputs, Remembered, Scopes};
    use serde_json::json;
    use time::OffsetDateTime;

    use super::*;
    use crate::paths::Paths;

    fn node(document: &str) -> Node {
        let inputs = Inputs {
            command_line: b"keelson.role=worker keelson.token=keelson1.a.sesame.b keelson.name=w1".to_vec(),
            esp: [("keelson/document.yaml".to_owned(), document.as_bytes().to_vec())].into(),
            ..Inputs::default()
        };
        let config = keelson_config::resolve(&inputs, &Remembered::default()).unwrap().node;
        Node::new(Paths::default(), config, "w1".to_owned(), OffsetDateTime::UNIX_EPOCH)
    }

    fn field(configuration: &Configuration, name: &str) -> (Value, String) {
        let found = configuration.fields.iter().find(|field| field.field == name).unwrap();
        (found.value.clone(), found.source.clone())
    }

    const DOCUMENT: &str = "apiVersion: keelson.dev/v1alpha1
kind: NodeConfiguration
spec:
  node:
    labels: {rack_row: r_7}
  cluster:
    podCIDR: 10.1.0.0/16
    oidc: {issuerURL: 'https://id.example', clientID: k, requiredClaims: {a_b: c}}
  registries:
    credentials: [{registry: r.example, username: ann, password: sesame}]
    mirrors: [{registry: r.example, endpoints: ['https://mirror.example/x']}]
  httpProxy: {https: 'http://proxy.example:3128', noProxy: [a.example]}
";

    #[test]
    fn each_value_has_its_source_and_no_secret_is_shown() {
        let shown = show(&node(DOCUMENT)).unwrap();
        assert_eq!(field(&shown, "spec.role"), ("worker".into(), "kernel command line".to_owned()));
        assert_eq!(field(&shown, "spec.cluster.domain"), ("cluster.local".into(), "default".to_owned()));
        let (labels, source) = field(&shown, "spec.node.labels");
        assert_eq!(labels, serde_json::json!({ "rack_row": "r_7" }));
        assert!(source.contains("keelson/document.yaml") && source.ends_with("field spec.node.labels"), "{source}");
        assert_eq!(field(&shown, "spec.token"), ("(hidden)".into(), "kernel command line".to_owned()));
        assert_eq!(field(&shown, "spec.registries.credentials").0, "(hidden)");
        let text = serde_json::to_string(&shown).unwrap();
        assert!(!text.contains("sesame") && text.contains("http://proxy.example:3128"), "{text}");
    }

    #[test]
    fn keys_are_spelled_as_in_the_document_and_an_operators_stay_as_they_are() {
        let shown = show(&node(DOCUMENT)).unwrap();
        let (oidc, _) = field(&shown, "spec.cluster.oidc");
        assert_eq!((&oidc["issuerURL"], &oidc["clientID"]), (&"https://id.example".into(), &"k".into()), "{oidc}");
        assert_eq!(oidc["requiredClaims"], serde_json::json!({ "a_b": "c" }));
        let (mirrors, _) = field(&shown, "spec.registries.mirrors");
        assert_eq!(mirrors[0]["overridePath"], false);
    }

    #[test]
    fn what_a_node_has_from_its_cluster_says_so() {
        let node = node(DOCUMENT);
        let mut cluster = node.config.cluster.clone();
        cluster.cluster_domain = "example.org".to_owned();
        node.set_cluster(cluster);
        let shown = show(&node).unwrap();
        assert_eq!(field(&shown, "spec.cluster.domain"), ("example.org".into(), "the cluster".to_owned()));
        assert_eq!(field(&shown, "spec.cluster.podCIDR").1, "the cluster");
    }

    #[test]
    fn what_operators_say_is_shown_as_it_is_in_effect_and_as_the_next_boot_has_it() {
        let node = node(DOCUMENT);
        let spec = json!({
            "timeServers": ["time.example"],
            "node": { "labels": { "rack": "r8" } },
            "cluster": { "extraSANs": ["api.example"] },
        });
        let scopes = |spec: &Value| Scopes { node: None, cluster: Some(spec.clone()) };
        let next = |shown: &Configuration, name: &str| {
            shown.fields.iter().find(|field| field.field == name).unwrap().next.clone()
        };
        let told = |field: &str| format!("the cluster's settings, field {field}");
        node.set_scopes(&scopes(&spec)).unwrap();
        let first = show(&node).unwrap();
        assert_eq!(field(&first, "spec.node.labels"), (json!({ "rack": "r8" }), told("spec.node.labels")));
        assert_eq!(field(&first, "spec.cluster.extraSANs").0, json!(["api.example"]));
        assert_eq!(field(&first, "spec.timeServers"), (json!([]), "default".to_owned()));
        let waiting: Vec<_> =
            first.fields.iter().filter(|field| field.next.is_some()).map(|field| &field.field).collect();
        assert_eq!(waiting, ["spec.timeServers"]);
        let later = NextValue { value: json!(["time.example"]), source: told("spec.timeServers") };
        assert_eq!(next(&first, "spec.timeServers"), Some(later));
        node.set_scopes(&Scopes::default()).unwrap();
        let last = show(&node).unwrap();
        assert_eq!(field(&last, "spec.node.labels").0, json!({ "rack_row": "r_7" }));
        assert!(last.fields.iter().all(|field| field.next.is_none()), "{last:?}");
        assert!(node.set_scopes(&scopes(&json!({ "role": "worker" }))).is_err());
        assert_eq!(show(&node).unwrap(), last, "a fault changes nothing");
    }

    #[test]
    fn what_a_boot_had_and_is_said_no_more_goes_with_the_next() {
        let own = node(DOCUMENT).config;
        let spec = json!({ "httpProxy": { "https": "http://other.example:3128" } });
        let booted = keelson_config::scopes::overlay(&own, &Scopes { node: Some(spec), cluster: None }).unwrap();
        let node = Node::new(Paths::default(), booted, "w1".to_owned(), OffsetDateTime::UNIX_EPOCH);
        node.set_scopes(&Scopes::default()).unwrap();
        let shown = show(&node).unwrap();
        let proxy = shown.fields.iter().find(|field| field.field == "spec.httpProxy").unwrap();
        assert_eq!(proxy.source, "the settings of this node, field spec.httpProxy");
        assert_eq!(proxy.next.as_ref().unwrap().value["https"], "http://proxy.example:3128");
    }

    #[test]
    fn every_source_that_there_may_be_has_its_field() {
        let known: Vec<_> =
            FIELDS.iter().map(|(_, _, name)| *name).chain(SECRETS.iter().map(|(_, name)| *name)).collect();
        for name in node(DOCUMENT).config.sources.keys() {
            assert!(known.contains(&name.as_str()), "{name} is not shown");
        }
        let values = serde_json::to_value(&node(DOCUMENT).config).unwrap();
        for (field, pointer, _) in FIELDS {
            assert!(values.pointer(pointer).is_some(), "{field} has no value at {pointer}");
        }
        for name in values["cluster"].as_object().unwrap().keys() {
            assert!(FIELDS.iter().any(|(_, pointer, _)| *pointer == format!("/cluster/{name}")), "{name} is not shown");
        }
        let shown = ["cluster_id", "token_given", "sources", "own", "network", "cluster"];
        for name in values.as_object().unwrap().keys().filter(|name| !shown.contains(&name.as_str())) {
            assert!(
                FIELDS.iter().any(|(_, pointer, _)| pointer.strip_prefix('/') == Some(name)),
                "{name} is not shown"
            );
        }
    }
}
