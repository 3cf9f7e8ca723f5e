//! Who may do what: the bindings that give the groups in our certificates their rights.
//!
//! They are made with an identity of `system:masters` that lives for minutes, in this process' memory only, because nobody else
//! may bind rights that he does not have. Everything later is done with [`manager`]'s own, narrow ones.

use keelson_api::OPERATORS;
use serde_json::{Value, json};

use crate::client::{Client, ClientError};
use crate::credentials::{API_SERVERS_GROUP, CLUSTER_MANAGERS_GROUP, KUBE_PROXIES_GROUP, NETWORK_RECONCILERS_GROUP};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const MANAGER_ROLE: &str = "keelson:cluster-manager";
const RECONCILER_ROLE: &str = "keelson:network-reconciler";

/// Brings the bindings about; `masters` is a client that may do everything.
pub async fn apply(masters: &Client) -> Result<(), ClientError> {
    let bindings = [
        binding("keelson:operators", "cluster-admin", OPERATORS),
        binding(API_SERVERS_GROUP, "system:kubelet-api-admin", API_SERVERS_GROUP),
        binding(KUBE_PROXIES_GROUP, "system:node-proxier", KUBE_PROXIES_GROUP),
        binding(MANAGER_ROLE, MANAGER_ROLE, CLUSTER_MANAGERS_GROUP),
        binding(RECONCILER_ROLE, RECONCILER_ROLE, NETWORK_RECONCILERS_GROUP),
    ];
    let mut objects = vec![
        (format!("{RBAC}/clusterroles/{MANAGER_ROLE}"), manager_cluster_role()),
        (format!("{RBAC}/clusterroles/{RECONCILER_ROLE}"), reconciler_role()),
        (format!("{RBAC}/namespaces/kube-system/roles/{MANAGER_ROLE}"), manager_role()),
        (format!("{RBAC}/namespaces/kube-system/rolebindings/{MANAGER_ROLE}"), manager_role_binding()),
    ];
    objects.extend(super::dns::access());
    objects.extend(bindings.into_iter().map(|(name, object)| (format!("{RBAC}/clusterrolebindings/{name}"), object)));
    // Independent of each other: a binding may name a role that comes a moment later.
    futures::future::try_join_all(objects.iter().map(|(path, object)| masters.apply(path, object))).await?;
    Ok(())
}

fn binding(name: &str, role: &str, group: &str) -> (String, Value) {
    let object = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": [group_subject(group)],
    });
    (name.to_owned(), object)
}

fn group_subject(group: &str) -> Value {
    json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group })
}

/// Nodes: reading them, their labels, and their departure with their pods.
fn manager_cluster_role() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": { "name": MANAGER_ROLE },
        "rules": [
            { "apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch", "patch", "delete"] },
            { "apiGroups": [""], "resources": ["pods"], "verbs": ["list", "delete"] },
            { "apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"] },
        ],
    })
}

/// A worker sees where the others' pods are, and how its own node stands.
fn reconciler_role() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": { "name": RECONCILER_ROLE },
        "rules": [{ "apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"] }],
    })
}

/// What the features are made of, and the leases of controllers that died.
fn manager_role() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": { "name": MANAGER_ROLE, "namespace": "kube-system" },
        "rules": [
            {
                "apiGroups": [""],
                "resources": ["configmaps", "services", "serviceaccounts"],
                "verbs": ["get", "create", "patch"],
            },
            { "apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "create", "patch"] },
            {
                "apiGroups": ["", "apps"],
                "resources": ["configmaps", "services", "serviceaccounts", "deployments"],
                "resourceNames": super::dns::NAMES,
                "verbs": ["delete"],
            },
            {
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "resourceNames": super::leases::NAMES,
                "verbs": ["get", "patch"],
            },
        ],
    })
}

fn manager_role_binding() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": { "name": MANAGER_ROLE, "namespace": "kube-system" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": MANAGER_ROLE },
        "subjects": [group_subject(CLUSTER_MANAGERS_GROUP)],
    })
}
