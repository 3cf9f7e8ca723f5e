use std::collections::BTreeSet;

use keelson_control::{Readiness, ServiceSet};
use serde_json::json;

use super::*;
use crate::membership::tests::{MemoryFiles, clock, found_in_memory, founding};

struct Fixture {
    root: tempfile::TempDir,
    config: NodeConfig,
    membership: Membership,
    removed: Vec<String>,
}

impl Fixture {
    fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            config: founding(),
            membership: found_in_memory(),
            removed: Vec::new(),
        }
    }

    fn paths(&self) -> Paths {
        Paths::below(self.root.path())
    }

    fn configure(&self) -> Vec<ServiceSpec> {
        self.configure_at(&["10.0.2.15".parse().unwrap()])
    }

    fn configure_at(&self, addresses: &[IpAddr]) -> Vec<ServiceSpec> {
        let paths = self.paths();
        let settings = Settings {
            paths: &paths,
            config: &self.config,
            membership: &self.membership,
            address: addresses[0],
            addresses,
            api_server_url: PROXY_URL,
            removed: &self.removed,
        };
        configure(&keelson_pki::StandardFiles, settings, clock()).unwrap()
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.paths().at(path)).unwrap()
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.read(path)).unwrap()
    }
}

fn spec<'a>(services: &'a [ServiceSpec], name: &str) -> &'a ServiceSpec {
    services.iter().find(|spec| spec.name.as_str() == name).unwrap()
}

fn flag<'a>(spec: &'a ServiceSpec, name: &str) -> Option<&'a str> {
    let prefix = format!("--{name}=");
    let mut found = spec.arguments.iter().filter_map(|argument| argument.strip_prefix(&prefix));
    let value = found.next();
    assert!(found.next().is_none(), "--{name} is given twice");
    value
}

#[test]
fn the_services_are_a_valid_set() {
    let fixture = Fixture::new();
    let addresses = ["10.0.2.15".parse().unwrap()];
    // With the paths of a node: conditions may not lie on a disk.
    let settings = Settings {
        paths: &Paths::default(),
        config: &fixture.config,
        membership: &fixture.membership,
        address: addresses[0],
        addresses: &addresses,
        api_server_url: PROXY_URL,
        removed: &[],
    };
    let services = configure(&MemoryFiles::default(), settings, clock()).unwrap();
    assert_eq!(services.len(), 5);
    let fixed =
        ["store", "containerd", "proxy"].map(|name| ServiceSpec::daemon(ServiceName::new(name).unwrap(), "/usr/bin/x"));
    ServiceSet { version: 1, services }.validate(&fixed).unwrap();
}

#[test]
fn every_file_that_a_flag_names_was_written() {
    let fixture = Fixture::new();
    let services = fixture.configure();
    let root = fixture.root.path().display().to_string();
    // Made by their owners, not by us.
    let others = ["signer.sock", "/var/log/audit/audit.log", "resolv.conf", "containerd.sock"];
    let mut checked = 0;
    let mut check = |path: &str| {
        if path.starts_with(&root) && !others.iter().any(|other| path.ends_with(other)) {
            assert!(std::path::Path::new(path).exists(), "{path}");
            checked += 1;
        }
    };
    for spec in &services {
        spec.arguments.iter().for_each(|argument| check(argument.split_once('=').unwrap().1));
    }
    for name in ["kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"] {
        let config = fixture.json(&format!("/run/keelson/{name}/kubeconfig"));
        check(config["clusters"][0]["cluster"]["certificate-authority"].as_str().unwrap());
        check(config["users"][0]["user"]["client-certificate"].as_str().unwrap());
    }
    assert!(checked > 30, "only {checked} paths were looked at");
}

#[test]
fn anonymous_requests_reach_the_health_paths_only() {
    let fixture = Fixture::new();
    let services = fixture.configure();
    let authentication = fixture.json("/run/keelson/kube-apiserver/authentication.json");
    let paths: Vec<_> =
        authentication["anonymous"]["conditions"].as_array().unwrap().iter().map(|c| c["path"].clone()).collect();
    assert_eq!(paths, ["/livez", "/readyz", "/healthz"]);
    let apiserver = spec(&services, "kube-apiserver");
    assert!(flag(apiserver, "anonymous-auth").is_none(), "it would exclude the file");
    assert!(flag(apiserver, "authorization-mode").is_none(), "it would exclude the file");
}

