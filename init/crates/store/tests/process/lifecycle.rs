//! Start, readiness, stop and exit codes, as supervisors and scripts rely on them.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use crate::harness::{READY, Store, get, put};

/// Twice of what it does, and a fraction of what consensus does that counts time.
const IDLE_WAITS_A_SECOND: u64 = 25;

#[tokio::test]
async fn a_stop_by_signal_exits_zero_and_keeps_everything() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::start(directory.path(), &["--name=a"]);
    let mut client = store.client().await;
    client.put(put("key", "value")).await.unwrap();
    store.terminate();
    assert_eq!(store.wait().code(), Some(0));
    assert!(store.output().contains(r#""msg":"stopped""#));

    let store = Store::start(directory.path(), &["--name=a"]);
    assert_eq!(get(&mut store.client().await, "key").await.as_deref(), Some("value"));
}

#[test]
fn readiness_is_told_to_the_supervisor_once_it_serves() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let supervisor = UnixDatagram::bind(&path).unwrap();
    supervisor.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let environment = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "400000")];
    let store = Store::spawn(&directory.path().join("data"), &[], &environment);
    let mut message = [0; 64];
    let len = supervisor.recv(&mut message).unwrap();
    assert_eq!(&message[..len], b"READY=1");
    assert!(std::net::TcpStream::connect(("127.0.0.1", store.port)).is_ok());
    // And then again and again that it lives.
    for _ in 0..3 {
        let len = supervisor.recv(&mut message).unwrap();
        assert_eq!(&message[..len], b"WATCHDOG=1");
    }
}

/// Each waking costs an idle machine more than what is done then.
#[tokio::test]
async fn a_member_that_is_alone_and_idle_sleeps() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::start(directory.path(), &[]);
    store.client().await.put(put("key", "value")).await.unwrap();
    let mut rates = Vec::new();
    // What a start leaves to do comes to an end.
    for _ in 0..10 {
        let before = store.waits();
        tokio::time::sleep(Duration::from_secs(2)).await;
        rates.push(store.waits().saturating_sub(before) / 2);
        if rates.last().is_some_and(|rate| *rate < IDLE_WAITS_A_SECOND) {
            return;
        }
    }
    panic!("it wakes so often a second: {rates:?}");
}

#[test]
fn a_second_process_on_the_data_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let _first = Store::start(directory.path(), &[]);
    let mut second = Store::spawn(directory.path(), &[], &[]);
    assert_eq!(second.wait().code(), Some(1));
    second.wait_for("is in use by another process");
    assert!(!second.output().contains(READY));
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    for (name, told) in [("photographs", "is not empty and holds no store"), ("member", "snapshot restore")] {
        std::fs::create_dir(directory.path().join(name)).unwrap();
        let mut store = Store::spawn(directory.path(), &[], &[]);
        assert_eq!(store.wait().code(), Some(1));
        store.wait_for(told);
    }
}

/// Scripts and supervisors tell by the code whether it is of any use to try again.
#[test]
fn wrong_calls_exit_with_etcds_codes_and_say_why() {
    let directory = tempfile::tempdir().unwrap();
    for (flags, environment, code, told) in [
        (&["--max-txn-opps=3"][..], &[][..], 2, "did you mean --max-txn-ops?"),
        (&["--max-txn-ops=many"], &[], 2, "is no whole number"),
        (&[], &[("ETCD_MAX_TXN_OPS", "many")], 1, "is no whole number"),
        (&["--heartbeat-interval=900"], &[], 1, "--election-timeout must be"),
        (&["serve"], &[], 1, "arguments are flags"),
        (&["--initial-cluster-state=existing"], &[], 1, "names no other member to join"),
    ] {
        let mut store = Store::spawn(directory.path(), flags, environment);
        assert_eq!(store.wait().code(), Some(code), "{flags:?}");
        store.wait_for(told);
    }
}

/// Units and scripts keep saying how the cluster began, long after it has.
#[tokio::test]
async fn a_restart_does_not_look_at_how_the_cluster_began() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::start(directory.path(), &["--name=a"]);
    store.client().await.put(put("key", "value")).await.unwrap();
    store.terminate();
    let mut store = store;
    assert_eq!(store.wait().code(), Some(0));
    for flags in [
        &["--initial-cluster-state=existing"][..],
        &["--initial-cluster=b=http://10.0.0.1:2380,c=http://10.0.0.2:2380"],
        &["--initial-advertise-peer-urls=http://10.0.0.3:2380", "--initial-cluster=a=http://10.0.0.1:2380"],
    ] {
        let mut store = Store::start(directory.path(), &[&["--name=a"], flags].concat());
        assert_eq!(get(&mut store.client().await, "key").await.as_deref(), Some("value"));
        store.terminate();
        assert_eq!(store.wait().code(), Some(0));
    }
}

#[test]
fn the_version_is_told_as_etcd_tells_it() {
    let output = Command::new(env!("CARGO_BIN_EXE_keelson-store")).arg("--version").output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("etcd Version: 3.7."), "{text}");
    assert!(text.contains("\nkeelson-store Version: "), "{text}");

    let output = Command::new(env!("CARGO_BIN_EXE_keelson-store")).arg("--help").output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains("--listen-client-urls"));
}

#[test]
fn a_port_in_use_is_told_and_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("--listen-metrics-urls=http://{}", taken.local_addr().unwrap());
    let mut store = Store::spawn(directory.path(), &[&url], &[]);
    assert_eq!(store.wait().code(), Some(1));
    store.wait_for("serve");
}
