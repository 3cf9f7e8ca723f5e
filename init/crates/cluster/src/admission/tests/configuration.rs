//! What operators say of the cluster and of its nodes: what is written, what is not, and who hears of it.

use keelson_api::{EventKind, ScopeConfigurationChange, ScopeConfigurationRequest};
use serde_json::{Value, json};

use super::*;
use crate::registry::ConfigurationRecord;

async fn say(
    cluster: &Cluster,
    node: Option<&str>,
    revision: i64,
    spec: Value,
) -> Result<ScopeConfigurationChange, AdmissionError> {
    let document = json!({ "apiVersion": "keelson.dev/v1alpha1", "kind": "NodeConfiguration", "spec": spec });
    let request = ScopeConfigurationRequest { revision, document };
    cluster.admission().set_configuration(node, &request, "ann").await
}

async fn with_worker() -> (Cluster, Joined) {
    let cluster = Cluster::new();
    cluster.record_own().await;
    let joined = cluster.join(&Machine::new("w1", 7), &cluster.token(|_| {}).await).await.unwrap();
    (cluster, joined)
}

async fn events(cluster: &Cluster) -> Vec<(Option<String>, String)> {
    let list = crate::events::list(&cluster.registry, None).await.unwrap().events;
    let changes = list.into_iter().filter(|event| event.kind == EventKind::ConfigurationChanged);
    changes.map(|event| (event.node, event.message)).collect()
}

#[tokio::test]
async fn what_is_said_is_kept_told_once_and_what_is_so_already_changes_nothing() {
    let (cluster, _) = with_worker().await;
    let spec = json!({ "timeServers": ["time.example"], "node": { "labels": { "rack": "r7" } } });
    let said = say(&cluster, Some("w1"), 0, spec.clone()).await.unwrap();
    assert_eq!((said.configuration.spec.clone(), said.configuration.node.as_deref()), (spec.clone(), Some("w1")));
    assert_eq!(said.changed, ["spec.timeServers", "spec.node.labels"]);
    assert_eq!(said.waiting, ["spec.timeServers"]);
    assert_eq!(said.configuration, cluster.admission().configuration(Some("w1")).await.unwrap());
    assert_eq!(said.configuration.changed_by.as_deref(), Some("ann"));
    // Also of one who has not seen the last change: it is as he wants it.
    let again = say(&cluster, Some("w1"), 0, spec).await.unwrap();
    assert_eq!((again.configuration, again.changed.len()), (said.configuration, 0));
    let message = "the settings of w1 were changed: spec.timeServers, spec.node.labels".to_owned();
    assert_eq!(events(&cluster).await, [(Some("w1".to_owned()), message)]);
}

#[tokio::test]
async fn who_has_not_seen_the_last_change_does_not_undo_it() {
    let (cluster, _) = with_worker().await;
    let servers = |name: &str| json!({ "timeServers": [name] });
    let first = say(&cluster, None, 0, servers("a")).await.unwrap().configuration;
    let second = say(&cluster, None, first.revision, servers("b")).await.unwrap().configuration;
    let late = say(&cluster, None, first.revision, servers("c")).await;
    assert!(matches!(late, Err(AdmissionError::Outdated)), "{late:?}");
    let (one, other) = tokio::join!(
        say(&cluster, None, second.revision, servers("d")),
        say(&cluster, None, second.revision, servers("e"))
    );
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
}

#[tokio::test]
async fn what_says_nothing_leaves_no_record() {
    let (cluster, _) = with_worker().await;
    let said = say(&cluster, None, 0, json!({ "timeServers": ["a"] })).await.unwrap().configuration;
    let nothing = say(&cluster, None, said.revision, json!({ "node": {} })).await.unwrap();
    assert_eq!((nothing.configuration.revision, nothing.changed), (0, vec!["spec.timeServers".to_owned()]));
    assert!(cluster.registry.list::<ConfigurationRecord>().await.unwrap().is_empty());
}

