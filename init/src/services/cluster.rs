//! keelson-cluster: identity, members, certificates, the operator's API. Root, because it gives files to the accounts of
//! others, but with nothing of root's power beyond that.

use keelson_control::{
    Capabilities, Capability, InvalidServiceName, Limits, PersistentFailure, Readiness, ServiceName, ServiceSpec,
};

use super::{CLUSTER, CONTAINERD, LOG, MIB, NETWORK, PROXY, STORE, WATCHDOG_SECONDS, names};

pub(super) fn spec() -> Result<ServiceSpec, InvalidServiceName> {
    Ok(ServiceSpec {
        on_persistent_failure: PersistentFailure::Reboot,
        // When its API answers on the node itself, which is before there is a cluster.
        readiness: Readiness::Notify,
        watchdog_seconds: WATCHDOG_SECONDS,
        capabilities: Capabilities::only([Capability::Chown, Capability::DacOverride, Capability::Fowner]),
        limits: Limits {
            memory_low_bytes: Some(64 * MIB),
            // Threads count too: those of its runtime, and of blocking work, of which tokio starts 512 at most.
            pids_max: Some(1024),
            nofile: Some(65_536),
            oom_score_adj: Some(-950),
            ..Limits::default()
        },
        // It talks to all of these to its end. Kubelet, which asks it for time at a shutdown, is handed over and
        // therefore gone by then.
        stop_before: names(&[LOG, NETWORK, STORE, CONTAINERD, PROXY])?,
        ..ServiceSpec::daemon(ServiceName::new(CLUSTER)?, "/usr/bin/keelson-cluster")
    })
}
