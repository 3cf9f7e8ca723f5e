//! Cuts the streams of nodes that were removed.
//!
//! What a removed node asks is denied from the moment its record is gone, but an API server does not look at a watch again that it has
//! granted. So every control plane has keelson-network cut the connections that such a node's addresses have to its API server, for as
//! long as one may have been made before all API servers knew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keelson_config::departed::Departed;
use keelson_pki::validity::LEAF_LIFE;
use keelson_pki::{Files, Mode, Owner};

use crate::kubernetes_api::SERVER;
use crate::node::Node;
use crate::registry::{Registry, View};
use crate::report;

/// A certificate that was issued just before the removal lives for a week; clocks differ.
pub(crate) const DENIED_FOR: time::Duration = time::Duration::days(LEAF_LIFE.whole_days() + 1);
/// From when this process heard of the removal, however late: a control plane that was paused or cut off has its streams still. Far
/// longer than a change of the registry takes to every API server.
const PERIOD: Duration = Duration::from_mins(1);
/// How often the end of the period is looked for.
const LOOK: Duration = Duration::from_secs(10);

/// For ever.
pub async fn keep(node: Arc<Node>, files: Arc<dyn Files>, registry: Arc<Registry>) {
    let mut views = registry.view();
    let mut written = Departed::default();
    let mut heard = Heard::default();
    let mut complaint = report::Complaint::default();
    loop {
        let view = views.borrow_and_update().clone();
        let wanted = view.map_or_else(Departed::default, |view| {
            let now = Instant::now();
            heard.note(&view, node.clock().now.unix_timestamp(), now);
            departed(&view, &heard, now)
        });
        if wanted != written {
            match write(&node, &files, &wanted).await {
                Ok(()) => {
                    complaint.passed();
                    written = wanted.clone();
                }
                Err(reason) => complaint.of(format!("having connections of removed nodes cut: {reason}")),
            }
        }
        // Nobody's period ends, and nothing is to be written again.
        let is_idle = wanted == written && wanted.addresses.is_empty();
        let pause = if is_idle { Duration::MAX } else { LOOK };
        let news = tokio::time::timeout(pause, views.changed()).await;
        if matches!(news, Ok(Err(_))) {
            return;
        }
    }
}

/// When this process heard of each removal, by the uid of the node.
#[derive(Debug, Default)]
struct Heard(BTreeMap<String, Instant>);

impl Heard {
    /// `clock` is in seconds since the epoch, by this node's clock; another one's has named the time of the removal. Who was removed longer ago
    /// than a certificate lives holds none, and is not heard of by a process that begins.
    fn note(&mut self, view: &View, clock: i64, now: Instant) {
        self.0.retain(|uid, _| view.removed.contains_key(uid));
        let denied = DENIED_FOR.whole_seconds();
        for (uid, _) in view.removed.iter().filter(|(_, removed)| clock.saturating_sub(removed.removed) < denied) {
            self.0.entry(uid.clone()).or_insert(now);
        }
    }
}

fn departed(view: &View, heard: &Heard, now: Instant) -> Departed {
    let members: BTreeSet<&String> = view.nodes.values().flat_map(|record| &record.addresses).collect();
    let is_recent = |uid: &String| heard.0.get(uid).is_some_and(|at| now.saturating_duration_since(*at) < PERIOD);
    let recent = view.removed.iter().filter(|(uid, _)| is_recent(uid)).map(|(_, removed)| removed);
    let addresses: BTreeSet<IpAddr> = recent
        .flat_map(|removed| &removed.addresses)
        .filter(|address| !members.contains(address))
        .filter_map(|address| address.parse().ok())
        .collect();
    let ports = if addresses.is_empty() { Vec::new() } else { vec![SERVER.port()] };
    Departed { addresses: addresses.into_iter().collect(), ports }
}

async fn write(node: &Node, files: &Arc<dyn Files>, departed: &Departed) -> Result<(), String> {
    let content = serde_json::to_vec(departed).map_err(|error| error.to_string())?;
    let (files, path) = (Arc::clone(files), node.paths.departed());
    let write = move || files.update(&path, &content, Mode::PUBLIC, Owner::ROOT);
    match tokio::task::spawn_blocking(write).await {
        Ok(result) => result.map(|_| ()).map_err(|error| report::chain(&error)),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use keelson_config::Role;

    use super::*;
    use crate::registry::{NodeRecord, RemovedRecord};

    pub(crate) fn record(name: &str, address: &str) -> NodeRecord {
        NodeRecord {
            version: 1,
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            role: Role::Worker,
            addresses: vec![address.to_owned()],
            key: None,
            hardware: None,
            signing_key: None,
            token: None,
            joined: 0,
            generations: None,
        }
    }

    #[test]
    fn addresses_of_the_removed_are_named_for_a_while_unless_a_member_has_them() {
        let removed = |name: &str, address: &str, at: i64| {
            let removed = RemovedRecord::of(&record(name, address), at, "ann".to_owned());
            (removed.uid.clone(), removed)
        };
        let view = View {
            nodes: [("d".to_owned(), record("d", "192.0.2.3"))].into(),
            removed: [removed("a", "192.0.2.1", 1000), removed("b", "192.0.2.2", 900), removed("c", "192.0.2.3", 1000)]
                .into(),
            ..View::default()
        };
        let (mut heard, start) = (Heard::default(), Instant::now());
        // Whatever the remover's clock said, and however long ago it was.
        heard.note(&view, 5000, start);
        let late = start + Duration::from_secs(30);
        heard.note(&view, 5030, late);
        let named = departed(&view, &heard, start + Duration::from_secs(59));
        assert_eq!(named.addresses, ["192.0.2.1", "192.0.2.2"].map(|address| address.parse::<IpAddr>().unwrap()));
        assert_eq!(named.ports, [6443]);
        assert_eq!(departed(&view, &heard, start + PERIOD), Departed::default());
        let mut later = Heard::default();
        later.note(&view, 1000 + DENIED_FOR.whole_seconds(), start);
        assert_eq!(departed(&view, &later, start), Departed::default(), "no certificate of theirs lives");
    }
}
