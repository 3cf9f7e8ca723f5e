//! containerd. Its shims live in `/shims`, outside its cgroup, so that its restart touches no pod.

use std::path::PathBuf;

use keelson_control::{
    Capabilities, Condition, InvalidServiceName, Limits, PersistentFailure, Readiness, ServiceName, ServiceSpec,
};

use super::{CONTAINERD, LOG, MIB, NETWORK, names};

const CONFIG: &str = "/run/keelson/containerd/config.toml";

pub(super) fn spec() -> Result<ServiceSpec, InvalidServiceName> {
    Ok(ServiceSpec {
        on_persistent_failure: PersistentFailure::Reboot,
        arguments: vec![format!("--config={CONFIG}")],
        // It runs its shim and runc by name.
        environment: [("PATH".to_owned(), "/usr/bin".to_owned())].into(),
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
