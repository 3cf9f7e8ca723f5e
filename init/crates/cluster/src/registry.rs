//! The cluster's own records in the store: members, join tokens, operators, features, settings, what happened, and whom
//! it has put out.
//!
//! The records lie below [`PREFIX`] in a range of keys of their own, with its own revisions, and are read and written through etcd's API with a client
//! certificate of this process' own, whose name alone the store lets reach them (`--cluster-client`). They are in the same Raft group as Kubernetes'
//! keys, so they are replicated, saved and restored with them, and a change of several of them is one transaction. The store keeps space for them when
//! Kubernetes' keys have taken all of theirs.
//!
//! | key | value |
//! |---|---|
//! | `nodes/NAME` | [`NodeRecord`] |
//! | `addresses/ADDRESS` | the name of the node that has it: what makes an address belong to one node |
//! | `tokens/ID` | [`TokenRecord`] |
//! | `removed/UID` | [`RemovedRecord`] |
//! | `virtual-addresses/ADDRESS` | [`VirtualAddressRecord`], for as long as its lease lasts |
//! | `operators/ID` | [`OperatorRecord`] |
//! | `features/NAME` | [`FeatureRecord`] |
//! | `configurations/cluster`, `configurations/nodes/NAME` | [`ConfigurationRecord`] |
//! | `rotations/authorities` | [`RotationRecord`] |
//! | `events/ID` | [`EventRecord`] |
//!
//! Values are JSON with `version`, which a reader that does not know it refuses.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use keelson_config::Scopes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

pub mod etcd;
pub mod members;
pub mod records;

#[cfg(test)]
pub(crate) mod memory;

pub use members::{MemberChange, MemberError, Removal, StoreMember};
pub use records::{
    ConfigurationRecord, EventRecord, FeatureRecord, NodeGenerations, NodeRecord, OperatorRecord, RemovedRecord,
    RotationPhase, RotationRecord, TokenRecord, VirtualAddressRecord,
};

const PREFIX: &str = "/keelson/v1/";
/// How soon a change that another control plane made is seen. A question of this size a second costs less than keeping a
/// watch whole through every fault, and says that a quorum of the store is there.
const REFRESH: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("the store does not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the record {key} cannot be read")]
    Malformed { key: String, source: serde_json::Error },
    #[error("the record {key} is of version {version}, which this release does not know")]
    Version { key: String, version: u32 },
    #[error("a record cannot be written")]
    Encode(#[source] serde_json::Error),
    #[error(transparent)]
    Members(#[from] MemberError),
}

/// A lease of the store's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub i64);

/// A key's revision; 0 is one that does not exist.
pub type Revision = i64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub revision: Revision,
    pub value: Vec<u8>,
}

/// All of it happens, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Each key must still be at this revision.
    pub expected: Vec<(String, Revision)>,
    /// What is written; `None` deletes.
    pub writes: Vec<(String, Option<Vec<u8>>)>,
    /// What is written goes when it ends.
    pub lease: Option<LeaseId>,
}

/// The records, as they were at a moment, without what they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    /// The store's.
    pub revision: Revision,
    pub keys: i64,
    /// Whether a key that is there was written after the revision that was asked about.
    pub written: bool,
}

impl Glance {
    /// Whether anything can have happened since. What was deleted is missing from the keys, unless something else was written.
    fn is_news_after(&self, before: &Self) -> bool {
        self.written || self.keys != before.keys || self.revision < before.revision
    }
}

pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, RegistryError>> + Send + 'a>>;

/// What the records are kept in.
pub trait Backend: fmt::Debug + Send + Sync {
    fn get(&self, key: String) -> Answer<'_, Option<Entry>>;
    /// In the order of their keys.
    fn list(&self, prefix: String) -> Answer<'_, Vec<Entry>>;
    /// What Kubernetes has below a prefix, in the order of the keys: the first so many behind the key `after`, which may be empty.
    fn kubernetes_page(&self, prefix: String, after: String, limit: u32) -> Answer<'_, Vec<Entry>>;
    /// What is below a prefix, and whether any of it was written after a revision.
    fn glance(&self, prefix: String, after: Revision) -> Answer<'_, Glance>;
    /// False if something was not as expected.
    fn commit(&self, change: Change) -> Answer<'_, bool>;
    /// A lease that lasts for so many seconds from no earlier than this call, or longer.
    fn grant(&self, seconds: u32) -> Answer<'_, LeaseId>;
    /// Has the lease last for its seconds from no earlier than this call; false if it has ended.
    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, bool>;
    /// Ends the lease, if it has not ended.
    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()>;
    /// The store's own members, as a quorum of them knows.
    fn members(&self) -> Answer<'_, Vec<StoreMember>>;
    /// The id of the member that leads, as this node's own knows; none while there is none.
    fn leader(&self) -> Answer<'_, Option<u64>>;
    /// What they are after the change.
    fn change_members(&self, change: MemberChange) -> Answer<'_, Vec<StoreMember>>;
}

