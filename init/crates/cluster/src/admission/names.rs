//! Which names a node may have.
//!
//! A node's name stands in its certificates, and kubelet's are signed by the authority that API servers are believed by:
//! a node called `kubernetes.default.svc` could be one.

use keelson_config::ClusterConfig;

/// `hostname-override` and labels take no more.
const NAME_MAX: usize = 63;

/// What is wrong with the name, if anything is.
pub(super) fn problem(name: &str, cluster: &ClusterConfig) -> Option<&'static str> {
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(inner)
    };
    if name.is_empty() || name.len() > NAME_MAX || !name.split('.').all(label) {
        return Some("a name has lower-case letters, digits, hyphens and dots, at most 63");
    }
    if name.parse::<std::net::IpAddr>().is_ok() || name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Some("it looks like an address");
    }
    let domain = &cluster.cluster_domain;
    let within = |zone: &str| name == zone || name.strip_suffix(zone).is_some_and(|rest| rest.ends_with('.'));
    let reserved = ["kubernetes", "kubernetes.default", "localhost"].contains(&name)
        || ["svc", domain.as_str(), "localhost"].into_iter().any(within)
        || cluster.extra_sans.iter().any(|san| covers(san, name));
    reserved.then_some("the name belongs to the API server or to the cluster's services")
}

/// Whether a subject alternative name, which may begin with `*.`, is good for the name.
fn covers(san: &str, name: &str) -> bool {
    match san.strip_prefix("*.") {
        Some(zone) => name.split_once('.').is_some_and(|(_, rest)| rest == zone),
        None => san.eq_ignore_ascii_case(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_cannot_have_a_name_of_the_api_server() {
        let mut cluster = ClusterConfig::default();
        cluster.extra_sans = vec!["api.example".to_owned(), "*.apps.example".to_owned()];
        for good in ["w1", "keelson-0d1e2f3a", "a.b-c.example", "kubernetes-1", "example"] {
            assert_eq!(problem(good, &cluster), None, "{good}");
        }
        for bad in [
            "",
            "W1",
            "a_b",
            "-a",
            "a-",
            "a..b",
            "a/b",
            "10.0.0.1",
            "127.1",
            "1",
            "localhost",
            "a.localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "anything.cluster.local",
            "api.example",
            "x.apps.example",
            &"a".repeat(64),
        ] {
            assert!(problem(bad, &cluster).is_some(), "{bad}");
        }
    }
}
