//! Watches: every change, in order, to everyone who asked, without holding anyone up.
//!
//! The [`Hub`] learns of each transaction right after it is applied and before its revision becomes visible to readers. It
//! finds the watches that the changed keys concern and puts a reference to the transaction's events into their streams'
//! [`queue::Queue`]s. Events are not copied and not encoded here: the pairs in them are in wire form already, behind
//! reference counts, and each stream's task encodes by copying bytes.
//!
//! A watch is in one of two places:
//! - *synced*: in the hub's index; it gets events as they happen
//! - *unsynced*: at its stream only, which reads the history for it, a bounded slice at a time, and brings it back when it has
//!   caught up. A watch that starts in the past begins there, and one whose stream's queue is full goes there.
//!
//! So a slow client costs apply nothing, is bounded in memory, and misses nothing: what it has not been sent is in the
//! history, and if compaction takes that away, the watch is cancelled with the compacted revision.
//!
//! Invariants:
//! - a watch gets each matching event exactly once, in revision order, and a revision's events in one answer (unless it
//!   asked for fragments)
//! - a progress answer naming revision R comes behind all events up to R of the watches that it speaks for: it is queued
//!   under the hub's lock, and only when they are all synced
//! - the hub's revision is never below the one that readers see, so whoever has read R and then asks for progress gets R
//! - locks are taken in the order hub, queue; never while holding the state's

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keelson_etcd_api::encoded::Event;

use self::index::Index;
use self::queue::{Delivery, Item, Queue, Selection};
use crate::mvcc::{Changes, KeyRange};

pub mod history;
mod index;
pub mod queue;

#[cfg(test)]
mod tests;

/// A watch's number on its stream, chosen by the client or the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(pub i64);

impl WatchId {
    /// Stands for all watches of a stream, or for none.
    pub const NONE: Self = Self(-1);
}

/// What a watch asks for.
#[derive(Clone, Debug)]
pub struct Spec {
    pub id: WatchId,
    pub range: KeyRange,
    pub prev_kv: bool,
    pub no_put: bool,
    pub no_delete: bool,
}

impl Spec {
    pub fn wants(&self, event: &Event) -> bool {
        if event.delete { !self.no_delete } else { !self.no_put }
    }

    fn filters(&self) -> bool {
        self.no_put || self.no_delete
    }
}

/// A synced watch.
#[derive(Debug)]
struct Registered {
    spec: Arc<Spec>,
    queue: Arc<Queue>,
    /// Earlier revisions are not for it: it has them already, or did not ask.
    min_revision: i64,
}

/// Watches of the same range: they match together.
type Group = BTreeMap<Token, Registered>;

/// A registration's number in the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

/// Where a new watch stands.
#[derive(Debug, PartialEq, Eq)]
pub enum Start {
    Synced(Token),
    /// It has to read the history first.
    Unsynced,
}

#[derive(Debug)]
pub struct Hub {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Of the last transaction published.
    revision: i64,
    index: Index,
    next_token: u64,
    watches: usize,
}

impl Hub {
    pub fn new(revision: i64) -> Self {
        Self { inner: Mutex::new(Inner { revision, index: Index::default(), next_token: 0, watches: 0 }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn revision(&self) -> i64 {
        self.lock().revision
    }

    /// Watches in the index.
    pub fn synced(&self) -> usize {
        self.lock().watches
    }

    /// Hands a transaction's events to the watches they concern. Called in revision order by whoever applies.
    pub fn publish(&self, changes: Changes) {
        let mut inner = self.lock();
        inner.revision = changes.revision;
        if inner.watches == 0 {
            return;
        }
        inner.deliver(&Arc::new(changes));
    }

    /// After the state was replaced by a newer one: what happened in between is in its history.
    pub fn restore(&self, revision: i64) {
        let mut inner = self.lock();
        let next = inner.revision + 1;
        inner.revision = revision;
        for registered in inner.index.take_all() {
            registered.queue.lag(&registered.spec, next.max(registered.min_revision));
        }
        inner.watches = 0;
    }

    /// Adds a watch from `start_revision` on, 0 being the next one. The answer that it is created goes into the queue, so
    /// it comes before its events.
    pub fn create(&self, spec: &Arc<Spec>, start_revision: i64, queue: &Arc<Queue>) -> Start {
        let mut inner = self.lock();
        queue.push(Item::Created { id: spec.id, revision: inner.revision });
        if start_revision != 0 && start_revision <= inner.revision {
            return Start::Unsynced;
        }
        let min_revision = start_revision.max(inner.revision + 1);
        Start::Synced(inner.register(spec, min_revision, queue))
    }

    /// Brings back a watch that has been sent everything below `next`. None if there is more by now.
    pub fn rejoin(&self, spec: &Arc<Spec>, next: i64, queue: &Arc<Queue>) -> Option<Token> {
        let mut inner = self.lock();
        (next > inner.revision).then(|| inner.register(spec, next, queue))
    }

    pub fn remove(&self, spec: &Spec, token: Token) {
        let mut inner = self.lock();
        if inner.index.remove(&spec.range, token) {
            inner.watches -= 1;
        }
    }

    /// Queues a progress answer behind all events so far, in the name of `id` or of the whole stream. False if a watch of
    /// the stream that it speaks for is not synced, or begins at a later revision than the present one: `begins` is the
    /// highest at which one of them does.
    pub fn progress(&self, id: WatchId, begins: i64, queue: &Queue) -> bool {
        let inner = self.lock();
        let revision = inner.revision;
        // The defect: the mark names a revision whose events are still to come.
        #[cfg(test)]
        let revision = revision + i64::from(crate::simulation::has(crate::simulation::Bug::EarlyProgress));
        inner.revision >= begins && queue.push_unless_lagging(id, Item::Progress { id, revision })
    }
}

impl Inner {
    fn register(&mut self, spec: &Arc<Spec>, min_revision: i64, queue: &Arc<Queue>) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        let registered = Registered { spec: Arc::clone(spec), queue: Arc::clone(queue), min_revision };
        self.index.insert(spec.range.clone(), token, registered);
        self.watches += 1;
        token
    }

    fn deliver(&mut self, changes: &Arc<Changes>) {
        let mut lagging = Vec::new();
        self.index.matching(changes, |group, selection| {
            for (token, registered) in group {
                if !registered.deliver(changes, &selection) {
                    lagging.push((*token, Arc::clone(&registered.spec)));
                }
            }
        });
        for (token, spec) in lagging {
            if self.index.remove(&spec.range, token) {
                self.watches -= 1;
            }
        }
    }
}

impl Registered {
    /// False if the stream's queue is full: the watch lags behind from this transaction on.
    fn deliver(&self, changes: &Arc<Changes>, selection: &Selection) -> bool {
        if changes.revision < self.min_revision {
            return true;
        }
        let selection = if self.spec.filters() {
            match selection.filter(&changes.events, |event| self.spec.wants(event)) {
                Some(selection) => selection,
                None => return true,
            }
        } else {
            selection.clone()
        };
        let delivery = Delivery { changes: Arc::clone(changes), selection };
        if self.queue.deliver(&self.spec, delivery) {
            return true;
        }
        self.queue.lag(&self.spec, changes.revision);
        false
    }
}
