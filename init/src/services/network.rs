//! keelson-network: links, addresses, routes, time. It parses packets from strangers, so it has an account of its own
//! and four capabilities.

use keelson_control::{
    Account, Capabilities, Capability, InvalidServiceName, Limits, PersistentFailure, Readiness, ServiceName,
    ServiceSpec,
};

use super::{LOG, MIB, NETWORK, WATCHDOG_SECONDS, account, names};

pub(super) fn spec() -> Result<ServiceSpec, InvalidServiceName> {
    Ok(ServiceSpec {
        on_persistent_failure: PersistentFailure::Reboot,
        // It is ready with the node's first address, which may never come: it goes on asking.
        readiness: Readiness::Notify,
        watchdog_seconds: WATCHDOG_SECONDS,
        timeout_start_seconds: 0,
        account: Account::id(account::NETWORK),
        capabilities: Capabilities::only([
            Capability::NetAdmin,
            Capability::NetRaw,
            // UDP 68.
            Capability::NetBindService,
            Capability::SysTime,
        ]),
        limits: Limits {
            memory_low_bytes: Some(16 * MIB),
            pids_max: Some(64),
            oom_score_adj: Some(-950),
            ..Limits::default()
        },
        stop_before: names(&[LOG])?,
        timeout_stop_seconds: 5,
        ..ServiceSpec::daemon(ServiceName::new(NETWORK)?, "/usr/bin/keelson-network")
    })
}