/// A value with the revision that it was read at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<T> {
    pub revision: Revision,
    pub value: T,
}

/// A record knows its key and its version.
pub trait Record: Serialize + DeserializeOwned {
    const KIND: &'static str;
    const VERSION: u32 = 1;
    fn id(&self) -> &str;
    fn version(&self) -> u32;
}

pub fn key(kind: &str, id: &str) -> String {
    format!("{PREFIX}{kind}/{id}")
}

impl Change {
    #[must_use]
    pub fn expect<R: Record>(mut self, id: &str, revision: Revision) -> Self {
        self.expected.push((key(R::KIND, id), revision));
        self
    }

    pub fn put<R: Record>(mut self, record: &R) -> Result<Self, RegistryError> {
        let value = serde_json::to_vec(record).map_err(RegistryError::Encode)?;
        self.writes.push((key(R::KIND, record.id()), Some(value)));
        Ok(self)
    }

    #[must_use]
    pub fn delete<R: Record>(mut self, id: &str) -> Self {
        self.writes.push((key(R::KIND, id), None));
        self
    }

    #[must_use]
    pub fn for_as_long_as(self, lease: LeaseId) -> Self {
        Self { lease: Some(lease), ..self }
    }

    /// Takes an address for a node; somebody else's keeps the change from happening.
    #[must_use]
    pub fn take_address(mut self, address: &str, revision: Revision, name: &str) -> Self {
        let key = key(records::ADDRESSES, address);
        self.expected.push((key.clone(), revision));
        self.writes.push((key, Some(name.as_bytes().to_vec())));
        self
    }

    #[must_use]
    pub fn free_address(mut self, address: &str) -> Self {
        self.writes.push((key(records::ADDRESSES, address), None));
        self
    }
}

/// What all control planes agree on, as it was a moment ago.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    pub nodes: BTreeMap<String, NodeRecord>,
    /// By UID.
    pub removed: BTreeMap<String, RemovedRecord>,
    /// By their keys' ids, with those that were removed.
    pub operators: BTreeMap<String, OperatorRecord>,
    /// Those of which something was said.
    pub features: BTreeMap<String, FeatureRecord>,
    /// Those that somebody has.
    pub virtual_addresses: BTreeMap<String, VirtualAddressRecord>,
    /// By their ids ([`ConfigurationRecord::id_of`]).
    pub configurations: BTreeMap<String, ConfigurationRecord>,
    /// None while the authorities stay as they are.
    pub rotation: Option<RotationRecord>,
}

impl View {
    /// What operators have said that concerns a node.
    pub fn scopes(&self, node: &str) -> Scopes {
        let said = |node| self.configurations.get(&ConfigurationRecord::id_of(node)).map(|record| record.spec.clone());
        Scopes { node: said(Some(node)), cluster: said(None) }
    }
}

#[derive(Debug)]
pub struct Registry {
    backend: Arc<dyn Backend>,
    view: watch::Sender<Option<Arc<View>>>,
    /// When the store answered last.
    heard: watch::Sender<Instant>,
}

