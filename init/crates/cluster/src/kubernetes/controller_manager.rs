//! kube-controller-manager: loopback only, under its own account, and with the one signing key it needs.

use keelson_config::Component;
use keelson_control::{Account, Condition, Readiness, ServiceName};
use keelson_pki::{AuthorityKind, kubeconfig};

use super::{
    API_SERVER_URL, CIPHER_SUITES, ComponentFile, Flags, KubernetesError, Settings, TLS_MIN_VERSION, Wanted, service,
};
use crate::accounts;

const COMPONENT: Component = Component::KubeControllerManager;

pub(super) fn wanted(settings: Settings<'_>) -> Result<Wanted, KubernetesError> {
    let authorities = &settings.membership.authorities;
    let file = |name: &str| settings.file(COMPONENT, name);
    let kubeconfig = kubeconfig::for_component(API_SERVER_URL, &file("serving-ca.crt"), &file("client.pem"));
    let requests =
        String::from_utf8_lossy(&authorities.get(AuthorityKind::KubernetesRequests).pair().to_file()).into_owned();
    let files = vec![
        ComponentFile::settings("kubeconfig", &kubeconfig)?,
        ComponentFile::certificate(
            "serving-ca.crt",
            authorities.get(AuthorityKind::KubernetesServing).certificate_pem(),
        ),
        ComponentFile::certificate("requests-ca.pem", requests),
    ];
    let mut spec = service(COMPONENT, &files, flags(settings).with_extra(settings, COMPONENT))?;
    spec.account = Account::id(accounts::KUBE_CONTROLLER_MANAGER);
    spec.conditions = vec![Condition::FileExists(settings.paths.apiserver_ready())];
    spec.stop_before = vec![ServiceName::new("kube-apiserver")?];
    spec.readiness = Readiness::Tcp(([127, 0, 0, 1], 10257).into());
    spec.limits.oom_score_adj = Some(-997);
    Ok(Wanted { component: COMPONENT, files, spec })
}

fn flags(settings: Settings<'_>) -> Flags {
    let file = |name: &str| settings.file(COMPONENT, name);
    let cluster = &settings.config.cluster;
    let mut flags = Flags::default();
    flags
        .path("kubeconfig", &file("kubeconfig"))
        .path("authentication-kubeconfig", &file("kubeconfig"))
        .path("authorization-kubeconfig", &file("kubeconfig"))
        .set("bind-address", "127.0.0.1")
        .path("tls-cert-file", &file("serving.pem"))
        .path("tls-private-key-file", &file("serving.pem"))
        .set("tls-min-version", TLS_MIN_VERSION)
        .set("tls-cipher-suites", CIPHER_SUITES.join(","))
        .path("root-ca-file", &file("serving-ca.crt"))
        .path("cluster-signing-kube-apiserver-client-cert-file", &file("requests-ca.pem"))
        .path("cluster-signing-kube-apiserver-client-key-file", &file("requests-ca.pem"))
        // A certificate cannot be taken back, so none lives for long.
        .set("cluster-signing-duration", "720h")
        .set("use-service-account-credentials", "true")
        .set("allocate-node-cidrs", "true")
        .set("cluster-cidr", cluster.pod_cidr.to_string())
        .set("service-cluster-ip-range", cluster.service_cidr.to_string())
        .path("flex-volume-plugin-dir", &settings.paths.at(super::kubelet::VOLUME_PLUGIN_DIRECTORY))
        .set("profiling", "false");
    super::leader_election(&mut flags);
    flags
}
