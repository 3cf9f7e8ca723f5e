//! keelson-store: the cluster's memory. It starts once keelson-cluster has written its keys and, last, its configuration.

use std::path::PathBuf;

use keelson_control::{
    Account, Condition, InvalidServiceName, Limits, PersistentFailure, Readiness, ServiceName, ServiceSpec,
};

use super::{LOG, MIB, NETWORK, STORE, WATCHDOG_SECONDS, account, names};

const CONFIG: &str = "/run/keelson/store/config.json";

pub(super) fn spec() -> Result<ServiceSpec, InvalidServiceName> {
    Ok(ServiceSpec {
        on_persistent_failure: PersistentFailure::Reboot,
        arguments: vec![format!("--config-file={CONFIG}")],
        conditions: vec![Condition::FileExists(PathBuf::from(CONFIG))],
        readiness: Readiness::Notify,
        watchdog_seconds: WATCHDOG_SECONDS,
        account: Account::id(account::STORE),
        limits: Limits {
            memory_min_bytes: Some(64 * MIB),
            // Everything waits for a commit.
            cpu_weight: Some(500),
            pids_max: Some(1024),
            nofile: Some(65_536),
            oom_score_adj: Some(-950),
            ..Limits::default()
        },
        stop_before: names(&[LOG, NETWORK])?,
        // A last checkpoint to a slow disk.
        timeout_stop_seconds: 20,
        ..ServiceSpec::daemon(ServiceName::new(STORE)?, "/usr/bin/keelson-store")
    })
}
