//! keelson-log: everybody's output. No privileges; what it reads is handed to it.

use keelson_control::{Account, InvalidServiceName, Limits, PersistentFailure, Readiness, ServiceName, ServiceSpec};

use super::{LOG, MIB, WATCHDOG_SECONDS, account};

pub(super) fn spec() -> Result<ServiceSpec, InvalidServiceName> {
    Ok(ServiceSpec {
        on_persistent_failure: PersistentFailure::Reboot,
        readiness: Readiness::Notify,
        watchdog_seconds: WATCHDOG_SECONDS,
        account: Account::id(account::LOG),
        limits: Limits {
            memory_low_bytes: Some(16 * MIB),
            pids_max: Some(256),
            oom_score_adj: Some(-900),
            ..Limits::default()
        },
        // It writes out what it holds.
        timeout_stop_seconds: 5,
        ..ServiceSpec::daemon(ServiceName::new(LOG)?, "/usr/bin/keelson-log")
    })
}
