//! What concerns the machine itself: how it starts, who may operate it, what it keeps.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::shown;
use crate::node::{OperatorKey, Peers, StateSelection};
use crate::raw::{RawConfig, RawOperatorKey, Said};
use crate::resolve::check::Checker;
use crate::resolve::syntax;
use crate::secret::Secrets;
use crate::source::Source;

/// Longer than any token we make; a file given by mistake is larger.
const TOKEN_MAX: usize = 4096;

/// Set by the kubelet's `protectKernelDefaults` and by PID 1; another value keeps kubelet from starting.
const FIXED_SYSCTLS: [&str; 3] = ["kernel.panic", "kernel.panic_on_oops", "vm.overcommit_memory"];

/// A host name and time servers inside `ip=` stand in where no word of their own says them.
pub(super) fn take_from_links(raw: &mut RawConfig) {
    let Some(links) = &raw.links else { return };
    for link in &links.value {
        if let Some(hostname) = link.value.hostname.as_ref().filter(|_| raw.name.is_none()) {
            raw.name = Some(Said::new(hostname.clone(), link.source.clone()));
        }
        if !link.value.ntp.is_empty() && raw.ntp.is_none() {
            raw.ntp = Some(Said::new(link.value.ntp.clone(), link.source.clone()));
        }
    }
}

pub(super) fn bootstrap(check: &mut Checker, said: Option<&Said<String>>) -> bool {
    let parse = |text: &str| match text {
        "true" | "yes" | "1" => Some(true),
        "false" | "no" | "0" => Some(false),
        _ => None,
    };
    said.and_then(|said| check.parsed(&said.source, "keelson.bootstrap", &said.value, "true or false", parse))
        .unwrap_or(false)
}

pub(super) fn peers(check: &mut Checker, said: Option<&Said<Vec<String>>>) -> Peers {
    const FORM: &str = "none alone, or host names and addresses";
    let Some(list) = said else { return Peers::Unsaid };
    if list.value == ["none"] {
        return Peers::DeclaredNone;
    }
    if list.value.is_empty() {
        check.fault(&list.source, "keelson.peers", "the list is empty", FORM);
    }
    let is_peer = |text: &str| (text != "none" && syntax::is_host_with_port(text)).then(|| text.to_owned());
    Peers::Named(check.each(said, "keelson.peers", FORM, is_peer))
}

pub(super) fn state(check: &mut Checker, said: Option<&Said<String>>) -> StateSelection {
    let parse = |text: &str| match text {
        "auto" => Some(StateSelection::Auto),
        "ram" => Some(StateSelection::Ram),
        _ => text
            .strip_prefix("LABEL=")
            .filter(|label| (1..=16).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_graphic()))
            .map(|label| StateSelection::Label(label.to_owned())),
    };
    said.and_then(|said| {
        check.parsed(
            &said.source,
            "keelson.state",
            &said.value,
            "auto, ram, or LABEL= and at most 16 characters",
            parse,
        )
    })
    .unwrap_or(StateSelection::Auto)
}

pub(super) fn operator_keys(check: &mut Checker, said: Option<&Said<Vec<Said<RawOperatorKey>>>>) -> Vec<OperatorKey> {
    let mut keys: Vec<OperatorKey> = Vec::new();
    for Said { value, source } in said.iter().flat_map(|said| &said.value) {
        let name = value.name.clone().unwrap_or_else(|| "operator".to_owned());
        if !OperatorKey::is_name(&name) {
            check.fault(
                &source.part(".name"),
                "keelson.operator-key",
                format!("{} is no operator's name", shown(&name)),
                OperatorKey::NAME_FORM,
            );
        }
        if !is_p256(&value.public_key) {
            check.fault(
                &source.part(".publicKey"),
                "keelson.operator-key",
                "it is not an ECDSA P-256 public key",
                "[NAME:] and the base64 of its DER SubjectPublicKeyInfo, without line breaks",
            );
        }
        if !keys.iter().any(|key| key.public_key == value.public_key) {
            keys.push(OperatorKey { name, public_key: value.public_key.clone() });
        }
    }
    keys
}

fn is_p256(text: &str) -> bool {
    STANDARD.decode(text).is_ok_and(|der| OperatorKey::is_key(&der))
}

pub(super) fn ntp(check: &mut Checker, said: Option<&Said<Vec<String>>>) -> Vec<String> {
    check.each(said, "keelson.ntp", syntax::HOST, |text| syntax::is_host(text).then(|| text.to_owned()))
}

