//! The paths of the API.

pub const AUTHORITY: &str = "/v1/ca";
/// Its exchange for another one, with all that it and its siblings have signed.
pub const AUTHORITY_ROTATION: &str = "/v1/ca/rotation";
/// Whether a node has a cluster, for one that is about to found one.
pub const MEMBERSHIP: &str = "/v1/membership";
pub const CHALLENGE: &str = "/v1/operators/challenge";
pub const OPERATOR_CERTIFICATE: &str = "/v1/operators/certificate";
pub const OPERATORS: &str = "/v1/operators";
/// The name of the operator, or the id of one key, stands in the braces.
pub const OPERATOR: &str = "/v1/operators/{name}";
pub const KUBECONFIG: &str = "/v1/kubeconfig";
pub const STATUS: &str = "/v1/status";
pub const CONFIGURATION: &str = "/v1/config";
/// What operators say of all nodes.
pub const CLUSTER_CONFIGURATION: &str = "/v1/config/cluster";
/// What they say of one, whose name stands in the braces.
pub const NODE_CONFIGURATION: &str = "/v1/config/nodes/{name}";
/// Those that the node has.
pub const CERTIFICATES: &str = "/v1/certificates";
pub const NODES: &str = "/v1/nodes";
/// The name of the node stands in the braces, here and in the following.
pub const NODE_REMOVAL: &str = "/v1/nodes/{name}/removal";
pub const NODE_CORDON: &str = "/v1/nodes/{name}/cordon";
pub const NODE_UNCORDON: &str = "/v1/nodes/{name}/uncordon";
pub const NODE_DRAIN: &str = "/v1/nodes/{name}/drain";
pub const SERVICES: &str = "/v1/services";
/// The name of the service stands in the braces.
pub const SERVICE_LOGS: &str = "/v1/services/{name}/logs";
/// How the API servers are, as the node's proxy finds.
pub const PROXY: &str = "/v1/proxy";
pub const BOOTS: &str = "/v1/boots";
pub const REBOOT: &str = "/v1/reboot";
pub const POWER_OFF: &str = "/v1/power-off";
pub const TOKENS: &str = "/v1/tokens";
/// The id of the token stands in the braces.
pub const TOKEN: &str = "/v1/tokens/{id}";
pub const JOIN: &str = "/v1/join";
pub const NODE_SETTINGS: &str = "/v1/node/settings";
pub const NODE_CERTIFICATES: &str = "/v1/node/certificates";
pub const NODE_STORE_MEMBER: &str = "/v1/node/store-member";
/// The members of the store, for operators.
pub const STORE_MEMBERS: &str = "/v1/store/members";
pub const FEATURES: &str = "/v1/features";
/// The name of the feature stands in the braces.
pub const FEATURE: &str = "/v1/features/{name}";
pub const EVENTS: &str = "/v1/events";
/// Where kube-apiserver asks about identities that were removed.
pub const DENIALS: &str = "/v1/denials";
pub const OPENAPI: &str = "/v1/openapi.json";

/// The path of one service's log.
pub fn service_logs(name: &str) -> String {
    SERVICE_LOGS.replace("{name}", name)
}

/// The path of one token.
pub fn token(id: &str) -> String {
    TOKEN.replace("{id}", id)
}

/// The path of one operator.
pub fn operator(name: &str) -> String {
    OPERATOR.replace("{name}", name)
}

/// The path of one feature.
pub fn feature(name: &str) -> String {
    FEATURE.replace("{name}", name)
}

/// The path of what is done with one node: one of those above.
pub fn node(template: &str, name: &str) -> String {
    template.replace("{name}", name)
}
