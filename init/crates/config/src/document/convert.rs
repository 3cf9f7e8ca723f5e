//! From the document's types to the common form, each value with the path it stood at.

use std::collections::BTreeMap;

use crate::document::spec;
use crate::node::{HttpProxy, Oidc, RegistryMirror};
use crate::raw::{RawAddressing, RawBond, RawConfig, RawLink, RawOperatorKey, RawRoute, RawTaint, RawVlan, Said};
use crate::secret::{RegistryCredential, Secret};
use crate::source::{Origin, Source};

pub(super) fn raw(spec: spec::Spec, origin: &Origin) -> RawConfig {
    let at = At(origin);
    let spec::Spec { network, node, cluster, registries, .. } = spec;
    RawConfig {
        role: at.said("spec.role", spec.role),
        name: at.said("spec.name", spec.name),
        token: at.said("spec.token", spec.token),
        bootstrap: at.said("spec.bootstrap", spec.bootstrap.map(|asked| asked.to_string())),
        peers: at.said("spec.peers", spec.peers),
        operator_keys: at.list("spec.operatorKeys", spec.operator_keys, operator_key),
        state: at.said("spec.state", spec.state),
        ntp: at.said("spec.timeServers", spec.time_servers),
        links: at.list("spec.network.links", network.links, link),
        nameservers: at.said("spec.network.nameservers", network.nameservers),
        search: at.said("spec.network.search", network.search),
        vlans: at.list("spec.network.vlans", network.vlans, vlan),
        bonds: at.list("spec.network.bonds", network.bonds, bond),
        routes: at.list("spec.network.routes", network.routes, route),
        node_subnets: at.said("spec.network.nodeSubnets", network.node_subnets),
        labels: at.said("spec.node.labels", node.labels),
        taints: at.said("spec.node.taints", node.taints.map(|taints| taints.into_iter().map(taint).collect())),
        sysctls: at.said("spec.node.sysctls", node.sysctls),
        pod_cidr: at.said("spec.cluster.podCIDR", cluster.pod_cidr),
        service_cidr: at.said("spec.cluster.serviceCIDR", cluster.service_cidr),
        cluster_domain: at.said("spec.cluster.domain", cluster.domain),
        dns_address: at.said("spec.cluster.dnsAddress", cluster.dns_address),
        extra_sans: at.said("spec.cluster.extraSANs", cluster.extra_sans),
        virtual_address: at.said("spec.cluster.virtualAddress", cluster.virtual_address),
        extra_arguments: at.said("spec.cluster.extraArguments", cluster.extra_arguments),
        oidc: at.said("spec.cluster.oidc", cluster.oidc.map(oidc)),
        registry_mirrors: at.said(
            "spec.registries.mirrors",
            registries.mirrors.map(|mirrors| mirrors.into_iter().map(mirror).collect()),
        ),
        registry_credentials: at.said("spec.registries.credentials", registries.credentials.map(credentials)),
        trusted_certificates: at.said("spec.trustedCertificates", spec.trusted_certificates),
        http_proxy: at.said("spec.httpProxy", spec.http_proxy.map(http_proxy)),
    }
}

struct At<'a>(&'a Origin);

impl At<'_> {
    fn said<T>(&self, path: &str, value: Option<T>) -> Option<Said<T>> {
        value.map(|value| Said::new(value, Source::document(self.0.clone(), path)))
    }

    /// A list whose elements are judged one by one and so each know their path.
    fn list<A, B>(&self, path: &str, values: Option<Vec<A>>, convert: fn(A) -> B) -> Option<Said<Vec<Said<B>>>> {
        let said =
            |(index, value)| Said::new(convert(value), Source::document(self.0.clone(), format!("{path}[{index}]")));
        self.said(path, values.map(|values| values.into_iter().enumerate().map(said).collect()))
    }
}

fn operator_key(key: spec::OperatorKey) -> RawOperatorKey {
    RawOperatorKey { name: key.name, public_key: key.public_key }
}

fn link(link: spec::Link) -> RawLink {
    let addresses = link.addresses.unwrap_or_default();
    let addressing = match link.method.as_deref() {
        None | Some("dhcp") if addresses.is_empty() => RawAddressing::Dhcp,
        None | Some("static") => RawAddressing::Static { addresses, gateway: link.gateway },
        // Addresses beside these methods would be dropped in silence; the validation refuses the method's name instead.
        Some("off") if addresses.is_empty() => RawAddressing::Off,
        Some(method @ ("dhcp" | "off")) => RawAddressing::Unsupported(format!("{method} with addresses")),
        Some(method) => RawAddressing::Unsupported(method.to_owned()),
    };
    RawLink {
        link: link.link.unwrap_or_default(),
        addressing,
        mtu: link.mtu.map(|mtu| mtu.to_string()),
        hostname: None,
        nameservers: link.nameservers.unwrap_or_default(),
        ntp: Vec::new(),
    }
}

fn vlan(vlan: spec::Vlan) -> RawVlan {
    RawVlan { name: vlan.name, parent: vlan.parent, id: vlan.id.map(|id| id.to_string()).unwrap_or_default() }
}

fn route(route: spec::Route) -> RawRoute {
    RawRoute { to: route.to, via: route.via, link: route.link.unwrap_or_default(), metric: route.metric }
}

fn bond(bond: spec::Bond) -> RawBond {
    RawBond {
        name: bond.name,
        members: bond.members.unwrap_or_default(),
        options: bond.options.into_iter().collect(),
        mtu: bond.mtu.map(|mtu| mtu.to_string()),
    }
}

fn taint(taint: spec::Taint) -> RawTaint {
    RawTaint { key: taint.key, value: taint.value, effect: taint.effect }
}

fn mirror(mirror: spec::Mirror) -> RegistryMirror {
    RegistryMirror {
        registry: mirror.registry,
        endpoints: mirror.endpoints.unwrap_or_default(),
        override_path: mirror.override_path,
    }
}

fn credentials(credentials: Vec<spec::Credential>) -> BTreeMap<String, RegistryCredential> {
    let credential = |given: spec::Credential| {
        let password = given.password.unwrap_or_else(|| Secret::new(""));
        (given.registry, RegistryCredential { username: given.username, password })
    };
    credentials.into_iter().map(credential).collect()
}

fn http_proxy(proxy: spec::HttpProxy) -> HttpProxy {
    HttpProxy { http: proxy.http, https: proxy.https, no_proxy: proxy.no_proxy.unwrap_or_default() }
}

/// The defaults are kube-apiserver's own, made explicit.
fn oidc(oidc: spec::Oidc) -> Oidc {
    let username_prefix = oidc.username_prefix.unwrap_or_else(|| format!("{}#", oidc.issuer_url));
    Oidc {
        username_prefix,
        issuer_url: oidc.issuer_url,
        client_id: oidc.client_id,
        username_claim: oidc.username_claim.unwrap_or_else(|| "sub".to_owned()),
        groups_claim: oidc.groups_claim,
        groups_prefix: oidc.groups_prefix.unwrap_or_else(|| "oidc:".to_owned()),
        required_claims: oidc.required_claims,
        certificate_authority: oidc.certificate_authority,
    }
}
