//! Cluster DNS: CoreDNS from the image inside the operating system.
//!
//! Upstream resolvers are named in the Corefile, from what keelson-network found, and not taken from the pod's resolv.conf: that is a
//! copy from when the pod started, and CoreDNS exits when it names nobody. Without an upstream, `forward` is left out. CoreDNS
//! reads its Corefile again when the `ConfigMap` changes.
//!
//! One control plane states all this for the cluster, or those with other resolvers would take turns. A cluster of several nodes has two
//! replicas, on two of them, from the moment on in which there are two to run them. Operators may say otherwise
//! ([`super::settings`]). Whether they have said to whom it forwards is in an annotation of the `ConfigMap`: every other control plane
//! sees by it whether what was said last is stated already.
//!
//! Everything carries a label of ours. When DNS is disabled, what has it is deleted: an operator's own DNS has the same names, by
//! custom, and the same address, which kubelets give to pods and the cluster therefore never gives up.

use std::fmt::Write as _;
use std::net::IpAddr;

use keelson_config::ClusterConfig;
use serde_json::{Value, json};

use super::node_object::readiness;
use crate::client::{Client, ClientError};

const NAME: &str = "coredns";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/kube-system/deployments/coredns";
const SERVICE_PATH: &str = "/api/v1/namespaces/kube-system/services/kube-dns";
const CONFIGURATION: &str = "/api/v1/namespaces/kube-system/configmaps/coredns";
const ACCOUNT: &str = "/api/v1/namespaces/kube-system/serviceaccounts/coredns";
const ROLE: &str = "system:coredns";
/// The name that every Kubernetes distribution gives the Service; tools look for it.
const SERVICE: &str = "kube-dns";
/// What a control plane may delete.
pub(super) const NAMES: [&str; 2] = [NAME, SERVICE];
/// On the objects, not on the pods: a new label there would be a new pod.
const OWNER_LABEL: &str = "app.kubernetes.io/managed-by";
const OWNER: &str = "keelson";
/// On the `ConfigMap` when operators have said the upstream.
const SAID_ANNOTATION: &str = "keelson.dev/upstream";
/// An account of no meaning outside the container.
const USER: u32 = 65532;

/// What CoreDNS may read; applied with the other rights.
pub(super) fn access() -> Vec<(String, Value)> {
    const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": { "name": ROLE },
        "rules": [
            { "apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"] },
            { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"] },
        ],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": ROLE },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ROLE },
        "subjects": [{ "kind": "ServiceAccount", "name": NAME, "namespace": "kube-system" }],
    });
    vec![(format!("{RBAC}/clusterroles/{ROLE}"), role), (format!("{RBAC}/clusterrolebindings/{ROLE}"), binding)]
}

/// What is to be, as far as it is not the cluster's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub image: String,
    pub upstream: Vec<IpAddr>,
    /// Whether that is what operators have said.
    pub is_upstream_said: bool,
    pub replicas: u64,
}

/// The cluster's own DNS as Kubernetes has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deployed {
    /// Those that are to be.
    pub replicas: u64,
    /// Those that are ready, and as the last change has them.
    pub ready: u64,
    /// Whether the last change is still on its way from Kubernetes' API to its controllers.
    pub is_change_pending: bool,
    /// To whom it is told to forward; `None` if nothing tells it anything.
    pub upstream: Option<Vec<IpAddr>>,
    pub is_upstream_said: bool,
}

/// How many replicas there are to be for a cluster of `members` nodes, and whether that is all for now. A second one before a second node
/// is Ready would be put beside the first, and stay there.
pub async fn replicas(client: &Client, members: usize) -> Result<(u64, bool), ClientError> {
    if members < 2 {
        return Ok((1, true));
    }
    let nodes = client.get("/api/v1/nodes").await?;
    let nodes = nodes.get("items").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if nodes.iter().filter(|node| readiness(node).0).count() >= 2 {
        return Ok((2, true));
    }
    // Nodes that are down for a while are no reason to have less.
    match client.get(DEPLOYMENT).await {
        Ok(deployment) => Ok((deployment.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1), false)),
        Err(error) if error.is_not_found() => Ok((1, false)),
        Err(error) => Err(error),
    }
}