impl Registry {
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend, view: watch::Sender::new(None), heard: watch::Sender::new(Instant::now()) }
    }

    pub async fn get<R: Record>(&self, id: &str) -> Result<Option<Stored<R>>, RegistryError> {
        self.backend.get(key(R::KIND, id)).await?.map(decode).transpose()
    }

    pub async fn list<R: Record>(&self) -> Result<Vec<Stored<R>>, RegistryError> {
        self.backend.list(key(R::KIND, "")).await?.into_iter().map(decode).collect()
    }

    /// What Kubernetes has in the store below a prefix, in the order of the keys: the first so many behind `after`, which is a key or empty.
    pub async fn kubernetes_page(&self, prefix: &str, after: &str, limit: u32) -> Result<Vec<Entry>, RegistryError> {
        self.backend.kubernetes_page(prefix.to_owned(), after.to_owned(), limit).await
    }

    /// Who has an address, and the revision of that.
    pub async fn address(&self, address: &str) -> Result<(Revision, Option<String>), RegistryError> {
        let entry = self.backend.get(key(records::ADDRESSES, address)).await?;
        Ok(entry.map_or((0, None), |entry| (entry.revision, Some(String::from_utf8_lossy(&entry.value).into_owned()))))
    }

    pub async fn commit(&self, change: Change) -> Result<bool, RegistryError> {
        self.backend.commit(change).await
    }

    pub async fn grant(&self, seconds: u32) -> Result<LeaseId, RegistryError> {
        self.backend.grant(seconds).await
    }

    pub async fn keep_alive(&self, lease: LeaseId) -> Result<bool, RegistryError> {
        self.backend.keep_alive(lease).await
    }

    pub async fn revoke(&self, lease: LeaseId) -> Result<(), RegistryError> {
        self.backend.revoke(lease).await
    }

    pub async fn members(&self) -> Result<Vec<StoreMember>, RegistryError> {
        self.backend.members().await
    }

    pub async fn leader(&self) -> Result<Option<u64>, RegistryError> {
        self.backend.leader().await
    }

    pub async fn change_members(&self, change: MemberChange) -> Result<Vec<StoreMember>, RegistryError> {
        self.backend.change_members(change).await
    }

    /// What all control planes agree on; `None` until the store has answered once.
    pub fn view(&self) -> watch::Receiver<Option<Arc<View>>> {
        self.view.subscribe()
    }

    pub fn view_now(&self) -> Option<Arc<View>> {
        self.view.borrow().clone()
    }

    /// Whether the store has not answered for so long.
    pub fn is_silent_for(&self, time: Duration) -> bool {
        self.heard.borrow().elapsed() > time
    }

    /// Returns once the store has not answered for so long.
    pub async fn falls_silent_for(&self, time: Duration) {
        loop {
            let due = *self.heard.borrow() + time;
            if due < Instant::now() {
                return;
            }
            tokio::time::sleep_until(due + Duration::from_millis(1)).await;
        }
    }

    /// Reads the view anew.
    pub async fn refresh(&self) -> Result<Arc<View>, RegistryError> {
        let (nodes, removed, operators, features, virtual_addresses, configurations, rotations) = tokio::try_join!(
            self.list(),
            self.list(),
            self.list(),
            self.list(),
            self.list(),
            self.list(),
            self.list::<RotationRecord>()
        )?;
        self.heard.send_replace(Instant::now());
        let view = Arc::new(View {
            nodes: by_id(nodes),
            removed: by_id(removed),
            operators: by_id(operators),
            features: by_id(features),
            virtual_addresses: by_id(virtual_addresses),
            configurations: by_id(configurations),
            rotation: rotations.into_iter().next().map(|stored| stored.value),
        });
        self.view.send_if_modified(|present| {
            let changed = present.as_ref() != Some(&view);
            *present = Some(Arc::clone(&view));
            changed
        });
        Ok(view)
    }

    /// Keeps the view young, for ever. While the store is away the last one stands.
    pub async fn keep(&self, mut failed: impl FnMut(&RegistryError)) {
        let (mut complained, mut seen) = (false, None);
        loop {
            match self.look(&mut seen).await {
                Ok(()) => complained = false,
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        failed(&error);
                    }
                }
            }
            tokio::time::sleep(REFRESH).await;
        }
    }

    /// Reads the view anew if there is anything new.
    async fn look(&self, seen: &mut Option<Glance>) -> Result<(), RegistryError> {
        let after = seen.map_or(0, |seen| seen.revision);
        // First, so that what comes in between is seen twice and not missed.
        let now = self.backend.glance(PREFIX.to_owned(), after).await?;
        self.heard.send_replace(Instant::now());
        if seen.is_none_or(|seen| now.is_news_after(&seen)) {
            self.refresh().await?;
        }
        *seen = Some(now);
        Ok(())
    }
}

fn by_id<R: Record>(stored: Vec<Stored<R>>) -> BTreeMap<String, R> {
    stored.into_iter().map(|stored| (stored.value.id().to_owned(), stored.value)).collect()
}

