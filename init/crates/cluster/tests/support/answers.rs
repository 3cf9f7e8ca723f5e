//! What the endpoints answer, asked over the unix socket, where no certificate is needed.

use std::{sync::atomic::Ordering, time::Duration};

use http_body_util::BodyExt;
use keelson_api::{EventKind, NODES, paths};
use keelson_control::Request;
use keelson_pki::{AuthorityKind, Pair, Profile, StandardFiles, Subject};
use rustls::version::TLS13;
use serde_json::{Value, json};

use super::{
    caller::{Answer, DEADLINE, Identity, ask, ask_locally, connect, identity, stream},
    credentials::Operator,
    fixture::{BOOT_ID, Fixture, OPERATOR},
};

fn start() -> Fixture {
    Fixture::start(&Operator::new().public)
}

async fn get(fixture: &Fixture, path: &str) -> Answer {
    ask_locally(&fixture.socket, "GET", path, "").await
}

#[tokio::test]
async fn status_says_in_plain_words_why_the_node_is_not_ready() {
    let fixture = start();
    fixture.node.status.fails(keelson_cluster::ConditionKind::Member, "no DHCP server has answered for 40 s");
    let status: keelson_api::Status = serde_json::from_str(&get(&fixture, paths::STATUS).await.text).expect("a status");
    assert_eq!((status.name.as_str(), status.role.as_str(), status.ready), ("first", "control-plane", false));
    assert_eq!(status.first_unmet().map(|unmet| unmet.reason.as_str()), Some("no DHCP server has answered for 40 s"));
    assert_eq!((status.boot_id.as_str(), status.addresses), (BOOT_ID, vec!["192.0.2.10".to_owned()]));
    assert_eq!(status.api_server.as_deref(), Some("https://192.0.2.10:6443"));
    assert!(status.versions.kubernetes.starts_with("v1.") && !status.versions.kernel.is_empty());
    fixture.be_ready();
    let status: keelson_api::Status = serde_json::from_str(&get(&fixture, paths::STATUS).await.text).expect("a status");
    assert!(status.ready && status.first_unmet().is_none());
}

#[tokio::test]
async fn status_and_nodes_say_who_has_the_virtual_address() {
    let fixture = start();
    let status = || async { get(&fixture, paths::STATUS).await.json()["virtualAddress"].clone() };
    let of_node = || async { get(&fixture, paths::NODES).await.json()["nodes"][0]["virtualAddress"].clone() };
    assert_eq!((status().await, of_node().await), (Value::Null, Value::Null));
    let address = "192.0.2.100".parse().expect("an address");
    fixture.give_virtual_address(address, Some("second"));
    assert_eq!(status().await, json!({ "address": "192.0.2.100", "holder": "second", "here": false }));
    assert_eq!(of_node().await, Value::Null);
    fixture.give_virtual_address(address, Some("first"));
    assert_eq!(status().await, json!({ "address": "192.0.2.100", "holder": "first", "here": true }));
    assert_eq!(of_node().await, "192.0.2.100");
    fixture.give_virtual_address(address, None);
    assert_eq!(status().await, json!({ "address": "192.0.2.100", "here": false }));
    assert_eq!(of_node().await, Value::Null);
}