pub async fn apply(client: &Client, cluster: &ClusterConfig, wanted: &Wanted) -> Result<(), ClientError> {
    let objects = [
        (ACCOUNT, service_account()),
        (CONFIGURATION, configuration(cluster, wanted)),
        (SERVICE_PATH, service(cluster)),
        (DEPLOYMENT, deployment(wanted)),
    ];
    futures::future::try_join_all(objects.iter().map(|(path, object)| client.apply(path, object))).await?;
    Ok(())
}

/// Deletes what [`apply`] has made. Says whether something was there.
pub async fn remove(client: &Client) -> Result<bool, ClientError> {
    let mut found = false;
    // The Deployment first: no pod begins without what it reads.
    for path in [DEPLOYMENT, SERVICE_PATH, CONFIGURATION, ACCOUNT] {
        let result = match client.get(path).await {
            Ok(object) if is_ours(&object) => client.delete(path).await,
            Ok(_) => continue,
            Err(error) => Err(error),
        };
        match result {
            Ok(_) => found = true,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// `None` if there is nothing of ours.
pub async fn deployed(client: &Client) -> Result<Option<Deployed>, ClientError> {
    let (deployment, configuration) = tokio::try_join!(ours(client, DEPLOYMENT), ours(client, CONFIGURATION))?;
    Ok(deployment.map(|deployment| deployed_of(&deployment, &configuration.unwrap_or_default())))
}

async fn ours(client: &Client, path: &str) -> Result<Option<Value>, ClientError> {
    match client.get(path).await {
        Ok(object) => Ok(Some(object).filter(is_ours)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn deployed_of(deployment: &Value, configuration: &Value) -> Deployed {
    let count = |pointer: &str| deployment.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    let annotations = configuration.pointer("/metadata/annotations");
    Deployed {
        replicas: count("/spec/replicas"),
        ready: count("/status/readyReplicas").min(count("/status/updatedReplicas")),
        is_change_pending: count("/status/observedGeneration") < count("/metadata/generation"),
        upstream: configuration.pointer("/data/Corefile").and_then(Value::as_str).map(upstream_of),
        is_upstream_said: annotations.is_some_and(|annotations| annotations.get(SAID_ANNOTATION).is_some()),
    }
}

/// To whom a Corefile of ours forwards.
fn upstream_of(corefile: &str) -> Vec<IpAddr> {
    let words = corefile.lines().find_map(|line| line.trim().strip_prefix("forward . "));
    words.into_iter().flat_map(str::split_whitespace).filter_map(|word| word.parse().ok()).collect()
}

fn is_ours(object: &Value) -> bool {
    object.pointer("/metadata/labels").and_then(|labels| labels.get(OWNER_LABEL)).is_some_and(|owner| owner == OWNER)
}

fn metadata(name: &str) -> Value {
    json!({ "name": name, "namespace": "kube-system", "labels": { "k8s-app": SERVICE, OWNER_LABEL: OWNER } })
}

fn service_account() -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(NAME) })
}

fn configuration(cluster: &ClusterConfig, wanted: &Wanted) -> Value {
    let mut metadata = metadata(NAME);
    if let Some(fields) = metadata.as_object_mut().filter(|_| wanted.is_upstream_said) {
        fields.insert("annotations".to_owned(), json!({ SAID_ANNOTATION: "said by operators" }));
    }
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": { "Corefile": corefile(&cluster.cluster_domain, &wanted.upstream) },
    })
}

fn corefile(domain: &str, upstream: &[IpAddr]) -> String {
    let mut text = format!(
        ".:53 {{
    errors
    health {{
        lameduck 5s
    }}
    ready
    kubernetes {domain} in-addr.arpa ip6.arpa {{
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }}
    prometheus :9153
"
    );
    // A resolver on the node's own loopback is out of a pod's reach, and would be CoreDNS itself.
    let upstream: Vec<_> = upstream.iter().filter(|address| !address.is_loopback()).map(ToString::to_string).collect();
    if !upstream.is_empty() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "    forward . {} {{\n        max_concurrent 1000\n    }}", upstream.join(" "));
    }
    text.push_str("    cache 30\n    loop\n    reload 10s\n    loadbalance\n}\n");
    text
}