pub(super) fn sysctls(check: &mut Checker, said: Option<&Said<BTreeMap<String, String>>>) -> BTreeMap<String, String> {
    let mut sysctls = BTreeMap::new();
    let Some(said) = said else { return sysctls };
    for (key, value) in &said.value {
        let source = said.source.part(&format!(".{key}"));
        let dotted = if key.contains('/') { key.replace('/', ".") } else { key.clone() };
        if !syntax::is_sysctl_key(key) {
            check.fault(
                &source,
                "sysctls",
                format!("{} is no sysctl", shown(key)),
                "a path below /proc/sys, with dots or slashes",
            );
        } else if FIXED_SYSCTLS.contains(&dotted.as_str()) {
            check.fault(&source, "sysctls", "kubelet needs the system's own value", "any other sysctl");
        } else if value.is_empty() || value.chars().any(char::is_control) {
            check.fault(&source, "sysctls", format!("{} is no value", shown(value)), "one line of text");
        }
        sysctls.insert(key.clone(), value.clone());
    }
    sysctls
}

pub(super) fn certificates(check: &mut Checker, said: Option<&Said<Vec<String>>>) -> Vec<String> {
    let Some(said) = said else { return Vec::new() };
    for (index, certificate) in said.value.iter().enumerate() {
        if !syntax::is_certificate(certificate) {
            let source = said.source.part(&format!("[{index}]"));
            check.fault(&source, "trustedCertificates", "it is not a certificate", "PEM, BEGIN to END CERTIFICATE");
        }
    }
    said.value.clone()
}

pub(super) fn secrets(check: &mut Checker, raw: &RawConfig) -> Secrets {
    if let Some(Said { value, source }) = &raw.token {
        let token = value.expose();
        if token.is_empty() || token.len() > TOKEN_MAX || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            check.fault(
                source,
                "keelson.token",
                "it cannot be a token (it is not shown)",
                "printable ASCII without blanks",
            );
        }
    }
    if let Some(said) = &raw.registry_credentials {
        for (registry, credential) in &said.value {
            if !syntax::is_host_with_port(registry) {
                check.fault(&said.source, "credentials", format!("{} is no registry", shown(registry)), "HOST[:PORT]");
            }
            if credential.username.is_empty() || credential.password.expose().is_empty() {
                let problem = format!("user name or password for {} is missing", shown(registry));
                check.fault(&said.source, "credentials", problem, "both");
            }
        }
    }
    Secrets {
        token: raw.token.as_ref().map(|said| said.value.clone()),
        registry_credentials: raw.registry_credentials.as_ref().map(|said| said.value.clone()).unwrap_or_default(),
    }
}

/// Where each field that was said was said, under the names that [`crate::NodeConfig`] has for them.
pub(super) fn sources(raw: &RawConfig) -> BTreeMap<String, Source> {
    fn of<T>(said: Option<&Said<T>>) -> Option<&Source> {
        said.map(|said| &said.source)
    }
    let fields = [
        ("role", of(raw.role.as_ref())),
        ("name", of(raw.name.as_ref())),
        ("token", of(raw.token.as_ref())),
        ("bootstrap", of(raw.bootstrap.as_ref())),
        ("peers", of(raw.peers.as_ref())),
        ("operator_keys", of(raw.operator_keys.as_ref())),
        ("state", of(raw.state.as_ref())),
        ("ntp_servers", of(raw.ntp.as_ref())),
        ("network.links", of(raw.links.as_ref())),
        ("network.nameservers", of(raw.nameservers.as_ref())),
        ("network.search", of(raw.search.as_ref())),
        ("network.vlans", of(raw.vlans.as_ref())),
        ("network.bonds", of(raw.bonds.as_ref())),
        ("network.routes", of(raw.routes.as_ref())),
        ("network.node_subnets", of(raw.node_subnets.as_ref())),
        ("labels", of(raw.labels.as_ref())),
        ("taints", of(raw.taints.as_ref())),
        ("sysctls", of(raw.sysctls.as_ref())),
        ("trusted_certificates", of(raw.trusted_certificates.as_ref())),
        ("registry_mirrors", of(raw.registry_mirrors.as_ref())),
        ("registry_credentials", of(raw.registry_credentials.as_ref())),
        ("http_proxy", of(raw.http_proxy.as_ref())),
        ("cluster.pod_cidr", of(raw.pod_cidr.as_ref())),
        ("cluster.service_cidr", of(raw.service_cidr.as_ref())),
        ("cluster.cluster_domain", of(raw.cluster_domain.as_ref())),
        ("cluster.dns_address", of(raw.dns_address.as_ref())),
        ("cluster.extra_sans", of(raw.extra_sans.as_ref())),
        ("cluster.virtual_address", of(raw.virtual_address.as_ref())),
        ("cluster.extra_arguments", of(raw.extra_arguments.as_ref())),
        ("cluster.oidc", of(raw.oidc.as_ref())),
    ];
    fields.into_iter().filter_map(|(name, source)| Some((name.to_owned(), source?.clone()))).collect()
}
