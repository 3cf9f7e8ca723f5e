//! kube-apiserver, hardened: what CIS and the distribution's guides leave to the administrator is on from the start.
//!
//! - anonymous requests reach the three health paths and nothing else: with `--anonymous-auth=false` `/readyz` would answer 401
//! - authorizers from a file that is read again when it changes: first the denial of removed nodes, then Node, then RBAC
//! - Secrets are encrypted at rest; there is no provider for plain text
//! - `ServiceAccount` tokens are signed by keelson-cluster over a unix socket, so this process holds no key for them
//! - every request is audited, bodies of Secrets and tokens never
//!
//! `AlwaysPullImages`, which CIS asks for, is left out: a node without a registry in reach could start nothing.

use std::path::PathBuf;

use keelson_config::{Component, Oidc};
use keelson_control::{Account, Condition, Readiness, ServiceName};
use keelson_pki::AuthorityKind;
use serde_json::{Value, json};

use super::{CIPHER_SUITES, ComponentFile, Flags, KubernetesError, Settings, TLS_MIN_VERSION, Wanted, service};
use crate::accounts;
use crate::credentials::FRONT_PROXY_NAME;
use crate::membership::ControlPlane;
use crate::store::CLIENT_URL;

mod audit;

pub(super) const AUDIT_DIRECTORY: &str = "/var/log/audit";
const COMPONENT: Component = Component::KubeApiserver;
/// CIS 1.2.16 to 1.2.19.
const AUDIT_DAYS: &str = "30";
const AUDIT_FILES: &str = "10";
const AUDIT_MEGABYTES: &str = "100";
/// Watches never end by themselves. Without this the server waits for them until it is killed.
const WATCH_GRACE: &str = "3s";
/// From the order to stop until it takes no more connections. `/readyz` says no from the beginning, and the address leaves the Service
/// `kubernetes`: proxies believe the second no (0.75 s, 1.1 s at most and the time of two answers), kube-proxy makes its rules anew after
/// a second at most. Twice as long as either; with [`WATCH_GRACE`] a third of the time that PID 1 gives it. It cannot depend on whether
/// there are other control planes: another flag is another start.
const SHUTDOWN_DELAY: &str = "3s";

pub(super) fn wanted(settings: Settings<'_>, held: &ControlPlane) -> Result<Wanted, KubernetesError> {
    let authority = |kind| held.authorities.anchors(kind).sorted_pem();
    let clients = authority(AuthorityKind::KubernetesClient) + &authority(AuthorityKind::KubernetesRequests);
    let files = vec![
        ComponentFile::certificate("client-ca.crt", clients).watched(),
        ComponentFile::certificate("serving-ca.crt", authority(AuthorityKind::KubernetesServing)),
        ComponentFile::certificate("front-proxy-ca.crt", authority(AuthorityKind::FrontProxy)).watched(),
        ComponentFile::certificate("store-ca.crt", authority(AuthorityKind::StoreClient)),
        ComponentFile::settings("authentication.json", &authentication(settings.config.cluster.oidc.as_ref()))?
            .watched(),
        ComponentFile::settings("authorization.json", &authorization(settings))?.watched(),
        ComponentFile::settings("denial.json", &denial(settings))?.watched(),
        ComponentFile::certificate("api-ca.crt", authority(AuthorityKind::Api)).watched(),
        // Read again by itself within a minute; a start says for sure with which key it writes.
        ComponentFile::settings("encryption.json", &held.secrets.encryption.configuration())?,
        ComponentFile::settings("admission.json", &admission())?,
        ComponentFile::settings("audit.json", &audit::policy())?,
    ];
    let mut spec = service(COMPONENT, &files, flags(settings).with_extra(settings, COMPONENT))?;
    spec.account = Account::id(accounts::KUBE_APISERVER);
    spec.readiness = Readiness::Notify;
    spec.conditions = vec![
        Condition::ServiceReady(ServiceName::new("store")?),
        Condition::SocketAnswers(settings.paths.signer_socket()),
    ];
    // What the whole cluster waits for goes first when the processor is short.
    spec.limits.cpu_weight = Some(400);
    spec.limits.oom_score_adj = Some(-997);
    spec.timeout_stop_seconds = 20;
    Ok(Wanted { component: COMPONENT, files, spec })
}

fn flags(settings: Settings<'_>) -> Flags {
    let file = |name: &str| settings.file(COMPONENT, name);
    let mut flags = Flags::default();
    serving(&mut flags, settings, file);
    identities(&mut flags, settings, file);
    flags
        .set("etcd-servers", CLIENT_URL)
        .path("etcd-cafile", &file("store-ca.crt"))
        .path("etcd-certfile", &file("store-client.pem"))
        .path("etcd-keyfile", &file("store-client.pem"))
        .path("encryption-provider-config", &file("encryption.json"))
        .set("encryption-provider-config-automatic-reload", "true")
        .set("enable-admission-plugins", "NodeRestriction")
        .path("admission-control-config-file", &file("admission.json"))
        .path("audit-policy-file", &file("audit.json"))
        .path("audit-log-path", &settings.paths.at(AUDIT_DIRECTORY).join("audit.log"))
        .set("audit-log-maxage", AUDIT_DAYS)
        .set("audit-log-maxbackup", AUDIT_FILES)
        .set("audit-log-maxsize", AUDIT_MEGABYTES)
        .set("service-cluster-ip-range", settings.config.cluster.service_cidr.to_string())
        .set("allow-privileged", "true")
        .set("profiling", "false")
        .set("request-timeout", "300s")
        .set("shutdown-delay-duration", SHUTDOWN_DELAY)
        .set("shutdown-watch-termination-grace-period", WATCH_GRACE);
    flags
}

