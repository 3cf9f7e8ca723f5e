//! Operators come and go, and one always stays.

use keelson_api::{OperatorEntry, OperatorRequest};
use rcgen::{KeyPair, PublicKeyData as _};

use super::*;
use crate::registry::OperatorRecord;

fn request(name: &str) -> OperatorRequest {
    let public_key = STANDARD.encode(KeyPair::generate().unwrap().subject_public_key_info());
    OperatorRequest { name: name.to_owned(), public_key }
}

async fn add(cluster: &Cluster, request: &OperatorRequest) -> OperatorEntry {
    cluster.admission().add_operator(request, "ann").await.unwrap()
}

async fn names(cluster: &Cluster) -> Vec<String> {
    let list = cluster.admission().list_operators().await.unwrap();
    list.operators.into_iter().map(|entry| entry.name).collect()
}

#[tokio::test]
async fn an_operator_is_removed_with_all_keys_or_one_of_them() {
    let cluster = Cluster::new();
    let admission = cluster.admission();
    let keys = [request("ann"), request("bea"), request("bea"), request("cid")];
    let mut ids = Vec::new();
    for key in &keys {
        ids.push(add(&cluster, key).await.id);
    }
    assert_eq!(names(&cluster).await, ["ann", "bea", "bea", "cid"]);
    let gone = admission.remove_operator("bea", "ann").await.unwrap();
    assert_eq!(gone.operators.len(), 2);
    let gone = admission.remove_operator(&ids[3], "ann").await.unwrap();
    assert_eq!(gone.operators[0].name, "cid");
    assert_eq!(names(&cluster).await, ["ann"]);
    let records = cluster.registry.list::<OperatorRecord>().await.unwrap();
    assert_eq!(records.iter().filter(|stored| stored.value.removed.is_some()).count(), 3, "they are remembered");
    let error = admission.remove_operator("cid", "ann").await.unwrap_err();
    assert!(matches!(error, AdmissionError::NoOperator { .. }), "{error:?}");
}

#[tokio::test]
async fn the_last_one_stays_also_if_two_remove_each_other() {
    let cluster = Cluster::new();
    for name in ["ann", "ann", "bea"] {
        add(&cluster, &request(name)).await;
    }
    let (ann, bea) = (cluster.admission(), cluster.admission());
    let (first, second) = tokio::join!(ann.remove_operator("bea", "ann"), bea.remove_operator("ann", "bea"));
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    let last = &names(&cluster).await[0];
    let error = ann.remove_operator(last, last).await.unwrap_err();
    assert!(matches!(error, AdmissionError::LastOperator { .. }), "{error:?}");
    assert!(!names(&cluster).await.is_empty());
}

#[tokio::test]
async fn what_was_removed_can_be_added_again_and_a_key_has_one_owner() {
    let cluster = Cluster::new();
    let (ann, bea) = (request("ann"), request("bea"));
    add(&cluster, &ann).await;
    let first = add(&cluster, &bea).await;
    assert_eq!(add(&cluster, &bea).await, first, "asked again");
    let stolen = OperatorRequest { name: "eve".to_owned(), ..bea.clone() };
    let error = cluster.admission().add_operator(&stolen, "ann").await.unwrap_err();
    assert!(matches!(&error, AdmissionError::KeyInUse { name } if name == "bea"), "{error:?}");
    cluster.admission().remove_operator("bea", "ann").await.unwrap();
    assert_eq!(add(&cluster, &bea).await.id, first.id);
    assert_eq!(names(&cluster).await, ["ann", "bea"]);
}

#[tokio::test]
async fn what_is_no_name_or_no_key_is_refused_by_field() {
    let cluster = Cluster::new();
    let good = request("ann");
    let named = |name: &str| OperatorRequest { name: name.to_owned(), ..good.clone() };
    let keyed = |key: &str| OperatorRequest { public_key: key.to_owned(), ..good.clone() };
    for (request, expected) in [
        (named(""), "name"),
        (named("a b"), "name"),
        (named("../x"), "name"),
        (named("0123456789abcdef"), "name"),
        (keyed(""), "publicKey"),
        (keyed("AAAA"), "publicKey"),
    ] {
        let error = cluster.admission().add_operator(&request, "ann").await.unwrap_err();
        assert!(matches!(&error, AdmissionError::Field { field, .. } if *field == expected), "{error:?}");
    }
    assert!(names(&cluster).await.is_empty());
}
