//! The power goes after every change of the disk of a control plane that joins, and of one that was removed.

use hyper::Method;
use serde_json::{Value, json};

use super::world::{Node, wait_until, world_without_kubernetes};

const FOUNDER: &str = "keelson.role=control-plane keelson.bootstrap keelson.peers=none";
const JOINER: &str = "keelson.role=control-plane";
/// Each boot makes one change of the disk; more boots than this go nowhere.
const BOOTS_MAX: usize = 60;

pub(super) async fn token(at: &Node, role: &str, uses: u32) -> String {
    let answer = at.ask(Method::POST, "/v1/tokens", json!({ "role": role, "uses": uses })).await;
    answer["token"].as_str().unwrap().to_owned()
}

pub(super) async fn store_members(at: &Node) -> Vec<Value> {
    match at.api(Method::GET, "/v1/store/members", &Value::Null).await {
        Some((200, answer)) => answer["members"].as_array().cloned().unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// Boots with power for one change each, until a boot makes none, and says how many were cut.
async fn boot_change_by_change(node: &mut Node, line: Option<&str>, done: impl AsyncFn(&Node) -> bool) -> usize {
    for boot in 0..BOOTS_MAX {
        // PID 1 writes what it was told at each boot.
        if let Some(line) = line {
            node.give_token(line);
        }
        node.switch_on_until(1);
        let mut is_done = false;
        wait_until(&format!("boot {boot} of {} comes to its end", node.name), async || {
            is_done = done(node).await;
            is_done || node.is_off()
        })
        .await;
        if is_done && !node.is_off() {
            return boot;
        }
        node.switch_off();
    }
    panic!("after {BOOTS_MAX} boots {} is not where it should be", node.name);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_after_every_step_of_a_join_and_of_a_removal_ends_in_the_same_place() {
    let Some(mut world) = world_without_kubernetes() else { return };
    let founder = world.node("a", 1, FOUNDER, None);
    founder.wait_for(&["Member", "ServicesApplied"]).await;
    wait_until("a's record is there", async || !store_members(&founder).await.is_empty()).await;
    let line = token(&founder, "control-plane", 1).await;
    let mut joiner = world.node_off("b", 2, JOINER, None);

    let serves = async |node: &Node| store_members(node).await.len() == 2;
    let cuts = boot_change_by_change(&mut joiner, Some(&line), serves).await;
    println!("a join was cut {cuts} times");
    assert!(cuts >= 12, "only {cuts} changes were cut");
    let members = store_members(&founder).await;
    assert_eq!(members.len(), 2, "{members:?}");
    let list = founder.ask(Method::GET, "/v1/tokens", Value::Null).await;
    assert_eq!(list["tokens"][0]["usedBy"], json!(["b"]), "it was one node all the time");
    assert!(!joiner.root.join("run/keelson/config/token").exists(), "the token was used");

    // Off while it is removed; then each boot forgets a little more.
    joiner.switch_off();
    founder.ask(Method::POST, "/v1/nodes/b/removal", json!({})).await;
    wait_until("the store goes on without b", async || store_members(&founder).await.len() == 1).await;
    let forgotten = async |node: &Node| node.root.join("rebooted").exists();
    let mut cuts = 0;
    loop {
        joiner.switch_on_until(1);
        wait_until("b loses power, or is done", async || joiner.is_off() || forgotten(&joiner).await).await;
        let cut = joiner.is_off();
        joiner.switch_off();
        // With its identity gone it waits for a token, and says so.
        if !cut || !joiner.root.join("state/cluster/leaving").exists() {
            break;
        }
        cuts += 1;
        assert!(cuts < BOOTS_MAX);
        let log = std::fs::read_to_string(joiner.root.join("node.log")).unwrap();
        assert!(!log.contains("handed"), "it has handed services to PID 1: {log}");
    }
    println!("a removal was cut {cuts} times");
    assert!(cuts >= 8, "only {cuts} changes were cut");
    let left = |path: &str| joiner.root.join(path).exists();
    for file in ["state/identity.json", "state/pki/node/node.key", "state/cluster/encryption.json"] {
        assert!(!left(file), "{file} is still there");
    }
    assert!(!left("state/pki/authorities/api.pem") && !left("state/cluster/service-account.key"));

    // And once more under the same name.
    let _ = std::fs::remove_file(joiner.root.join("rebooted"));
    joiner.give_token(&token(&founder, "control-plane", 1).await);
    joiner.switch_on();
    joiner.wait_for(&["Member", "ServicesApplied"]).await;
    wait_until("b's store serves again", async || store_members(&joiner).await.len() == 2).await;
}
