//! Nodes as processes in network namespaces, with an unmodified Kubernetes on the control planes. The tests are the cluster
//! manager's own; here they get the program that the image's build has made.
#![forbid(unsafe_code)]

use keelson_vm::build::progress::Silent;
use keelson_vm::project::Project;

#[test]
#[ignore = "takes many minutes: run it with --ignored"]
fn nodes_join_serve_fail_over_are_removed_and_come_back() {
    let project = Project::of_this_build();
    let image = project.image(&mut Silent).unwrap();
    let mut tests = project.tests("keelson-cluster", "nodes").unwrap();
    let output = tests
        // One after the other: each has several API servers.
        .args(["--test-threads", "1", "--show-output"])
        .env("KEELSON_KUBERNETES", image.kubectl.with_file_name("kubernetes"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("nothing to test with"), "a test found no program or no rights:\n{text}");
}
