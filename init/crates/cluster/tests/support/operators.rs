//! Operators by the cluster's records: who is added obtains a certificate, who is removed does not.

use keelson_api::{OperatorEntry, OperatorList, paths};
use serde_json::json;

use super::{
    caller::{Answer, ask, ask_locally},
    credentials::{Operator, greedy_request, identity, post},
    fixture::{Fixture, OPERATOR},
};

async fn obtain(fixture: &Fixture, operator: &Operator) -> Answer {
    post(fixture, &operator.request(fixture, &greedy_request().1).await).await
}

async fn add(fixture: &Fixture, name: &str, operator: &Operator) -> OperatorEntry {
    let body = json!({ "name": name, "publicKey": operator.public }).to_string();
    let answer = ask_locally(&fixture.socket, "POST", paths::OPERATORS, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    serde_json::from_str(&answer.text).expect("an operator")
}

async fn remove(fixture: &Fixture, name: &str) -> Answer {
    ask_locally(&fixture.socket, "DELETE", &paths::operator(name), "").await
}

#[tokio::test]
async fn an_added_operator_obtains_a_certificate_in_that_name() {
    let fixture = Fixture::start(&Operator::new().public);
    let bea = Operator::new();
    assert_eq!(obtain(&fixture, &bea).await.status, 401);
    let entry = add(&fixture, "bea", &bea).await;
    assert_eq!((entry.name.as_str(), entry.added_by.as_str()), ("bea", "root"));
    let answer = obtain(&fixture, &bea).await;
    assert_eq!((answer.status, answer.json()["operator"].as_str()), (200, Some("bea")));
    let list = ask_locally(&fixture.socket, "GET", paths::OPERATORS, "").await;
    let list: OperatorList = serde_json::from_str(&list.text).expect("a list");
    assert_eq!(list.operators, [entry]);
}

#[tokio::test]
async fn a_removed_operator_obtains_none_and_the_last_certificate_opens_nothing() {
    let (ann, bea) = (Operator::new(), Operator::new());
    let fixture = Fixture::start(&ann.public);
    // As a start does it with the configured key.
    add(&fixture, OPERATOR, &ann).await;
    let (key, csr) = greedy_request();
    let answer = post(&fixture, &ann.request(&fixture, &csr).await).await.json();
    let certificate = || identity(answer["certificate"].as_str().expect("a certificate"), &key);
    assert_eq!(ask(&fixture, Some(certificate()), "GET", paths::STATUS, "").await.expect("an answer").status, 200);

    let unknown = remove(&fixture, "ann?x").await;
    assert!(unknown.status == 404 && unknown.text.contains("ann?x"), "{}", unknown.text);
    let refused = remove(&fixture, OPERATOR).await;
    assert_eq!((refused.status, refused.refusal()), (409, ("conflict".to_owned(), "name".to_owned())));
    add(&fixture, "bea", &bea).await;
    assert_eq!(remove(&fixture, OPERATOR).await.status, 200);
    assert_eq!(obtain(&fixture, &ann).await.status, 401, "the configuration brings the key back");
    assert_eq!(ask(&fixture, Some(certificate()), "GET", paths::STATUS, "").await.expect("an answer").status, 401);
    assert_eq!(obtain(&fixture, &bea).await.status, 200);
    assert_eq!(remove(&fixture, OPERATOR).await.refusal().0, "notFound");
}

#[tokio::test]
async fn a_removed_key_opens_nothing_though_its_operator_has_another() {
    let (stolen, other) = (Operator::new(), Operator::new());
    let fixture = Fixture::start(&Operator::new().public);
    let first = add(&fixture, "bea", &stolen).await;
    let (key, csr) = greedy_request();
    let answer = post(&fixture, &stolen.request(&fixture, &csr).await).await.json();
    let certificate = || identity(answer["certificate"].as_str().expect("a certificate"), &key);
    add(&fixture, "bea", &other).await;
    assert_eq!(ask(&fixture, Some(certificate()), "GET", paths::STATUS, "").await.expect("an answer").status, 200);
    assert_eq!(remove(&fixture, &first.id).await.status, 200);
    assert_eq!(ask(&fixture, Some(certificate()), "GET", paths::STATUS, "").await.expect("an answer").status, 401);
    assert_eq!(obtain(&fixture, &other).await.status, 200);
}

#[tokio::test]
async fn what_is_wrong_with_a_new_operator_is_told_by_field() {
    let fixture = Fixture::start(&Operator::new().public);
    let bea = Operator::new();
    add(&fixture, "bea", &bea).await;
    for (body, field) in [
        (json!({ "name": "b b", "publicKey": bea.public }), "name"),
        (json!({ "name": "cid", "publicKey": "AAAA" }), "publicKey"),
        (json!({ "name": "cid", "publicKey": bea.public, "admin": true }), "admin"),
    ] {
        let answer = ask_locally(&fixture.socket, "POST", paths::OPERATORS, &body.to_string()).await;
        assert_eq!((answer.status, answer.refusal().1.as_str()), (400, field), "{}", answer.text);
    }
    let taken = json!({ "name": "cid", "publicKey": bea.public }).to_string();
    let answer = ask_locally(&fixture.socket, "POST", paths::OPERATORS, &taken).await;
    assert_eq!((answer.status, answer.refusal().1.as_str()), (409, "publicKey"), "{}", answer.text);
}
