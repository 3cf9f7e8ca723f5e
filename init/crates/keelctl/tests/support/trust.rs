//! Whom keelctl trusts, what it keeps, and that no key is ever shown.

use std::{fs, os::unix::fs::PermissionsExt};

use keelson_api::OPERATORS;
use keelson_pki::{AuthorityKind, Profile, Subject};
use time::Duration;

use super::{
    fixture::{Fixture, OPERATOR},
    keelctl::{Workstation, mode},
};

#[test]
fn another_node_behind_the_same_address_is_not_trusted() {
    let (workstation, fixture) = Workstation::with_node();
    let wrong = format!("sha256:{}", "00".repeat(32));
    workstation.set_context(&fixture, &wrong);
    let outcome = workstation.run(&["status"]);
    assert_eq!(outcome.code, 4, "{outcome:?}");
    assert!(outcome.err.contains(&wrong) && outcome.err.contains(&fixture.fingerprint()), "{outcome:?}");
    assert!(!workstation.certificate().exists(), "a certificate was asked for");
    // Waiting does not help, so it is not waited.
    assert_eq!(workstation.run(&["status", "--wait"]).code, 4);
}

#[test]
fn a_node_that_knows_another_operator_refuses() {
    let (workstation, fixture) = Workstation::with_node();
    let other = workstation.path("other.key").display().to_string();
    workstation.run(&["key", "generate", &other]).well();
    workstation.run(&["config", "set-context", "home", "--key", &other]).well();
    let outcome = workstation.run(&["status"]);
    assert_eq!(outcome.code, 5, "{outcome:?}");
    assert!(outcome.err.contains("the proof does not hold"), "{outcome:?}");
    drop(fixture);
}

#[test]
fn an_operator_who_was_added_operates_and_one_who_was_removed_does_not() {
    let (workstation, fixture) = Workstation::with_node();
    let word = workstation.run(&["key", "show", &workstation.key()]).well().out;
    workstation.run(&["operator", "add", OPERATOR, &word]).well();
    let other = workstation.path("other.key").display().to_string();
    let word = workstation.run(&["key", "generate", &other]).well().out;
    let refused = workstation.run(&["operator", "remove", OPERATOR]);
    assert!(refused.code == 6 && refused.err.contains("add another operator first"), "{refused:?}");
    workstation.run(&["operator", "add", "bea", &word]).well();
    let list = workstation.run(&["operator", "list"]).well().out;
    assert!(list.lines().any(|line| line.starts_with("bea ") && line.ends_with(OPERATOR)), "{list}");
    let json = workstation.run(&["operator", "list", "-o", "json"]).well().json();
    assert_eq!(
        (json["operators"][0]["name"].as_str(), json["operators"][1]["name"].as_str()),
        (Some("ann"), Some("bea"))
    );

    workstation.run(&["operator", "remove", OPERATOR]).well();
    let refused = workstation.run(&["status"]);
    assert!(refused.code == 5 && refused.err.contains("the proof does not hold"), "{refused:?}");
    workstation.run(&["config", "set-context", "home", "--key", &other]).well();
    workstation.run(&["status"]).well();
    drop(fixture);
}

#[test]
fn the_certificate_is_kept_and_used_until_the_node_refuses_it() {
    let (workstation, fixture) = Workstation::with_node();
    workstation.run(&["status"]).well();
    assert_eq!(mode(&workstation.certificate()), 0o600);
    let first = fs::read_to_string(workstation.certificate()).expect("a certificate");
    // The key is not needed any more.
    fs::rename(workstation.key(), workstation.path("away.key")).expect("renamed");
    workstation.run(&["nodes"]).well();
    assert_eq!(fs::read_to_string(workstation.certificate()).expect("a certificate"), first);
    fs::rename(workstation.path("away.key"), workstation.key()).expect("renamed");

    // What the node does not accept is replaced, for questions and for orders.
    for command in ["status", "reboot"] {
        for refused in [foreign(&fixture), powerless(&fixture)] {
            fs::write(workstation.certificate(), &refused).expect("written");
            workstation.run(&[command]).well();
            let renewed = fs::read_to_string(workstation.certificate()).expect("a certificate");
            assert_ne!(renewed, refused);
        }
    }
    assert_eq!(fixture.orders.lock().expect("no panic").len(), 2, "an order was given twice");
}

/// A cached certificate that the handshake refuses: of an authority with the right fingerprint in the heading only.
fn foreign(fixture: &Fixture) -> String {
    let other =
        keelson_pki::Authority::create(AuthorityKind::Api, "other", fixture.node.clock()).expect("an authority");
    cached(fixture, &other, OPERATORS)
}

