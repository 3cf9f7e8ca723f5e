//! Every endpoint for every kind of caller: a table of what is expected and what is found.

use std::sync::Arc;

use keelson_api::{
    NODES, OPERATORS,
    openapi::{Access, Method, OPERATIONS, Operation},
    paths,
};
use keelson_cluster::registry::{Change, NodeRecord, OperatorRecord, RemovedRecord, records::OperatorRemoval};
use keelson_config::Role;
use keelson_pki::{Authority, AuthorityKind, Clock, Names, Profile, Subject};
use rcgen::{CertificateParams, KeyPair};
use rustls::version::TLS12;
use time::{Duration, OffsetDateTime};

use super::{
    caller::{Identity, ask, ask_locally, identity, stream},
    fixture::{Fixture, OPERATOR},
};

/// How a caller shows itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Shown {
    Nothing,
    /// Of an authority that this node has never seen, with an operator's names.
    Foreign,
    /// Of the node's own authority for Kubernetes' clients, with an operator's names: another door's key.
    OtherDoor,
    /// An operator's of yesterday.
    Expired,
    /// An operator's names, for a server.
    ForServers,
    /// The node's own certificate for serving.
    Serving,
    /// A client of the right authority in another organization.
    OtherOrganization,
    /// A client of the right authority whose name, not organization, is that of the operators.
    NamedLikeOperators,
    /// A member's.
    Node,
    /// One of a node that was removed.
    RemovedNode,
    /// A node's organization, without the identity that goes with it.
    NodeWithoutIdentity,
    /// An operator's whose keys were removed after it was obtained.
    RemovedOperator,
    /// An operator's, obtained with a key that was removed since; another one is there.
    FormerKey,
    /// An operator's that does not say by which key it was obtained.
    OperatorWithoutKey,
    Operator,
}

const ALL: [Shown; 15] = [
    Shown::Nothing,
    Shown::Foreign,
    Shown::OtherDoor,
    Shown::Expired,
    Shown::ForServers,
    Shown::Serving,
    Shown::OtherOrganization,
    Shown::NamedLikeOperators,
    Shown::Node,
    Shown::RemovedNode,
    Shown::NodeWithoutIdentity,
    Shown::RemovedOperator,
    Shown::FormerKey,
    Shown::OperatorWithoutKey,
    Shown::Operator,
];

/// What comes of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    /// No HTTP is spoken.
    NoConnection,
    Status(u16),
}

fn operator() -> Subject {
    Subject::named(OPERATOR).organization(OPERATORS).uid(KEY)
}

fn identity_of(fixture: &Fixture, shown: Shown) -> Option<Identity> {
    let member = fixture.member();
    let (api, clock) = (member.authority(AuthorityKind::Api).expect("a control plane"), fixture.node.clock());
    let client = Profile::client(operator());
    let issue = |authority: &Authority, profile: &Profile, clock: Clock| {
        Some(identity(&authority.issue(profile, clock).expect("a certificate")))
    };
    match shown {
        Shown::Nothing => None,
        Shown::Foreign => {
            issue(&Authority::create(AuthorityKind::Api, "other", clock).expect("an authority"), &client, clock)
        }
        Shown::OtherDoor => {
            issue(member.authority(AuthorityKind::KubernetesClient).expect("a control plane"), &client, clock)
        }
        Shown::Expired => {
            let past = OffsetDateTime::now_utc() - Duration::days(2);
            issue(api, &client.life(Duration::DAY), Clock { now: past, floor: past })
        }
        Shown::ForServers => issue(api, &Profile::server(operator(), Names::loopback()), clock),
        Shown::Serving => Some(identity(&member.api_serving().borrow())),
        Shown::OtherOrganization => {
            issue(api, &Profile::client(Subject::named(OPERATOR).organization("system:masters")), clock)
        }
        Shown::NamedLikeOperators => issue(api, &Profile::client(Subject::named(OPERATORS)), clock),
        Shown::Node => issue(api, &Profile::client(node().uid(MEMBER)), clock),
        Shown::RemovedNode => issue(api, &Profile::client(node().uid(REMOVED)), clock),
        Shown::NodeWithoutIdentity => issue(api, &Profile::client(node()), clock),
        Shown::RemovedOperator => {
            let subject = Subject::named(REMOVED_OPERATOR).organization(OPERATORS).uid(REMOVED_KEY);
            issue(api, &Profile::client(subject), clock)
        }
        Shown::FormerKey => issue(api, &Profile::client(operator().uid(FORMER_KEY)), clock),
        Shown::OperatorWithoutKey => {
            issue(api, &Profile::client(Subject::named(OPERATOR).organization(OPERATORS)), clock)
        }
        Shown::Operator => issue(api, &client, clock),
    }
}

