//! The paths of the API.

pub const AUTHORITY: &str = "/v1/ca";
pub const CHALLENGE: &str = "/v1/operators/challenge";
pub const OPERATOR_CERTIFICATE: &str = "/v1/operators/certificate";
pub const KUBECONFIG: &str = "/v1/kubeconfig";
pub const STATUS: &str = "/v1/status";
pub const NODES: &str = "/v1/nodes";
pub const SERVICES: &str = "/v1/services";
/// The name of the service stands in the braces.
pub const SERVICE_LOGS: &str = "/v1/services/{name}/logs";
pub const BOOTS: &str = "/v1/boots";
pub const REBOOT: &str = "/v1/reboot";
pub const POWER_OFF: &str = "/v1/power-off";
pub const OPENAPI: &str = "/v1/openapi.json";

/// The path of one service's log.
pub fn service_logs(name: &str) -> String {
    SERVICE_LOGS.replace("{name}", name)
}
