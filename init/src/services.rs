//! PID 1's own services, a file each: what every node needs before keelson-cluster can hand over the rest.
//!
//! Their arguments are constant. What they are told stands in files below /run/keelson, and when they may start is
//! said by conditions on those files. The one exception is containerd's environment: its HTTP proxy, and whom it believes.

use keelson_config::{NodeConfig, Role};
use keelson_control::{InvalidServiceName, ServiceName, ServiceSpec};

mod cluster;
mod containerd;
mod log;
mod network;
mod proxy;
mod store;

/// The service that reads the others' output.
pub const LOG: &str = "log";
const CLUSTER: &str = "cluster";
const CONTAINERD: &str = "containerd";
const NETWORK: &str = "network";
const PROXY: &str = "proxy";
const STORE: &str = "store";

/// The fixed accounts (`/etc/passwd` in the image has the same).
mod account {
    pub(super) const STORE: u32 = 64001;
    pub(super) const PROXY: u32 = 64002;
    pub(super) const NETWORK: u32 = 64003;
    pub(super) const LOG: u32 = 64007;
}

const MIB: u64 = 1024 * 1024;

/// How long one of ours may be silent. It speaks four times in that time, so a machine that is short of everything may delay three words.
const WATCHDOG_SECONDS: u32 = 60;

/// All of them; the store only where it has a voice. `cluster_networks` are those of [`keelson_config::Remembered`].
pub fn all(node: &NodeConfig, cluster_networks: &[String]) -> Result<Vec<ServiceSpec>, InvalidServiceName> {
    let containerd = containerd::spec(node, cluster_networks)?;
    let mut services = vec![log::spec()?, network::spec()?, containerd, proxy::spec()?, cluster::spec()?];
    if node.role == Role::ControlPlane {
        services.push(store::spec()?);
    }
    Ok(services)
}

fn names(names: &[&str]) -> Result<Vec<ServiceName>, InvalidServiceName> {
    names.iter().map(|name| ServiceName::new(*name)).collect()
}

#[cfg(test)]
mod tests {
    use keelson_control::ServiceSet;

    use super::*;

    fn node(role: &str) -> NodeConfig {
        let inputs = keelson_config::Inputs {
            command_line: format!("keelson.role={role}").into_bytes(),
            ..keelson_config::Inputs::default()
        };
        keelson_config::resolve(&inputs, &keelson_config::Remembered::default()).unwrap().node
    }

    #[test]
    fn containerd_pulls_through_the_proxy_that_was_configured_and_never_for_the_clusters_own_addresses() {
        let environment = |node: &NodeConfig, networks: &[String]| {
            let services = all(node, networks).unwrap();
            services.into_iter().find(|spec| spec.name.as_str() == CONTAINERD).unwrap().environment
        };
        let mut node = node("worker");
        let without = environment(&node, &[]);
        assert_eq!(without.keys().collect::<Vec<_>>(), ["PATH", "SSL_CERT_DIR"]);
        assert_eq!(without["SSL_CERT_DIR"], "/run/keelson/containerd/authorities");
        node.http_proxy = Some(keelson_config::HttpProxy {
            http: None,
            https: Some("http://proxy.example:3128".to_owned()),
            no_proxy: vec![".example".to_owned()],
        });
        let own = environment(&node, &[]);
        assert_eq!(own["HTTPS_PROXY"], "http://proxy.example:3128");
        assert!(!own.contains_key("HTTP_PROXY"));
        let always = ".example,localhost,127.0.0.0/8,::1,.svc";
        assert_eq!(own["NO_PROXY"], format!("{always},10.244.0.0/16,10.96.0.0/16,.cluster.local"));
        // A node that has joined a cluster goes by what it was told.
        let told = ["172.16.0.0/16", "172.17.0.0/16", ".k8s.example"].map(str::to_owned);
        assert_eq!(environment(&node, &told)["NO_PROXY"], format!("{always},{}", told.join(",")));
    }

    #[test]
    fn they_pass_the_checks_that_a_handed_over_set_must_pass() {
        let set = ServiceSet { version: 1, services: all(&node("control-plane"), &[]).unwrap() };
        set.validate(&[]).unwrap();
    }

    #[test]
    fn a_worker_has_no_store() {
        let has_store = |role| all(&node(role), &[]).unwrap().iter().any(|spec| spec.name.as_str() == STORE);
        assert!(has_store("control-plane"));
        assert!(!has_store("worker"));
    }

    /// What was handed over always stops first; an edge in the other direction would be a circle.
    #[test]
    fn they_name_only_each_other() {
        let services = all(&node("control-plane"), &[]).unwrap();
        for spec in &services {
            for needed in spec.needs() {
                assert!(services.iter().any(|other| other.name == *needed), "{} names {needed}", spec.name);
            }
        }
    }

    #[test]
    fn output_is_read_until_the_very_end() {
        let services = all(&node("control-plane"), &[]).unwrap();
        let log = ServiceName::new(LOG).unwrap();
        for spec in services.iter().filter(|spec| spec.name != log) {
            assert!(spec.needs().any(|needed| *needed == log), "{} stops after its log", spec.name);
        }
    }

    #[test]
    fn only_who_makes_containers_has_all_capabilities_and_may_gain_privileges() {
        for spec in all(&node("control-plane"), &[]).unwrap() {
            let makes_containers = spec.name.as_str() == CONTAINERD;
            assert_eq!(spec.capabilities == keelson_control::Capabilities::All, makes_containers, "{}", spec.name);
            assert_eq!(spec.no_new_privs, !makes_containers, "{}", spec.name);
        }
    }

    #[test]
    fn a_daemon_of_ours_that_hangs_is_noticed() {
        for spec in all(&node("control-plane"), &[]).unwrap() {
            // containerd does not say that it lives: keelson-cluster asks it.
            assert_eq!(spec.watchdog().is_some(), spec.name.as_str() != CONTAINERD, "{}", spec.name);
        }
    }

    /// A runaway in one service takes neither the others' process numbers nor their memory.
    #[test]
    fn every_one_is_bounded_in_processes_and_protected_in_memory() {
        for spec in all(&node("control-plane"), &[]).unwrap() {
            assert!(spec.limits.pids_max.is_some(), "{}", spec.name);
            let protected = spec.limits.memory_min_bytes.or(spec.limits.memory_low_bytes);
            assert!(protected.is_some_and(|bytes| bytes > 0), "{}", spec.name);
            assert!(spec.limits.oom_score_adj.is_some_and(|adjustment| adjustment <= -900), "{}", spec.name);
        }
    }
}
