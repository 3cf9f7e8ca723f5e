//! First hit wins, field by field, by the precedence of the sources. Where two sources have the same rank (two
//! documents in SMBIOS strings, say) the one given first wins.

use crate::raw::{RawConfig, Said};

/// Merges what the sources said. Each field keeps the source it was taken from.
pub fn merge(statements: impl IntoIterator<Item = RawConfig>) -> RawConfig {
    statements.into_iter().fold(RawConfig::default(), both)
}

fn first<T>(a: Option<Said<T>>, b: Option<Said<T>>) -> Option<Said<T>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.source.precedence() < a.source.precedence() { b } else { a }),
        (a, b) => a.or(b),
    }
}

/// Written out, so that a new field cannot be forgotten here.
fn both(a: RawConfig, b: RawConfig) -> RawConfig {
    RawConfig {
        role: first(a.role, b.role),
        name: first(a.name, b.name),
        token: first(a.token, b.token),
        bootstrap: first(a.bootstrap, b.bootstrap),
        peers: first(a.peers, b.peers),
        operator_keys: first(a.operator_keys, b.operator_keys),
        state: first(a.state, b.state),
        ntp: first(a.ntp, b.ntp),
        links: first(a.links, b.links),
        nameservers: first(a.nameservers, b.nameservers),
        search: first(a.search, b.search),
        vlans: first(a.vlans, b.vlans),
        bonds: first(a.bonds, b.bonds),
        routes: first(a.routes, b.routes),
        node_subnets: first(a.node_subnets, b.node_subnets),
        pod_cidr: first(a.pod_cidr, b.pod_cidr),
        service_cidr: first(a.service_cidr, b.service_cidr),
        cluster_domain: first(a.cluster_domain, b.cluster_domain),
        dns_address: first(a.dns_address, b.dns_address),
        extra_sans: first(a.extra_sans, b.extra_sans),
        virtual_address: first(a.virtual_address, b.virtual_address),
        labels: first(a.labels, b.labels),
        taints: first(a.taints, b.taints),
        extra_arguments: first(a.extra_arguments, b.extra_arguments),
        sysctls: first(a.sysctls, b.sysctls),
        registry_mirrors: first(a.registry_mirrors, b.registry_mirrors),
        registry_credentials: first(a.registry_credentials, b.registry_credentials),
        trusted_certificates: first(a.trusted_certificates, b.trusted_certificates),
        http_proxy: first(a.http_proxy, b.http_proxy),
        oidc: first(a.oidc, b.oidc),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Origin, Scope, Source};

    fn role(value: &str, source: Source) -> RawConfig {
        RawConfig { role: Some(Said::new(value.to_owned(), source)), ..RawConfig::default() }
    }

    #[test]
    fn the_source_decides_and_not_the_order_of_reading() {
        let sources = [
            Source::word(Origin::CommandLine),
            Source::document(Origin::CommandLine, "spec.role"),
            Source::document(Origin::Cluster(Scope::Node), "spec.role"),
            Source::document(Origin::Cluster(Scope::Cluster), "spec.role"),
            Source::word(Origin::Esp("role".into())),
            Source::word(Origin::Smbios(7)),
            Source::document(Origin::Smbios(1), "spec.role"),
            Source::word(Origin::FwCfg("opt/keelson/role".into())),
            Source::word(Origin::NoCloud("user-data".into())),
            Source::word(Origin::Vsock),
            Source::word(Origin::Http("https://x".into())),
            Source::word(Origin::Metadata("ec2".into())),
            Source::word(Origin::State),
        ];
        for (index, higher) in sources.iter().enumerate() {
            for lower in &sources[index + 1..] {
                let (a, b) = (role("a", higher.clone()), role("b", lower.clone()));
                assert_eq!(merge([a.clone(), b.clone()]).role, a.role, "{higher} before {lower}");
                assert_eq!(merge([b, a.clone()]).role, a.role, "{higher} before {lower}");
            }
        }
    }

    #[test]
    fn among_equals_the_first_wins_and_fields_are_apart() {
        let first = role("a", Source::document(Origin::Smbios(1), "spec.role"));
        let mut second = role("b", Source::document(Origin::Smbios(2), "spec.role"));
        second.name = Some(Said::new("n".to_owned(), Source::document(Origin::Smbios(2), "spec.name")));
        let merged = merge([first.clone(), second.clone()]);
        assert_eq!(merged.role, first.role);
        assert_eq!(merged.name, second.name);
    }
}
