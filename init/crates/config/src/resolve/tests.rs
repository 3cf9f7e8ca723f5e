use std::collections::BTreeMap;

use super::*;
use crate::node::{AddressMethod, LinkSelector};
use crate::secret::{Secret, Secrets};

/// A key of the right form; whether the point is on the curve is for whoever verifies with it.
const KEY: &str = concat!(
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE",
    "EjRWeBI0VngSNFZ4EjRWeBI0VngSNFZ4EjRWeBI0VngSNFZ4EjRWeBI0VngSNFZ4EjRWeBI0VngSNFZ4EjRWeA=="
);

fn line(text: &str) -> Inputs {
    Inputs { command_line: text.as_bytes().to_vec(), ..Inputs::default() }
}

fn document(spec: &str) -> Inputs {
    let text = format!("apiVersion: keelson.dev/v1alpha1\nkind: NodeConfiguration\nspec: {spec}\n");
    Inputs { fw_cfg: BTreeMap::from([("opt/keelson/document".to_owned(), text.into_bytes())]), ..Inputs::default() }
}

fn accepted(inputs: &Inputs) -> Resolved {
    resolve(inputs, &Remembered::default()).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The one message that is expected.
fn refused(inputs: &Inputs, remembered: &Remembered) -> String {
    let errors = resolve(inputs, remembered).expect_err("it was accepted");
    assert_eq!(errors.0.len(), 1, "{errors}");
    errors.to_string()
}

#[test]
fn a_first_control_plane_from_the_command_line() {
    let Resolved { node, secrets } =
        accepted(&line("console=ttyS0 panic=10 keelson.role=control-plane keelson.bootstrap keelson.peers=none"));
    assert_eq!((node.role, node.bootstrap, &node.peers), (Role::ControlPlane, true, &Peers::DeclaredNone));
    assert_eq!((node.name, node.token_given, node.taints), (None, false, None));
    assert_eq!(node.cluster, crate::ClusterConfig::default());
    assert_eq!(node.network, crate::NetworkConfig::default());
    assert_eq!(node.sources["role"].to_string(), "kernel command line");
    assert_eq!(secrets, Secrets::default());
}

#[test]
fn every_field_of_the_command_line() {
    let node = accepted(&line(&format!(
        "keelson.role=worker keelson.name=w1 keelson.token=abc keelson.peers=cp1,10.0.0.9:6400 \
         keelson.operator-key=ann:{KEY} keelson.state=LABEL=KEEP keelson.ntp=10.0.0.1,time.example \
         ip=10.0.0.5::10.0.0.1:255.255.255.0::eth0:none:10.0.0.2 ip=eth1:dhcp:1400 nameserver=10.0.0.3 \
         vlan=eth1.7:eth1 bond=bond0:eth2,eth3:mode=active-backup,miimon=100 \
         rd.route=10.8.0.0/255.255.0.0:10.0.0.9:eth0 rd.route=[::/0]:[fe80::1]:eth0"
    )))
    .node;
    assert_eq!(node.peers, Peers::Named(vec!["cp1".into(), "10.0.0.9:6400".into()]));
    assert_eq!(node.state, StateSelection::Label("KEEP".into()));
    assert_eq!(node.operator_keys[0].name, "ann");
    assert!(node.token_given);
    assert_eq!(node.network.links[0].link, LinkSelector::Name("eth0".into()));
    assert!(matches!(&node.network.links[0].method, AddressMethod::Static(addressing)
        if addressing.addresses[0].to_string() == "10.0.0.5/24" && addressing.gateway.is_some()));
    assert_eq!(node.network.links[1].mtu, Some(1400));
    assert_eq!(node.network.vlans[0].id, 7);
    assert_eq!(node.network.bonds[0].members.len(), 2);
    assert_eq!(node.network.routes[0].to.to_string(), "10.8.0.0/16");
    assert_eq!(node.network.routes[0].link, LinkSelector::Name("eth0".into()));
}

#[test]
fn a_route_that_cannot_be_is_refused_with_its_place() {
    for (words, complaint) in [
        ("rd.route=10.8.0.1/16:10.0.0.9", "\"10.8.0.1/16\" is not valid"),
        ("rd.route=10.8.0.0/16:0.0.0.0", "\"0.0.0.0\" is not valid"),
        ("rd.route=10.8.0.0/16:[fd00::9]", "fd00::9 cannot be the gateway to 10.8.0.0/16"),
        ("rd.route=[fd08::/32]:[fe80::1]", "fe80::1 may be on any link"),
        ("rd.route=10.8.0.0/16", "is not a route"),
    ] {
        let errors = refused(&line(&format!("keelson.role=worker {words}")), &Remembered::default());
        assert!(errors.contains("rd.route") && errors.contains(complaint), "{words}: {errors}");
    }
    let errors = refused(
        &document("{role: worker, network: {routes: [{to: 10.8.0.0/16, via: 10.0.0.9, metric: 0}]}}"),
        &Remembered::default(),
    );
    assert!(errors.contains("spec.network.routes[0].metric"), "{errors}");
}

#[test]
fn words_of_ip_stand_in_for_name_and_time_server() {
    let node = accepted(&line("keelson.role=worker ip=10.0.0.5:::24:node7:eth0:none:::10.0.0.4")).node;
    assert_eq!((node.name.as_deref(), node.ntp_servers), (Some("node7"), vec!["10.0.0.4".to_owned()]));
}

#[test]
fn secrets_are_in_no_serialised_or_printed_form() {
    let mut inputs = document("{registries: {credentials: [{registry: r.io, username: u, password: zqpass}]}}");
    inputs.command_line = b"keelson.role=worker keelson.token=zqtoken".to_vec();
    let resolved = accepted(&inputs);
    let shown = format!("{resolved:?} {}", serde_json::to_string(&resolved.node).unwrap());
    assert!(!shown.contains("zqpass") && !shown.contains("zqtoken"), "{shown}");
    assert_eq!(resolved.secrets.token, Some(Secret::new("zqtoken")));
}

#[test]
fn names_source_field_fault_and_what_is_allowed() {
    let none = Remembered::default();
    assert_eq!(
        refused(&line("keelson.role=master keelson.bootstrap keelson.peers=none"), &none),
        "kernel command line, keelson.role: \"master\" is no role; allowed: control-plane or worker"
    );
    assert_eq!(
        refused(&Inputs::default(), &none),
        "keelson.role: no source says the node's role; allowed: control-plane or worker"
    );
    assert_eq!(
        refused(&document("{role: worker, network: {links: [{mtu: 5}]}}"), &none),
        "document (fw_cfg opt/keelson/document), field spec.network.links[0].mtu: \"5\" is not valid; allowed: \
         a number from 576 to 65535"
    );
    for (inputs, part) in [
        (line("keelson.role=worker keelson.bootstrap keelson.peers=none"), "a worker cannot found"),
        (line("keelson.role=control-plane keelson.bootstrap"), "nobody says whether there are other"),
        (line("keelson.role=control-plane keelson.state=ram"), "must not keep its vote in memory"),
        (line("keelson.role=worker keelson.name=Big"), "keelson.name: \"Big\" is not valid"),
        (line("keelson.role=worker keelson.peers=a,none"), "keelson.peers: \"none\" is not valid"),
        (line("keelson.role=worker keelson.operator-key=abc"), "not an ECDSA P-256 public key"),
        (line("keelson.role=worker keelson.token=a\u{e9}"), "it is not shown"),
        (line("keelson.role=worker ip=1.2.3.4"), "kernel command line, ip:"),
        (line("keelson.role=worker ip=300.0.0.1:::24"), "\"300.0.0.1/24\" is not valid"),
        (line("keelson.role=worker ip=10.0.0.5::10.9.0.1:24"), "in none of the link's networks"),
        (line("keelson.role=worker ip=eth0:dhcp ip=eth0:off"), "configured before"),
        (line("keelson.role=worker ip=dhcp6"), "\"dhcp6\" is not offered"),
        (line("keelson.role=worker bond=b:eth0:mode=x"), "\"mode=x\" is not offered"),
        (
            line("keelson.role=control-plane keelson.bootstrap keelson.peers=none ip=10.244.7.5:::24"),
            "10.244.7.5/32 is inside the pod network 10.244.0.0/16",
        ),
        (
            document("{role: worker, cluster: {serviceCIDR: 10.96.0.0/16}, network: {nodeSubnets: [10.96.1.0/24]}}"),
            "nodeSubnets[0]: the node subnet",
        ),
        (document("{role: worker, cluster: {podCIDR: 10.96.0.0/12}}"), "overlaps the service network"),
        (document("{role: worker, cluster: {podCIDR: 10.1.0.1/16}}"), "spec.cluster.podCIDR: \"10.1.0.1/16\""),
        (document("{role: worker, cluster: {podCIDR: '10.1.0.0/16,10.2.0.0/16'}}"), "are of the same family"),
        (document("{role: worker, cluster: {podCIDR: '10.1.0.0/16,fd01::/48,fd02::/48'}}"), "more than two ranges"),
        (
            document("{role: worker, cluster: {serviceCIDR: '10.1.0.0/16,fd02::/48'}}"),
            "spec.cluster.serviceCIDR: \"10.1.0.0/16,fd02::/48\" is not valid",
        ),
        (
            document("{role: worker, cluster: {podCIDR: '10.1.0.0/16,fd01::/48'}}"),
            "spec.cluster.podCIDR: pods have 10.1.0.0/16,fd01::/48 and services 10.96.0.0/16",
        ),
        (
            document(
                "{role: worker, cluster: {podCIDR: '10.1.0.0/16,fd01::/48', serviceCIDR: 'fd02::/112,10.2.0.0/16'}}",
            ),
            "of the same families, in the same order",
        ),
        (
            document(
                "{role: worker, cluster: {podCIDR: '10.1.0.0/16,fd01::/48', serviceCIDR: '10.2.0.0/16,fd01::/64'}}",
            ),
            "the pod network fd01::/48 overlaps the service network fd01::/64",
        ),
        (document("{role: worker, cluster: {dnsAddress: 10.97.0.1}}"), "address of the service network 10.96.0.0/16"),
        (document("{role: worker, cluster: {extraArguments: {etcd: {}}}}"), "extraArguments.etcd: \"etcd\""),
        (document("{role: worker, node: {sysctls: {kernel.panic: '1'}}}"), "kubelet needs the system's own"),
        (document("{role: worker, node: {taints: [{key: a, effect: Never}]}}"), "spec.node.taints[0].effect"),
        (document("{role: worker, node: {labels: {'a b': c}}}"), "\"a b\" is no key"),
        (document("{role: worker, registries: {mirrors: [{registry: d.io}]}}"), "mirrors[0].endpoints: there is none"),
        (
            document("{role: worker, registries: {mirrors: [{registry: d.io, endpoints: ['https://u:zq@h']}]}}"),
            "mirrors[0].endpoints[0]: it is not valid",
        ),
        (document("{role: worker, httpProxy: {http: 'http://u:zq@h'}}"), "spec.httpProxy.http: it is not valid"),
        (document("{role: worker, cluster: {oidc: {issuerURL: 'http://a', clientID: b}}}"), "oidc.issuerURL"),
        (document("{role: worker, cluster: {oidc: {issuerURL: 'https://u:zq@h', clientID: b}}}"), "oidc.issuerURL"),
    ] {
        let message = refused(&inputs, &none);
        assert!(message.contains(part), "{message:?} lacks {part:?}");
        assert!(!message.contains("zq"), "{message:?} shows a password");
    }
}

#[test]
fn the_virtual_address_is_one_that_a_machine_can_have_and_no_node_has() {
    for address in ["192.0.2.10", "2001:db8::10"] {
        let node =
            accepted(&document(&format!("{{role: control-plane, cluster: {{virtualAddress: '{address}'}}}}"))).node;
        assert_eq!(node.cluster.virtual_address, Some(address.parse().unwrap()));
        assert!(node.sources["cluster.virtual_address"].to_string().contains("spec.cluster.virtualAddress"));
    }
    for (address, complaint) in [
        ("10.244.3.4", "10.244.3.4 is inside the pod network 10.244.0.0/16"),
        ("10.96.0.77", "10.96.0.77 is inside the service network 10.96.0.0/16"),
        ("10.0.0.5", "10.0.0.5 is configured on a link of this node"),
        ("0.0.0.0", "\"0.0.0.0\" is not valid"),
        ("'::'", "\"::\" is not valid"),
        ("127.0.0.7", "\"127.0.0.7\" is not valid"),
        ("'::1'", "\"::1\" is not valid"),
        ("224.0.0.1", "\"224.0.0.1\" is not valid"),
        ("'ff02::1'", "\"ff02::1\" is not valid"),
        ("255.255.255.255", "\"255.255.255.255\" is not valid"),
        ("'fe80::7'", "\"fe80::7\" is not valid"),
        ("'::ffff:10.0.0.9'", "\"::ffff:10.0.0.9\" is not valid"),
        ("api.example", "\"api.example\" is not valid"),
    ] {
        let spec = format!(
            "{{role: control-plane, cluster: {{virtualAddress: {address}}}, \
             network: {{links: [{{link: eth0, addresses: [10.0.0.5/24]}}]}}}}"
        );
        let message = refused(&document(&spec), &Remembered::default());
        assert!(message.contains("spec.cluster.virtualAddress") && message.contains(complaint), "{message}");
    }
}

#[test]
fn all_faults_are_reported_at_once() {
    let mut inputs = document("{rolle: x, network: {nodeSubnets: [a, 10.0.0.0/8, b]}}");
    inputs.command_line = b"keelson.role=x keelson.name=- keelson.bogus=1".to_vec();
    let errors = resolve(&inputs, &Remembered::default()).unwrap_err().to_string();
    for part in ["keelson.role", "keelson.name", "keelson.bogus", "spec.rolle", "nodeSubnets[0]", "nodeSubnets[2]"] {
        assert!(errors.contains(part), "{part} is missing in {errors}");
    }
    assert_eq!(errors.lines().count(), 6, "{errors}");
}

#[test]
fn state_comes_first_for_role_and_name_and_a_disagreement_names_both() {
    let remembered = Remembered {
        role: Some(Role::Worker),
        name: Some("w1".into()),
        cluster_id: Some("c".into()),
        ..Remembered::default()
    };
    let node = resolve(&Inputs::default(), &remembered).unwrap().node;
    assert_eq!((node.role, node.name.as_deref(), node.cluster_id.as_deref()), (Role::Worker, Some("w1"), Some("c")));
    assert_eq!(
        refused(&line("keelson.role=control-plane"), &remembered),
        "kernel command line, keelson.role: it says \"control-plane\", but STATE remembers \"worker\"; allowed: \
         worker, or an empty STATE"
    );
    assert!(refused(&line("keelson.name=w2"), &remembered).contains("it says \"w2\", but STATE remembers \"w1\""));
    assert!(resolve(&line("keelson.role=worker keelson.name=w1"), &remembered).is_ok());
}

#[test]
fn a_member_of_a_cluster_may_keep_bootstrap_on_its_command_line() {
    let remembered = Remembered { cluster_id: Some("c".into()), ..Remembered::default() };
    assert!(resolve(&line("keelson.role=control-plane keelson.bootstrap"), &remembered).is_ok());
}

#[test]
fn the_state_selection_is_known_before_all_else_is_valid() {
    assert_eq!(state_selection(&line("keelson.state=ram")).unwrap(), StateSelection::Ram);
    assert_eq!(state_selection(&Inputs::default()).unwrap(), StateSelection::Auto);
    assert!(state_selection(&line("keelson.state=disk")).unwrap_err().to_string().contains("keelson.state"));
}

#[test]
fn the_higher_source_wins_field_by_field() {
    let mut inputs = document("{role: control-plane, name: from-document, timeServers: [a.example]}");
    inputs.command_line = b"keelson.name=from-line".to_vec();
    inputs.dmi_table = smbios::tests::table(&["keelson.role=worker"]);
    let node = accepted(&inputs).node;
    assert_eq!((node.role, node.name.as_deref()), (Role::Worker, Some("from-line")));
    assert_eq!(node.ntp_servers, ["a.example"]);
    assert_eq!(node.sources["role"].to_string(), "SMBIOS type 11 string 1");
}

#[test]
fn the_dns_address_follows_the_service_network() {
    let node = accepted(&document("{role: worker, cluster: {serviceCIDR: 172.20.0.0/16}}")).node;
    assert_eq!(node.cluster.dns_address.to_string(), "172.20.0.10");
}

#[test]
fn pods_and_services_may_have_both_families() {
    let spec =
        "{role: control-plane, cluster: {podCIDR: 'fd01::/56,10.1.0.0/16', serviceCIDR: 'fd02::/112, 10.2.0.0/16'}}";
    let cluster = accepted(&document(spec)).node.cluster;
    assert_eq!(cluster.pod_cidr.to_string(), "fd01::/56,10.1.0.0/16");
    assert_eq!(cluster.service_cidr.to_string(), "fd02::/112,10.2.0.0/16");
    assert_eq!(cluster.dns_address.to_string(), "fd02::a", "of the first family");
    let virtual_address = spec.replacen("}}", ", virtualAddress: 'fd01:0:0:9::9'}}", 1);
    let message = refused(&document(&virtual_address), &Remembered::default());
    assert!(message.contains("fd01:0:0:9::9 is inside the pod network fd01::/56"), "{message}");
}

#[test]
fn a_node_that_joins_is_not_judged_by_the_networks_of_another_cluster() {
    for role in ["worker", "control-plane"] {
        accepted(&line(&format!("keelson.role={role} keelson.token=t ip=10.244.7.5:::24")));
    }
    let said =
        "{role: worker, cluster: {podCIDR: 10.9.0.0/16}, network: {links: [{link: eth0, addresses: [10.9.7.5/24]}]}}";
    let message = refused(&document(said), &Remembered::default());
    assert!(message.contains("10.9.7.5/32 is inside the pod network 10.9.0.0/16"), "{message}");
}

#[test]
fn node_config_survives_json() {
    let node = accepted(&line(&format!("keelson.role=worker keelson.operator-key={KEY} ip=[fd00::5]:::64"))).node;
    let json = serde_json::to_string(&node).unwrap();
    assert_eq!(serde_json::from_str::<NodeConfig>(&json).unwrap(), node);
}
