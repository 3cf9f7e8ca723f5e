//! Which names a node may have.
//!
//! A node's name stands in its certificates, and kubelet's are signed by the authority that API servers are believed by:
//! a node called `kubernetes.default.svc` could be one.

use keelson_api::validation::{RESERVED, is_within, node_name_problem};
use keelson_config::ClusterConfig;

/// What is wrong with the name, if anything is.
pub(super) fn problem(name: &str, cluster: &ClusterConfig) -> Option<&'static str> {
    let reserved = || {
        let is_own = is_within(name, &cluster.cluster_domain) || cluster.extra_sans.iter().any(|san| covers(san, name));
        is_own.then_some(RESERVED)
    };
    node_name_problem(name).or_else(reserved)
}

/// Whether a subject alternative name, which may begin with `*.`, is good for the name.
pub(super) fn covers(san: &str, name: &str) -> bool {
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