const REMOVED_OPERATOR: &str = "eve";
const REMOVED_KEY: &str = "0123456789abcdef";
const KEY: &str = "00000000000000aa";
const FORMER_KEY: &str = "00000000000000bb";
const MEMBER: &str = "uid-of-the-member";
const REMOVED: &str = "uid-of-one-that-was-removed";

fn node() -> Subject {
    Subject::named("keelson:node:w1").organization(NODES)
}

/// A member of that name, one that had it before, and an operator who is none any more.
async fn record_members(fixture: &Fixture) {
    let member = NodeRecord {
        version: 1,
        name: "w1".to_owned(),
        uid: MEMBER.to_owned(),
        role: Role::Worker,
        addresses: vec!["192.0.2.7".to_owned()],
        key: None,
        hardware: None,
        signing_key: None,
        token: None,
        joined: 0,
        generations: None,
    };
    let former = NodeRecord { uid: REMOVED.to_owned(), ..member.clone() };
    let removed = RemovedRecord::of(&former, 0, OPERATOR.to_owned());
    let operator = |id: &str, name: &str, is_removed: bool| OperatorRecord {
        version: 1,
        id: id.to_owned(),
        name: name.to_owned(),
        public_key: format!("the key {id}"),
        added: 0,
        added_by: OPERATOR.to_owned(),
        removed: is_removed.then(|| OperatorRemoval { at: 0, by: OPERATOR.to_owned() }),
    };
    let operators = [(REMOVED_KEY, REMOVED_OPERATOR, true), (FORMER_KEY, OPERATOR, true), (KEY, OPERATOR, false)];
    let change = Change::default().put(&member).expect("a record").put(&removed).expect("a record");
    let change = operators
        .into_iter()
        .fold(change, |change, (id, name, is_removed)| change.put(&operator(id, name, is_removed)).expect("a record"));
    assert!(fixture.registry.commit(change).await.expect("written"));
    fixture.registry.refresh().await.expect("read");
}

fn expected(shown: Shown, operation: &Operation) -> Outcome {
    // The way to a certificate is open, and an empty object proves nothing.
    let proofs = [paths::OPERATOR_CERTIFICATE, paths::JOIN, paths::NODE_CERTIFICATES];
    let open = if proofs.contains(&operation.path) { 400 } else { 200 };
    match (shown, operation.access) {
        (Shown::Foreign | Shown::OtherDoor | Shown::Expired | Shown::ForServers | Shown::Serving, _) => {
            Outcome::NoConnection
        }
        // There is nobody of that name.
        (Shown::Operator, _)
            if [paths::NODE_REMOVAL, paths::OPERATOR, paths::NODE_CONFIGURATION].contains(&operation.path) =>
        {
            Outcome::Status(404)
        }
        // A worker has no store.
        (Shown::Node, Access::Node) if operation.path == paths::NODE_STORE_MEMBER => Outcome::Status(400),
        (_, Access::Public) | (Shown::Operator, Access::Operator) | (Shown::Node, Access::Node) => {
            Outcome::Status(open)
        }
        (Shown::RemovedNode, Access::Node) => Outcome::Status(410),
        _ => Outcome::Status(401),
    }
}

fn request_of(operation: &Operation) -> (String, String) {
    let path = operation
        .path
        .replace("nodes/{name}", "nodes/w9")
        .replace("features/{name}", "features/dns")
        .replace("{name}", "kubelet")
        .replace("{number}", "1")
        .replace("{id}", "0123456789abcdef");
    let body = match (operation.method, operation.path) {
        (Method::Get | Method::Delete, _) => String::new(),
        (Method::Post, paths::KUBECONFIG) => serde_json::json!({ "csr": csr() }).to_string(),
        (Method::Post, paths::OPERATORS) => {
            let public = super::credentials::Operator::new().public;
            serde_json::json!({ "name": "bea", "publicKey": public }).to_string()
        }
        (Method::Post, paths::TOKENS) => serde_json::json!({ "role": "worker" }).to_string(),
        (Method::Post, _) => "{}".to_owned(),
        (Method::Put, _) => {
            let document = serde_json::json!({ "apiVersion": "keelson.dev/v1alpha1", "kind": "NodeConfiguration" });
            serde_json::json!({ "revision": 0, "document": document }).to_string()
        }
    };
    (path, body)
}

fn csr() -> String {
    let key = KeyPair::generate().expect("a key");
    CertificateParams::default().serialize_request(&key).expect("a request").pem().expect("text")
}

