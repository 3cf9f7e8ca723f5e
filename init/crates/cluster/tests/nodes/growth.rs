//! From one control plane to five and back to one, and what a copy of a removed one's disk is good for.

use hyper::Method;
use serde_json::{Value, json};

use super::power::{store_members, token};
use super::world::{Node, wait_until, world_without_kubernetes};

const FOUNDER: &str = "keelson.role=control-plane keelson.bootstrap keelson.peers=none";
const PLANE: &str = "keelson.role=control-plane";

/// Exactly these are members of the store, as many of them vote, and one of the voters leads.
pub(super) async fn wait_for_members(at: &Node, names: &[&str], voters: usize) {
    wait_until(&format!("{names:?} are members, {voters} vote"), async || {
        let members = store_members(at).await;
        let mut found: Vec<_> = members.iter().map(|one| one["node"].clone()).collect();
        found.sort_by_key(Value::to_string);
        let count = |flag: &str| members.iter().filter(|one| one[flag] == true).count();
        found == names && count("votes") == voters && count("leads") == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_control_plane_becomes_five_and_one_again() {
    let Some(mut world) = world_without_kubernetes() else { return };
    let founder = world.node("a", 1, FOUNDER, None);
    founder.wait_for(&["Member", "ServicesApplied"]).await;
    wait_for_members(&founder, &["a"], 1).await;

    let line = token(&founder, "control-plane", 4).await;
    let mut planes: Vec<_> =
        [("b", 2), ("c", 3), ("d", 4), ("e", 5)].map(|(name, last)| world.node(name, last, PLANE, Some(&line))).into();
    for plane in &planes {
        plane.wait_for(&["Member", "ServicesApplied"]).await;
    }
    wait_for_members(&founder, &["a", "b", "c", "d", "e"], 5).await;
    wait_for_members(&planes[3], &["a", "b", "c", "d", "e"], 5).await;

    // Somebody copies the disk of e before it is removed.
    let mut thief = world.node_off("thief", 6, PLANE, None);
    planes[3].switch_off();
    copy_disk(&planes[3], &thief);
    planes[3].switch_on();
    planes[3].wait_for(&["Member", "ServicesApplied"]).await;

    // An even number of them does not vote: who is one too many learns, until a voter leaves and it takes the place.
    for (names, voters) in [(&["a", "b", "c", "d"][..], 3), (&["a", "b", "c"], 3), (&["a", "b"], 1), (&["a"], 1)] {
        let leaves = planes.pop().unwrap();
        founder.ask(Method::POST, &format!("/v1/nodes/{}/removal", leaves.name), json!({})).await;
        wait_until(&format!("{} has learnt it", leaves.name), async || leaves.root.join("rebooted").exists()).await;
        wait_for_members(&founder, names, voters).await;
        if leaves.name == "e" {
            thief.switch_on();
            wait_until("the thief has learnt it", async || thief.root.join("rebooted").exists()).await;
            let log = std::fs::read_to_string(thief.root.join("node.log")).unwrap();
            assert!(!log.contains("handed"), "it has handed services to PID 1: {log}");
            thief.switch_off();
        }
    }
    token(&founder, "worker", 1).await;
}

/// The same disk and the same configuration, in another machine.
fn copy_disk(from: &Node, to: &Node) {
    for folder in ["state", "run/keelson/config"] {
        let copied = std::process::Command::new("cp")
            .args(["-a", "-T"])
            .arg(from.root.join(folder))
            .arg(to.root.join(folder))
            .status()
            .unwrap();
        assert!(copied.success());
    }
}