fn service(cluster: &ClusterConfig) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(SERVICE),
        "spec": {
            "clusterIP": cluster.dns_address,
            "selector": { "k8s-app": SERVICE },
            "ports": [
                { "name": "dns", "port": 53, "protocol": "UDP" },
                { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
                { "name": "metrics", "port": 9153, "protocol": "TCP" },
            ],
        },
    })
}

fn deployment(wanted: &Wanted) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(NAME),
        "spec": {
            "replicas": wanted.replicas,
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 1 } },
            "selector": { "matchLabels": { "k8s-app": SERVICE } },
            "template": { "metadata": { "labels": { "k8s-app": SERVICE } }, "spec": pod(&wanted.image) },
        },
    })
}

fn pod(image: &str) -> Value {
    json!({
        "priorityClassName": "system-cluster-critical",
        "serviceAccountName": NAME,
        // Its own name service is no help to it.
        "dnsPolicy": "Default",
        "nodeSelector": { "kubernetes.io/os": "linux" },
        "tolerations": [
            { "key": "CriticalAddonsOnly", "operator": "Exists" },
            { "key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule" },
        ],
        // On two nodes, or the second one waits: both on one would fail together, and nothing would part them later.
        "topologySpreadConstraints": [{
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": { "matchLabels": { "k8s-app": SERVICE } },
        }],
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": { "type": "RuntimeDefault" },
            // Port 53 without any capability.
            "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "53" }],
        },
        "containers": [container(image)],
        "volumes": [{
            "name": "config",
            "configMap": { "name": NAME, "items": [{ "key": "Corefile", "path": "Corefile" }] },
        }],
    })
}

