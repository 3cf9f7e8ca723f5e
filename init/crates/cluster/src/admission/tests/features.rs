//! Features' settings: what is written, and what is not.

use keelson_api::{EventKind, FeatureChange};

use super::*;
use crate::registry::{FeatureRecord, Stored};

fn set(settings: &[(&str, Option<&str>)]) -> FeatureChange {
    let owned = |(name, value): &(&str, Option<&str>)| ((*name).to_owned(), value.map(str::to_owned));
    FeatureChange { enabled: None, settings: settings.iter().map(owned).collect() }
}

fn enabled(enabled: bool) -> FeatureChange {
    FeatureChange { enabled: Some(enabled), ..FeatureChange::default() }
}

async fn record(cluster: &Cluster) -> Option<Stored<FeatureRecord>> {
    cluster.registry.get("dns").await.unwrap()
}

#[tokio::test]
async fn what_is_so_already_is_not_written() {
    let cluster = Cluster::new();
    let admission = cluster.admission();
    let change = async |change: &FeatureChange| admission.change_feature("dns", change, "ann").await.unwrap();
    for nothing in [FeatureChange::default(), enabled(true), set(&[("replicas", None)])] {
        change(&nothing).await;
        assert_eq!(record(&cluster).await, None, "{nothing:?}");
    }
    change(&set(&[("replicas", Some("3"))])).await;
    let written = record(&cluster).await.unwrap();
    for same in [set(&[("replicas", Some("03"))]), enabled(true), FeatureChange::default()] {
        change(&same).await;
        assert_eq!(record(&cluster).await.unwrap(), written, "{same:?}");
    }
    let events = crate::events::list(&cluster.registry, None).await.unwrap().events;
    assert_eq!((events.len(), events[0].kind), (1, EventKind::FeatureChanged));
    assert_eq!(events[0].message, "the feature dns was changed: replicas set to 3");
}

#[tokio::test]
async fn a_change_leaves_alone_what_it_does_not_name() {
    let cluster = Cluster::new();
    let admission = cluster.admission();
    let change = async |change: &FeatureChange| admission.change_feature("dns", change, "ann").await.unwrap();
    change(&set(&[("replicas", Some("3")), ("upstream", Some("9.9.9.9"))])).await;
    change(&enabled(false)).await;
    change(&set(&[("replicas", None)])).await;
    let FeatureRecord { enabled, settings, .. } = record(&cluster).await.unwrap().value;
    assert!(!enabled);
    assert_eq!(settings.into_iter().collect::<Vec<_>>(), [("upstream".to_owned(), "9.9.9.9".to_owned())]);
}

#[tokio::test]
async fn what_is_no_feature_or_no_setting_is_refused_and_nothing_is_written() {
    let cluster = Cluster::new();
    let admission = cluster.admission();
    let error = admission.change_feature("ingress", &enabled(true), "ann").await.unwrap_err();
    assert!(matches!(&error, AdmissionError::NoFeature { there, .. } if there == "dns, network"), "{error:?}");
    let wrong = set(&[("replicas", Some("2")), ("upstream", Some("nowhere"))]);
    let error = admission.change_feature("dns", &wrong, "ann").await.unwrap_err();
    assert!(matches!(&error, AdmissionError::Setting { name, .. } if name == "upstream"), "{error:?}");
    assert_eq!(record(&cluster).await, None);
}

#[tokio::test]
async fn a_node_that_joins_is_told_of_the_pod_network_and_where_dns_is() {
    let cluster = Cluster::new();
    let first = cluster.join(&Machine::new("w1", 7), &cluster.token(|_| {}).await).await.unwrap();
    assert!(first.settings.pod_network);
    for name in ["dns", "network"] {
        cluster.admission().change_feature(name, &enabled(false), "ann").await.unwrap();
    }
    cluster.registry.refresh().await.unwrap();
    let second = cluster.join(&Machine::new("w2", 8), &cluster.token(|_| {}).await).await.unwrap();
    assert!(!second.settings.pod_network);
    // The address stays the cluster's: whatever answers there, kubelets know it.
    assert_eq!(second.settings.dns_address, first.settings.dns_address);
    let again = cluster.admission().settings_of("w1", &first.node_uid).await.unwrap();
    assert!(!again.pod_network, "a present node hears of it");
}