#[tokio::test]
async fn each_caller_gets_what_is_its_and_nothing_else() {
    let fixture = Fixture::start(&super::credentials::Operator::new().public);
    fixture.log("kubelet", "a line");
    record_members(&fixture).await;
    let mut wrong = 0;
    println!("{:<20} {:<42} {:<13} found", "shown", "operation", "expected");
    for shown in ALL {
        for operation in OPERATIONS {
            let expected = expected(shown, operation);
            let (path, body) = request_of(operation);
            let identity = identity_of(&fixture, shown);
            let orders_before = fixture.orders.lock().expect("no panic").len();
            let found = match ask(&fixture, identity, operation.method.name(), &path, &body).await {
                Some(answer) => Outcome::Status(answer.status),
                None => Outcome::NoConnection,
            };
            let orders = fixture.orders.lock().expect("no panic").len() - orders_before;
            let may_order = shown == Shown::Operator && [paths::REBOOT, paths::POWER_OFF].contains(&operation.path);
            let right = found == expected && orders == usize::from(may_order);
            wrong += usize::from(!right);
            let row = format!("{} {}", operation.method.name(), operation.path);
            let mark = if right { "" } else { "   <-- WRONG" };
            println!("{:<20} {row:<42} {:<13} {found:?}{mark}", format!("{shown:?}"), format!("{expected:?}"));
        }
    }
    assert_eq!(wrong, 0, "see the table");
    assert_eq!(ALL.len() * OPERATIONS.len(), 615, "a row was lost");
}

#[tokio::test]
async fn a_stranger_does_not_learn_what_exists() {
    let fixture = Fixture::start(&super::credentials::Operator::new().public);
    for (method, path) in [("GET", "/v1/status"), ("GET", "/nothing"), ("DELETE", "/v1/nodes"), ("GET", "/v1/reboot")] {
        let answer = ask(&fixture, None, method, path, "").await.expect("an answer");
        assert_eq!(answer.status, 401, "{method} {path}");
        assert_eq!(answer.refusal().0, "unauthenticated");
    }
    let operator = || identity_of(&fixture, Shown::Operator);
    let answer = ask(&fixture, operator(), "GET", "/nothing", "").await.expect("an answer");
    assert_eq!((answer.status, answer.refusal().0.as_str()), (404, "notFound"));
    let answer = ask(&fixture, operator(), "DELETE", "/v1/nodes", "").await.expect("an answer");
    assert_eq!((answer.status, answer.refusal().0.as_str()), (405, "methodNotAllowed"));
}

#[tokio::test]
async fn older_tls_is_not_spoken() {
    let fixture = Fixture::start(&super::credentials::Operator::new().public);
    ask(&fixture, None, "GET", paths::AUTHORITY, "").await.expect("TLS 1.3 is spoken");
    assert!(stream(&fixture, None, &[&TLS12], "GET", paths::AUTHORITY, "").await.is_none());
}

#[tokio::test]
async fn a_certificate_that_expires_during_a_connection_is_refused() {
    use keelson_cluster::api_server::caller::Caller;

    let fixture = Fixture::start(&super::credentials::Operator::new().public);
    let (chain, _) = identity_of(&fixture, Shown::Operator).expect("a certificate");
    let caller = Caller::from_certificate(chain.first(), fixture.address.ip());
    let now = OffsetDateTime::now_utc();
    assert_eq!(caller.authorized(now), Some(OPERATOR));
    assert_eq!(caller.authorized(now + Duration::days(30)), None);
}

#[tokio::test]
async fn root_on_the_node_needs_no_certificate_and_gets_its_answers_before_there_is_a_cluster() {
    let fixture = Fixture::start_without_cluster(&super::credentials::Operator::new().public);
    let answer = ask_locally(&fixture.socket, "GET", paths::STATUS, "").await;
    assert_eq!(answer.status, 200);
    assert_eq!((answer.json()["phase"].as_str(), answer.json()["ready"].as_bool()), (Some("starting"), Some(false)));
    let answer = ask_locally(&fixture.socket, "GET", paths::AUTHORITY, "").await;
    assert_eq!((answer.status, answer.refusal().0.as_str()), (503, "unavailable"));
    fixture.found_cluster();
    let answer = ask_locally(&fixture.socket, "GET", paths::AUTHORITY, "").await;
    assert_eq!(answer.status, 200);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&fixture.socket).expect("a socket").permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_renewed_certificate_is_served_from_the_next_connection_on() {
    let fixture = Fixture::start(&super::credentials::Operator::new().public);
    ask(&fixture, None, "GET", paths::AUTHORITY, "").await.expect("an answer");
    let member = fixture.member();
    let authority = member.authority(AuthorityKind::Api).expect("a control plane");
    // A certificate without the address by which this test calls: the client must notice.
    let profile = Profile::server(Subject::named("first"), Names::default().with_dns(["elsewhere".to_owned()]));
    member.set_api_serving(Arc::new(authority.issue(&profile, fixture.node.clock()).expect("a certificate")));
    assert!(ask(&fixture, None, "GET", paths::AUTHORITY, "").await.is_none(), "the old certificate is still served");
    member.set_api_serving(Arc::new(super::fixture::serving(authority, fixture.node.clock())));
    ask(&fixture, None, "GET", paths::AUTHORITY, "").await.expect("an answer");
}
