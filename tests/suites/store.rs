//! The store beside what it stands in for: the same requests to it and to etcd, etcdctl, and an unmodified
//! kube-apiserver on top. The tests are the store's own; here they get the programs that the image's build has made.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test program: what cannot be had fails the test")]

use keelson_vm::build::progress::Silent;
use keelson_vm::project::Project;

/// The tests of one member that end at once where these programs are missing.
const TESTS: [&str; 8] = [
    "cases::",
    "concurrency::",
    "differential::",
    "etcdctl::",
    "gateway::etcds",
    "kubernetes::",
    "tools::",
    "watches::events_go_on",
];

#[test]
fn answers_as_etcd_does_and_carries_kubernetes() {
    run("api", &TESTS);
}

#[test]
#[ignore = "takes minutes: kube-apiserver over three members, whose leader is killed, stopped and cut off"]
fn carries_kubernetes_across_changes_of_the_leader() {
    run("cluster", &["kubernetes::"]);
}

fn run(target: &'static str, tests: &[&str]) {
    let project = Project::of_this_build();
    let image = project.image(&mut Silent).unwrap();
    let output = project
        .tests("keelson-store", target)
        .unwrap()
        .args(tests)
        .args(["--test-threads", "2", "--show-output"])
        .env("KEELSON_ETCD", &image.etcd)
        .env("KEELSON_ETCDCTL", &image.etcdctl)
        .env("KEELSON_KUBERNETES", image.kubectl.with_file_name("kubernetes"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("nothing to test with"), "a test found no program:\n{text}");
}