#[tokio::test]
async fn certificates_are_those_that_are_there_with_their_ends_and_renewals() {
    use keelson_cluster::credentials::{self, Circumstances};
    use time::{Duration as Days, OffsetDateTime, format_description::well_known::Rfc3339};

    let fixture = start();
    let list = || async {
        let list = get(&fixture, paths::CERTIFICATES).await;
        serde_json::from_str::<keelson_api::NodeCertificateList>(&list.text).expect("a list").certificates
    };
    let purposes = list().await.into_iter().map(|one| one.purpose).collect::<Vec<_>>();
    assert_eq!(purposes, ["cluster/api-serving"], "before there are files");

    let (member, places) = (fixture.member(), &fixture.node.paths);
    let (cluster, addresses) = (fixture.node.cluster(), fixture.node.addresses());
    let circumstances = Circumstances { identity: &member.identity, cluster: &cluster, addresses: &addresses };
    let authorities = &member.membership.control_plane().expect("a control plane").authorities;
    std::fs::create_dir_all(places.service("store")).expect("made");
    std::fs::create_dir_all(places.service("kubelet")).expect("made");
    let kubelet = circumstances.kubernetes().into_iter().filter(|credential| credential.service == "kubelet");
    let credentials: Vec<_> = circumstances.store().into_iter().chain(kubelet).collect();
    let clock = fixture.node.clock();
    credentials::issue(&StandardFiles, places, authorities, &credentials, clock).expect("issued");
    std::fs::write(places.service("store").join("peer.pem"), "damaged").expect("written");

    let certificates = list().await;
    let purposes: Vec<_> = certificates.iter().map(|one| one.purpose.as_str()).collect();
    assert_eq!(purposes, ["cluster/api-serving", "store/server", "kubelet/client", "kubelet/serving"]);
    let (own, client) = (&certificates[0], &certificates[2]);
    assert_eq!((own.file.as_deref(), own.authority.as_str()), (None, "api"));
    assert_eq!(client.file.as_deref(), Some(places.service("kubelet").join("client.pem").to_str().expect("text")));
    assert_eq!(client.authority, "kubernetes-client");
    assert_eq!(client.subject.common_name, "system:node:first");
    assert_eq!(client.subject.organization.as_deref(), Some("system:nodes"));
    assert_eq!(client.subject.uid.as_deref(), Some(member.identity.node_uid.as_str()));
    let content = std::fs::read(places.service("kubelet").join("client.pem")).expect("a file");
    let validity = Pair::from_file(&content).expect("a pair").validity().expect("a life");
    let text = |time: OffsetDateTime| time.format(&Rfc3339).expect("text");
    assert_eq!((&client.not_before, &client.not_after), (&text(validity.not_before), &text(validity.not_after)));
    assert_eq!(client.renewal, text(validity.not_after - Days::days(7) / 3));
}

#[tokio::test]
async fn services_are_pid_1s_with_their_reasons_and_figures() {
    let fixture = start();
    let list = get(&fixture, paths::SERVICES).await.json();
    let service = |name: &str| {
        let services = list["services"].as_array().expect("a list");
        services.iter().find(|service| service["name"] == name).cloned().expect(name)
    };
    assert_eq!(service("containerd")["state"], "ready");
    assert_eq!(service("containerd")["cpuSeconds"], 1.5);
    assert_eq!(service("kubelet")["reason"], "waits for /run/keelson/cluster/apiserver-ready to exist");
    assert_eq!(service("kube-proxy")["lastExit"], "was killed by SIGKILL 2 s ago");
    assert_eq!(service("kube-proxy")["restarts"], 3);
}

#[tokio::test]
async fn boots_come_newest_first() {
    let fixture = start();
    let list = get(&fixture, paths::BOOTS).await.json();
    assert_eq!(list["boots"][0]["id"], BOOT_ID);
    assert_eq!(list["boots"][0]["current"], true);
    assert_eq!(list["boots"][1]["ended"], "rebooted");
    assert_eq!(list["boots"][1]["started"], "1970-01-01T00:16:40Z");
}

#[tokio::test]
async fn one_boot_is_told_with_its_image_phases_and_what_state_has_of_its_end() {
    let fixture = start();
    let boot = async |number: u64| get(&fixture, &paths::boot(number)).await.json();
    let told = boot(1).await;
    assert_eq!((told["number"].as_u64(), told["ended"].as_str()), (Some(1), Some("rebooted")), "{told}");
    assert_eq!(told["image"], "ab".repeat(32));
    assert_eq!(told["phases"][0], json!({ "name": "disks", "startMilliseconds": 1205, "milliseconds": 340 }));
    assert_eq!((told.get("messages"), told.get("saved")), (None, None), "STATE has nothing of it");

    fixture.keep_messages(1, "[    1.000000] a\n[    2.000000] reboot: Restarting system\n");
    fixture.keep_saved(1, "dmesg-efi_pstore-2", b"Panic#1 Part2\n<6>[ 8.0] b\xff\n");
    fixture.keep_saved(1, "dmesg-efi_pstore-1", b"Panic#1 Part1\n");
    fixture.keep_messages(2, "of another boot of that number");
    let told = boot(1).await;
    assert_eq!(told["messages"], json!(["[    1.000000] a", "[    2.000000] reboot: Restarting system"]));
    let saved = json!([
        { "name": "dmesg-efi_pstore-1", "lines": ["Panic#1 Part1"] },
        { "name": "dmesg-efi_pstore-2", "lines": ["Panic#1 Part2", "<6>[ 8.0] b\u{fffd}"] },
    ]);
    assert_eq!(told["saved"], saved);
    let running = boot(2).await;
    assert_eq!((running["current"].as_bool(), running.get("messages")), (Some(true), None), "{running}");
    serde_json::from_value::<keelson_api::BootDetails>(told).expect("what a client reads");

    fixture.keep_messages(1, &("x".repeat(100_000) + "\nthe last one\n"));
    let told = boot(1).await;
    let messages = told["messages"].as_array().expect("lines");
    assert_eq!((messages.len(), messages[1].as_str()), (2, Some("the last one")));
    assert!(messages[0].as_str().expect("text").len() < 64 * 1024);
}