fn decode<R: Record>(entry: Entry) -> Result<Stored<R>, RegistryError> {
    let value: R = serde_json::from_slice(&entry.value)
        .map_err(|source| RegistryError::Malformed { key: entry.key.clone(), source })?;
    if value.version() > R::VERSION {
        return Err(RegistryError::Version { version: value.version(), key: entry.key });
    }
    Ok(Stored { revision: entry.revision, value })
}

#[cfg(test)]
mod tests {
    use super::memory::Memory;
    use super::records::tests::node;
    use super::*;

    #[tokio::test]
    async fn a_record_is_read_as_it_was_written_and_only_if_its_version_is_known() {
        let memory = Arc::new(Memory::default());
        let registry = Registry::new(Arc::clone(&memory) as Arc<dyn Backend>);
        let change = Change::default().expect::<NodeRecord>("a", 0).put(&node("a")).unwrap();
        assert!(registry.commit(change.clone()).await.unwrap());
        assert_eq!(registry.get::<NodeRecord>("a").await.unwrap().unwrap().value, node("a"));
        assert!(!registry.commit(change).await.unwrap(), "it exists already");
        let mut later = node("b");
        later.version = 2;
        assert!(registry.commit(Change::default().put(&later).unwrap()).await.unwrap());
        assert!(matches!(registry.get::<NodeRecord>("b").await, Err(RegistryError::Version { version: 2, .. })));
    }

    #[tokio::test]
    async fn the_view_changes_with_the_records_and_wakes_for_news_only() {
        let registry = Registry::new(Arc::new(Memory::default()));
        let mut view = registry.view();
        registry.refresh().await.unwrap();
        assert!(view.borrow_and_update().as_ref().unwrap().nodes.is_empty());
        registry.refresh().await.unwrap();
        assert!(!view.has_changed().unwrap());
        assert!(registry.commit(Change::default().put(&node("a")).unwrap()).await.unwrap());
        registry.refresh().await.unwrap();
        assert!(view.borrow_and_update().as_ref().unwrap().nodes.contains_key("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_view_is_read_when_something_was_written_or_deleted_and_only_then() {
        let memory = Arc::new(Memory::default());
        let registry = Registry::new(Arc::clone(&memory) as Arc<dyn Backend>);
        let keeping = registry.keep(|error| panic!("{error}"));
        let changing = async {
            let lists = || memory.lists.load(std::sync::atomic::Ordering::Relaxed);
            let pass = || tokio::time::sleep(REFRESH * 3 / 2);
            let names = || registry.view_now().unwrap().nodes.keys().cloned().collect::<Vec<_>>();
            pass().await;
            let each = lists();
            assert!(each > 0 && names().is_empty());
            pass().await;
            assert_eq!(lists(), each, "nothing has happened");
            let both = Change::default().put(&node("a")).unwrap().put(&node("b")).unwrap();
            assert!(registry.commit(both).await.unwrap());
            pass().await;
            assert_eq!((names(), lists()), (vec!["a".to_owned(), "b".to_owned()], 2 * each));
            assert!(registry.commit(Change::default().delete::<NodeRecord>("a")).await.unwrap());
            pass().await;
            assert_eq!((names(), lists()), (vec!["b".to_owned()], 3 * each));
            let instead = Change::default().delete::<NodeRecord>("b").put(&node("c")).unwrap();
            assert!(registry.commit(instead).await.unwrap());
            pass().await;
            assert_eq!((names(), lists()), (vec!["c".to_owned()], 4 * each));
            pass().await;
            assert_eq!(lists(), 4 * each);
        };
        tokio::select! {
            () = keeping => panic!("it never ends"),
            () = changing => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_is_silent_once_it_has_not_answered_for_so_long() {
        let registry = Registry::new(Arc::new(Memory::default()));
        let (begun, silence) = (Instant::now(), Duration::from_secs(5));
        let answering = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(4)).await;
                registry.refresh().await.unwrap();
            }
        };
        tokio::join!(answering, registry.falls_silent_for(silence));
        assert!(registry.is_silent_for(silence) && begun.elapsed() < Duration::from_secs(18));
    }

    #[test]
    fn an_older_revision_than_before_is_news() {
        let glance = |revision| Glance { revision, keys: 1, written: false };
        assert!(!glance(7).is_news_after(&glance(7)) && !glance(8).is_news_after(&glance(7)));
        assert!(glance(6).is_news_after(&glance(7)), "the store was restored from a copy");
    }
}
