//! What concerns Kubernetes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use crate::error::shown;
use crate::node::{ClusterConfig, Component, HttpProxy, Oidc, RegistryMirror, Taint, TaintEffect};
use crate::raw::{RawConfig, RawTaint, Said};
use crate::resolve::check::Checker;
use crate::resolve::{syntax, virtual_address};
use crate::source::Source;

/// A node gets a /24 (IPv4) or /64 (IPv6) of the pod network, and the controller manager bounds the number of nodes
/// to 16 bits.
const POD_CIDR: &str = "NETWORK/LENGTH, the length 8 to 24 (IPv4) or 48 to 64 (IPv6)";
/// kube-apiserver allows 20 bits of IPv4 services; the DNS address is the tenth, which needs 4 bits.
const SERVICE_CIDR: &str = "NETWORK/LENGTH, the length 12 to 28 (IPv4) or 64 to 124 (IPv6)";
/// The DNS service's place in the service network, where kubeadm has it too.
const DNS_HOST: u32 = 10;

pub(super) fn cluster(check: &mut Checker, raw: &RawConfig) -> ClusterConfig {
    let default = ClusterConfig::default();
    let in_range = |v4: std::ops::RangeInclusive<u8>, v6: std::ops::RangeInclusive<u8>| {
        move |text: &str| {
            syntax::cidr(text).filter(|net| match net {
                IpNet::V4(net) => v4.contains(&net.prefix_len()),
                IpNet::V6(net) => v6.contains(&net.prefix_len()),
            })
        }
    };
    let pod_cidr = raw
        .pod_cidr
        .as_ref()
        .and_then(|said| check.parsed(&said.source, "podCIDR", &said.value, POD_CIDR, in_range(8..=24, 48..=64)));
    let service_cidr = raw.service_cidr.as_ref().and_then(|said| {
        check.parsed(&said.source, "serviceCIDR", &said.value, SERVICE_CIDR, in_range(12..=28, 64..=124))
    });
    let pod_cidr = pod_cidr.unwrap_or(default.pod_cidr);
    let service_cidr = service_cidr.unwrap_or(default.service_cidr);
    one_family(check, raw, pod_cidr, service_cidr);
    let domain = raw
        .cluster_domain
        .as_ref()
        .and_then(|said| check.text(said, "domain", syntax::is_domain, syntax::DOMAIN))
        .unwrap_or(default.cluster_domain);
    ClusterConfig {
        pod_cidr,
        service_cidr,
        cluster_domain: domain,
        dns_address: dns_address(check, raw.dns_address.as_ref(), service_cidr),
        extra_sans: check.each(raw.extra_sans.as_ref(), "extraSANs", syntax::HOST, |text| {
            syntax::is_host(text.strip_prefix("*.").unwrap_or(text)).then(|| text.to_owned())
        }),
        virtual_address: virtual_address::parse(check, raw, pod_cidr, service_cidr),
        extra_arguments: extra_arguments(check, raw.extra_arguments.as_ref()),
        oidc: oidc(check, raw.oidc.as_ref()),
    }
}

fn one_family(check: &mut Checker, raw: &RawConfig, pods: IpNet, services: IpNet) {
    let both_v4 = matches!((pods, services), (IpNet::V4(_), IpNet::V4(_)));
    let both_v6 = matches!((pods, services), (IpNet::V6(_), IpNet::V6(_)));
    if both_v4 || both_v6 {
        return;
    }
    if let Some(source) = raw.pod_cidr.as_ref().or(raw.service_cidr.as_ref()).map(|said| &said.source) {
        let problem = format!("pods have {pods} and services {services}");
        check.fault(source, "podCIDR", problem, "both IPv4 or both IPv6");
    }
}

fn dns_address(check: &mut Checker, said: Option<&Said<String>>, services: IpNet) -> IpAddr {
    let tenth = match services.network() {
        IpAddr::V4(network) => IpAddr::V4((u32::from(network) | DNS_HOST).into()),
        IpAddr::V6(network) => IpAddr::V6(Ipv6Addr::from(u128::from(network) | u128::from(DNS_HOST))),
    };
    let Some(said) = said else { return tenth };
    let inside = |text: &str| {
        text.parse::<IpAddr>().ok().filter(|address| {
            // The first address is the API server's, the last of IPv4 its broadcast.
            services.contains(address) && *address != services.network() && *address != services.broadcast()
        })
    };
    let form = format!("an address of the service network {services}");
    check.parsed(&said.source, "dnsAddress", &said.value, &form, inside).unwrap_or(tenth)
}

fn extra_arguments(
    check: &mut Checker,
    said: Option<&Said<BTreeMap<String, BTreeMap<String, String>>>>,
) -> BTreeMap<Component, BTreeMap<String, String>> {
    let mut arguments = BTreeMap::new();
    let Some(said) = said else { return arguments };
    for (name, flags) in &said.value {
        let source = said.source.part(&format!(".{name}"));
        let component = Component::ALL.into_iter().find(|component| component.as_str() == name);
        let Some(component) = component else {
            let allowed = Component::ALL.map(Component::as_str).join(", ");
            check.fault(&source, "extraArguments", format!("{} is no component", shown(name)), &allowed);
            continue;
        };
        for (flag, value) in flags {
            if !syntax::is_flag_name(flag) {
                let form = "the flag's name, without dashes before it";
                check.fault(
                    &source.part(&format!(".{flag}")),
                    "extraArguments",
                    format!("{} is no flag", shown(flag)),
                    form,
                );
            }
            if value.contains('\0') {
                let source = source.part(&format!(".{flag}"));
                check.fault(&source, "extraArguments", "the value has a NUL in it", "text");
            }
        }
        arguments.insert(component, flags.clone());
    }
    arguments
}

