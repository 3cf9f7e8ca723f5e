use keelson_config::NodeConfig;
use rcgen::{KeyPair, PublicKeyData as _};
use time::OffsetDateTime;

use super::*;
use crate::membership::tests::founding;
use crate::paths::Paths;
use crate::registry::memory::Memory;
use crate::registry::records::OperatorRemoval;

fn key(name: &str) -> OperatorKey {
    let public_key = STANDARD.encode(KeyPair::generate().unwrap().subject_public_key_info());
    OperatorKey { name: name.to_owned(), public_key }
}

fn record(key: &OperatorKey, removed: bool) -> OperatorRecord {
    OperatorRecord {
        version: 1,
        id: id_of(&key.public_key).unwrap(),
        name: key.name.clone(),
        public_key: key.public_key.clone(),
        added: 1,
        added_by: "bea".to_owned(),
        removed: removed.then(|| OperatorRemoval { at: 2, by: "bea".to_owned() }),
    }
}

struct World {
    root: tempfile::TempDir,
    registry: Registry,
    files: Arc<dyn Files>,
}

impl World {
    fn new() -> Self {
        let registry = Registry::new(Arc::new(Memory::default()));
        Self { root: tempfile::tempdir().unwrap(), registry, files: Arc::new(StandardFiles) }
    }

    fn node(&self, name: &str, keys: &[&OperatorKey]) -> Node {
        let mut config: NodeConfig = founding();
        config.operator_keys = keys.iter().map(|key| (*key).clone()).collect();
        Node::new(Paths::below(self.root.path().join(name)), config, name.to_owned(), OffsetDateTime::UNIX_EPOCH)
    }

    async fn start(&self, node: &Node) {
        for _ in 0..2 {
            let view = self.registry.refresh().await.unwrap();
            settle(node, &self.files, &self.registry, &view).await.unwrap();
        }
    }

    async fn put(&self, record: &OperatorRecord) {
        assert!(self.registry.commit(Change::default().put(record).unwrap()).await.unwrap());
    }

    async fn records(&self) -> Vec<OperatorRecord> {
        self.registry.list().await.unwrap().into_iter().map(|stored| stored.value).collect()
    }
}

#[tokio::test]
async fn a_key_of_the_founders_configuration_is_accepted_by_another_control_plane() {
    let world = World::new();
    let ann = key("ann");
    let (founder, other) = (world.node("a", &[&ann]), world.node("b", &[]));
    assert!(accepted(&other, Some(&world.registry)).await.is_empty());
    world.start(&founder).await;
    assert_eq!(accepted(&other, Some(&world.registry)).await, [ann]);
    assert_eq!(world.records().await[0].added_by, "the configuration of a");
}

#[tokio::test]
async fn a_removed_key_stays_removed_whatever_a_configuration_says() {
    let world = World::new();
    let (ann, bea) = (key("ann"), key("bea"));
    world.put(&record(&ann, true)).await;
    let node = world.node("a", &[&ann, &bea]);
    world.start(&node).await;
    assert_eq!(accepted(&node, Some(&world.registry)).await, [bea]);
    assert!(world.records().await.contains(&record(&ann, true)), "the record was changed");
}

#[tokio::test]
async fn a_start_changes_nothing_that_is_there_already() {
    let world = World::new();
    let ann = key("ann");
    let renamed = OperatorRecord { name: "anna".to_owned(), ..record(&ann, false) };
    world.put(&renamed).await;
    let node = world.node("a", &[&ann]);
    world.start(&node).await;
    assert_eq!(world.records().await, [renamed], "the record goes before the configuration");
    assert_eq!(accepted(&node, Some(&world.registry)).await[0].name, "anna");
}

#[tokio::test]
async fn without_the_store_those_of_state_are_accepted_and_without_state_the_configured() {
    let world = World::new();
    let (ann, bea, removed) = (key("ann"), key("bea"), key("eve"));
    let node = world.node("a", &[&ann, &removed]);
    assert_eq!(accepted(&node, None).await, [ann.clone(), removed.clone()], "nothing is known of a record yet");
    world.put(&record(&bea, false)).await;
    world.put(&record(&removed, true)).await;
    world.start(&node).await;
    let mut names: Vec<_> = accepted(&node, None).await.into_iter().map(|key| key.name).collect();
    names.sort();
    assert_eq!(names, ["ann", "bea"]);
    std::fs::write(node.paths.operators(), "{").unwrap();
    assert_eq!(accepted(&node, None).await, [ann, removed], "a damaged file locks nobody out");
}

#[tokio::test]
async fn a_file_of_a_later_form_is_not_read() {
    let text = br#"{"format":"keelson operators","version":2,"oldestReader":2,"operators":[]}"#;
    assert!(matches!(KeptOperators::from_file(text), Err(KeptError::TooNew { oldest_reader: 2, .. })));
}

#[tokio::test]
async fn a_certificate_opens_nothing_once_its_key_is_removed_or_anothers_also_before_the_store_answers() {
    let world = World::new();
    let (first, second, configured, moved) = (key("ann"), key("ann"), key("bea"), key("cid"));
    for record in [record(&first, true), record(&second, false), record(&moved, false)] {
        world.put(&record).await;
    }
    let node = world.node("a", &[&configured]);
    let is_out = async |name: &str, key: &OperatorKey| is_removed(&node, name, &id_of(&key.public_key).unwrap()).await;
    assert!(!is_out("ann", &first).await, "nothing is known of a record yet");
    world.start(&node).await;
    assert!(is_out("ann", &first).await, "the other key of the name is another's business");
    assert!(!is_out("ann", &second).await);
    assert!(!is_out("bea", &configured).await);
    assert!(is_out("bea", &moved).await, "it was bea's, and is another operator's now");
}

#[test]
fn keys_are_told_of_for_as_long_as_their_certificates_may_live() {
    let (gone, there) = (key("ann"), key("bea"));
    let records = [record(&gone, true), record(&there, false)];
    let operators = records.map(|record| (record.id.clone(), record)).into();
    let view = View { operators, ..View::default() };
    let at = |hours: i64| OffsetDateTime::from_unix_timestamp(2).unwrap() + time::Duration::hours(hours);
    let told = |hours| removed_of_late(&view, at(hours)).collect::<Vec<_>>();
    assert_eq!(told(24), [id_of(&gone.public_key).unwrap()]);
    assert!(told(26).is_empty());
}

#[test]
fn the_id_follows_from_the_key_and_other_keys_have_none() {
    let ann = key("ann");
    let id = id_of(&ann.public_key).unwrap();
    assert!(id.len() == 16 && id_of(&ann.public_key).as_ref() == Some(&id));
    assert_ne!(id_of(&key("ann").public_key), Some(id));
    let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().subject_public_key_info();
    for text in ["", "*", "AAAA", &STANDARD.encode(other)] {
        assert_eq!(id_of(text), None, "{text:?}");
    }
}