fn container(image: &str) -> Value {
    let probe = |path: &str, port: u16| json!({ "httpGet": { "path": path, "port": port, "scheme": "HTTP" } });
    let mut readiness = probe("/ready", 8181);
    let mut liveness = probe("/health", 8080);
    if let (Some(readiness), Some(liveness)) = (readiness.as_object_mut(), liveness.as_object_mut()) {
        // The node's own image is ready in a second or two; the default of ten seconds would be the longest wait of a boot.
        readiness.extend([("periodSeconds".to_owned(), json!(1)), ("timeoutSeconds".to_owned(), json!(5))]);
        readiness.insert("failureThreshold".to_owned(), json!(10));
        liveness.extend([("initialDelaySeconds".to_owned(), json!(60)), ("timeoutSeconds".to_owned(), json!(5))]);
        liveness.insert("failureThreshold".to_owned(), json!(5));
    }
    json!({
        "name": NAME,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "resources": { "requests": { "cpu": "100m", "memory": "70Mi" }, "limits": { "memory": "170Mi" } },
        "ports": [
            { "name": "dns", "containerPort": 53, "protocol": "UDP" },
            { "name": "dns-tcp", "containerPort": 53, "protocol": "TCP" },
            { "name": "metrics", "containerPort": 9153, "protocol": "TCP" },
        ],
        "livenessProbe": liveness,
        "readinessProbe": readiness,
        "volumeMounts": [{ "name": "config", "mountPath": "/etc/coredns", "readOnly": true }],
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "readOnlyRootFilesystem": true,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::Server;

    fn deletions(seen: &[String]) -> Vec<&str> {
        seen.iter().filter_map(|line| line.strip_prefix("DELETE ")).collect()
    }

    #[tokio::test]
    async fn everything_that_was_made_is_deleted_and_found_gone_then() {
        let ours = Server::start(|_| (200, json!({ "metadata": metadata("x") }).to_string())).await;
        assert!(remove(&ours.client()).await.unwrap());
        assert_eq!(deletions(&ours.seen()), [DEPLOYMENT, SERVICE_PATH, CONFIGURATION, ACCOUNT]);
        let nothing = Server::start(|_| (404, "{}".to_owned())).await;
        assert!(!remove(&nothing.client()).await.unwrap());
        assert!(deletions(&nothing.seen()).is_empty());
    }

    #[tokio::test]
    async fn an_operators_own_dns_of_the_same_names_is_left_alone() {
        let foreign = Server::start(|_| {
            (200, json!({ "metadata": { "labels": { "k8s-app": "kube-dns" } }, "spec": { "replicas": 2 } }).to_string())
        })
        .await;
        assert!(!remove(&foreign.client()).await.unwrap());
        assert!(deletions(&foreign.seen()).is_empty(), "{:?}", foreign.seen());
        assert_eq!(deployed(&foreign.client()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_deployment_says_how_many_are_ready() {
        let server = Server::start(|_| {
            let status = json!({ "readyReplicas": 1, "updatedReplicas": 2 });
            (200, json!({ "metadata": metadata(NAME), "spec": { "replicas": 2 }, "status": status }).to_string())
        })
        .await;
        let found = deployed(&server.client()).await.unwrap();
        assert_eq!(found, Some(Deployed { replicas: 2, ready: 1, ..Deployed::default() }));
    }

    #[test]
    fn what_is_ready_from_before_a_change_does_not_count() {
        let of = |generation: u64, updated: u64| {
            let status = json!({ "observedGeneration": 3, "readyReplicas": 2, "updatedReplicas": updated });
            let metadata = json!({ "generation": generation });
            deployed_of(&json!({ "metadata": metadata, "spec": { "replicas": 2 }, "status": status }), &Value::Null)
        };
        assert_eq!((of(3, 2).is_change_pending, of(3, 2).ready), (false, 2));
        assert!(of(4, 2).is_change_pending, "the controller has not seen it");
        assert_eq!(of(3, 1).ready, 1, "one of them is to be replaced");
    }

    #[test]
    fn what_was_stated_tells_the_upstream_and_whether_operators_said_it() {
        let addresses: Vec<IpAddr> = vec!["9.9.9.9".parse().unwrap(), "2620:fe::fe".parse().unwrap()];
        for upstream in [addresses, Vec::new()] {
            for is_upstream_said in [true, false] {
                let wanted = Wanted { image: String::new(), upstream: upstream.clone(), is_upstream_said, replicas: 1 };
                let stated = configuration(&ClusterConfig::default(), &wanted);
                let found = deployed_of(&Value::Null, &stated);
                assert_eq!((found.upstream.as_ref(), found.is_upstream_said), (Some(&upstream), is_upstream_said));
                assert!(is_ours(&stated));
            }
        }
        assert_eq!(deployed_of(&Value::Null, &Value::Null).upstream, None);
    }

    #[test]
    fn without_an_upstream_there_is_no_forward() {
        assert!(!corefile("cluster.local", &[]).contains("forward"));
        assert!(!corefile("cluster.local", &["127.0.0.1".parse().unwrap()]).contains("forward"));
    }

    #[test]
    fn upstreams_are_named_in_their_order() {
        let upstream = ["10.0.2.3".parse().unwrap(), "192.0.2.1".parse().unwrap()];
        assert!(corefile("cluster.local", &upstream).contains("forward . 10.0.2.3 192.0.2.1 {"));
    }

    #[test]
    fn braces_of_the_corefile_are_balanced() {
        let text = corefile("example.org", &["10.0.2.3".parse().unwrap()]);
        assert_eq!(text.matches('{').count(), text.matches('}').count());
        assert!(text.contains("kubernetes example.org in-addr.arpa"));
    }
}
