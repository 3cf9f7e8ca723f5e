use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use keelson_etcd_api::encoded::{Event, KeyValue, Parts};
use proptest::prelude::*;

use super::queue::{Item, Queue};
use super::{Hub, Spec, Start, WatchId};
use crate::mvcc::{Changes, KeyRange};

fn spec(id: i64, key: &[u8], range_end: &[u8]) -> Arc<Spec> {
    let range = KeyRange::new(&Bytes::copy_from_slice(key), &Bytes::copy_from_slice(range_end));
    Arc::new(Spec { id: WatchId(id), range, prev_kv: false, no_put: false, no_delete: false })
}

fn changes(revision: i64, keys: &[&[u8]], value: &[u8]) -> Changes {
    let event = |key: &&[u8]| {
        let parts = Parts { key, value, mod_revision: revision, version: 1, ..Parts::default() };
        Event { delete: false, kv: KeyValue::encode(&parts), prev_kv: None }
    };
    Changes { revision, events: keys.iter().map(event).collect() }
}

/// What is queued: the watch, the revision, and the keys.
fn delivered(queue: &Queue) -> Vec<(i64, i64, Vec<Vec<u8>>)> {
    let mut all = Vec::new();
    while let Some(item) = queue.pop() {
        if let Item::Events { spec, delivery } = item {
            let keys = delivery.events().map(|event| event.kv.parts().key.to_vec()).collect();
            all.push((spec.id.0, delivery.changes.revision, keys));
        }
    }
    all
}

proptest! {
    #[test]
    fn events_reach_exactly_the_watches_of_their_keys(
        ranges in prop::collection::vec(("[abc]{1,2}", "[abcd]{0,2}|\0"), 0..30),
        removed in prop::collection::vec(any::<bool>(), 30),
        keys in prop::collection::btree_set("[abcd]{1,3}", 1..8),
    ) {
        let hub = Hub::new(1);
        let queue = Arc::new(Queue::default());
        let mut expected = BTreeSet::new();
        let keys: Vec<&[u8]> = keys.iter().map(String::as_bytes).collect();
        for (id, (key, range_end)) in ranges.iter().enumerate() {
            let spec = spec(i64::try_from(id).unwrap(), key.as_bytes(), range_end.as_bytes());
            let Start::Synced(token) = hub.create(&spec, 0, &queue) else { panic!("a watch from now on is synced") };
            if removed[id] {
                hub.remove(&spec, token);
                continue;
            }
            let matching: Vec<Vec<u8>> =
                keys.iter().filter(|key| spec.range.contains(key)).map(|key| key.to_vec()).collect();
            if !matching.is_empty() {
                expected.insert((spec.id.0, 2, matching));
            }
        }
        hub.publish(changes(2, &keys, b"v"));
        let told = delivered(&queue);
        prop_assert_eq!(told.len(), expected.len(), "each once");
        prop_assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), expected);
    }
}

#[test]
fn a_full_queue_sends_its_watches_to_the_history() {
    let hub = Hub::new(1);
    let (slow, quick) = (Arc::new(Queue::default()), Arc::new(Queue::default()));
    let watch = spec(7, b"a", b"b");
    assert!(matches!(hub.create(&watch, 0, &slow), Start::Synced(_)));
    assert!(matches!(hub.create(&watch, 0, &quick), Start::Synced(_)));
    let value = vec![0; 1 << 20];
    let mut first_lost = None;
    for revision in 2..20 {
        hub.publish(changes(revision, &[b"a"], &value));
        assert_eq!(delivered(&quick), [(7, revision, vec![b"a".to_vec()])]);
        if first_lost.is_none() && hub.synced() == 1 {
            first_lost = Some(revision);
        }
    }
    let first_lost = first_lost.expect("the slow one leaves the index");
    assert!(first_lost > 3);
    assert!(!hub.progress(WatchId::NONE, 0, &slow), "no progress is told past what was not delivered");
    assert_eq!(slow.take_lagging().iter().map(|(id, from)| (id.0, *from)).collect::<Vec<_>>(), [(7, first_lost)]);
    let kept: Vec<i64> = delivered(&slow).into_iter().map(|(_, revision, _)| revision).collect();
    assert_eq!(kept, (2..first_lost).collect::<Vec<_>>(), "what was delivered before stays in order");

    assert!(hub.rejoin(&watch, 19, &slow).is_none(), "revision 19 has not been read yet");
    assert!(hub.rejoin(&watch, 20, &slow).is_some());
    hub.publish(changes(20, &[b"a"], b"v"));
    assert_eq!(delivered(&slow), [(7, 20, vec![b"a".to_vec()])]);
}

#[test]
fn a_transaction_larger_than_the_queue_is_delivered_whole() {
    let hub = Hub::new(1);
    let queue = Arc::new(Queue::default());
    hub.create(&spec(1, b"a", b""), 0, &queue);
    hub.publish(changes(2, &[b"a"], &vec![0; 8 << 20]));
    assert_eq!(delivered(&queue).len(), 1);
}

#[test]
fn a_watch_of_the_future_waits_for_it() {
    let hub = Hub::new(10);
    let queue = Arc::new(Queue::default());
    assert!(matches!(hub.create(&spec(1, b"a", b""), 13, &queue), Start::Synced(_)));
    assert_eq!(hub.create(&spec(2, b"a", b""), 10, &queue), Start::Unsynced);
    assert!(!hub.progress(WatchId::NONE, 13, &queue), "it has not begun");
    for revision in 11..15 {
        hub.publish(changes(revision, &[b"a"], b"v"));
    }
    let told: Vec<(i64, i64)> = delivered(&queue).into_iter().map(|(id, revision, _)| (id, revision)).collect();
    assert_eq!(told, [(1, 13), (1, 14)]);
    assert!(hub.progress(WatchId::NONE, 13, &queue));
}

#[test]
fn a_replaced_state_sends_every_watch_to_the_history() {
    let hub = Hub::new(10);
    let queue = Arc::new(Queue::default());
    hub.create(&spec(1, b"a", b""), 0, &queue);
    hub.create(&spec(2, b"a", b"b"), 500, &queue);
    hub.restore(100);
    assert_eq!((hub.revision(), hub.synced()), (100, 0));
    let lagging: Vec<(i64, i64)> = queue.take_lagging().into_iter().map(|(id, from)| (id.0, from)).collect();
    assert_eq!(lagging, [(1, 11), (2, 500)]);
}

#[test]
fn a_cancelled_watch_leaves_nothing_in_the_queue() {
    let hub = Hub::new(1);
    let queue = Arc::new(Queue::default());
    hub.create(&spec(1, b"a", b""), 0, &queue);
    hub.create(&spec(2, b"a", b""), 0, &queue);
    hub.publish(changes(2, &[b"a"], b"v"));
    queue.forget(WatchId(1));
    assert_eq!(delivered(&queue), [(2, 2, vec![b"a".to_vec()])]);
}
