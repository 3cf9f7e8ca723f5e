use serde_json::json;

use super::*;
use crate::kept::KeptError;
use crate::node::{ClusterConfig, NodeConfig};
use crate::resolve::{Inputs, resolve};
use crate::resolved::Remembered;
use crate::source::Scope;

fn document(spec: &Value) -> Value {
    json!({ "apiVersion": "keelson.dev/v1alpha1", "kind": "NodeConfiguration", "spec": spec })
}

fn checked(spec: &Value, scope: Scope) -> Result<Value, Vec<(String, String)>> {
    check(document(spec), scope, &ClusterConfig::default())
        .map_err(|errors| errors.0.iter().map(|error| (error.place().to_owned(), error.problem.clone())).collect())
}

/// A value of the right form for each field that there is.
fn full() -> Value {
    json!({
        "timeServers": ["time.example"],
        "node": {
            "labels": { "rack": "r7" },
            "taints": [{ "key": "a", "value": "b", "effect": "NoSchedule" }],
            "sysctls": { "vm.max_map_count": "262144" },
        },
        "cluster": {
            "extraSANs": ["api.example"],
            "virtualAddress": "192.0.2.10",
            "extraArguments": { "kubelet": { "v": "2" } },
            "oidc": { "issuerURL": "https://id.example", "clientID": "k" },
        },
        "registries": { "mirrors": [{ "registry": "docker.io", "endpoints": ["https://mirror.example"] }] },
        "trustedCertificates": [],
        "httpProxy": { "https": "http://proxy.example:3128" },
    })
}

#[test]
fn a_scope_says_every_changeable_field_and_keeps_it_as_it_was_said() {
    assert_eq!(checked(&full(), Scope::Cluster), Ok(full()));
    for field in FIELDS {
        assert!(value(&full(), field).is_some(), "{field} is not in the sample");
    }
}

#[test]
fn what_says_nothing_is_not_kept_and_what_says_none_is() {
    let spec = json!({
        "role": null, "timeServers": null, "network": {}, "registries": {},
        "node": { "labels": {}, "taints": [] },
        "httpProxy": { "http": null, "https": "http://proxy.example" },
    });
    let kept = json!({ "node": { "labels": {}, "taints": [] }, "httpProxy": { "https": "http://proxy.example" } });
    assert_eq!(checked(&spec, Scope::Node), Ok(kept));
    assert_eq!(checked(&json!({}), Scope::Cluster), Ok(json!({})));
}

#[test]
fn what_a_machine_alone_can_say_is_refused_with_the_field_and_the_reason() {
    let key = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE";
    for (spec, field, reason) in [
        (json!({ "role": "worker" }), "spec.role", "for life"),
        (json!({ "name": "w1" }), "spec.name", "for life"),
        (json!({ "token": "zqtoken" }), "spec.token", "comes to its cluster"),
        (json!({ "bootstrap": true }), "spec.bootstrap", "comes to its cluster"),
        (json!({ "peers": ["none"] }), "spec.peers", "comes to its cluster"),
        (json!({ "operatorKeys": [{ "publicKey": key }] }), "spec.operatorKeys", "keelctl operator"),
        (json!({ "state": "ram" }), "spec.state", "finds STATE"),
        (json!({ "network": { "links": [] } }), "spec.network.links", "its network"),
        (json!({ "network": { "vlans": [] } }), "spec.network.vlans", "its network"),
        (json!({ "network": { "bonds": [] } }), "spec.network.bonds", "its network"),
        (json!({ "network": { "routes": [] } }), "spec.network.routes", "its network"),
        (json!({ "network": { "nameservers": [] } }), "spec.network.nameservers", "its network"),
        (json!({ "network": { "search": [] } }), "spec.network.search", "its network"),
        (json!({ "network": { "nodeSubnets": [] } }), "spec.network.nodeSubnets", "its network"),
        (json!({ "cluster": { "podCIDR": "10.1.0.0/16" } }), "spec.cluster.podCIDR", "founded"),
        (json!({ "cluster": { "serviceCIDR": "10.1.0.0/16" } }), "spec.cluster.serviceCIDR", "founded"),
        (json!({ "cluster": { "domain": "example" } }), "spec.cluster.domain", "founded"),
        (json!({ "cluster": { "dnsAddress": "10.96.0.11" } }), "spec.cluster.dnsAddress", "founded"),
        (
            json!({ "registries": { "credentials": [{ "registry": "r.io", "username": "u", "password": "zqpass" }] } }),
            "spec.registries.credentials",
            "a secret",
        ),
    ] {
        for scope in [Scope::Node, Scope::Cluster] {
            let faults = checked(&spec, scope).expect_err(field);
            assert_eq!(faults.len(), 1, "{faults:?}");
            assert!(faults[0].0 == field && faults[0].1.contains(reason), "{faults:?}");
            assert!(!faults[0].1.contains("zq"), "{faults:?} shows a secret");
        }
    }
}

