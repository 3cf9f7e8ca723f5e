//! What waits to be sent on one stream.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keelson_etcd_api::encoded::Event;
use tokio::sync::Notify;

use super::{Spec, WatchId};
use crate::mvcc::Changes;

/// Deliveries that may wait on a stream. A client that is not slow is far below; one that is costs this much memory, and
/// reads the rest from the history.
const MAX_DELIVERIES: usize = 4096;
/// Bytes of the events in them, as they will be encoded.
const MAX_BYTES: usize = 4 << 20;

/// Some of a transaction's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    All,
    /// Their places, ascending, shared by all watches of the same range.
    Some(Arc<[usize]>),
}

impl Selection {
    pub fn events<'a>(&'a self, events: &'a [Event]) -> impl Iterator<Item = &'a Event> {
        let (all, some) = match self {
            Self::All => (Some(events.iter()), None),
            Self::Some(places) => (None, Some(places.iter().filter_map(|place| events.get(*place)))),
        };
        all.into_iter().flatten().chain(some.into_iter().flatten())
    }

    /// Those that also pass the filter; none if there are none.
    pub fn filter(&self, events: &[Event], wanted: impl Fn(&Event) -> bool) -> Option<Self> {
        let places: Arc<[usize]> = match self {
            Self::All => (0..events.len()).filter(|place| events.get(*place).is_some_and(&wanted)).collect(),
            Self::Some(places) => {
                places.iter().copied().filter(|place| events.get(*place).is_some_and(&wanted)).collect()
            }
        };
        match places.len() {
            0 => None,
            length if length == events.len() => Some(Self::All),
            _ => Some(Self::Some(places)),
        }
    }
}

/// One transaction's events for one watch.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub changes: Arc<Changes>,
    pub selection: Selection,
}

impl Delivery {
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.selection.events(&self.changes.events)
    }

    fn bytes(&self, prev_kv: bool) -> usize {
        let size = |event: &Event| {
            let previous = event.prev_kv.as_ref().filter(|_| prev_kv);
            event.kv.as_bytes().len() + previous.map_or(0, |kv| kv.as_bytes().len())
        };
        self.events().map(size).sum()
    }
}

#[derive(Clone, Debug)]
pub enum Item {
    Created {
        id: WatchId,
        revision: i64,
    },
    Canceled {
        id: WatchId,
        revision: i64,
    },
    /// A request for a watch that cannot be.
    Refused {
        reason: &'static str,
        revision: i64,
    },
    Events {
        spec: Arc<Spec>,
        delivery: Delivery,
    },
    Progress {
        id: WatchId,
        revision: i64,
    },
}

/// Filled by the hub and by the stream's own task, emptied by that task.
#[derive(Debug, Default)]
pub struct Queue {
    inner: Mutex<Inner>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    items: VecDeque<Item>,
    deliveries: usize,
    bytes: usize,
    /// Watches that fell out of the index, each with the revision from which it must read the history.
    lagging: Vec<(WatchId, i64)>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an answer to a request, for which there is always room: requests are read only as answers are taken.
    pub fn push(&self, item: Item) {
        self.lock().items.push_back(item);
        self.wake.notify_one();
    }

    /// False if there is no room.
    pub(super) fn deliver(&self, spec: &Arc<Spec>, delivery: Delivery) -> bool {
        let bytes = delivery.bytes(spec.prev_kv);
        let mut inner = self.lock();
        // One delivery always fits: a single transaction can be larger than the bound.
        if inner.deliveries > 0 && (inner.deliveries >= MAX_DELIVERIES || inner.bytes + bytes > MAX_BYTES) {
            return false;
        }
        inner.deliveries += 1;
        inner.bytes += bytes;
        inner.items.push_back(Item::Events { spec: Arc::clone(spec), delivery });
        drop(inner);
        self.wake.notify_one();
        true
    }

    pub(super) fn lag(&self, spec: &Spec, revision: i64) {
        self.lock().lagging.push((spec.id, revision));
        self.wake.notify_one();
    }

    pub(super) fn push_unless_lagging(&self, id: WatchId, item: Item) -> bool {
        let mut inner = self.lock();
        let speaks_for = |(lagging, _): &(WatchId, i64)| id == WatchId::NONE || id == *lagging;
        if inner.lagging.iter().any(speaks_for) {
            return false;
        }
        inner.items.push_back(item);
        drop(inner);
        self.wake.notify_one();
        true
    }

    pub fn pop(&self) -> Option<Item> {
        let mut inner = self.lock();
        inner.pop()
    }

    /// The next item if it is more for the same watch: answers are joined while a stream is behind.
    pub fn pop_events_of(&self, id: WatchId) -> Option<Delivery> {
        let mut inner = self.lock();
        if !matches!(inner.items.front(), Some(Item::Events { spec, .. }) if spec.id == id) {
            return None;
        }
        match inner.pop() {
            Some(Item::Events { delivery, .. }) => Some(delivery),
            _ => None,
        }
    }

    /// Watches that lag behind since the last call. Whatever was queued for them before must be sent first.
    pub fn take_lagging(&self) -> Vec<(WatchId, i64)> {
        std::mem::take(&mut self.lock().lagging)
    }

    /// Drops what waits for a watch that was cancelled.
    pub fn forget(&self, id: WatchId) {
        let mut inner = self.lock();
        inner.lagging.retain(|(lagging, _)| *lagging != id);
        for item in std::mem::take(&mut inner.items) {
            if matches!(&item, Item::Events { spec, .. } if spec.id == id) {
                inner.account(&item);
            } else {
                inner.items.push_back(item);
            }
        }
    }

    /// Waits until something may have been added since the last wait.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }
}

impl Inner {
    fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.account(&item);
        Some(item)
    }

    fn account(&mut self, taken: &Item) {
        if let Item::Events { spec, delivery } = taken {
            self.deliveries -= 1;
            self.bytes -= delivery.bytes(spec.prev_kv);
        }
    }
}
