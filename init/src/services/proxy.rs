//! keelson-proxy: the node's way to all API servers. No privileges; it begins with the set that it kept and is told of
//! changes.

use keelson_control::{Account, InvalidServiceName, Limits, Readiness, ServiceName, ServiceSpec};

use super::{LOG, MIB, NETWORK, PROXY, WATCHDOG_SECONDS, account, names};

pub(super) fn spec() -> Result<ServiceSpec, InvalidServiceName> {
    Ok(ServiceSpec {
        readiness: Readiness::Notify,
        watchdog_seconds: WATCHDOG_SECONDS,
        account: Account::id(account::PROXY),
        limits: Limits {
            memory_low_bytes: Some(16 * MIB),
            // Every component's connections go through it.
            cpu_weight: Some(300),
            pids_max: Some(64),
            // Two for each of the connections that it admits, and room.
            nofile: Some(16_384),
            oom_score_adj: Some(-950),
            ..Limits::default()
        },
        stop_before: names(&[LOG, NETWORK])?,
        timeout_stop_seconds: 5,
        ..ServiceSpec::daemon(ServiceName::new(PROXY)?, "/usr/bin/keelson-proxy")
    })
}
