//! With whom this control plane's store makes up the cluster's: what the store must be told when it starts, as it was last.
//!
//! `/state/cluster/store-members.json` is as [`keelson_config::kept`] has it. Raft's own record decides; this one is for a store that has no record yet, and for finding the other
//! control planes while the store does not answer. Once it names others, an empty data directory never founds a cluster again:
//! the store is told to join, and a cluster that knows it by another directory refuses it.

use std::net::{IpAddr, SocketAddr};

use keelson_config::kept::{Form, Kept, KeptError};
use keelson_pki::{Files, FilesError, Mode, Owner};
use serde::{Deserialize, Serialize};

use crate::paths::Paths;
use crate::registry::StoreMember;

#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("the list of the store's members on STATE")]
    Form(#[from] KeptError),
}

/// In the order of their names, so that the file changes with them only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peers(Vec<Peer>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// The UID of its node.
    pub name: String,
    pub peer_urls: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct KeptPeers {
    members: Vec<Peer>,
}

impl Kept for KeptPeers {
    const FORM: Form = Form { format: "keelson store members", version: 1 };
}

impl Peers {
    fn new(mut peers: Vec<Peer>) -> Self {
        peers.sort_unstable();
        Self(peers)
    }

    pub fn of(members: &[StoreMember]) -> Self {
        let peer = |member: &StoreMember| Peer { name: member.name.clone(), peer_urls: member.peer_urls.clone() };
        Self::new(members.iter().map(peer).collect())
    }

    pub fn told(members: Vec<keelson_api::StoreMember>) -> Self {
        Self::new(members.into_iter().map(|member| Peer { name: member.name, peer_urls: member.peer_urls }).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As etcd writes them, or none if there is nobody but `uid`.
    pub fn initial_cluster(&self, uid: &str) -> Option<String> {
        self.others(uid).next()?;
        let members = self.0.iter().flat_map(|peer| peer.peer_urls.iter().map(move |url| (&peer.name, url)));
        Some(members.map(|(name, url)| format!("{name}={url}")).collect::<Vec<_>>().join(","))
    }

    pub fn own_urls(&self, uid: &str) -> Option<&[String]> {
        self.0.iter().find(|peer| peer.name == uid).map(|peer| peer.peer_urls.as_slice())
    }

    pub fn has(&self, uid: &str) -> bool {
        self.0.iter().any(|peer| peer.name == uid)
    }

    /// Whether a member is known to be at one of these addresses.
    pub fn is_at(&self, uid: &str, addresses: &[IpAddr]) -> bool {
        let urls = self.own_urls(uid).unwrap_or_default();
        urls.iter().filter_map(|url| address_of(url)).any(|address| addresses.contains(&address))
    }

    fn others(&self, uid: &str) -> impl Iterator<Item = &Peer> {
        self.0.iter().filter(move |peer| peer.name != uid)
    }

    /// Where the other control planes' APIs are, `ADDRESS:PORT`.
    pub fn endpoints(&self, uid: &str) -> Vec<String> {
        let addresses = self.others(uid).flat_map(|peer| &peer.peer_urls).filter_map(|url| address_of(url));
        addresses.map(|address| SocketAddr::new(address, keelson_api::PORT).to_string()).collect()
    }

    pub fn read(files: &dyn Files, paths: &Paths) -> Result<Self, PeersError> {
        let Some(content) = files.read(&paths.store_members())? else { return Ok(Self::default()) };
        Ok(Self::new(KeptPeers::from_file(&content)?.members))
    }

    /// Says whether they are news.
    pub fn save(&self, files: &dyn Files, paths: &Paths) -> Result<bool, PeersError> {
        let content = KeptPeers { members: self.0.clone() }.to_file()?;
        Ok(files.update(&paths.store_members(), &content, Mode::PRIVATE, Owner::ROOT)?)
    }
}

/// The address in a peer URL; ours have no names.
pub fn address_of(url: &str) -> Option<IpAddr> {
    let address: SocketAddr = url.strip_prefix("https://")?.parse().ok()?;
    Some(address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::tests::MemoryFiles;

    fn peers() -> Peers {
        let member = |id, name: &str, url: &str| StoreMember {
            id,
            name: name.to_owned(),
            peer_urls: vec![url.to_owned()],
            votes: true,
        };
        Peers::of(&[member(1, "b", "https://[2001:db8::2]:2380"), member(2, "a", "https://192.0.2.1:2380")])
    }

    #[test]
    fn is_read_back_as_written_and_written_for_news_only() {
        let (files, paths) = (MemoryFiles::default(), Paths::default());
        assert!(Peers::read(&files, &paths).unwrap().is_empty());
        assert!(peers().save(&files, &paths).unwrap());
        assert!(!peers().save(&files, &paths).unwrap());
        assert_eq!(Peers::read(&files, &paths).unwrap(), peers());
    }

    #[test]
    fn a_store_with_others_is_told_of_all_and_one_alone_of_none() {
        let list = "a=https://192.0.2.1:2380,b=https://[2001:db8::2]:2380";
        assert_eq!(peers().initial_cluster("a").as_deref(), Some(list));
        assert_eq!(peers().endpoints("a"), ["[2001:db8::2]:6400"]);
        assert_eq!(peers().endpoints("b"), ["192.0.2.1:6400"]);
        let mut alone = peers();
        alone.0.truncate(1);
        assert_eq!(alone.initial_cluster("a"), None);
        assert_eq!(Peers::default().initial_cluster("a"), None);
    }
}