#[test]
fn what_control_planes_have_alike_is_not_a_nodes() {
    for name in ["extraSANs", "virtualAddress", "oidc"] {
        let spec = json!({ "cluster": { name: full()["cluster"][name] } });
        let faults = checked(&spec, Scope::Node).expect_err(name);
        assert_eq!((faults.len(), faults[0].0.as_str()), (1, format!("spec.cluster.{name}").as_str()), "{faults:?}");
        assert!(checked(&spec, Scope::Cluster).is_ok(), "{name}");
    }
    assert!(checked(&json!({ "cluster": { "extraArguments": { "kubelet": { "v": "2" } } } }), Scope::Node).is_ok());
}

#[test]
fn every_fault_is_told_with_its_place() {
    let spec = json!({
        "role": "worker",
        "rolle": "worker",
        "timeServers": ["a b"],
        "node": { "labels": { "a b": "c" }, "sysctls": { "kernel.panic": "1" } },
        "cluster": { "virtualAddress": "10.244.0.9", "extraArguments": { "etcd": {} } },
    });
    let mut places: Vec<_> = checked(&spec, Scope::Cluster).unwrap_err().into_iter().map(|(place, _)| place).collect();
    places.sort();
    let expected = [
        "spec.cluster.extraArguments.etcd",
        "spec.cluster.virtualAddress",
        "spec.node.labels.a b",
        "spec.node.sysctls.kernel.panic",
        "spec.role",
        "spec.rolle",
        "spec.timeServers[0]",
    ];
    assert_eq!(places, expected);
    let other = check(json!({ "spec": {} }), Scope::Cluster, &ClusterConfig::default()).unwrap_err();
    let places: Vec<_> = other.0.iter().map(crate::ConfigError::place).collect();
    assert_eq!(places, ["apiVersion", "kind"]);
}

#[test]
fn the_networks_are_those_of_the_cluster() {
    let cluster = ClusterConfig {
        pod_cidr: "fd00:1::/48".parse().unwrap(),
        service_cidr: "fd00:2::/112".parse().unwrap(),
        ..ClusterConfig::default()
    };
    let with = |address: &str| document(&json!({ "cluster": { "virtualAddress": address } }));
    assert!(check(with("10.244.0.9"), Scope::Cluster, &cluster).is_ok());
    assert!(check(with("fd00:1::9"), Scope::Cluster, &cluster).is_err());
    let both = ClusterConfig {
        pod_cidr: "fd00:1::/48,10.244.0.0/16".parse().unwrap(),
        service_cidr: "fd00:2::/112,10.96.0.0/16".parse().unwrap(),
        ..ClusterConfig::default()
    };
    assert!(check(with("10.244.0.9"), Scope::Cluster, &both).is_err());
    assert!(check(with("10.245.0.9"), Scope::Cluster, &both).is_ok());
}

/// A node whose command line says `words`, and whose firmware gives it the document.
fn node(words: &str, spec: &str) -> NodeConfig {
    let text = format!("apiVersion: keelson.dev/v1alpha1\nkind: NodeConfiguration\nspec: {spec}\n");
    let inputs = Inputs {
        command_line: format!("keelson.role=worker {words}").into_bytes(),
        fw_cfg: [("opt/keelson/document".to_owned(), text.into_bytes())].into(),
        ..Inputs::default()
    };
    resolve(&inputs, &Remembered::default()).unwrap_or_else(|errors| panic!("{errors}")).node
}

fn time_servers(node: Option<&str>, cluster: Option<&str>) -> Scopes {
    let spec = |name: &str| json!({ "timeServers": [name] });
    Scopes { node: node.map(spec), cluster: cluster.map(spec) }
}

#[test]
fn the_command_line_goes_before_the_node_the_node_before_the_cluster_and_that_before_all_else() {
    const DOCUMENT: &str = "{timeServers: [document.example]}";
    for (words, scopes, server, source) in [
        (
            "keelson.ntp=line.example",
            time_servers(Some("node"), Some("cluster")),
            "line.example",
            "kernel command line",
        ),
        ("", time_servers(Some("node"), Some("cluster")), "node", "the settings of this node, field spec.timeServers"),
        ("", time_servers(None, Some("cluster")), "cluster", "the cluster's settings, field spec.timeServers"),
        ("", Scopes::default(), "document.example", "document (fw_cfg opt/keelson/document), field spec.timeServers"),
    ] {
        let settled = overlay(&node(words, DOCUMENT), &scopes).unwrap();
        assert_eq!(settled.ntp_servers, [server], "{scopes:?}");
        assert_eq!(settled.sources["ntp_servers"].to_string(), source);
    }
}