#[test]
fn removed_nodes_are_denied_before_anybody_is_asked_whether_they_may() {
    let mut fixture = Fixture::new();
    let before = fixture.configure();
    let kinds = |fixture: &Fixture| {
        let authorization = fixture.json("/run/keelson/kube-apiserver/authorization.json");
        let kinds = authorization["authorizers"].as_array().unwrap().iter().map(|one| one["type"].clone());
        kinds.collect::<Vec<_>>()
    };
    assert_eq!(kinds(&fixture), ["Node", "RBAC"]);
    fixture.removed = vec!["uid-1".to_owned(), "uid-2".to_owned()];
    assert_eq!(fixture.configure(), before, "the API server reads the file again by itself");
    assert_eq!(kinds(&fixture), ["Webhook", "Node", "RBAC"]);
    let authorization = fixture.json("/run/keelson/kube-apiserver/authorization.json");
    let webhook = &authorization["authorizers"][0]["webhook"];
    assert_eq!(webhook["failurePolicy"], "Deny");
    assert_eq!(webhook["matchConditions"][0]["expression"], r#"request.uid in ["uid-1","uid-2"]"#);
    let kubeconfig = fixture.json("/run/keelson/kube-apiserver/denial.json");
    let path = kubeconfig["clusters"][0]["cluster"]["certificate-authority"].as_str().unwrap();
    assert!(std::path::Path::new(path).exists());
}

#[test]
fn secrets_are_never_stored_in_plain_text() {
    let fixture = Fixture::new();
    fixture.configure();
    let encryption = fixture.json("/run/keelson/kube-apiserver/encryption.json");
    let providers = encryption["resources"][0]["providers"].as_array().unwrap();
    assert_eq!(providers.len(), 1);
    assert!(providers[0]["secretbox"]["keys"][0]["secret"].is_string());
}

#[test]
fn no_secret_is_in_a_specification() {
    let fixture = Fixture::new();
    let services = serde_json::to_string(&fixture.configure()).unwrap();
    let encryption = fixture.json("/run/keelson/kube-apiserver/encryption.json");
    let key = encryption["resources"][0]["providers"][0]["secretbox"]["keys"][0]["secret"].as_str().unwrap().to_owned();
    assert!(!services.contains(&key));
    assert!(!services.contains("PRIVATE KEY"));
}

#[test]
fn each_component_has_its_own_account_and_only_its_own_keys() {
    let fixture = Fixture::new();
    let services = fixture.configure();
    let accounts: BTreeSet<_> = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"]
        .map(|name| spec(&services, name).account.uid)
        .into();
    assert_eq!(accounts.len(), 3);
    assert!(!accounts.contains(&0));
    for spec in &services {
        let own = format!("/run/keelson/{}/", spec.name.as_str());
        for argument in spec.arguments.iter().filter(|argument| argument.contains(".pem")) {
            assert!(argument.contains(&own), "{argument}");
        }
    }
}

#[test]
fn a_file_with_a_key_is_read_by_its_owner_only() {
    use std::os::unix::fs::MetadataExt as _;
    let fixture = Fixture::new();
    fixture.configure();
    let mut keys = 0;
    for component in Component::ALL {
        for entry in std::fs::read_dir(fixture.paths().service(component.as_str())).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() && std::fs::read_to_string(&path).unwrap().contains("PRIVATE KEY") {
                assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o400, "{}", path.display());
                keys += 1;
            }
        }
    }
    assert_eq!(keys, 12);
}

#[test]
fn loopback_is_where_everything_listens_that_is_not_for_others() {
    let fixture = Fixture::new();
    let services = fixture.configure();
    for name in ["kube-controller-manager", "kube-scheduler"] {
        assert_eq!(flag(spec(&services, name), "bind-address"), Some("127.0.0.1"));
        assert_eq!(flag(spec(&services, name), "profiling"), Some("false"));
    }
    let kubelet = fixture.json("/run/keelson/kubelet/config.json");
    assert_eq!(kubelet["readOnlyPort"], 0);
    assert_eq!(kubelet["healthzBindAddress"], "127.0.0.1");
    for handler in ["enableProfilingHandler", "enableDebugFlagsHandler", "enableSystemLogHandler"] {
        assert_eq!(kubelet[handler], false, "{handler}");
    }
    for component in [Component::KubeApiserver, Component::Kubelet, Component::KubeProxy, Component::KubeScheduler] {
        let spec = spec(&services, component.as_str());
        assert_eq!(spec.limits.pids_max, Some(PIDS_MAX), "{component}");
    }
    let proxy = fixture.json("/run/keelson/kube-proxy/config.json");
    assert_eq!(proxy["healthzBindAddress"], "127.0.0.1:10256");
    assert_eq!(proxy["metricsBindAddress"], "127.0.0.1:10249");
}

#[test]
fn kubelet_is_hardened() {
    let fixture = Fixture::new();
    fixture.configure();
    let config = fixture.json("/run/keelson/kubelet/config.json");
    assert_eq!(config["authentication"]["anonymous"]["enabled"], false);
    assert_eq!(config["authorization"]["mode"], "Webhook");
    assert_eq!(config["seccompDefault"], true);
    assert_eq!(config["protectKernelDefaults"], true);
    assert_eq!(config["podPidsLimit"], 4096);
    assert!(config.get("rotateCertificates").is_none(), "renewal is ours, and an explicit false is a finding");
    assert!(config.get("staticPodPath").is_none());
}

