//! kube-proxy in nftables mode.

use keelson_config::Component;
use keelson_control::{Capabilities, Capability, Readiness, ServiceName};
use serde_json::{Value, json};

use super::{ComponentFile, Flags, KubernetesError, Settings, Wanted, api_server_conditions, client_files, service};

const COMPONENT: Component = Component::KubeProxy;
/// kube-proxy's own default, which it would otherwise have to lower by itself.
const OOM_SCORE_ADJUSTMENT: i16 = -999;

pub(super) fn wanted(settings: Settings<'_>) -> Result<Wanted, KubernetesError> {
    let file = |name: &str| settings.file(COMPONENT, name);
    let mut files = client_files(settings, COMPONENT)?;
    files.push(ComponentFile::settings("config.json", &configuration(settings))?);
    let mut flags = Flags::default();
    flags.path("config", &file("config.json"));
    let mut spec = service(COMPONENT, &files, flags.with_extra(settings, COMPONENT))?;
    // Its rules are no less needed where the node's own API server is broken.
    spec.conditions = api_server_conditions(settings.paths.any_apiserver_ready())?;
    spec.stop_before = vec![ServiceName::new("kube-apiserver")?];
    spec.readiness = Readiness::Tcp(([127, 0, 0, 1], 10249).into());
    // Rules and connection tracking; the files of its directory are root's own.
    spec.capabilities = Capabilities::only([Capability::NetAdmin]);
    spec.limits.oom_score_adj = Some(OOM_SCORE_ADJUSTMENT);
    Ok(Wanted { component: COMPONENT, files, spec })
}

fn configuration(settings: Settings<'_>) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": { "kubeconfig": settings.file(COMPONENT, "kubeconfig") },
        "mode": "nftables",
        "clusterCIDR": settings.config.cluster.pod_cidr,
        "detectLocalMode": "ClusterCIDR",
        "hostnameOverride": settings.name(),
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "enableProfiling": false,
        "nodePortAddresses": ["primary"],
        "oomScoreAdj": OOM_SCORE_ADJUSTMENT,
        // The table's size is PID 1's sysctl: kube-proxy would need to write below /sys.
        "conntrack": { "maxPerCore": 0 },
    })
}