#[test]
fn a_field_is_taken_whole_and_others_stay() {
    let own = node("", "{node: {labels: {zone: a}, sysctls: {vm.swappiness: '1'}}}");
    let spec = json!({ "node": { "labels": { "rack": "r7" } } });
    let settled = overlay(&own, &Scopes { node: None, cluster: Some(spec) }).unwrap();
    assert_eq!(settled.labels, [("rack".to_owned(), "r7".to_owned())].into());
    assert_eq!(settled.sysctls, own.sysctls);
    assert_eq!(settled.own(), &own);
}

#[test]
fn every_changeable_field_reaches_the_node() {
    let own = node("", "{trustedCertificates: []}");
    let settled = overlay(&own, &Scopes { node: None, cluster: Some(full()) }).unwrap();
    let from_the_cluster = settled.sources.values().filter(|source| source.to_string().contains("cluster's settings"));
    let fields: Vec<_> = from_the_cluster.filter_map(|source| source.field.as_deref()).collect();
    for field in FIELDS {
        assert!(fields.contains(&field), "{field} is not taken");
    }
    let (before, after) = (serde_json::to_value(&own).unwrap(), serde_json::to_value(&settled).unwrap());
    for name in ["ntp_servers", "labels", "taints", "sysctls", "registry_mirrors", "http_proxy"] {
        assert_ne!(before[name], after[name], "{name}");
    }
    for name in ["extra_sans", "virtual_address", "extra_arguments", "oidc"] {
        assert_ne!(before["cluster"][name], after["cluster"][name], "{name}");
    }
}

#[test]
fn what_is_unset_leaves_the_nodes_own_word() {
    let own = node("", "{timeServers: [document.example]}");
    let told = overlay(&own, &time_servers(Some("node"), None)).unwrap();
    assert_eq!(overlay(&told, &Scopes::default()).unwrap(), own);
    assert_eq!(overlay(&told, &time_servers(None, Some("cluster"))).unwrap().own(), &own);
}

#[test]
fn a_node_leaves_it_to_the_control_plane_what_the_networks_of_its_cluster_are() {
    let spec = |address: &str| Some(json!({ "cluster": { "virtualAddress": address } }));
    let own = node("", "{}");
    let settled = overlay(&own, &Scopes { node: None, cluster: spec("10.244.0.9") }).unwrap();
    assert_eq!(settled.cluster.virtual_address, Some("10.244.0.9".parse().unwrap()));
    let errors = overlay(&own, &Scopes { node: None, cluster: spec("nowhere") }).unwrap_err();
    assert_eq!((errors.0.len(), errors.0[0].place()), (1, "spec.cluster.virtualAddress"));
}

#[test]
fn a_scope_that_cannot_be_is_refused_with_its_place() {
    let spec = json!({ "role": "worker", "timeServers": ["a b"], "later": 1 });
    let errors = overlay(&node("", "{}"), &Scopes { node: Some(spec), cluster: None }).unwrap_err().to_string();
    for place in ["spec.role", "spec.timeServers[0]", "spec.later"] {
        assert!(errors.contains(&format!("the settings of this node, field {place}: ")), "{errors}");
    }
}

#[test]
fn changes_are_named_by_field() {
    let mut after = full();
    after["node"]["labels"]["rack"] = json!("r8");
    after["httpProxy"] = Value::Null;
    assert_eq!(changed(&full(), &after), ["spec.node.labels", "spec.httpProxy"]);
    assert!(changed(&full(), &full()).is_empty());
    assert_eq!(changed(&json!({}), &full()).len(), FIELDS.len());
}

#[test]
fn the_file_says_which_reader_can_read_it() {
    let scopes = time_servers(Some("node"), None);
    assert_eq!(Scopes::from_file(&scopes.to_file().unwrap()).unwrap(), scopes);
    let later = br#"{"format":"keelson configuration","version":3,"oldestReader":2}"#;
    assert!(matches!(Scopes::from_file(later), Err(KeptError::TooNew { oldest_reader: 2, .. })));
    assert!(matches!(Scopes::from_file(b"{"), Err(KeptError::Malformed(_))));
}
