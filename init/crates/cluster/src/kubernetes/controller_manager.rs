//! kube-controller-manager: loopback only, under its own account, and with the one signing key it needs.

use keelson_config::Component;
use keelson_pki::AuthorityKind;

use super::{
    ComponentFile, Flags, KubernetesError, Settings, Wanted, client_files, controller_flags, controller_service,
};
use crate::accounts;
use crate::features::pod_network;
use crate::membership::ControlPlane;

const COMPONENT: Component = Component::KubeControllerManager;
const PORT: u16 = 10257;

pub(super) fn wanted(settings: Settings<'_>, held: &ControlPlane) -> Result<Wanted, KubernetesError> {
    let requests = held.authorities.get(AuthorityKind::KubernetesRequests).pair().to_file();
    let mut files = client_files(settings, COMPONENT)?;
    files.push(ComponentFile::certificate("requests-ca.pem", String::from_utf8_lossy(&requests).into_owned()));
    let account = (accounts::KUBE_CONTROLLER_MANAGER, PORT);
    let spec = controller_service(settings, COMPONENT, &files, flags(settings), account)?;
    Ok(Wanted { component: COMPONENT, files, spec })
}

fn flags(settings: Settings<'_>) -> Flags {
    let file = |name: &str| settings.file(COMPONENT, name);
    let cluster = &settings.config.cluster;
    let mut flags = controller_flags(settings, COMPONENT);
    flags
        .path("root-ca-file", &file("serving-ca.crt"))
        .path("cluster-signing-kube-apiserver-client-cert-file", &file("requests-ca.pem"))
        .path("cluster-signing-kube-apiserver-client-key-file", &file("requests-ca.pem"))
        // A certificate cannot be taken back, so none lives for long.
        .set("cluster-signing-duration", "720h")
        .set("use-service-account-credentials", "true")
        .set("allocate-node-cidrs", "true")
        .set("cluster-cidr", cluster.pod_cidr.to_string())
        .set("service-cluster-ip-range", cluster.service_cidr.to_string())
        .path("flex-volume-plugin-dir", &settings.paths.at(super::kubelet::VOLUME_PLUGIN_DIRECTORY));
    // Each family's own; with one family an operator may as well say `node-cidr-mask-size`, which excludes these.
    if cluster.pod_cidr.is_dual() {
        flags
            .set("node-cidr-mask-size-ipv4", pod_network::NODE_PREFIX_IPV4.to_string())
            .set("node-cidr-mask-size-ipv6", pod_network::NODE_PREFIX_IPV6.to_string());
    }
    flags
}