#[test]
fn the_api_servers_certificate_has_every_name_it_is_reached_by() {
    let mut fixture = Fixture::new();
    fixture.config.cluster.extra_sans = vec!["api.example".to_owned(), "192.0.2.7".to_owned()];
    fixture.config.cluster.virtual_address = Some("192.0.2.10".parse().unwrap());
    fixture.config.cluster.cluster_domain = "example.org".to_owned();
    fixture.configure_at(&["10.0.2.15".parse().unwrap(), "fd00::15".parse().unwrap()]);
    let pair =
        keelson_pki::Pair::from_file(fixture.read("/run/keelson/kube-apiserver/serving.pem").as_bytes()).unwrap();
    let names = format!("{pair:?}");
    for name in [
        "localhost",
        "127.0.0.1",
        "::1",
        "10.0.2.15",
        "fd00::15",
        "10.96.0.1",
        "api.example",
        "192.0.2.7",
        "192.0.2.10",
        "\"a\"",
        "kubernetes.default.svc\"",
        "kubernetes.default.svc.example.org",
    ] {
        assert!(names.contains(name), "{name} is missing in {names}");
    }
}

#[test]
fn in_dual_stack_each_component_is_told_of_both_families() {
    let mut fixture = Fixture::new();
    let before = fixture.configure();
    assert_eq!(flag(spec(&before, "kube-controller-manager"), "node-cidr-mask-size-ipv6"), None);
    fixture.config.cluster.pod_cidr = "10.244.0.0/16,fd44::/56".parse().unwrap();
    fixture.config.cluster.service_cidr = "10.96.0.0/16,fd96::/112".parse().unwrap();
    let services = fixture.configure_at(&["10.0.2.15".parse().unwrap(), "fd00::15".parse().unwrap()]);
    let (of_pods, of_services) = ("10.244.0.0/16,fd44::/56", "10.96.0.0/16,fd96::/112");
    for (component, name, value) in [
        ("kube-apiserver", "service-cluster-ip-range", of_services),
        ("kube-apiserver", "advertise-address", "10.0.2.15"),
        ("kube-controller-manager", "cluster-cidr", of_pods),
        ("kube-controller-manager", "service-cluster-ip-range", of_services),
        ("kube-controller-manager", "node-cidr-mask-size-ipv4", "24"),
        ("kube-controller-manager", "node-cidr-mask-size-ipv6", "64"),
        ("kubelet", "node-ip", "10.0.2.15,fd00::15"),
    ] {
        assert_eq!(flag(spec(&services, component), name), Some(value), "{component} --{name}");
    }
    assert_eq!(fixture.json("/run/keelson/kube-proxy/config.json")["clusterCIDR"], of_pods);
}

#[test]
fn nothing_changes_when_nothing_has_changed() {
    let fixture = Fixture::new();
    let first = fixture.configure();
    let before = snapshot(fixture.root.path());
    let second = fixture.configure();
    assert_eq!(first, second);
    assert_eq!(before, snapshot(fixture.root.path()), "no file was written again");
}

#[test]
fn a_new_address_renews_certificates_in_place_and_restarts_no_controller() {
    let fixture = Fixture::new();
    let before = fixture.configure();
    let serving = fixture.read("/run/keelson/kube-apiserver/serving.pem");
    let client = fixture.read("/run/keelson/kubelet/client.pem");
    let after = fixture.configure_at(&["10.0.2.99".parse().unwrap()]);
    assert_ne!(fixture.read("/run/keelson/kube-apiserver/serving.pem"), serving);
    assert_eq!(fixture.read("/run/keelson/kubelet/client.pem"), client);
    for name in ["kube-controller-manager", "kube-scheduler", "kube-proxy"] {
        assert_eq!(spec(&before, name), spec(&after, name));
    }
}

#[test]
fn a_setting_that_is_read_once_changes_the_revision() {
    let mut fixture = Fixture::new();
    let before = fixture.configure();
    fixture.config.cluster.dns_address = "10.96.0.53".parse().unwrap();
    let after = fixture.configure();
    assert_ne!(spec(&before, "kubelet").revision, spec(&after, "kubelet").revision);
    assert_eq!(spec(&before, "kube-apiserver"), spec(&after, "kube-apiserver"));
}

#[test]
fn an_extra_argument_replaces_ours() {
    let mut fixture = Fixture::new();
    let extra = [("profiling".to_owned(), "true".to_owned()), ("v".to_owned(), "4".to_owned())];
    fixture.config.cluster.extra_arguments.insert(Component::KubeScheduler, extra.into());
    let services = fixture.configure();
    let scheduler = spec(&services, "kube-scheduler");
    assert_eq!(flag(scheduler, "profiling"), Some("true"));
    assert_eq!(flag(scheduler, "v"), Some("4"));
}

