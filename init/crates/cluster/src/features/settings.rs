//! What operators have said of features, and what they may say. No record says what the default is.

use std::net::IpAddr;

use keelson_api::FeatureSetting;
use keelson_config::ClusterConfig;

use crate::node::Member;
use crate::registry::{FeatureRecord, View};

/// The scheduler puts one on a node; more than a few serve nobody better.
const REPLICAS_MAX: u64 = 100;
/// As many as CoreDNS forwards to.
const UPSTREAMS_MAX: usize = 15;
/// Without any.
const NONE: &str = "none";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureName {
    Dns,
    Network,
}

impl FeatureName {
    pub const ALL: [Self; 2] = [Self::Dns, Self::Network];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Network => "network",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|feature| feature.as_str() == name)
    }

    fn settings(self) -> &'static [Setting] {
        match self {
            Self::Dns => &DNS,
            Self::Network => &[],
        }
    }

    /// As it is until somebody says otherwise.
    pub fn default_record(self) -> FeatureRecord {
        FeatureRecord { version: 1, name: self.as_str().to_owned(), enabled: true, settings: [].into() }
    }

    pub fn record(self, view: &View) -> FeatureRecord {
        view.features.get(self.as_str()).cloned().unwrap_or_else(|| self.default_record())
    }

    /// A setting's value in the form in which it is kept, or what is wrong with it.
    pub fn check(self, name: &str, value: &str, cluster: &ClusterConfig) -> Result<String, String> {
        let Some(setting) = self.settings().iter().find(|setting| setting.name == name) else {
            let names: Vec<_> = self.settings().iter().map(|setting| setting.name).collect();
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(format!("{} has no such setting; there are: {there}", self.as_str()));
        };
        (setting.read)(value, cluster).ok_or_else(|| format!("{value:?} is not {}", setting.form))
    }

    /// For operators to read.
    pub fn describe(self, record: &FeatureRecord) -> Vec<FeatureSetting> {
        let describe = |setting: &Setting| FeatureSetting {
            name: setting.name.to_owned(),
            value: record.settings.get(setting.name).cloned(),
            default: setting.default.to_owned(),
            form: setting.form.to_owned(),
        };
        self.settings().iter().map(describe).collect()
    }
}

struct Setting {
    name: &'static str,
    default: &'static str,
    form: &'static str,
    read: fn(&str, &ClusterConfig) -> Option<String>,
}

const DNS: [Setting; 2] = [
    Setting {
        name: "replicas",
        default: "one, and two as soon as two nodes are ready",
        form: "a number from 1 to 100",
        read: |text, _| replicas(text).map(|replicas| replicas.to_string()),
    },
    Setting {
        name: "upstream",
        default: "the resolvers that the control planes have",
        form: "at most 15 addresses of resolvers, by commas, none of them a loopback or the cluster's own DNS; or none",
        read: |text, cluster| {
            let addresses = upstream(text)?;
            let usable = |address: &IpAddr| !address.is_loopback() && *address != cluster.dns_address;
            addresses.iter().all(usable).then(|| upstream_text(&addresses))
        },
    },
];

fn replicas(text: &str) -> Option<u64> {
    text.parse().ok().filter(|replicas| (1..=REPLICAS_MAX).contains(replicas))
}

fn upstream(text: &str) -> Option<Vec<IpAddr>> {
    if text == NONE {
        return Some(Vec::new());
    }
    let addresses: Option<Vec<IpAddr>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
    addresses.filter(|addresses| addresses.len() <= UPSTREAMS_MAX)
}

fn upstream_text(addresses: &[IpAddr]) -> String {
    match addresses {
        [] => NONE.to_owned(),
        addresses => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    }
}

/// What is wanted of DNS; what is `None` follows from the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    pub enabled: bool,
    pub replicas: Option<u64>,
    pub upstream: Option<Vec<IpAddr>>,
}

impl Dns {
    pub fn of(view: &View) -> Self {
        let record = FeatureName::Dns.record(view);
        let said = |name: &str| record.settings.get(name).map(String::as_str);
        Self {
            enabled: record.enabled,
            replicas: said("replicas").and_then(replicas),
            upstream: said("upstream").and_then(upstream),
        }
    }
}

/// Whether the node's pods are on the cluster's own network; `None` as long as a control plane has not read the records.
pub fn has_pod_network(member: &Member) -> Option<bool> {
    if let Some(worker) = &member.worker {
        return Some(worker.settings_now().pod_network);
    }
    let view = member.registry.as_ref()?.view_now()?;
    Some(FeatureName::Network.record(&view).enabled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(enabled: bool, settings: &[(&str, &str)]) -> View {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let record = FeatureRecord { enabled, settings, ..FeatureName::Dns.default_record() };
        View { features: [("dns".to_owned(), record)].into(), ..View::default() }
    }

    #[test]
    fn what_nobody_said_follows_from_the_cluster() {
        let default = Dns { enabled: true, replicas: None, upstream: None };
        assert_eq!(Dns::of(&View::default()), default);
        assert_eq!(Dns::of(&view(true, &[])), default);
        assert!(FeatureName::Network.record(&View::default()).enabled);
        // What a later release has written and this one does not know.
        assert_eq!(Dns::of(&view(true, &[("replicas", "many"), ("cache", "5")])), default);
    }

    #[test]
    fn settings_are_kept_in_one_form_and_read_as_they_were_kept() {
        let cluster = ClusterConfig::default();
        let check = |name, value| FeatureName::Dns.check(name, value, &cluster);
        assert_eq!(check("replicas", "03").as_deref(), Ok("3"));
        assert_eq!(check("upstream", "9.9.9.9, 2620:FE::fe").as_deref(), Ok("9.9.9.9,2620:fe::fe"));
        assert_eq!(check("upstream", "none").as_deref(), Ok("none"));
        let said = Dns::of(&view(false, &[("replicas", "3"), ("upstream", "9.9.9.9,2620:fe::fe")]));
        let upstream = vec!["9.9.9.9".parse().unwrap(), "2620:fe::fe".parse().unwrap()];
        assert_eq!(said, Dns { enabled: false, replicas: Some(3), upstream: Some(upstream) });
        assert_eq!(Dns::of(&view(true, &[("upstream", "none")])).upstream, Some(Vec::new()));
    }

    #[test]
    fn what_is_no_value_is_refused_with_what_is_one() {
        let cluster = ClusterConfig::default();
        for (name, value) in [
            ("replicas", "0"),
            ("replicas", "101"),
            ("replicas", "-1"),
            ("replicas", ""),
            ("upstream", ""),
            ("upstream", "dns.example"),
            ("upstream", "127.0.0.53"),
            ("upstream", "10.96.0.10"),
            ("upstream", &["192.0.2.1"; 16].join(",")),
        ] {
            let problem = FeatureName::Dns.check(name, value, &cluster).unwrap_err();
            assert!(problem.contains("is not a"), "{name}={value}: {problem}");
        }
        assert!(FeatureName::Dns.check("address", "1", &cluster).unwrap_err().contains("replicas, upstream"));
        assert!(FeatureName::Network.check("mtu", "1", &cluster).unwrap_err().ends_with("there are: none"));
    }
}
