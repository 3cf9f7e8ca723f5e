//! What concerns Kubernetes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::error::shown;
use crate::node::{
    ClusterConfig, Component, HttpProxy, Oidc, Ranges, RangesError, RegistryMirror, Taint, TaintEffect, host,
};
use crate::raw::{RawConfig, RawTaint, Said};
use crate::resolve::check::Checker;
use crate::resolve::{syntax, virtual_address};
use crate::source::Source;

/// A node gets a /24 (IPv4) or /64 (IPv6) of the pod network, and the controller manager bounds the number of nodes
/// to 16 bits.
const POD_CIDR: Form = Form {
    field: "podCIDR",
    allowed: "NETWORK/LENGTH, the length 8 to 24 (IPv4) or 48 to 64 (IPv6); or one of each, with a comma between",
    ipv4: 8..=24,
    ipv6: 48..=64,
};
/// kube-apiserver allows 20 bits of IPv4 services; the DNS address is the tenth, which needs 4 bits.
const SERVICE_CIDR: Form = Form {
    field: "serviceCIDR",
    allowed: "NETWORK/LENGTH, the length 12 to 28 (IPv4) or 64 to 124 (IPv6); or one of each, with a comma between",
    ipv4: 12..=28,
    ipv6: 64..=124,
};
/// The DNS service's place in the service network, where kubeadm has it too.
const DNS_HOST: u32 = 10;

pub(super) fn cluster(check: &mut Checker, raw: &RawConfig) -> ClusterConfig {
    let default = ClusterConfig::default();
    let pod_cidr = ranges(check, raw.pod_cidr.as_ref(), &POD_CIDR).unwrap_or(default.pod_cidr);
    let service_cidr = ranges(check, raw.service_cidr.as_ref(), &SERVICE_CIDR).unwrap_or(default.service_cidr);
    same_families(check, raw, pod_cidr, service_cidr);
    let domain = raw
        .cluster_domain
        .as_ref()
        .and_then(|said| check.text(said, "domain", syntax::is_domain, syntax::DOMAIN))
        .unwrap_or(default.cluster_domain);
    ClusterConfig {
        pod_cidr,
        service_cidr,
        cluster_domain: domain,
        dns_address: dns_address(check, raw.dns_address.as_ref(), service_cidr.first()),
        extra_sans: check.each(raw.extra_sans.as_ref(), "extraSANs", syntax::HOST, |text| {
            syntax::is_host(text.strip_prefix("*.").unwrap_or(text)).then(|| text.to_owned())
        }),
        virtual_address: virtual_address::parse(check, raw, pod_cidr, service_cidr),
        extra_arguments: extra_arguments(check, raw.extra_arguments.as_ref()),
        oidc: oidc(check, raw.oidc.as_ref()),
    }
}

/// What one of the cluster's networks may be.
struct Form {
    field: &'static str,
    allowed: &'static str,
    /// Lengths of prefixes.
    ipv4: RangeInclusive<u8>,
    ipv6: RangeInclusive<u8>,
}

impl Form {
    fn admits(&self, range: IpNet) -> bool {
        let lengths = if range.addr().is_ipv4() { &self.ipv4 } else { &self.ipv6 };
        range.addr() == range.network() && lengths.contains(&range.prefix_len())
    }
}

fn ranges(check: &mut Checker, said: Option<&Said<String>>, form: &Form) -> Option<Ranges> {
    let Said { value, source } = said?;
    let problem = match value.parse::<Ranges>() {
        Ok(ranges) if ranges.all().all(|range| form.admits(range)) => return Some(ranges),
        Err(error @ (RangesError::SameFamily(..) | RangesError::TooMany)) => error.to_string(),
        Ok(_) | Err(RangesError::Form(_)) => format!("{} is not valid", shown(value)),
    };
    check.fault(source, form.field, problem, form.allowed);
    None
}

/// A pod of either family needs Services of that family, and the first one's is that of the nodes' own addresses.
fn same_families(check: &mut Checker, raw: &RawConfig, pods: Ranges, services: Ranges) {
    if pods.has_families_of(&services) {
        return;
    }
    if let Some(source) = raw.pod_cidr.as_ref().or(raw.service_cidr.as_ref()).map(|said| &said.source) {
        let problem = format!("pods have {pods} and services {services}");
        let allowed = "podCIDR and serviceCIDR of the same families, in the same order";
        check.fault(source, "podCIDR", problem, allowed);
    }
}

fn dns_address(check: &mut Checker, said: Option<&Said<String>>, services: IpNet) -> IpAddr {
    let tenth = host(services, DNS_HOST);
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