#[tokio::test]
async fn one_fault_keeps_all_of_it_from_being_written() {
    let (cluster, _) = with_worker().await;
    let spec = json!({ "timeServers": ["time.example"], "role": "worker", "node": { "labels": { "a b": "c" } } });
    let Err(AdmissionError::Configuration(errors)) = say(&cluster, None, 0, spec).await else { panic!("accepted") };
    let mut places: Vec<_> = errors.0.iter().map(keelson_config::ConfigError::place).collect();
    places.sort_unstable();
    assert_eq!(places, ["spec.node.labels.a b", "spec.role"]);
    let taken = say(&cluster, None, 0, json!({ "cluster": { "virtualAddress": "192.0.2.7" } })).await;
    assert!(
        matches!(&taken, Err(AdmissionError::Field { field: "spec.cluster.virtualAddress", problem })
            if problem == "192.0.2.7 is an address of the node w1"),
        "{taken:?}"
    );
    assert!(cluster.registry.list::<ConfigurationRecord>().await.unwrap().is_empty());
    assert!(events(&cluster).await.is_empty());
}

#[tokio::test]
async fn no_worker_is_where_clients_look_for_an_api_server() {
    let (mut cluster, joined) = with_worker().await;
    cluster.registry.refresh().await.unwrap();
    for san in ["w1", "192.0.2.7", "::ffff:192.0.2.77", "192.0.2.1"] {
        let said = say(&cluster, None, 0, json!({ "cluster": { "extraSANs": ["api.example", san] } })).await;
        let refused = ["w1", "192.0.2.7"].contains(&san);
        assert_eq!(
            matches!(&said, Err(AdmissionError::Field { field: "spec.cluster.extraSANs", problem })
                if *problem == format!("{san} is a name or an address of the worker w1")),
            refused,
            "{said:?}"
        );
        if refused {
            continue;
        }
        let revision = said.unwrap().configuration.revision;
        say(&cluster, None, revision, json!({})).await.unwrap();
    }
    cluster.settings.extra_sans = vec!["192.0.2.50".to_owned()];
    let machine = Machine::new("w2", 50);
    let error = cluster.join(&machine, &cluster.token(|_| {}).await).await.expect_err("an address of the API server");
    assert!(matches!(error, AdmissionError::ApiServerAddress(_)), "{error:?}");
    let record = cluster.registry.get::<NodeRecord>("w1").await.unwrap().unwrap();
    let error = cluster.admission().readdress(&record, machine.address, &[]).await.expect_err("it moves there");
    assert!(matches!(error, AdmissionError::ApiServerAddress(_)), "{error:?}");
    assert_eq!(record.value.uid, joined.node_uid);
}

#[tokio::test]
async fn a_node_that_joins_is_told_and_one_that_is_there_hears_of_it() {
    let (cluster, first) = with_worker().await;
    say(&cluster, None, 0, json!({ "timeServers": ["a"] })).await.unwrap();
    say(&cluster, Some("w1"), 0, json!({ "timeServers": ["b"] })).await.unwrap();
    cluster.registry.refresh().await.unwrap();
    let told = cluster.admission().settings_of("w1", &first.node_uid).await.unwrap().configuration.unwrap();
    assert_eq!(
        (told.node, told.cluster),
        (Some(json!({ "timeServers": ["b"] })), Some(json!({ "timeServers": ["a"] })))
    );
    let second = cluster.join(&Machine::new("w2", 8), &cluster.token(|_| {}).await).await.unwrap();
    let told = second.settings.configuration.unwrap();
    assert_eq!((told.node, told.cluster), (None, Some(json!({ "timeServers": ["a"] }))));
}

#[tokio::test]
async fn what_was_said_of_a_node_goes_with_it_and_of_a_stranger_nothing_is_said() {
    let (cluster, _) = with_worker().await;
    say(&cluster, Some("w1"), 0, json!({ "timeServers": ["a"] })).await.unwrap();
    say(&cluster, None, 0, json!({ "timeServers": ["b"] })).await.unwrap();
    cluster.admission().remove("w1", "ann", SAFELY).await.unwrap();
    let left: Vec<_> = cluster
        .registry
        .list::<ConfigurationRecord>()
        .await
        .unwrap()
        .into_iter()
        .map(|stored| stored.value.id)
        .collect();
    assert_eq!(left, ["cluster"]);
    // A node may have the name of the other scope.
    for name in ["w1", "cluster"] {
        let error = say(&cluster, Some(name), 0, json!({ "timeServers": ["a"] })).await.unwrap_err();
        assert!(matches!(&error, AdmissionError::NoNode { name: stranger } if stranger == name), "{error:?}");
        assert!(cluster.admission().configuration(Some(name)).await.is_err());
    }
}
