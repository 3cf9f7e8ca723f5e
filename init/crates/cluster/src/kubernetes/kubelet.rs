//! kubelet: a configuration file for all that belongs there, flags for the rest.
//!
//! Its certificates are renewed by keelson-cluster in place, so `rotateCertificates` is left unset: kubelet's own requests could
//! not carry the node's UID. Its cgroup is PID 1's; pods live below `/kubepods`.

use std::time::Duration;

use keelson_config::Component;
use keelson_control::{Capabilities, Condition, Readiness, ServiceName};
use serde_json::{Value, json};

use super::{
    CIPHER_SUITES, ComponentFile, Flags, KubernetesError, Settings, TLS_MIN_VERSION, Wanted, client_files, service,
};

pub(super) const ROOT_DIRECTORY: &str = "/var/lib/kubelet";
/// Outside kubelet's own directory, which nobody else may enter: the controller manager looks here too.
pub(super) const VOLUME_PLUGIN_DIRECTORY: &str = "/var/lib/volume-plugins";
const COMPONENT: Component = Component::Kubelet;
/// How long pods have to end when the node shuts down; critical ones have the last part of it.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(30);
const SHUTDOWN_GRACE_CRITICAL: Duration = Duration::from_secs(10);
/// A fork bomb in a pod stays in the pod.
const POD_PIDS: u32 = 4096;

pub(super) fn wanted(settings: Settings<'_>) -> Result<Wanted, KubernetesError> {
    let clients = settings.membership.trust.kubernetes_client.sorted_pem();
    let mut files = client_files(settings, COMPONENT)?;
    files.push(ComponentFile::settings("config.json", &configuration(settings))?);
    files.push(ComponentFile::certificate("client-ca.crt", clients).watched());
    let mut spec = service(COMPONENT, &files, flags(settings).with_extra(settings, COMPONENT))?;
    spec.conditions = vec![
        Condition::ServiceReady(ServiceName::new(super::PROXY_SERVICE)?),
        Condition::SocketAnswers(settings.paths.containerd_socket()),
        // It looks for logind once, at its start.
        Condition::SocketAnswers(settings.paths.system_bus()),
    ];
    // Where it looks for the credentials of registries.
    spec.environment.insert("HOME".to_owned(), settings.paths.service(COMPONENT.as_str()).display().to_string());
    spec.readiness = Readiness::Notify;
    spec.capabilities = Capabilities::All;
    spec.no_new_privs = false;
    // It reports the end of its pods.
    spec.stop_before = vec![ServiceName::new("containerd")?, ServiceName::new("kube-apiserver")?];
    spec.limits.oom_score_adj = Some(-999);
    Ok(Wanted { component: COMPONENT, files, spec })
}

fn flags(settings: Settings<'_>) -> Flags {
    let file = |name: &str| settings.file(COMPONENT, name);
    let mut flags = Flags::default();
    let addresses: Vec<_> = settings.addresses.iter().map(ToString::to_string).collect();
    flags
        .path("config", &file("config.json"))
        .path("kubeconfig", &file("kubeconfig"))
        .path("root-dir", &settings.paths.at(ROOT_DIRECTORY))
        .set("hostname-override", settings.name())
        .set("node-ip", addresses.join(","));
    let labels: Vec<_> = settings
        .config
        .labels
        .iter()
        .filter(|(name, _)| is_accepted_label(name))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if !labels.is_empty() {
        flags.set("node-labels", labels.join(","));
    }
    flags
}

fn configuration(settings: Settings<'_>) -> Value {
    let file = |name: &str| settings.file(COMPONENT, name);
    let mut configuration = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": file("client-ca.crt") },
        },
        // Whoever was removed is obeyed no longer than at the API servers.
        "authorization": {
            "mode": "Webhook",
            "webhook": { "cacheAuthorizedTTL": "5s", "cacheUnauthorizedTTL": "5s" },
        },
        "tlsCertFile": file("serving.pem"),
        "tlsPrivateKeyFile": file("serving.pem"),
        "tlsMinVersion": TLS_MIN_VERSION,
        "tlsCipherSuites": CIPHER_SUITES,
        "readOnlyPort": 0,
        // Whoever may reach a node through the API server's proxy is not to have profiles of kubelet, its flags, and all of /var/log.
        "enableProfilingHandler": false,
        "enableDebugFlagsHandler": false,
        "enableSystemLogHandler": false,
        "healthzBindAddress": "127.0.0.1",
        "containerRuntimeEndpoint": format!("unix://{}", settings.paths.containerd_socket().display()),
        "cgroupDriver": "cgroupfs",
        "clusterDNS": [settings.config.dns_address()],
        "clusterDomain": settings.config.cluster.cluster_domain,
        "resolvConf": settings.paths.resolv_conf(),
        "volumePluginDir": settings.paths.at(VOLUME_PLUGIN_DIRECTORY),
        "seccompDefault": true,
        "protectKernelDefaults": true,
        "podPidsLimit": POD_PIDS,
        "serializeImagePulls": false,
        "maxParallelImagePulls": 3,
        "shutdownGracePeriod": format!("{}s", SHUTDOWN_GRACE.as_secs()),
        "shutdownGracePeriodCriticalPods": format!("{}s", SHUTDOWN_GRACE_CRITICAL.as_secs()),
    });
    if let Some(fields) = configuration.as_object_mut() {
        fields.extend(reserves());
        if let Some(taints) = taints(settings) {
            fields.insert("registerWithTaints".to_owned(), taints);
        }
    }
    configuration
}

/// What pods cannot have. The shares are estimates of what the processes of a control plane hold at Ready.
fn reserves() -> serde_json::Map<String, Value> {
    let reserves = json!({
        "systemReserved": { "cpu": "100m", "memory": "128Mi", "ephemeral-storage": "1Gi" },
        "kubeReserved": { "cpu": "200m", "memory": "768Mi", "ephemeral-storage": "1Gi" },
        "enforceNodeAllocatable": ["pods"],
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "5%",
            "nodefs.inodesFree": "5%",
            "imagefs.available": "5%",
        },
        "imageGCHighThresholdPercent": 85,
        "imageGCLowThresholdPercent": 80,
    });
    match reserves {
        Value::Object(fields) => fields,
        _ => serde_json::Map::new(),
    }
}

/// Only what was said: control planes run pods unless told otherwise.
fn taints(settings: Settings<'_>) -> Option<Value> {
    let taints = settings.config.taints.as_ref()?;
    Some(taints.iter().map(|taint| json!({ "key": taint.key, "value": taint.value, "effect": taint.effect })).collect())
}

/// Whether kubelet may set a label on its own Node: Kubernetes' namespaces are closed to it but for a few names and
/// prefixes (k8s.io/kubelet/pkg/apis, `well_known_labels.go`), and others are fatal on its command line.
pub fn is_accepted_label(name: &str) -> bool {
    let Some((namespace, _)) = name.split_once('/') else {
        return true;
    };
    let within =
        |domain: &str| namespace == domain || namespace.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    if !within("kubernetes.io") && !within("k8s.io") {
        return true;
    }
    let open = ["kubelet.kubernetes.io", "node.kubernetes.io"];
    let open = open.iter().any(|prefix| within(prefix));
    let names = [
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
    ];
    open || names.contains(&name)
}
