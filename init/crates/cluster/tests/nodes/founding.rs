//! A founder that is told of peers asks them first.

use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use super::power::{store_members, token};
use super::world::{Node, wait_until, world_without_kubernetes};

const FOUNDER: &str = "keelson.role=control-plane keelson.bootstrap keelson.peers=10.99.0.1,10.99.0.2,10.99.0.3";
const OTHER: &str = "keelson.role=control-plane";
/// A founder asks again every two seconds.
const LONGER_THAN_A_TRY: Duration = Duration::from_secs(5);

/// Why the node has no cluster, in its own words.
async fn why(node: &Node) -> String {
    let Some((_, status)) = node.api(Method::GET, "/v1/status", &Value::Null).await else { return String::new() };
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let member = conditions.iter().find(|one| one["type"] == "Member").cloned().unwrap_or_default();
    member["reason"].as_str().unwrap_or_default().to_owned()
}

async fn wait_why(node: &Node, words: &str) {
    wait_until(&format!("{} says {words:?}", node.name), async || why(node).await.contains(words)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reinstalled_founder_finds_its_cluster_at_its_peers_and_founds_no_second() {
    let Some(mut world) = world_without_kubernetes() else { return };
    // Itself and silence: one of three.
    let mut founder = world.node("a", 1, FOUNDER, None);
    wait_why(&founder, "1 of 3 peers say that they have no cluster").await;
    tokio::time::sleep(LONGER_THAN_A_TRY).await;
    assert!(!founder.root.join("state/identity.json").exists(), "silence was taken for an answer");

    // A second node that knows of no cluster either makes more than half.
    let mut second = world.node("b", 2, OTHER, None);
    founder.wait_for(&["Member", "ServicesApplied"]).await;
    wait_until("a's record is there", async || !store_members(&founder).await.is_empty()).await;
    second.switch_off();
    second.give_token(&token(&founder, "control-plane", 1).await);
    second.switch_on();
    second.wait_for(&["Member", "ServicesApplied"]).await;
    wait_until("b's store serves", async || store_members(&second).await.len() == 2).await;

    // The same machine with an empty disk.
    founder.switch_off();
    std::fs::remove_dir_all(founder.root.join("state")).unwrap();
    std::fs::create_dir_all(founder.root.join("state")).unwrap();
    founder.switch_on();
    wait_why(&founder, "10.99.0.2 belongs to a cluster").await;
    assert!(!founder.root.join("state/identity.json").exists(), "a second cluster");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_founders_that_know_of_each_other_none_founds() {
    let Some(mut world) = world_without_kubernetes() else { return };
    let founders = [world.node("a", 1, FOUNDER, None), world.node("b", 2, FOUNDER, None)];
    for (founder, rival) in founders.iter().zip(["10.99.0.2", "10.99.0.1"]) {
        wait_why(founder, &format!("{rival}: only one node may found")).await;
        assert!(!founder.root.join("state/identity.json").exists(), "founded beside a rival");
    }
}