fn oidc(check: &mut Checker, said: Option<&Said<Oidc>>) -> Option<Oidc> {
    let Said { value, source } = said?;
    if !value.issuer_url.starts_with("https://") || !syntax::is_url(&value.issuer_url) {
        // The URL is not shown: it may carry a password.
        check.fault(&source.part(".issuerURL"), "oidc", "it is not valid", "https://HOST[/PATH]");
    }
    if value.client_id.is_empty() {
        check.fault(&source.part(".clientID"), "oidc", "it is missing", "the client's id at the issuer");
    }
    if value.certificate_authority.as_ref().is_some_and(|pem| !syntax::is_certificate(pem)) {
        let source = source.part(".certificateAuthority");
        check.fault(&source, "oidc", "it is not a certificate", "PEM, BEGIN to END CERTIFICATE");
    }
    Some(value.clone())
}

pub(super) fn labels(check: &mut Checker, said: Option<&Said<BTreeMap<String, String>>>) -> BTreeMap<String, String> {
    let Some(said) = said else { return BTreeMap::new() };
    for (key, value) in &said.value {
        label(check, &said.source.part(&format!(".{key}")), "labels", key, value);
    }
    said.value.clone()
}

fn label(check: &mut Checker, source: &Source, field: &str, key: &str, value: &str) {
    if !syntax::is_label_key(key) {
        check.fault(source, field, format!("{} is no key", shown(key)), syntax::LABEL_KEY);
    }
    if !syntax::is_label_value(value) {
        check.fault(source, field, format!("{} is no value", shown(value)), syntax::LABEL_VALUE);
    }
}

pub(super) fn taints(check: &mut Checker, said: Option<&Said<Vec<RawTaint>>>) -> Option<Vec<Taint>> {
    let said = said?;
    let mut taints = Vec::new();
    for (index, taint) in said.value.iter().enumerate() {
        let source = said.source.part(&format!("[{index}]"));
        label(check, &source, "taints", &taint.key, &taint.value);
        let effect = check.parsed(
            &source.part(".effect"),
            "taints",
            &taint.effect,
            "NoSchedule, PreferNoSchedule or NoExecute",
            |text| match text {
                "NoSchedule" => Some(TaintEffect::NoSchedule),
                "PreferNoSchedule" => Some(TaintEffect::PreferNoSchedule),
                "NoExecute" => Some(TaintEffect::NoExecute),
                _ => None,
            },
        );
        taints.extend(effect.map(|effect| Taint { key: taint.key.clone(), value: taint.value.clone(), effect }));
    }
    Some(taints)
}

pub(super) fn mirrors(check: &mut Checker, said: Option<&Said<Vec<RegistryMirror>>>) -> Vec<RegistryMirror> {
    let Some(said) = said else { return Vec::new() };
    for (index, mirror) in said.value.iter().enumerate() {
        let source = said.source.part(&format!("[{index}]"));
        if !syntax::is_host_with_port(&mirror.registry) {
            let problem = format!("{} is no registry", shown(&mirror.registry));
            check.fault(&source.part(".registry"), "mirrors", problem, "HOST[:PORT], as images name it");
        }
        if mirror.endpoints.is_empty() {
            check.fault(&source.part(".endpoints"), "mirrors", "there is none", "at least one URL");
        }
        for (index, _) in mirror.endpoints.iter().enumerate().filter(|(_, endpoint)| !syntax::is_url(endpoint)) {
            let source = source.part(&format!(".endpoints[{index}]"));
            // The URL is not shown: it may carry a password.
            check.fault(&source, "mirrors", "it is not valid", syntax::URL);
        }
    }
    said.value.clone()
}

pub(super) fn http_proxy(check: &mut Checker, said: Option<&Said<HttpProxy>>) -> Option<HttpProxy> {
    let Said { value, source } = said?;
    for (part, url) in [(".http", &value.http), (".https", &value.https)] {
        if let Some(url) = url
            && !syntax::is_url(url)
        {
            // The URL is not shown: it may carry a password.
            check.fault(&source.part(part), "httpProxy", "it is not valid", syntax::URL);
        }
    }
    for (index, entry) in value.no_proxy.iter().enumerate() {
        let host = entry.trim_start_matches("*.").trim_start_matches('.');
        if !syntax::is_host_with_port(host) && entry.parse::<IpNet>().is_err() {
            let source = source.part(&format!(".noProxy[{index}]"));
            check.fault(
                &source,
                "httpProxy",
                format!("{} is not valid", shown(entry)),
                "a host, a .DOMAIN or a network",
            );
        }
    }
    Some(value.clone())
}