/// One that gets through the handshake and then a 401.
fn powerless(fixture: &Fixture) -> String {
    cached(fixture, fixture.member().authority(AuthorityKind::Api).expect("a control plane"), "elsewhere")
}

fn cached(fixture: &Fixture, authority: &keelson_pki::Authority, organization: &str) -> String {
    let profile = Profile::client(Subject::named(OPERATOR).organization(organization)).life(Duration::DAY);
    let pair = authority.issue(&profile, fixture.node.clock()).expect("a certificate");
    let file = String::from_utf8(pair.to_file()).expect("text");
    let pem = file.split_once('\n').expect("a heading").1;
    format!("keelctl credential 1 {}\n{pem}", fixture.fingerprint())
}

#[test]
fn keys_are_for_their_owner_and_are_not_overwritten() {
    let workstation = Workstation::new();
    let made = workstation.run(&["key", "generate", &workstation.key()]).well().out;
    assert_eq!(mode(&workstation.path("operator.key")), 0o600);
    assert_eq!(workstation.run(&["key", "show", &workstation.key()]).well().out, made);
    let again = workstation.run(&["key", "generate", &workstation.key()]);
    assert_eq!(again.code, 3, "{again:?}");
    assert!(again.err.contains("operator.key exists already"), "{again:?}");
    fs::set_permissions(workstation.key(), fs::Permissions::from_mode(0o644)).expect("changed");
    let exposed = workstation.run(&["key", "show", &workstation.key()]);
    assert_eq!(exposed.code, 3, "{exposed:?}");
    assert!(exposed.err.contains("chmod 600"), "{exposed:?}");
}

#[test]
fn what_is_missing_is_named() {
    let workstation = Workstation::new();
    let outcome = workstation.run(&["status"]);
    assert_eq!(outcome.code, 3, "{outcome:?}");
    assert!(outcome.err.contains("keelctl.yaml") && outcome.err.contains("keelctl config set-context"), "{outcome:?}");
    fs::write(workstation.path("keelctl.yaml"), "contexts:\n- name: a\n  endpont: b\n").expect("written");
    let outcome = workstation.run(&["status"]);
    assert_eq!(outcome.code, 3, "{outcome:?}");
    assert!(outcome.err.contains("keelctl.yaml") && outcome.err.contains("endpont"), "{outcome:?}");

    let (workstation, fixture) = Workstation::with_node();
    fs::remove_file(workstation.key()).expect("removed");
    let outcome = workstation.run(&["status"]);
    assert_eq!(outcome.code, 3, "{outcome:?}");
    assert!(outcome.err.contains("operator.key"), "{outcome:?}");
    drop(fixture);
    workstation.run(&["config", "set-context", "home", "--endpoint", "127.0.0.1:1"]).well();
    workstation.run(&["key", "generate", &workstation.key()]).well();
    let outcome = workstation.run(&["status"]);
    assert_eq!(outcome.code, 4, "{outcome:?}");
    assert!(outcome.err.contains("https://127.0.0.1:1: cannot connect"), "{outcome:?}");
}

#[test]
fn no_command_prints_a_private_key_but_the_kubeconfig_its_own() {
    let (workstation, fixture) = Workstation::with_node();
    fixture.log("kubelet", "a line");
    workstation.run(&["status"]).well();
    let secrets: Vec<String> = [workstation.path("operator.key"), workstation.certificate()]
        .iter()
        .map(|path| fs::read_to_string(path).expect("a file"))
        .map(|text| text.split_once("PRIVATE KEY-----\n").expect("a key").1.lines().next().expect("a line").to_owned())
        .collect();
    assert!(secrets.iter().all(|secret| secret.len() > 40), "{secrets:?}");
    let key = workstation.key();
    let commands: [&[&str]; 17] = [
        &["status"],
        &["status", "-o", "json"],
        &["nodes", "-o", "yaml"],
        &["services"],
        &["boots"],
        &["logs", "kubelet"],
        &["logs", "nothing"],
        &["config", "list"],
        &["config", "list", "-o", "json"],
        &["config", "show", "-o", "json"],
        &["events", "-o", "json"],
        &["operator", "list", "-o", "json"],
        &["feature", "list", "-o", "yaml"],
        &["key", "show", &key],
        &["key", "generate", &key],
        &["kubeconfig"],
        &["--context", "nothing", "status"],
    ];
    for words in commands {
        let outcome = workstation.run(words);
        for secret in &secrets {
            assert!(!outcome.out.contains(secret) && !outcome.err.contains(secret), "{words:?} shows a key");
        }
        let encoded_key = outcome.out.contains("client-key-data");
        assert_eq!(encoded_key, words == ["kubeconfig"], "{words:?}");
        assert!(!outcome.out.contains("PRIVATE KEY") && !outcome.err.contains("PRIVATE KEY"), "{words:?}");
    }
}
