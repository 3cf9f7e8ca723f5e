//! Each command: what it prints as a table and as JSON, and what it leaves behind.

use std::{
    io::{BufRead, BufReader, Read},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use keelson_api::Token;
use keelson_cluster::ConditionKind;
use keelson_config::Role;
use keelson_control::Request;
use serde_json::Value;

use super::keelctl::{Workstation, mode};

#[test]
fn status_answers_why_the_node_is_not_ready() {
    let (workstation, fixture) = Workstation::with_node();
    fixture.node.status.holds(ConditionKind::Member, "member of a cluster");
    fixture.node.status.fails(ConditionKind::NetworkUp, "no DHCP server has answered for 40 s");
    let shown = workstation.run(&["status"]).well().out;
    assert!(shown.contains("NOT READY: NetworkUp: no DHCP server has answered for 40 s"), "{shown}");
    assert!(shown.lines().any(|line| line.starts_with("Member ") && line.contains(" yes ")), "{shown}");
    let json = workstation.run(&["status", "-o", "json"]).well().json();
    assert_eq!((json["name"].as_str(), json["ready"].as_bool()), (Some("first"), Some(false)));
    let yaml = workstation.run(&["status", "-o", "yaml"]).well().out;
    assert_eq!(serde_saphyr::from_str::<Value>(&yaml).expect("YAML"), json);
    fixture.be_ready();
    let shown = workstation.run(&["status"]).well().out;
    assert!(shown.lines().any(|line| line.starts_with("STATE") && line.ends_with("Ready")), "{shown}");
}

#[test]
fn who_has_the_virtual_address_is_shown() {
    let (workstation, fixture) = Workstation::with_node();
    let shown = || {
        let status = workstation.run(&["status"]).well().out;
        let line = status.lines().find_map(|line| line.strip_prefix("VIRTUAL ADDRESS"));
        line.map(|line| line.trim().to_owned())
    };
    assert_eq!(shown(), None);
    let address = "192.0.2.100".parse().expect("an address");
    fixture.give_virtual_address(address, None);
    assert_eq!(shown().as_deref(), Some("192.0.2.100, at no control plane that is known here"));
    fixture.give_virtual_address(address, Some("second"));
    assert_eq!(shown().as_deref(), Some("192.0.2.100, at second"));
    assert!(!workstation.run(&["nodes"]).well().out.contains("192.0.2.100"));
    fixture.give_virtual_address(address, Some("first"));
    assert_eq!(shown().as_deref(), Some("192.0.2.100, at this node"));
    assert!(workstation.run(&["nodes"]).well().out.contains("192.0.2.10,192.0.2.100 (virtual)"));
}

#[test]
fn status_waits_and_tells_what_is_awaited() {
    let (workstation, fixture) = Workstation::with_node();
    fixture.node.status.fails(ConditionKind::Member, "the first reason");
    let late = workstation.run(&["status", "--wait", "--timeout", "0s"]);
    assert_eq!(late.code, 7, "{late:?}");
    assert!(late.err.contains("not in time: Member: the first reason"), "{late:?}");

    let mut waiting = workstation.spawn(&["status", "--wait", "--timeout", "60s", "-o", "json"]);
    let mut told = BufReader::new(waiting.stderr.take().expect("its standard error")).lines();
    let line = told.next().expect("a reason").expect("text");
    assert!(line.ends_with("Member: the first reason"), "{line}");
    fixture.be_ready();
    let mut out = String::new();
    waiting.stdout.take().expect("its standard output").read_to_string(&mut out).expect("text");
    assert!(waiting.wait().expect("its end").success());
    assert_eq!(serde_json::from_str::<Value>(&out).expect("JSON")["ready"], true);
}

#[test]
fn nodes_services_api_servers_and_boots_are_tables_or_json() {
    let (workstation, _fixture) = Workstation::with_node();
    let nodes = workstation.run(&["nodes"]).well().out;
    assert!(nodes.starts_with("NAME "), "{nodes}");
    assert!(
        nodes.contains("NotReady,SchedulingDisabled") && nodes.contains("the network plugin is not ready"),
        "{nodes}"
    );
    assert_eq!(workstation.run(&["nodes", "-o", "json"]).well().json()["nodes"][0]["name"], "first");

    let services = workstation.run(&["services"]).well().out;
    assert!(services.contains("waits for /run/keelson/cluster/apiserver-ready to exist"), "{services}");
    assert!(services.contains("BACKOFF") && services.contains("was killed by SIGKILL 2 s ago"), "{services}");
    assert_eq!(workstation.run(&["services", "-o", "json"]).well().json()["services"][2]["restarts"], 3);

    let proxy = workstation.run(&["proxy"]).well();
    assert!(proxy.err.contains("wait for an API server: 2"), "{proxy:?}");
    let line = |address: &str| proxy.out.lines().find(|line| line.starts_with(address)).expect("a line");
    assert!(line("127.0.0.1:6443 (own)").contains("ready   ") && line("127.0.0.1:6443 (own)").contains("4 MiB"));
    assert!(line("192.0.2.11:6443").contains("NOT READY") && line("192.0.2.11:6443").contains("etcd failed"));
    assert_eq!(workstation.run(&["proxy", "-o", "json"]).well().json()["endpoints"][1]["state"], "notReady");

    let boots = workstation.run(&["boots"]).well().out;
    assert!(boots.contains("running") && boots.contains("rebooted"), "{boots}");
    assert_eq!(workstation.run(&["boots", "-o", "json"]).well().json()["boots"][0]["current"], true);
}

#[test]
fn one_boot_is_shown_with_all_that_the_node_knows_of_it() {
    let (workstation, fixture) = Workstation::with_node();
    fixture.keep_messages(1, "[    1.000000] a\x1b[2J\n[    9.000000] reboot: Restarting system\n");
    fixture.keep_saved(1, "dmesg-2", b"Panic#1 Part2\n");
    fixture.keep_saved(1, "dmesg-1", b"Panic#1 Part1\n");
    let shown = workstation.run(&["boots", "1"]).well().out;
    let expected = format!(
        "\
BOOT      1
ID        earlier
STARTED   1970-01-01T00:16:40Z
ENDED     1970-01-01T00:25:00Z
END       rebooted
RAN FOR   8m20s
GOOD      yes
VERSION   0.1.0
IMAGE     {}

PHASE      BEGAN AFTER   TOOK
disks      1.205 s       0.340 s
services   2.071 s       -

LAST MESSAGES
[    1.000000] a\u{fffd}[2J
[    9.000000] reboot: Restarting system

SAVED BY THE KERNEL AS IT DIED: dmesg-1
Panic#1 Part1

SAVED BY THE KERNEL AS IT DIED: dmesg-2
Panic#1 Part2
",
        "ab".repeat(32)
    );
    assert_eq!(shown, expected);
    let json = workstation.run(&["boots", "1", "-o", "json"]).well().json();
    assert_eq!((json["number"].as_u64(), json["saved"][1]["name"].as_str()), (Some(1), Some("dmesg-2")), "{json}");
    assert_eq!(json["phases"][0]["startMilliseconds"], 1205);
    let yaml = workstation.run(&["boots", "1", "-o", "yaml"]).well().out;
    assert_eq!(serde_saphyr::from_str::<Value>(&yaml).expect("YAML"), json);

    let running = workstation.run(&["boots", "2"]).well().out;
    assert!(running.contains("END       running\n") && !running.contains("LAST MESSAGES"), "{running}");
    let unknown = workstation.run(&["boots", "3"]);
    assert!(unknown.code == 6 && unknown.err.contains("no boot 3 (number)"), "{unknown:?}");
}

#[test]
fn certificates_are_listed_with_when_they_end_and_are_renewed() {
    let (workstation, _fixture) = Workstation::with_node();
    let table = workstation.run(&["certificates"]).well().out;
    let line = table.lines().find(|line| line.starts_with("cluster/api-serving ")).expect("a line");
    assert!(line.contains("first, keelson:control-planes") && line.contains(" api "), "{table}");
    assert!(line.contains("in 6d23h") && line.ends_with("in 4d15h"), "{table}");
    let json = workstation.run(&["certificates", "-o", "json"]).well().json();
    let of = |field: &str| json["certificates"][0][field].as_str().unwrap_or_default().to_owned();
    assert!(line.contains(&of("notBefore")) && line.contains(&of("notAfter")) && of("renewal") < of("notAfter"));
    let yaml = workstation.run(&["certificates", "-o", "yaml"]).well().out;
    assert_eq!(serde_saphyr::from_str::<Value>(&yaml).expect("YAML"), json);
}

#[test]
fn a_node_is_drained_before_it_is_removed_and_its_objects_are_deleted() {
    let (workstation, fixture) = Workstation::with_node();
    workstation.run(&["node", "cordon", "w1"]).well();
    workstation.run(&["node", "uncordon", "w1"]).well();
    fixture.add_worker("w1");
    let removed = workstation.run(&["node", "remove", "w1"]).well();
    assert!(removed.out.contains("w1 is removed") && removed.err.contains("default/a: it is ending"), "{removed:?}");
    let orders = fixture.kubernetes.orders.lock().expect("no panic").clone();
    assert_eq!(orders, ["cordon w1", "uncordon w1", "cordon w1", "drain w1", "drain w1", "clean w1"]);
    let told = workstation.run(&["events"]).well().out;
    let told: Vec<_> = told.lines().map(|line| line.split_once("  ").expect("a time and a sentence").1).collect();
    let expected = [
        "w1 gets no new pods  (ann)",
        "w1 gets pods again  (ann)",
        "w1 gets no new pods  (ann)",
        "w1 is drained  (ann)",
        "w1 was removed  (ann)",
    ];
    assert_eq!(told, expected);
    let again = workstation.run(&["node", "remove", "w1", "--force"]);
    assert_eq!(again.code, 6, "{again:?}");
    assert!(again.err.contains("no node w1"), "{again:?}");
    fixture.add_worker("w2");
    fixture.kubernetes.down.store(true, std::sync::atomic::Ordering::Release);
    let removed = workstation.run(&["node", "remove", "w2", "--force"]).well().out;
    assert!(removed.contains("deleted later"), "{removed}");
}

#[test]
fn a_node_that_must_stay_is_not_drained() {
    let (workstation, fixture) = Workstation::with_node();
    fixture.add_member("first", Role::ControlPlane);
    for (name, reason) in [("first", "the only control plane"), ("w9", "no node w9")] {
        let refused = workstation.run(&["node", "remove", name]);
        assert!(refused.code == 6 && refused.err.contains(reason), "{refused:?}");
    }
    let orders = fixture.kubernetes.orders.lock().expect("no panic").clone();
    assert!(orders.is_empty(), "{orders:?}");
}

#[test]
fn a_node_whose_removal_is_refused_after_all_gets_pods_again_if_it_did_before() {
    for was_cordoned in [false, true] {
        let (workstation, fixture) = Workstation::with_node();
        fixture.add_worker("w1");
        if was_cordoned {
            workstation.run(&["node", "cordon", "w1"]).well();
        }
        let mut removing = workstation.spawn(&["node", "remove", "w1"]);
        let mut told = BufReader::new(removing.stderr.take().expect("its standard error")).lines();
        let line = told.next().expect("a reason").expect("text");
        assert!(line.contains("default/a: it is ending"), "{line}");
        fixture.remove_member("w1");
        let rest: Vec<_> = told.map(|line| line.expect("text")).collect();
        assert_eq!(removing.wait().expect("its end").code(), Some(6), "{rest:?}");
        let said = rest.iter().any(|line| line == "w1 was drained in vain, and gets pods again");
        assert!(said != was_cordoned && rest.last().is_some_and(|line| line.contains("no node w1")), "{rest:?}");
        let orders = fixture.kubernetes.orders.lock().expect("no panic").clone();
        let expected = ["cordon w1", "drain w1", "drain w1", "uncordon w1"];
        assert_eq!(orders, if was_cordoned { &expected[..3] } else { &expected[..] });
    }
}

#[test]
fn a_name_that_nobody_can_have_is_a_mistake_in_the_arguments() {
    let (workstation, fixture) = Workstation::with_node();
    let word = workstation.run(&["key", "show", &workstation.key()]).well().out;
    workstation.run(&["operator", "add", "bea", &word]).well();
    for words in [
        &["node", "remove", "w 1"][..],
        &["node", "cordon", ""],
        &["node", "uncordon", "w1/../w2"],
        &["node", "drain", "W1"],
        &["operator", "remove", "bea?x"],
        &["operator", "remove", ""],
        &["operator", "add", "a b", "key"],
        &["token", "revoke", "a?b"],
        &["token", "revoke", ""],
        &["feature", "disable", "dns?x"],
        &["feature", "set", "", "replicas=1"],
        &["config", "show", "--node", "a b"],
        &["config", "set", "--node", "", "timeServers=[a]"],
        &["logs", ""],
        &["boots", "latest"],
        &["boots", "0"],
    ] {
        let refused = workstation.run(words);
        assert!(refused.code == 2 && !refused.err.is_empty(), "{words:?}: {refused:?}");
    }
    assert!(workstation.run(&["operator", "list"]).well().out.contains("bea "));
    assert!(fixture.kubernetes.orders.lock().expect("no panic").is_empty());
}

#[test]
fn a_member_that_its_kubelet_never_registered_is_shown_and_removed_without_force() {
    let (workstation, fixture) = Workstation::with_node();
    fixture.add_worker("w1");
    fixture.kubernetes.unregistered.lock().expect("no panic").insert("w1".to_owned());
    let nodes = workstation.run(&["nodes"]).well().out;
    let line = nodes.lines().find(|line| line.starts_with("w1 ")).expect("a line");
    assert!(line.contains("NotReady") && line.contains("its kubelet has not registered it"), "{nodes}");
    let removed = workstation.run(&["node", "remove", "w1"]).well().out;
    assert_eq!(removed, "w1 is removed\n");
    assert!(!workstation.run(&["nodes"]).well().out.contains("w1 "));
}

#[test]
fn tokens_are_made_listed_and_revoked() {
    let (workstation, _fixture) = Workstation::with_node();
    let line = workstation.run(&["token", "create", "--role", "worker", "--ttl", "2h", "--uses", "3"]).well().out;
    let token = Token::parse(&line).expect("a token");
    assert_eq!((token.claims.uses, token.claims.endpoints.as_slice()), (3, &["192.0.2.10:6400".to_owned()][..]));
    let listed = workstation.run(&["token", "list"]).well().out;
    assert!(listed.contains(&token.claims.id) && listed.contains("valid") && listed.contains("0/3"), "{listed}");
    assert!(listed.contains("in 1h59m") || listed.contains("in 2h"), "{listed}");
    assert!(!listed.contains(line.trim()), "a list holds no secret");
    workstation.run(&["token", "revoke", line.trim()]).well();
    let listed = workstation.run(&["token", "list", "-o", "json"]).well().json();
    assert_eq!(listed["tokens"][0]["state"], "revoked");
    let refused = workstation.run(&["token", "create", "--role", "worker", "--name", "kubernetes"]);
    assert_eq!(refused.code, 6, "{refused:?}");
    assert!(refused.err.contains("(name)"), "{refused:?}");
}

#[test]
fn a_token_made_offline_asks_nobody_and_is_signed_with_the_contexts_key() {
    let (workstation, fixture) = Workstation::with_node();
    let fingerprint = fixture.fingerprint();
    drop(fixture);
    let offline = ["token", "create", "--role", "worker", "--offline", "--cluster"];
    let make = [&offline[..], &["0D1E2F3A-0038-4a10-8059-b7c04f4e3132", "--ttl", "30d", "-o", "json"]].concat();
    let json = workstation.run(&make).well().json();
    let token = Token::parse(json["token"].as_str().expect("a line")).expect("a token");
    let word = workstation.run(&["key", "show", &workstation.key()]).well().out;
    let public = word.trim().strip_prefix("keelson.operator-key=").expect("the word for the node");
    assert_eq!(token.claims.signer.as_deref(), Some(public));
    assert_eq!(token.claims.cluster, "0d1e2f3a-0038-4a10-8059-b7c04f4e3132");
    assert_eq!(format!("sha256:{}", token.claims.fingerprint), fingerprint);
    assert_eq!(json["id"], token.claims.id.as_str());
    assert!(!token.proof().is_empty());
    assert_eq!(token.claims.issued.map(|issued| token.claims.expires - issued), Some(30 * 24 * 60 * 60));
    let many = ["--endpoint", "192.0.2.1:6400"].repeat(9);
    for (words, field) in [
        (&["--ttl", "367d"][..], "ttlSeconds"),
        (&["--ttl", "0s"], "ttlSeconds"),
        (&["--uses", "10001"], "uses"),
        (&["--uses", "2", "--name", "w1"], "uses"),
        (&["--name", "W 1"], "name"),
        (&["--name", "kubernetes"], "name"),
        (&["--hardware", "c0ffee"], "hardware"),
        (&["--endpoint", "192.0.2.1"], "endpoints"),
        (&many, "endpoints"),
    ] {
        let refused = workstation.run(&[&offline[..], &["0d1e2f3a-0038-4a10-8059-b7c04f4e3132"], words].concat());
        assert!(refused.code == 1 && refused.err.contains(&format!("({field})")), "{words:?}: {refused:?}");
        assert_eq!(refused.out, "", "{words:?}");
    }
    let refused = workstation.run(&[&offline[..], &["c0ffee"]].concat());
    assert!(refused.code == 1 && refused.err.contains("(cluster)"), "{refused:?}");
}

#[test]
fn a_token_is_bound_to_a_machine_in_the_form_in_which_machines_say_who_they_are() {
    let (workstation, _fixture) = Workstation::with_node();
    let form = "4c4c4544-0038-4a10-8059-b7c04f4e3132";
    for typed in ["4C4C454400384A108059B7C04F4E3132", "{4c4c4544-0038-4a10-8059-b7c04f4e3132}"] {
        let make = ["token", "create", "--role", "worker", "--hardware", typed];
        for make in [&make[..], &[&make[..], &["--offline", "--cluster", form]].concat()] {
            let token = Token::parse(&workstation.run(make).well().out).expect("a token");
            assert_eq!(token.claims.hardware.as_deref(), Some(form), "{make:?}");
        }
    }
}

#[test]
fn events_are_told_and_followed_without_any_secret() {
    let (workstation, _fixture) = Workstation::with_node();
    let line = workstation.run(&["token", "create", "--role", "worker"]).well().out;
    let token = Token::parse(&line).expect("a token");
    let id = token.claims.id.as_str();
    let shown = workstation.run(&["events"]).well().out;
    assert!(shown.contains(&format!("the token {id} was created")) && shown.trim_end().ends_with("(ann)"), "{shown}");
    let json = workstation.run(&["events", "-o", "json"]).well();
    assert_eq!(json.json()["events"][0]["kind"], "tokenCreated");

    let mut following = workstation.spawn(&["events", "-f", "-o", "json"]);
    let mut lines = BufReader::new(following.stdout.take().expect("its standard output")).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().expect("a line").expect("text")).expect("JSON");
    assert_eq!(next()["kind"], "tokenCreated");
    workstation.run(&["token", "revoke", id]).well();
    let revoked = next();
    assert_eq!((revoked["kind"].as_str(), revoked["recordedBy"].as_str()), (Some("tokenRevoked"), Some("first")));
    following.kill().expect("killed");
    following.wait().expect("its end");
    let secret = line.trim().split('.').nth(2).expect("the secret");
    assert!(!shown.contains(secret) && !json.out.contains(secret));
}

#[test]
fn features_are_listed_set_disabled_and_enabled() {
    let (workstation, fixture) = Workstation::with_node();
    *fixture.kubernetes.dns.lock().expect("no panic") = Some((3, 3));
    let set = ["feature", "set", "dns", "replicas=3", "upstream=9.9.9.9,2620:fe::fe"];
    let waiting = workstation.run(&set).well().out;
    assert_eq!(waiting, "dns: waiting: 3 of 3 replicas are ready, and to whom they forward is being changed\n");
    let upstream = ["9.9.9.9", "2620:fe::fe"].map(|address| address.parse().expect("an address"));
    *fixture.kubernetes.upstream.lock().expect("no panic") = Some(upstream.to_vec());
    let enabled = workstation.run(&set).well().out;
    assert_eq!(enabled, "dns: enabled: 3 of 3 replicas are ready, and told to forward to 9.9.9.9, 2620:fe::fe\n");
    let list = workstation.run(&["feature", "list"]).well().out;
    let line = list.lines().find(|line| line.starts_with("dns ")).expect("a line");
    assert!(line.contains("replicas=3 upstream=9.9.9.9,2620:fe::fe"), "{list}");
    workstation.run(&["feature", "set", "dns", "replicas="]).well();
    let json = workstation.run(&["feature", "list", "-o", "json"]).well().json();
    assert_eq!(json["features"][0]["settings"][0]["value"], Value::Null);
    assert!(json["features"][0]["settings"][0]["form"].as_str().is_some_and(|form| form.contains("number")), "{json}");
    let disabled = workstation.run(&["feature", "disable", "dns"]).well().out;
    assert_eq!(disabled, "dns: waiting: it is being removed\n");
    workstation.run(&["feature", "enable", "dns"]).well();
    let refused = workstation.run(&["feature", "set", "dns", "upstream=nowhere"]);
    assert!(refused.code == 6 && refused.err.contains("(upstream)"), "{refused:?}");
    assert_eq!(workstation.run(&["feature", "set", "dns", "replicas"]).code, 2);
}

#[test]
fn a_change_of_a_feature_waits_until_it_is_so_and_tells_what_is_awaited() {
    let (workstation, fixture) = Workstation::with_node();
    *fixture.kubernetes.dns.lock().expect("no panic") = Some((1, 1));
    let set = ["feature", "set", "dns", "replicas=3", "--wait", "--timeout"];
    let late = workstation.run(&[&set[..], &["0s"]].concat());
    assert!(late.code == 7 && late.err.contains("1 of 1 replicas are ready, and their number is being"), "{late:?}");

    let mut waiting = workstation.spawn(&[&set[..], &["60s"]].concat());
    let mut told = BufReader::new(waiting.stderr.take().expect("its standard error")).lines();
    let line = told.next().expect("a reason").expect("text");
    assert!(line.contains("dns: waiting: 1 of 1 replicas"), "{line}");
    *fixture.kubernetes.dns.lock().expect("no panic") = Some((3, 3));
    let mut out = String::new();
    waiting.stdout.take().expect("its standard output").read_to_string(&mut out).expect("text");
    assert!(waiting.wait().expect("its end").success());
    assert_eq!(out, "dns: enabled: 3 of 3 replicas are ready\n");

    *fixture.kubernetes.dns.lock().expect("no panic") = None;
    let disabled = workstation.run(&["feature", "disable", "dns", "--wait"]).well().out;
    assert!(disabled.starts_with("dns: disabled: "), "{disabled}");

    fixture.apply_pod_network(true);
    let mut waiting = workstation.spawn(&["feature", "disable", "network", "--wait", "--timeout", "60s"]);
    let mut told = BufReader::new(waiting.stderr.take().expect("its standard error")).lines();
    let line = told.next().expect("a reason").expect("text");
    assert!(line.ends_with("network: waiting: first is applying it"), "{line}");
    fixture.apply_pod_network(false);
    let mut out = String::new();
    waiting.stdout.take().expect("its standard output").read_to_string(&mut out).expect("text");
    assert!(waiting.wait().expect("its end").success());
    assert_eq!(out, "network: disabled: first leaves pods to the network of another CNI plugin\n");
    assert_eq!(workstation.run(&["feature", "enable", "dns", "--timeout", "5s"]).code, 2);
}

#[test]
fn the_configuration_is_shown_with_its_sources() {
    let (workstation, _fixture) = Workstation::with_node();
    let shown = workstation.run(&["config", "show"]).well().out;
    let line = |field: &str| shown.lines().find(|line| line.starts_with(&format!("{field} "))).expect("a line");
    assert!(
        line("spec.role").contains("control-plane") && line("spec.role").ends_with("kernel command line"),
        "{shown}"
    );
    assert!(line("spec.cluster.podCIDR").contains("10.244.0.0/16"), "{shown}");
    assert!(line("spec.cluster.podCIDR").ends_with("default"), "{shown}");
    let json = workstation.run(&["config", "show", "-o", "json"]).well().json();
    assert_eq!(json["fields"][0]["value"], "control-plane");
}

#[test]
fn settings_are_said_of_all_nodes_or_of_one_and_unsaid() {
    let (workstation, fixture) = Workstation::with_node();
    fixture.add_worker("w1");
    let set =
        workstation.run(&["config", "set", "timeServers=[time.example]", "cluster.extraSANs=[api.example]"]).well();
    assert_eq!(
        set.out,
        "the cluster's settings were changed: spec.timeServers, spec.cluster.extraSANs\n\
         with each node's next boot only: spec.timeServers\n"
    );
    let again = workstation.run(&["config", "set", "spec.timeServers=[time.example]"]).well().out;
    assert_eq!(again, "the cluster's settings are so already: nothing was changed\n");
    let one = workstation.run(&["config", "set", "--node", "w1", "node.labels.topology.kubernetes.io/zone=7"]).well();
    assert_eq!(one.out, "the settings of w1 were changed: spec.node.labels\n");
    let table = workstation.run(&["config", "show", "--cluster"]).well().out;
    assert!(table.contains("spec.cluster.extraSANs") && table.contains("[\"time.example\"]"), "{table}");

    let file = workstation.path("document.yaml");
    let document = workstation.run(&["config", "show", "--node", "w1", "-o", "yaml"]).well().out;
    assert!(document.contains("topology.kubernetes.io/zone"), "{document}");
    std::fs::write(&file, document.replace("zone", "rack")).expect("written");
    let file = file.display().to_string();
    workstation.run(&["config", "apply", "-f", &file, "--node", "w1"]).well();
    let json = workstation.run(&["config", "show", "--node", "w1", "-o", "json"]).well().json();
    assert_eq!(json["spec"], serde_json::json!({ "node": { "labels": { "topology.kubernetes.io/rack": "7" } } }));
    workstation.run(&["config", "unset", "--node", "w1", "node.labels.topology.kubernetes.io/rack"]).well();
    let json = workstation.run(&["config", "show", "--node", "w1", "-o", "json"]).well().json();
    assert_eq!(json["spec"], serde_json::json!({}));
    let told = workstation.run(&["events"]).well().out;
    assert_eq!(told.lines().filter(|line| line.contains("settings") && line.ends_with("(ann)")).count(), 4, "{told}");
}

#[test]
fn what_is_wrong_with_settings_is_told_field_by_field() {
    let (workstation, _fixture) = Workstation::with_node();
    let refused = workstation.run(&["config", "set", "role=worker", "timeServers=a", "node.labels.a b=c"]);
    assert_eq!(refused.code, 6, "{refused:?}");
    let lines: Vec<_> = refused.err.lines().collect();
    assert!(lines[0].ends_with("the settings are not valid, and nothing was changed"), "{refused:?}");
    for field in ["  spec.role: a node has it for life", "  spec.timeServers: ", "  spec.node.labels.a b: "] {
        assert!(lines.iter().any(|line| line.starts_with(field)), "{field} is not in {refused:?}");
    }
    assert_eq!(lines.len(), 4, "{refused:?}");
    let stranger = workstation.run(&["config", "set", "--node", "w9", "timeServers=[a]"]);
    assert!(stranger.code == 6 && stranger.err.contains("there is no node w9"), "{stranger:?}");
    for words in [
        &["config", "set", "timeServers"][..],
        &["config", "set", "a=["],
        &["config", "show", "--cluster", "--node", "a"],
    ] {
        assert_eq!(workstation.run(words).code, 2, "{words:?}");
    }
    let missing = workstation.run(&["config", "apply", "-f", "/nonexistent/document.yaml"]);
    assert!(missing.code == 1 && missing.err.contains("/nonexistent/document.yaml"), "{missing:?}");
}

#[test]
fn logs_are_printed_and_followed() {
    let (workstation, fixture) = Workstation::with_node();
    for number in 0..10 {
        fixture.log("kubelet", &format!("line {number}"));
    }
    let shown = workstation.run(&["logs", "kubelet", "--lines", "3"]).well().out;
    let texts: Vec<_> = shown.lines().map(|line| line.split_once(' ').expect("a time and a text").1).collect();
    assert_eq!(texts, ["line 7", "line 8", "line 9"]);

    let mut following = workstation.spawn(&["logs", "kubelet", "-f", "-n", "1"]);
    let mut lines = BufReader::new(following.stdout.take().expect("its standard output")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    assert!(next().ends_with("line 9"));
    fixture.log("kubelet", "line 10");
    assert!(next().ends_with("line 10"));
    following.kill().expect("killed");
    following.wait().expect("its end");

    let unknown = workstation.run(&["logs", "kubelt"]);
    assert_eq!(unknown.code, 6, "{unknown:?}");
    assert!(unknown.err.contains("there is no service \"kubelt\""), "{unknown:?}");
    let traversal = workstation.run(&["logs", "../../status"]);
    assert_eq!(traversal.code, 6, "{traversal:?}");
}

/// Passes connections on to a node, until they are cut.
struct Relay {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let connections = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&connections);
        std::thread::spawn(move || {
            for inside in listener.incoming() {
                let (inside, outside) = (inside.expect("a connection"), TcpStream::connect(to).expect("connected"));
                for (from, into) in [(&inside, &outside), (&outside, &inside)] {
                    let (mut from, mut into) = (from.try_clone().expect("a copy"), into.try_clone().expect("a copy"));
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut into);
                        let _ = into.shutdown(Shutdown::Both);
                    });
                }
                kept.lock().expect("no panic").push(inside);
            }
        });
        Self { address, connections }
    }

    fn cut(&self) {
        for connection in self.connections.lock().expect("no panic").drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn a_followed_log_goes_on_after_its_connection_broke_and_no_line_comes_twice() {
    let (workstation, fixture) = Workstation::with_node();
    let relay = Relay::start(fixture.address);
    let endpoint = format!("https://{}", relay.address);
    workstation.run(&["config", "set-context", "home", "--endpoint", &endpoint]).well();
    for number in 0..3 {
        fixture.log("kubelet", &format!("line {number}"));
    }
    let mut following = workstation.spawn(&["logs", "kubelet", "-f", "-n", "2"]);
    let mut lines = BufReader::new(following.stdout.take().expect("its standard output")).lines();
    let mut next = || {
        let line = lines.next().expect("a line").expect("text");
        line.split_once(' ').expect("a time and a text").1.to_owned()
    };
    assert_eq!([next(), next()], ["line 1", "line 2"]);
    for number in 3..6 {
        relay.cut();
        fixture.log("kubelet", &format!("line {number}"));
        assert_eq!(next(), format!("line {number}"));
    }
    following.kill().expect("killed");
    let mut said = String::new();
    following.stderr.take().expect("its standard error").read_to_string(&mut said).expect("text");
    following.wait().expect("its end");
    assert!(said.contains("the log goes on as soon as it can"), "{said}");
}

#[test]
fn a_kubeconfig_has_its_own_key_and_the_address_that_was_asked_for() {
    let (workstation, _fixture) = Workstation::with_node();
    let path = workstation.path("kubeconfig");
    let file = path.display().to_string();
    workstation.run(&["kubeconfig", "--server", "https://127.0.0.1:16443", "--output-file", &file]).well();
    assert_eq!(mode(&path), 0o600);
    let text = std::fs::read_to_string(&path).expect("a file");
    let config: Value = serde_saphyr::from_str(&text).expect("YAML");
    assert_eq!(config["clusters"][0]["cluster"]["server"], "https://127.0.0.1:16443");
    let decoded = |pointer: &str| {
        let encoded =
            config.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {text}"));
        String::from_utf8(BASE64_STANDARD.decode(encoded).expect("base64")).expect("text")
    };
    assert!(decoded("/users/0/user/client-certificate-data").contains("BEGIN CERTIFICATE"));
    assert!(decoded("/clusters/0/cluster/certificate-authority-data").contains("BEGIN CERTIFICATE"));
    let key = decoded("/users/0/user/client-key-data");
    assert!(key.contains("PRIVATE KEY"));
    assert_ne!(key.trim(), std::fs::read_to_string(workstation.key()).expect("the operator's key").trim());

    // Made anew over its own file, and never over one that knows other clusters.
    workstation.run(&["kubeconfig", "--output-file", &file]).well();
    for foreign in [&b"contexts:\n- name: production\n"[..], b"contexts:\n- name: keelson-00000000\n", b"\xff\xfe"] {
        std::fs::write(&path, foreign).expect("written");
        let refused = workstation.run(&["kubeconfig", "--output-file", &file]);
        assert!(refused.code == 1 && refused.err.contains("left alone"), "{refused:?}");
        assert_eq!(std::fs::read(&path).expect("a file"), foreign);
    }
    let printed = workstation.run(&["kubeconfig"]).well().out;
    assert!(printed.contains("https://192.0.2.10:6443"), "{printed}");
}

#[test]
fn power_orders_reach_pid_1_in_the_operators_name() {
    let (workstation, fixture) = Workstation::with_node();
    workstation.run(&["reboot", "--reason", "new memory"]).well();
    workstation.run(&["poweroff"]).well();
    let orders = fixture.orders.lock().expect("no panic").clone();
    let expected = [
        Request::Reboot { reason: "asked for by ann: new memory".to_owned() },
        Request::PowerOff { reason: "asked for by ann".to_owned() },
    ];
    assert_eq!(orders, expected);
    // This node never reboots, so waiting for it ends at its deadline.
    let late = workstation.run(&["reboot", "--wait", "--timeout", "0s"]);
    assert_eq!(late.code, 7, "{late:?}");
    // And when it does, the wait is over.
    let mut waiting = workstation.spawn(&["reboot", "--wait", "--timeout", "60s"]);
    let mut told = BufReader::new(waiting.stderr.take().expect("its standard error")).lines();
    assert!(told.next().expect("a reason").expect("text").ends_with("the node is shutting down"));
    std::fs::write(fixture.path().join("proc/sys/kernel/random/boot_id"), "another\n").expect("written");
    assert!(waiting.wait().expect("its end").success());
}

#[test]
fn contexts_are_listed_chosen_and_deleted() {
    let (workstation, fixture) = Workstation::with_node();
    let fingerprint = fixture.fingerprint();
    workstation
        .run(&[
            "config",
            "add",
            "away",
            "--endpoint",
            "192.0.2.77",
            "--fingerprint",
            &fingerprint,
            "--key",
            "other.key",
        ])
        .well();
    let list = workstation.run(&["config", "list"]).well().out;
    assert!(list.lines().any(|line| line.starts_with('*') && line.contains("home")), "{list}");
    workstation.run(&["config", "use", "away"]).well();
    let json = workstation.run(&["config", "list", "-o", "json"]).well().json();
    assert_eq!(json["currentContext"], "away");
    assert_eq!(json["contexts"][1]["endpoint"], "https://192.0.2.77:6400");
    workstation.run(&["--context", "home", "status"]).well();
    assert!(workstation.certificate().exists());
    workstation.run(&["config", "delete", "home"]).well();
    assert!(!workstation.certificate().exists(), "the certificate of a deleted context is kept");
    let refused = workstation.run(&["--context", "home", "status"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.err.contains("keelctl.yaml has no context \"home\"; it has: away"), "{refused:?}");
}

#[test]
fn version_and_completion_need_no_node() {
    let workstation = Workstation::new();
    assert!(workstation.run(&["version"]).well().out.starts_with("keelctl 0."));
    assert_eq!(workstation.run(&["version", "-o", "json"]).well().json()["api"], "v1");
    for shell in ["bash", "zsh", "fish"] {
        let script = workstation.run(&["completion", shell]).well().out;
        assert!(script.contains("poweroff"), "{shell}: {script:.100}");
    }
    for words in [&["frobnicate"][..], &["logs"], &["status", "--timeout", "5"], &["logs", "a", "-n", "-1"]] {
        assert_eq!(workstation.run(words).code, 2, "{words:?}");
    }
}

#[test]
fn output_that_nobody_reads_is_no_error() {
    let (workstation, fixture) = Workstation::with_node();
    for number in 0..2000 {
        fixture.log("kubelet", &format!("line {number} {}", "x".repeat(100)));
    }
    let mut printing = workstation.spawn(&["logs", "kubelet", "-f", "-n", "2000"]);
    drop(printing.stdout.take());
    let mut said = String::new();
    printing.stderr.take().expect("its standard error").read_to_string(&mut said).expect("text");
    printing.wait().expect("its end");
    assert_eq!(said, "");
}

/// Longer than any of it takes; a test that hangs is ended by its runner.
#[test]
fn a_node_that_accepts_and_says_nothing_is_given_up() {
    let (workstation, fixture) = Workstation::with_node();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("https://{}", silent.local_addr().expect("its address"));
    workstation.run(&["config", "set-context", "home", "--endpoint", &endpoint]).well();
    let begin = Instant::now();
    let outcome = workstation.run(&["status"]);
    assert_eq!(outcome.code, 4, "{outcome:?}");
    assert!(outcome.err.contains(&endpoint) && outcome.err.contains("did not accept a connection"), "{outcome:?}");
    assert!(begin.elapsed() < Duration::from_secs(30));

    // Whoever waits waits for as long as was said: less than it takes to give such a node up.
    let begin = Instant::now();
    let outcome = workstation.run(&["status", "--wait", "--timeout", "1s"]);
    assert!(outcome.code == 7 && outcome.err.contains("the node has not answered yet"), "{outcome:?}");
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    drop(fixture);
}
