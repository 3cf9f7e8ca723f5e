//! Which requests leave which trace: who did what is always kept, what was in it only where it is no secret, and what the
//! system does all the time not at all.

use serde_json::{Value, json};

pub(super) fn policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        // One line a request, at its end.
        "omitStages": ["RequestReceived"],
        "rules": [quiet_system(), quiet_health(), secrets(), quiet_reads(), writes(), rest()],
    })
}

/// Leases and events are renewed every few seconds and say nothing of who did what.
fn quiet_system() -> Value {
    json!({
        "level": "None",
        "resources": [
            { "group": "coordination.k8s.io", "resources": ["leases"] },
            { "group": "", "resources": ["events"] },
            { "group": "events.k8s.io", "resources": ["events"] },
        ],
    })
}

fn quiet_health() -> Value {
    json!({ "level": "None", "nonResourceURLs": ["/livez*", "/readyz*", "/healthz*", "/version", "/openapi*"] })
}

/// Bodies that are secrets, or tokens, or may be: the fact is kept, the content never.
fn secrets() -> Value {
    json!({
        "level": "Metadata",
        "resources": [
            { "group": "", "resources": ["secrets", "configmaps", "serviceaccounts/token"] },
            { "group": "authentication.k8s.io", "resources": ["tokenreviews"] },
            { "group": "certificates.k8s.io", "resources": ["certificatesigningrequests"] },
        ],
    })
}

/// The components read everything all the time; their reads of secrets are kept by the rule before this one.
fn quiet_reads() -> Value {
    json!({
        "level": "None",
        "verbs": ["get", "list", "watch"],
        "userGroups": ["system:nodes", "system:serviceaccounts:kube-system", "keelson:kube-proxies", "keelson:cluster-managers"],
        "users": ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"],
    })
}

/// What people change, with what they sent; the components' own writes are counted among the rest.
fn writes() -> Value {
    json!({
        "level": "Request",
        "verbs": ["create", "update", "patch", "delete", "deletecollection"],
        "userGroups": ["keelson:operators"],
        "resources": [
            { "group": "" }, { "group": "apps" }, { "group": "batch" }, { "group": "networking.k8s.io" },
            { "group": "policy" }, { "group": "rbac.authorization.k8s.io" }, { "group": "storage.k8s.io" },
            { "group": "admissionregistration.k8s.io" }, { "group": "apiextensions.k8s.io" },
        ],
    })
}

fn rest() -> Value {
    json!({ "level": "Metadata" })
}
