//! containerd. Its shims live in `/shims`, outside its cgroup, so that its restart touches no pod.

use std::collections::BTreeMap;
use std::path::PathBuf;

use keelson_config::{NodeConfig, TRUSTED_CERTIFICATES_PATH};
use keelson_control::{
    Capabilities, Condition, InvalidServiceName, Limits, PersistentFailure, Readiness, ServiceName, ServiceSpec,
};

use super::{CONTAINERD, LOG, MIB, NETWORK, names};

const CONFIG: &str = "/run/keelson/containerd/config.toml";

pub(super) fn spec(node: &NodeConfig, cluster_networks: &[String]) -> Result<ServiceSpec, InvalidServiceName> {
    Ok(ServiceSpec {
        on_persistent_failure: PersistentFailure::Reboot,
        arguments: vec![format!("--config={CONFIG}")],
        environment: environment(node, cluster_networks),
        conditions: vec![Condition::FileExists(PathBuf::from(CONFIG))],
        readiness: Readiness::Notify,
        // Makes containers: whatever a privileged pod may have, it has to have.
        capabilities: Capabilities::All,
        no_new_privs: false,
        limits: Limits {
            memory_low_bytes: Some(64 * MIB),
            // A thread for each blocked system call, and runc for each container that starts; shims are elsewhere.
            pids_max: Some(16_384),
            nofile: Some(1_048_576),
            oom_score_adj: Some(-999),
            ..Limits::default()
        },
        stop_before: names(&[LOG, NETWORK])?,
        timeout_stop_seconds: 15,
        ..ServiceSpec::daemon(ServiceName::new(CONTAINERD)?, "/usr/bin/containerd")
    })
}

/// It runs its shim and runc by name, and knows from nowhere else of an HTTP proxy, and of whom to believe besides those that
/// the system does.
fn environment(node: &NodeConfig, cluster_networks: &[String]) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::from([
        ("PATH".to_owned(), "/usr/bin".to_owned()),
        ("SSL_CERT_DIR".to_owned(), TRUSTED_CERTIFICATES_PATH.to_owned()),
    ]);
    let Some(proxy) = &node.http_proxy else {
        return environment;
    };
    for (name, url) in [("HTTP_PROXY", &proxy.http), ("HTTPS_PROXY", &proxy.https)] {
        if let Some(url) = url {
            environment.insert(name.to_owned(), url.clone());
        }
    }
    let own = ["localhost", "127.0.0.0/8", "::1", ".svc"].map(str::to_owned);
    let mut excluded: Vec<_> = proxy.no_proxy.iter().cloned().chain(own).collect();
    if cluster_networks.is_empty() {
        let cluster = &node.cluster;
        excluded.extend([cluster.pod_cidr.to_string(), cluster.service_cidr.to_string()]);
        excluded.push(format!(".{}", cluster.cluster_domain));
    } else {
        excluded.extend_from_slice(cluster_networks);
    }
    environment.insert("NO_PROXY".to_owned(), excluded.join(","));
    environment
}
