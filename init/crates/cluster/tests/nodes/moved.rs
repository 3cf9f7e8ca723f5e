//! All nodes get other addresses while they are off, and the cluster goes on with nobody's help.

use serde_json::Value;

use super::growth::wait_for_members;
use super::power::{store_members, token};
use super::world::{Node, wait_until, world_without_kubernetes};

/// Each takes `10.99.0.N` of its own.
fn move_all(nodes: &mut [&mut Node], last: &[u8]) {
    for node in nodes.iter_mut() {
        node.switch_off();
    }
    for (node, last) in nodes.iter_mut().zip(last) {
        node.move_to(*last);
    }
    for node in nodes.iter_mut() {
        node.switch_on();
    }
}

/// The store and the worker know the control planes where they are now.
async fn wait_until_known(at: &Node, worker: &Node, last: &[u8]) {
    let mut wanted: Vec<_> = last.iter().map(|last| format!("10.99.0.{last}")).collect();
    wanted.sort();
    wait_until(&format!("the store's members are at {wanted:?}"), async || {
        let members = store_members(at).await;
        let mut urls: Vec<_> = members.iter().filter_map(|one| one["peerURLs"][0].as_str()).collect();
        urls.sort_unstable();
        urls == wanted.iter().map(|address| format!("https://{address}:2380")).collect::<Vec<_>>()
    })
    .await;
    wait_until(&format!("{} knows {wanted:?}", worker.name), async || {
        let file = std::fs::read(worker.root.join("state/cluster/settings.json")).unwrap();
        let settings: Value = serde_json::from_slice(&file).unwrap();
        let planes = settings["settings"]["controlPlanes"].as_array().cloned().unwrap_or_default();
        let mut known: Vec<_> = planes.iter().filter_map(|plane| plane["addresses"][0].as_str()).collect();
        known.sort_unstable();
        known == wanted
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_come_back_at_other_addresses_and_at_each_others() {
    let Some(mut world) = world_without_kubernetes() else { return };
    let mut a = world.node("a", 1, "keelson.role=control-plane keelson.bootstrap keelson.peers=none", None);
    a.wait_for(&["Member", "ServicesApplied"]).await;
    wait_for_members(&a, &["a"], 1).await;
    let line = token(&a, "control-plane", 2).await;
    let [mut b, mut c] =
        [("b", 2), ("c", 3)].map(|(name, last)| world.node(name, last, "keelson.role=control-plane", Some(&line)));
    let line = token(&a, "worker", 1).await;
    let mut worker = world.node("w", 4, "keelson.role=worker", Some(&line));
    worker.wait_for(&["Member"]).await;
    wait_for_members(&a, &["a", "b", "c"], 3).await;
    wait_until_known(&a, &worker, &[1, 2, 3]).await;

    // Nobody is where anybody knew them.
    move_all(&mut [&mut a, &mut b, &mut c, &mut worker], &[11, 12, 13, 14]);
    wait_for_members(&b, &["a", "b", "c"], 3).await;
    wait_until_known(&c, &worker, &[11, 12, 13]).await;
    // Whoever was found first told the others of the third.
    let logs = [&a, &b, &c].map(|node| std::fs::read_to_string(node.root.join("node.log")).unwrap());
    assert!(logs.iter().any(|log| log.contains(" is found at 10.99.0.1")), "{logs:#?}");
    wait_until("the store is told no more where to try", async || {
        [&a, &b, &c].iter().all(|node| !node.root.join("run/keelson/store/hints.json").exists())
    })
    .await;

    // Where each was another is, and nobody gives an address up before all have another.
    move_all(&mut [&mut a, &mut b, &mut c, &mut worker], &[12, 13, 11, 15]);
    wait_for_members(&b, &["a", "b", "c"], 3).await;
    wait_until_known(&a, &worker, &[12, 13, 11]).await;

    // One comes back when the others have gone on without it.
    c.switch_off();
    move_all(&mut [&mut a, &mut b, &mut worker], &[21, 22, 24]);
    wait_until("a and b agree", async || store_members(&a).await.iter().any(|one| one["leads"] == true)).await;
    c.move_to(23);
    c.switch_on();
    wait_for_members(&c, &["a", "b", "c"], 3).await;
    wait_until_known(&c, &worker, &[21, 22, 23]).await;
    token(&c, "worker", 1).await;
}
