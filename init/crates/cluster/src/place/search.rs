//! What a control plane does to find the others while its store is silent: they may all be at other addresses than when it heard of them last.
//!
//! Those that answer ([`discovery`]) are named to the store, which tries its members there and believes their certificates only; and they are
//! asked for a place like on any start, for they may have a quorum without this node and know it by an address that it has no more. Once the
//! store's members have told it their addresses, there is nothing left to say.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use keelson_pki::{Files, Mode, Owner};

use super::{PlaceError, ask_for_place, read_peers};
use crate::discovery::{self, Found};
use crate::membership::{ControlPlane, Membership};
use crate::node::Node;
use crate::store::peers::Peers;
use crate::store::{self, peer_url};
use crate::{accounts, report};

#[derive(Debug, Default)]
pub(super) struct Search {
    /// Where members were found, by their names.
    hints: BTreeMap<String, Vec<IpAddr>>,
    /// The APIs of all that have answered.
    pub(super) endpoints: Vec<String>,
    complaint: report::Complaint,
}

impl Search {
    /// Once around, while the store is silent.
    pub(super) async fn look(
        &mut self,
        node: &Node,
        files: &Arc<dyn Files>,
        membership: &Membership,
        held: &ControlPlane,
    ) {
        match self.try_look(node, files, membership, held).await {
            Ok(()) => self.complaint.passed(),
            Err(error) => self.complaint.of(format!("looking for the other control planes: {}", report::chain(&error))),
        }
    }

    async fn try_look(
        &mut self,
        node: &Node,
        files: &Arc<dyn Files>,
        membership: &Membership,
        held: &ControlPlane,
    ) -> Result<(), PlaceError> {
        let uid = membership.identity.node_uid.as_str();
        let known = read_peers(files, node).await?;
        if known.endpoints(uid).is_empty() {
            return Ok(());
        }
        let found = discovery::search(node, &membership.trust, uid).await.map_err(PlaceError::Search)?;
        let hints = elsewhere(&known, &found);
        if hints != self.hints {
            for (member, addresses) in &hints {
                let name = found.iter().find(|plane| plane.uid == *member).map_or("", |plane| plane.name.as_str());
                let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                report::info(format!("the control plane {name} is found at {}", addresses.join(" and ")));
            }
            save(node, files, &hints).await?;
            self.hints = hints;
        }
        self.endpoints = discovery::endpoints(&found);
        if !self.endpoints.is_empty() {
            // Without a quorum they have no place to give, and say so.
            match ask_for_place(node, files, membership, held, self.endpoints.clone()).await {
                Ok(()) | Err(PlaceError::Refused(_) | PlaceError::Planes(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether there is something to forget.
    pub(super) fn has_hints(&self) -> bool {
        !self.hints.is_empty()
    }

    /// While the store answers: forgets what its members have told it by now.
    pub(super) async fn settle(&mut self, node: &Node, files: &Arc<dyn Files>) {
        self.endpoints.clear();
        let forgotten = async {
            let known = read_peers(files, node).await?;
            if self.hints.iter().all(|(member, addresses)| known.is_at(member, addresses)) {
                save(node, files, &BTreeMap::new()).await?;
                self.hints.clear();
            }
            Ok::<_, PlaceError>(())
        };
        if let Err(error) = forgotten.await {
            self.complaint.of(report::chain(&error));
        }
    }
}

/// The members of the store that were found where they are not known to be.
fn elsewhere(known: &Peers, found: &[Found]) -> BTreeMap<String, Vec<IpAddr>> {
    let moved = found.iter().filter(|plane| known.has(&plane.uid) && !known.is_at(&plane.uid, &plane.addresses));
    moved.map(|plane| (plane.uid.clone(), plane.addresses.clone())).collect()
}

async fn save(node: &Node, files: &Arc<dyn Files>, hints: &BTreeMap<String, Vec<IpAddr>>) -> Result<(), PlaceError> {
    let urls = |addresses: &Vec<IpAddr>| addresses.iter().map(|address| peer_url(*address)).collect::<Vec<_>>();
    let hints: BTreeMap<_, _> = hints.iter().map(|(member, addresses)| (member.clone(), urls(addresses))).collect();
    let (files, path) = (Arc::clone(files), store::hints_file(&node.paths));
    let write = move || {
        if hints.is_empty() {
            return files.remove(&path);
        }
        // Names and URLs are always JSON.
        let content = serde_json::to_vec(&hints).unwrap_or_default();
        files.update(&path, &content, Mode::SECRET, Owner::account(accounts::STORE)).map(drop)
    };
    Ok(tokio::task::spawn_blocking(write).await.map_err(|_| PlaceError::Interrupted)??)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::StoreMember;

    #[test]
    fn members_that_moved_are_named_and_nobody_else() {
        let member = |name: &str, address: &str| StoreMember {
            id: 1,
            name: name.to_owned(),
            peer_urls: vec![peer_url(address.parse().unwrap())],
            votes: true,
        };
        let known = Peers::of(&[member("a", "192.0.2.1"), member("b", "192.0.2.2")]);
        let found = |uid: &str, addresses: &[&str]| Found {
            uid: uid.to_owned(),
            name: uid.to_uppercase(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        let all = [found("a", &["192.0.2.9"]), found("b", &["2001:db8::2", "192.0.2.2"]), found("c", &["192.0.2.3"])];
        let hints = elsewhere(&known, &all);
        assert_eq!(hints, [("a".to_owned(), vec!["192.0.2.9".parse().unwrap()])].into());
    }
}