fn serving(flags: &mut Flags, settings: Settings<'_>, file: impl Fn(&str) -> PathBuf) {
    flags
        .set("advertise-address", settings.address.to_string())
        .set("secure-port", "6443")
        .path("tls-cert-file", &file("serving.pem"))
        .path("tls-private-key-file", &file("serving.pem"))
        .set("tls-min-version", TLS_MIN_VERSION)
        .set("tls-cipher-suites", CIPHER_SUITES.join(","))
        .path("kubelet-certificate-authority", &file("serving-ca.crt"))
        .path("kubelet-client-certificate", &file("kubelet-client.pem"))
        .path("kubelet-client-key", &file("kubelet-client.pem"))
        .set("kubelet-preferred-address-types", "InternalIP,Hostname,InternalDNS,ExternalDNS,ExternalIP");
}

fn identities(flags: &mut Flags, settings: Settings<'_>, file: impl Fn(&str) -> PathBuf) {
    flags
        .path("client-ca-file", &file("client-ca.crt"))
        .path("authentication-config", &file("authentication.json"))
        .path("authorization-config", &file("authorization.json"))
        .path("requestheader-client-ca-file", &file("front-proxy-ca.crt"))
        .set("requestheader-allowed-names", FRONT_PROXY_NAME)
        .set("requestheader-extra-headers-prefix", "X-Remote-Extra-")
        .set("requestheader-group-headers", "X-Remote-Group")
        .set("requestheader-username-headers", "X-Remote-User")
        .set("requestheader-uid-headers", "X-Remote-Uid")
        .path("proxy-client-cert-file", &file("front-proxy-client.pem"))
        .path("proxy-client-key-file", &file("front-proxy-client.pem"))
        .set(
            "service-account-issuer",
            format!("https://kubernetes.default.svc.{}", settings.config.cluster.cluster_domain),
        )
        .path("service-account-signing-endpoint", &settings.paths.signer_socket())
        .set("service-account-extend-token-expiration", "false");
}

fn authentication(oidc: Option<&Oidc>) -> Value {
    let health = ["/livez", "/readyz", "/healthz"].map(|path| json!({ "path": path }));
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AuthenticationConfiguration",
        "anonymous": { "enabled": true, "conditions": health },
        "jwt": oidc.map(token_issuer).into_iter().collect::<Vec<_>>(),
    })
}

fn token_issuer(oidc: &Oidc) -> Value {
    let required: Vec<_> =
        oidc.required_claims.iter().map(|(claim, value)| json!({ "claim": claim, "requiredValue": value })).collect();
    let mut mappings = json!({ "username": { "claim": oidc.username_claim, "prefix": oidc.username_prefix } });
    if let (Some(claim), Some(mappings)) = (&oidc.groups_claim, mappings.as_object_mut()) {
        mappings.insert("groups".to_owned(), json!({ "claim": claim, "prefix": oidc.groups_prefix }));
    }
    let mut issuer = json!({ "url": oidc.issuer_url, "audiences": [oidc.client_id] });
    if let (Some(authority), Some(issuer)) = (&oidc.certificate_authority, issuer.as_object_mut()) {
        issuer.insert("certificateAuthority".to_owned(), Value::from(authority.as_str()));
    }
    json!({ "issuer": issuer, "claimValidationRules": required, "claimMappings": mappings })
}

/// Nobody can take a certificate back, so who was removed is denied by identity. The webhook is asked only about those: its
/// answer is always no, and so is its silence.
fn authorization(settings: Settings<'_>) -> Value {
    let mut authorizers = Vec::new();
    if !settings.removed.is_empty() {
        authorizers.push(json!({
            "type": "Webhook",
            "name": "removed-nodes",
            "webhook": {
                "timeout": "3s",
                "subjectAccessReviewVersion": "v1",
                "matchConditionSubjectAccessReviewVersion": "v1",
                "failurePolicy": "Deny",
                "authorizedTTL": "1s",
                "unauthorizedTTL": "5m",
                "connectionInfo": {
                    "type": "KubeConfigFile",
                    "kubeConfigFile": settings.file(COMPONENT, "denial.json"),
                },
                "matchConditions": [{ "expression": format!("request.uid in {}", json!(settings.removed)) }],
            },
        }));
    }
    authorizers.push(json!({ "type": "Node", "name": "node" }));
    authorizers.push(json!({ "type": "RBAC", "name": "rbac" }));
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AuthorizationConfiguration",
        "authorizers": authorizers,
    })
}

/// Where the webhook answers: this node's own API.
fn denial(settings: Settings<'_>) -> Value {
    let server = format!("https://127.0.0.1:{}{}", keelson_api::PORT, keelson_api::paths::DENIALS);
    let cluster = json!({ "server": server, "certificate-authority": settings.file(COMPONENT, "api-ca.crt") });
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "denial", "cluster": cluster }],
        "contexts": [{ "name": "denial", "context": { "cluster": "denial", "user": "" } }],
        "current-context": "denial",
    })
}

/// Pods below the baseline standard are admitted with a warning: a namespace's own labels decide otherwise.
fn admission() -> Value {
    let defaults = json!({
        "enforce": "privileged", "enforce-version": "latest",
        "audit": "baseline", "audit-version": "latest",
        "warn": "baseline", "warn-version": "latest",
    });
    let pod_security = json!({
        "apiVersion": "pod-security.admission.config.k8s.io/v1",
        "kind": "PodSecurityConfiguration",
        "defaults": defaults,
        "exemptions": { "usernames": [], "runtimeClasses": [], "namespaces": ["kube-system"] },
    });
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AdmissionConfiguration",
        "plugins": [{ "name": "PodSecurity", "configuration": pod_security }],
    })
}
