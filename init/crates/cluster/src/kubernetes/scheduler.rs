//! kube-scheduler: loopback only, under its own account.

use keelson_config::Component;
use keelson_control::{Account, Condition, Readiness, ServiceName};
use keelson_pki::{AuthorityKind, kubeconfig};

use super::{
    API_SERVER_URL, CIPHER_SUITES, ComponentFile, Flags, KubernetesError, Settings, TLS_MIN_VERSION, Wanted, service,
};
use crate::accounts;

const COMPONENT: Component = Component::KubeScheduler;

pub(super) fn wanted(settings: Settings<'_>) -> Result<Wanted, KubernetesError> {
    let file = |name: &str| settings.file(COMPONENT, name);
    let authority = settings.membership.authorities.get(AuthorityKind::KubernetesServing).certificate_pem();
    let kubeconfig = kubeconfig::for_component(API_SERVER_URL, &file("serving-ca.crt"), &file("client.pem"));
    let files = vec![
        ComponentFile::settings("kubeconfig", &kubeconfig)?,
        ComponentFile::certificate("serving-ca.crt", authority),
    ];
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
        .set("profiling", "false");
    super::leader_election(&mut flags);
    let mut spec = service(COMPONENT, &files, flags.with_extra(settings, COMPONENT))?;
    spec.account = Account::id(accounts::KUBE_SCHEDULER);
    spec.conditions = vec![Condition::FileExists(settings.paths.apiserver_ready())];
    spec.stop_before = vec![ServiceName::new("kube-apiserver")?];
    spec.readiness = Readiness::Tcp(([127, 0, 0, 1], 10259).into());
    spec.limits.oom_score_adj = Some(-997);
    Ok(Wanted { component: COMPONENT, files, spec })
}