#[test]
fn labels_that_kubelet_may_not_set_are_not_given_to_it() {
    let mut fixture = Fixture::new();
    let labels = [
        ("rack", "7"),
        ("example.com/a", "b"),
        ("node-role.kubernetes.io/db", ""),
        ("topology.kubernetes.io/zone", "z"),
    ];
    fixture.config.labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let services = fixture.configure();
    assert_eq!(
        flag(spec(&services, "kubelet"), "node-labels"),
        Some("example.com/a=b,rack=7,topology.kubernetes.io/zone=z")
    );
}

#[test]
fn labels_are_sorted_by_whom_kubernetes_lets_set_them() {
    for accepted in
        ["a", "example.com/a", "kubernetes.io/hostname", "node.kubernetes.io/x", "x.kubelet.kubernetes.io/y"]
    {
        assert!(is_accepted_label(accepted), "{accepted}");
    }
    for refused in ["kubernetes.io/x", "node-role.kubernetes.io/worker", "x.k8s.io/y", "k8s.io/y"] {
        assert!(!is_accepted_label(refused), "{refused}");
    }
    assert!(is_accepted_label("notkubernetes.io/x"));
}

#[test]
fn taints_are_given_only_if_they_were_said() {
    let mut fixture = Fixture::new();
    fixture.configure();
    assert!(fixture.json("/run/keelson/kubelet/config.json").get("registerWithTaints").is_none());
    fixture.config.taints =
        Some(serde_json::from_value(json!([{ "key": "k", "value": "v", "effect": "NoSchedule" }])).unwrap());
    fixture.configure();
    let taints = fixture.json("/run/keelson/kubelet/config.json")["registerWithTaints"].clone();
    assert_eq!(taints, json!([{ "key": "k", "value": "v", "effect": "NoSchedule" }]));
}

#[test]
fn components_start_in_stages() {
    let services = Fixture::new().configure();
    let waits = |name: &str, words: &str| {
        spec(&services, name).conditions.iter().any(|condition| condition.to_string().contains(words))
    };
    assert!(waits("kube-apiserver", "service store"));
    assert!(waits("kubelet", "containerd.sock"));
    assert!(waits("kubelet", "system_bus_socket"));
    assert!(!waits("kubelet", "apiserver-ready"), "kubelet need not wait for it");
    for name in ["kube-controller-manager", "kube-scheduler"] {
        assert!(waits(name, "/apiserver-ready"));
    }
    assert!(waits("kube-proxy", "/any-apiserver-ready") && !waits("kube-proxy", "/apiserver-ready"), "the node's own");
    assert_eq!(spec(&services, "kube-apiserver").readiness, Readiness::Notify);
}

#[test]
fn an_api_server_that_stops_says_so_long_enough_and_ends_in_time() {
    let services = Fixture::new().configure();
    let apiserver = spec(&services, "kube-apiserver");
    let seconds = |name: &str| flag(apiserver, name).unwrap().strip_suffix('s').unwrap().parse::<u32>().unwrap();
    let (delay, watches) = (seconds("shutdown-delay-duration"), seconds("shutdown-watch-termination-grace-period"));
    assert!(delay >= 2, "a proxy needs more than a second to believe it");
    assert!(2 * (delay + watches) <= apiserver.timeout_stop_seconds, "requests need time to end, too");
}

#[test]
fn open_id_connect_becomes_an_issuer() {
    let mut fixture = Fixture::new();
    fixture.config.cluster.oidc = Some(
        serde_json::from_value(json!({
            "issuer_url": "https://id.example", "client_id": "k", "username_claim": "email", "username_prefix": "oidc:",
            "groups_claim": "groups", "groups_prefix": "oidc:", "required_claims": { "hd": "example" },
            "certificate_authority": "PEM",
        }))
        .unwrap(),
    );
    fixture.configure();
    let issuer = fixture.json("/run/keelson/kube-apiserver/authentication.json")["jwt"][0].clone();
    assert_eq!(issuer["issuer"]["url"], "https://id.example");
    assert_eq!(issuer["issuer"]["certificateAuthority"], "PEM");
    assert_eq!(issuer["claimMappings"]["groups"]["claim"], "groups");
    assert_eq!(issuer["claimValidationRules"], json!([{ "claim": "hd", "requiredValue": "example" }]));
}

/// Each file with its inode: a file that was replaced has another one.
fn snapshot(directory: &std::path::Path) -> BTreeMap<PathBuf, u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(snapshot(&path));
        } else {
            found.insert(path.clone(), std::fs::metadata(&path).unwrap().ino());
        }
    }
    found
}