#[tokio::test]
async fn a_boot_that_is_none_is_refused_and_the_parameter_named() {
    let fixture = start();
    let refused = async |path: &str| {
        let answer = get(&fixture, path).await;
        (answer.status, answer.refusal())
    };
    let about_the_number = |code: &str| (code.to_owned(), "number".to_owned());
    for unknown in ["0", "3", "18446744073709551615"] {
        assert_eq!(refused(&format!("/v1/boots/{unknown}")).await, (404, about_the_number("notFound")), "{unknown}");
    }
    for word in ["latest", "-1", "1.5", "18446744073709551616", "..", "%20"] {
        assert_eq!(refused(&format!("/v1/boots/{word}")).await, (400, about_the_number("invalid")), "{word}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_of_a_boot_is_named() {
    let fixture = start();
    fixture.keep_saved(1, "dmesg-1", b"a");
    std::fs::create_dir(fixture.node.paths.boots().join("00000001.kmsg")).expect("made");
    let answer = get(&fixture, &paths::boot(1)).await;
    assert_eq!((answer.status, answer.refusal().0.as_str()), (500, "internal"));
    assert!(answer.text.contains("00000001.kmsg"), "{}", answer.text);
}

#[tokio::test]
async fn the_nodes_proxy_says_how_api_servers_are() {
    let fixture = start();
    let status = get(&fixture, paths::PROXY).await.json();
    assert_eq!((status["told"].as_bool(), status["waiting"].as_u64()), (Some(true), Some(2)), "{status}");
    let own = &status["endpoints"][0];
    assert_eq!((own["address"].as_str(), own["local"].as_bool()), (Some("127.0.0.1:6443"), Some(true)));
    assert_eq!((own["state"].as_str(), own.get("reason")), (Some("ready"), None), "{own}");
    assert_eq!((own["roundTripMilliseconds"].as_u64(), own["bytesDown"].as_u64()), (Some(4), Some(5_000_000)));
    let other = &status["endpoints"][1];
    assert_eq!((other["state"].as_str(), other["evictions"].as_u64()), (Some("notReady"), Some(1)), "{other}");
    assert_eq!(other["reason"], "/readyz answers 500 etcd failed: reason withheld");
}

#[tokio::test]
async fn a_part_that_does_not_answer_is_named() {
    let fixture = start();
    fixture.kubernetes.down.store(true, Ordering::Release);
    std::fs::remove_file(fixture.node.paths.control_socket()).expect("removed");
    std::fs::remove_file(fixture.node.paths.log_socket()).expect("removed");
    std::fs::remove_file(fixture.node.paths.proxy_feed()).expect("removed");
    for (path, part) in [
        (paths::NODES, "Kubernetes' API does not answer: connection refused"),
        (paths::SERVICES, "cannot connect to PID 1 at "),
        (paths::BOOTS, "cannot connect to PID 1 at "),
        (paths::PROXY, "the node's proxy does not answer: "),
        ("/v1/services/kubelet/logs", "keelson-log: "),
    ] {
        let answer = get(&fixture, path).await;
        assert_eq!((answer.status, answer.refusal().0.as_str()), (503, "unavailable"), "{path}");
        assert!(answer.text.contains(part), "{path}: {}", answer.text);
    }
    // The status needs none of them.
    assert_eq!(get(&fixture, paths::STATUS).await.status, 200);
}

#[tokio::test]
async fn power_orders_reach_pid_1_with_who_asked_and_why() {
    let fixture = start();
    let post = async |path: &str, body: &str| ask_locally(&fixture.socket, "POST", path, body).await;
    let answer = post(paths::REBOOT, r#"{"reason":"new memory"}"#).await;
    assert_eq!((answer.status, answer.json()["bootId"].as_str()), (200, Some(BOOT_ID)));
    assert_eq!(post(paths::POWER_OFF, "{}").await.status, 200);
    let orders = fixture.orders.lock().expect("no panic").clone();
    let expected = [
        Request::Reboot { reason: "asked for by root: new memory".to_owned() },
        Request::PowerOff { reason: "asked for by root".to_owned() },
    ];
    assert_eq!(orders, expected);
    assert_eq!(get(&fixture, paths::STATUS).await.json()["phase"], "shuttingDown");
    let answer = post(paths::REBOOT, r#"{"reason":"\u001b[2J"}"#).await;
    assert_eq!((answer.status, answer.refusal().1.as_str()), (400, "reason"));
}

#[tokio::test]
async fn features_say_how_they_stand_and_change_by_what_is_named() {
    let fixture = start();
    let post = async |name: &str, body: Value| {
        ask_locally(&fixture.socket, "POST", &paths::feature(name), &body.to_string()).await
    };
    let list = get(&fixture, paths::FEATURES).await.json();
    let names: Vec<_> = list["features"].as_array().expect("a list").iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["dns", "network"]);
    assert_eq!((&list["features"][0]["state"], &list["features"][1]["state"]), (&json!("waiting"), &json!("waiting")));
    fixture.apply_pod_network(true);
    assert_eq!(get(&fixture, paths::FEATURES).await.json()["features"][1]["state"], "enabled");
    *fixture.kubernetes.dns.lock().expect("no panic") = Some((1, 1));
    let answer = post("dns", json!({ "settings": { "replicas": "3" } })).await;
    assert_eq!((answer.status, answer.json()["settings"][0]["value"].as_str()), (200, Some("3")), "{}", answer.text);
    assert_eq!(answer.json()["state"], "waiting", "it has one replica until Kubernetes is told: {}", answer.text);
    *fixture.kubernetes.dns.lock().expect("no panic") = Some((3, 3));
    assert_eq!(get(&fixture, paths::FEATURES).await.json()["features"][0]["state"], "enabled");
    let answer = post("dns", json!({ "enabled": false })).await.json();
    assert_eq!((answer["state"].as_str(), answer["reason"].as_str()), (Some("waiting"), Some("it is being removed")));
    *fixture.kubernetes.dns.lock().expect("no panic") = None;
    let answer = post("dns", json!({ "settings": { "replicas": null } })).await.json();
    assert_eq!((answer["state"].as_str(), &answer["settings"][0]["value"]), (Some("disabled"), &Value::Null));
    let answer = post("network", json!({ "enabled": false })).await.json();
    assert_eq!((&answer["state"], &answer["reason"]), (&json!("waiting"), &json!("first is applying it")));
    fixture.apply_pod_network(false);
    assert_eq!(get(&fixture, paths::FEATURES).await.json()["features"][1]["state"], "disabled");
    for (name, body, status, field) in [
        ("dns", json!({ "settings": { "replicas": "many" } }), 400, "replicas"),
        ("network", json!({ "settings": { "mtu": "9000" } }), 400, "mtu"),
        ("dns", json!({ "enable": true }), 400, "enable"),
        ("ingress", json!({}), 404, "name"),
    ] {
        let answer = post(name, body).await;
        assert_eq!((answer.status, answer.refusal().1.as_str()), (status, field), "{name}: {}", answer.text);
    }
    let events = get(&fixture, paths::EVENTS).await.json();
    assert_eq!(events["events"].as_array().map(Vec::len), Some(4), "{events}");
    // What is wanted is known without Kubernetes.
    fixture.kubernetes.down.store(true, Ordering::Release);
    let list = get(&fixture, paths::FEATURES).await.json();
    assert!(
        list["features"][0]["reason"].as_str().is_some_and(|reason| reason.contains("connection refused")),
        "{list}"
    );
}

#[tokio::test]
async fn what_is_done_with_a_nodes_pods_is_told_once_with_who_asked() {
    let fixture = start();
    let post = async |template: &str| ask_locally(&fixture.socket, "POST", &paths::node(template, "w1"), "{}").await;
    for template in [paths::NODE_CORDON, paths::NODE_CORDON, paths::NODE_UNCORDON, paths::NODE_UNCORDON] {
        assert_eq!(post(template).await.status, 200, "{template}");
    }
    let step = post(paths::NODE_DRAIN).await.json();
    assert_eq!(step["remaining"].as_array().map(Vec::len), Some(1), "{step}");
    assert_eq!(post(paths::NODE_DRAIN).await.json()["remaining"], json!([]));
    let told = || async {
        let list: keelson_api::EventList =
            serde_json::from_str(&get(&fixture, paths::EVENTS).await.text).expect("a list");
        list.events
    };
    let events = told().await;
    let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
    let expected =
        [EventKind::NodeCordoned, EventKind::NodeUncordoned, EventKind::NodeCordoned, EventKind::NodeDrained];
    assert_eq!(kinds, expected);
    for event in &events {
        let who = (event.actor.as_str(), event.node.as_deref(), event.recorded_by.as_str());
        assert_eq!(who, ("root", Some("w1"), "first"), "{event:?}");
    }
    // What Kubernetes does not do is told by nobody.
    fixture.kubernetes.down.store(true, Ordering::Release);
    assert_eq!(post(paths::NODE_UNCORDON).await.status, 503);
    assert_eq!(told().await, events);
}

#[tokio::test]
async fn a_member_that_kubernetes_does_not_know_is_shown_and_has_nothing_to_drain() {
    let fixture = start();
    fixture.add_worker("w1");
    let list = get(&fixture, paths::NODES).await.json();
    let shown = |pointer: &str| list.pointer(pointer).cloned().unwrap_or_default();
    assert_eq!(list["nodes"].as_array().map(Vec::len), Some(2), "{list}");
    assert_eq!((shown("/nodes/0/name"), shown("/nodes/1/name")), (json!("first"), json!("w1")));
    assert_eq!((shown("/nodes/1/ready"), shown("/nodes/1/role")), (json!(false), json!("worker")));
    assert!(shown("/nodes/1/conditions/0/reason").as_str().is_some_and(|reason| reason.contains("not registered")));

    fixture.kubernetes.unregistered.lock().expect("no panic").extend(["w1".to_owned(), "w9".to_owned()]);
    let drain =
        async |name: &str| ask_locally(&fixture.socket, "POST", &paths::node(paths::NODE_DRAIN, name), "{}").await;
    let step = drain("w1").await;
    assert_eq!((step.status, &step.json()["remaining"]), (200, &json!([])), "{}", step.text);
    assert!(fixture.kubernetes.orders.lock().expect("no panic").is_empty(), "there was somebody to ask");
    let stranger = drain("w9").await;
    assert_eq!((stranger.status, stranger.refusal()), (404, ("notFound".to_owned(), "name".to_owned())));
}

#[tokio::test]
async fn what_does_not_exist_is_named_by_its_field() {
    let fixture = start();
    let stranger = paths::node(paths::NODE_CONFIGURATION, "w9");
    for (method, path, body, field) in [
        ("DELETE", paths::token("none"), "", "id"),
        ("DELETE", paths::operator("nobody"), "", "name"),
        ("POST", paths::node(paths::NODE_REMOVAL, "w9"), "{}", "name"),
        ("GET", stranger, "", "name"),
        ("POST", paths::feature("ingress"), "{}", "name"),
        ("GET", paths::service_logs("nothing"), "", "name"),
    ] {
        let answer = ask_locally(&fixture.socket, method, &path, body).await;
        let expected = (404, ("notFound".to_owned(), field.to_owned()));
        assert_eq!((answer.status, answer.refusal()), expected, "{method} {path}: {}", answer.text);
    }
}

fn texts(answer: &Answer) -> Vec<&str> {
    answer.text.lines().map(|line| line.split_once(' ').expect("a time and a text").1).collect()
}

#[tokio::test]
async fn logs_are_the_newest_lines_and_mistakes_are_told() {
    let fixture = start();
    for number in 0..150 {
        fixture.log("kubelet", &format!("line {number}"));
    }
    let answer = get(&fixture, "/v1/services/kubelet/logs").await;
    assert_eq!((texts(&answer).len(), texts(&answer).last().copied()), (100, Some("line 149")));
    let answer = get(&fixture, "/v1/services/kubelet/logs?lines=2").await;
    assert_eq!(texts(&answer), ["line 148", "line 149"]);
    let answer = get(&fixture, "/v1/services/nothing/logs").await;
    assert_eq!((answer.status, answer.refusal()), (404, ("notFound".to_owned(), "name".to_owned())));
    let answer = get(&fixture, "/v1/services/..%2Fkubelet/logs").await;
    assert_eq!(answer.status, 404);
    let answer = get(&fixture, "/v1/services/kubelet/logs?lines=many").await;
    assert_eq!((answer.status, answer.refusal()), (400, ("invalid".to_owned(), "lines".to_owned())));
}

fn operator_identity(fixture: &Fixture) -> Identity {
    identity_of(fixture, Subject::named(OPERATOR).organization(keelson_api::OPERATORS).uid("00000000000000aa"))
}

fn identity_of(fixture: &Fixture, subject: Subject) -> Identity {
    let member = fixture.member();
    let authority = member.authority(AuthorityKind::Api).expect("a control plane");
    identity(&authority.issue(&Profile::client(subject), fixture.node.clock()).expect("a certificate"))
}

#[tokio::test]
async fn a_followed_log_comes_line_by_line() {
    let fixture = start();
    fixture.log("kubelet", "before");
    let path = "/v1/services/kubelet/logs?lines=0&follow=true";
    let response = stream(&fixture, Some(operator_identity(&fixture)), &[&TLS13], "GET", path, "").await;
    let mut body = response.expect("an answer").into_body();
    let mut received = String::new();
    for number in 0..3 {
        fixture.log("kubelet", &format!("line {number}"));
        while !received.contains(&format!("line {number}\n")) {
            let frame = tokio::time::timeout(DEADLINE, body.frame()).await.expect("a frame in time");
            let bytes = frame.expect("the stream goes on").expect("no error").into_data().expect("data");
            received.push_str(std::str::from_utf8(&bytes).expect("text"));
        }
    }
    assert!(!received.contains("before"), "{received}");
    // Nothing more comes by itself, and the stream stays open.
    assert!(tokio::time::timeout(Duration::from_millis(200), body.frame()).await.is_err());
}

#[tokio::test]
async fn the_document_is_served_as_it_is_committed() {
    let fixture = start();
    let served: Value = get(&fixture, paths::OPENAPI).await.json();
    assert_eq!(served, keelson_api::openapi::document());
}

/// Less than the server waits for a handshake.
const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn connections_that_say_nothing_keep_nobody_out() {
    let fixture = start();
    ask(&fixture, None, "GET", paths::AUTHORITY, "").await.expect("it serves");
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(tokio::net::TcpStream::connect(fixture.address).await.expect("connected"));
    }
    let asking = ask(&fixture, Some(operator_identity(&fixture)), "GET", paths::STATUS, "");
    let answer = tokio::time::timeout(PATIENCE, asking).await.expect("in time").expect("an answer");
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn connections_with_a_nodes_certificate_keep_nobody_out() {
    let fixture = start();
    ask(&fixture, None, "GET", paths::AUTHORITY, "").await.expect("it serves");
    let node = || {
        let subject = Subject::named("keelson:node:w1").organization(NODES).uid("00000000000000bb");
        identity_of(&fixture, subject)
    };
    let mut held = Vec::new();
    for _ in 0..150 {
        let connecting = async { connect(&fixture, Some(node()), &[&TLS13]).await };
        held.extend(tokio::time::timeout(PATIENCE, connecting).await.expect("in time"));
    }
    assert!(held.len() > 100, "{} connections are not many", held.len());
    let asking = ask(&fixture, Some(operator_identity(&fixture)), "GET", paths::STATUS, "");
    let answer = tokio::time::timeout(PATIENCE, asking).await.expect("in time").expect("an answer");
    assert_eq!(answer.status, 200);
}
