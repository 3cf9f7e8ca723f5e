//! The replicated state: key space, leases and alarms behind one lock, and what hangs on their changes.
//!
//! `apply` takes the write lock for one command at a time, publishes its events to the watches, and then makes the new
//! revision visible. In that order: a reader that sees revision R can rely on the watches' hub having got all of R, which is
//! what makes progress answers right (see `watch`). Readers take the read lock for bounded slices and read at the visible
//! revision, so a long list is no pause for writes.
//!
//! Meta rows of a checkpoint: `revision` and `compact_revision`, 8 bytes big endian, and `alarms`, an encoded
//! `etcdserverpb.AlarmResponse`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use keelson_etcd_api::etcdserverpb::{AlarmMember, AlarmResponse};
use prost::Message;
use tokio::sync::{Notify, watch};

use super::apply::{Alarms, Applied};
use super::{Committed, Delta, LoadError, Replicated, Response, Row, Table};
use crate::lease::LeaseId;
use crate::lease::deadlines::Deadlines;
use crate::mvcc::{Mvcc, Revision};
use crate::watch::Hub;

const META_REVISION: &[u8] = b"revision";
const META_COMPACT_REVISION: &[u8] = b"compact_revision";
const META_ALARMS: &[u8] = b"alarms";

/// Rows that physical compaction removes under one hold of the write lock: well below a millisecond.
const COMPACTION_SLICE: usize = 256;

/// A handle on the state; clones are the same state.
#[derive(Clone, Debug, Default)]
pub struct State(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: RwLock<Inner>,
    /// The revision that readers see: the last that was published.
    visible: AtomicI64,
    hub: Hub,
    deadlines: Mutex<Deadlines>,
    leases_granted: Notify,
    /// Revisions that readers between two holds of the lock still need, with how many do.
    pins: Mutex<BTreeMap<i64, usize>>,
    compaction_due: Notify,
    /// Keys put and keys deleted since the start.
    puts: AtomicU64,
    deletes: AtomicU64,
    /// Up to which revision physical compaction is complete.
    compacted: watch::Sender<i64>,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) mvcc: Mvcc,
    pub(super) alarms: Alarms,
    checkpointed: Checkpointed,
}

/// What the last delta covered.
#[derive(Debug, Default)]
struct Checkpointed {
    /// Rows at and behind it are new.
    rows: Revision,
    /// Rows before it that are gone since.
    removed: Vec<Revision>,
    /// None until it was written for the first time.
    meta: Option<Meta>,
}

#[derive(Clone, Debug, PartialEq)]
struct Meta {
    revision: i64,
    compact_revision: i64,
    alarms: Bytes,
}

impl Meta {
    /// The rows, or those that differ from what they were.
    fn rows(&self, old: Option<&Self>) -> Vec<Row> {
        let number = |value: i64| Bytes::copy_from_slice(&value.to_be_bytes());
        let differs = |same: fn(&Self, &Self) -> bool| old.is_none_or(|old| !same(self, old));
        let mut rows = Vec::new();
        let mut add = |differs: bool, key, value| {
            if differs {
                rows.push(Row { table: Table::Meta, key: Bytes::from_static(key), value });
            }
        };
        add(differs(|new, old| new.alarms == old.alarms), META_ALARMS, self.alarms.clone());
        let compact_revision = number(self.compact_revision);
        add(differs(|new, old| new.compact_revision == old.compact_revision), META_COMPACT_REVISION, compact_revision);
        add(differs(|new, old| new.revision == old.revision), META_REVISION, number(self.revision));
        rows
    }
}

/// What the meta table says of the key space, for tools that make or change a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revisions {
    pub current: i64,
    pub compacted: i64,
}

impl Default for Revisions {
    /// Of an empty store.
    fn default() -> Self {
        let empty = Mvcc::default();
        Self { current: empty.revision(), compacted: empty.compact_revision() }
    }
}

impl Revisions {
    /// The rows, by key ascending; those of alarms come before them.
    pub fn rows(self) -> [Row; 2] {
        let row = |key: &'static [u8], value: i64| Row {
            table: Table::Meta,
            key: Bytes::from_static(key),
            value: Bytes::copy_from_slice(&value.to_be_bytes()),
        };
        [row(META_COMPACT_REVISION, self.compacted), row(META_REVISION, self.current)]
    }

    /// Takes a row's value, if it is one of these.
    pub fn take(&mut self, row: &Row) {
        let Ok(value) = row.value.as_ref().try_into().map(i64::from_be_bytes) else { return };
        match row.key.as_ref() {
            META_REVISION => self.current = value,
            META_COMPACT_REVISION => self.compacted = value,
            _ => {}
        }
    }
}

fn lease_key(id: LeaseId) -> Bytes {
    Bytes::copy_from_slice(&id.0.to_be_bytes())
}

fn lease_row(id: LeaseId, record: &[u8]) -> Row {
    Row { table: Table::Leases, key: lease_key(id), value: Bytes::copy_from_slice(record) }
}

impl Default for Shared {
    fn default() -> Self {
        let inner = Inner::default();
        let revision = inner.mvcc.revision();
        Self {
            visible: AtomicI64::new(revision),
            hub: Hub::new(revision),
            deadlines: Mutex::default(),
            leases_granted: Notify::new(),
            pins: Mutex::default(),
            compaction_due: Notify::new(),
            puts: AtomicU64::new(0),
            deletes: AtomicU64::new(0),
            compacted: watch::channel(inner.mvcc.compact_revision()).0,
            inner: RwLock::new(inner),
        }
    }
}

impl State {
    fn read_lock(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_lock(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest revision that a reader sees.
    pub fn revision(&self) -> i64 {
        self.0.visible.load(Ordering::Acquire)
    }

    /// Keys put and keys deleted since the start of the process.
    pub fn changes(&self) -> (u64, u64) {
        (self.0.puts.load(Ordering::Relaxed), self.0.deletes.load(Ordering::Relaxed))
    }

    pub fn hub(&self) -> &Hub {
        &self.0.hub
    }

    pub fn deadlines(&self) -> MutexGuard<'_, Deadlines> {
        self.0.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads under the lock. The function gets the visible revision too, and must be short.
    pub fn read<R>(&self, read: impl FnOnce(&Mvcc, i64) -> R) -> R {
        let inner = self.read_lock();
        read(&inner.mvcc, self.revision())
    }

    pub fn alarms(&self) -> Vec<AlarmMember> {
        self.read_lock().alarms.list()
    }

    /// Begins a snapshot: the revision up to which it holds the key space, whose rows from the compacted revision on are
    /// kept while the pin lives, and all rows that are not keys.
    pub fn snapshot(&self) -> (i64, Vec<Row>, Pin) {
        let inner = self.read_lock();
        let pin = self.pin(inner.mvcc.compact_revision());
        let mut rows: Vec<Row> = inner.mvcc.leases.records().map(|(id, record)| lease_row(id, &record)).collect();
        rows.extend(inner.meta().rows(None));
        (inner.mvcc.revision(), rows, pin)
    }

    /// Keeps rows that a reader at `revision` sees until the pin is dropped. To be called inside [`State::read`].
    pub fn pin(&self, revision: i64) -> Pin {
        *self.pins().entry(revision).or_default() += 1;
        Pin { state: self.clone(), revision }
    }

    fn pins(&self) -> MutexGuard<'_, BTreeMap<i64, usize>> {
        self.0.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leases that were granted since the last call and await a deadline.
    pub fn take_granted_leases(&self) -> Vec<LeaseId> {
        self.write_lock().mvcc.leases.take_granted()
    }

    /// Waits until a lease may have been granted since the last wait.
    pub async fn lease_granted(&self) {
        self.0.leases_granted.notified().await;
    }

    /// Removes superseded rows as compactions come, for ever. One task per state.
    pub async fn remove_garbage(&self) {
        loop {
            while self.remove_garbage_slice() {
                // Between slices, whoever waits for the lock gets it.
                tokio::task::yield_now().await;
            }
            self.0.compaction_due.notified().await;
        }
    }

    /// True if there may be more to remove.
    fn remove_garbage_slice(&self) -> bool {
        let mut inner = self.write_lock();
        let compact_revision = inner.mvcc.compact_revision();
        let floor = self.pins().keys().next().map_or(compact_revision, |pinned| compact_revision.min(*pinned));
        let removed = inner.mvcc.remove_garbage(floor, COMPACTION_SLICE);
        let more = removed.len() == COMPACTION_SLICE;
        let Checkpointed { rows, removed: all_removed, .. } = &mut inner.checkpointed;
        all_removed.extend(removed.into_iter().filter(|revision| *revision < *rows));
        drop(inner);
        if !more {
            self.0.compacted.send_if_modified(|done| std::mem::replace(done, floor) != floor);
        }
        more
    }

    /// Waits until the rows that a compaction to `revision` made superfluous are gone from memory.
    pub async fn compacted(&self, revision: i64) {
        let mut compacted = self.0.compacted.subscribe();
        // The sender lives as long as the state, so the wait cannot fail.
        let _ = compacted.wait_for(|done| *done >= revision).await;
    }

    fn publish(&self, applied: Applied) -> Response {
        if let Some(changes) = applied.changes {
            let revision = changes.revision;
            let deletes = changes.events.iter().filter(|event| event.delete).count() as u64;
            self.0.deletes.fetch_add(deletes, Ordering::Relaxed);
            self.0.puts.fetch_add(changes.events.len() as u64 - deletes, Ordering::Relaxed);
            self.0.hub.publish(changes);
            self.0.visible.store(revision, Ordering::Release);
        }
        match &applied.response {
            Response::Compact(_) => self.0.compaction_due.notify_one(),
            Response::LeaseGrant(_) => self.0.leases_granted.notify_one(),
            _ => {}
        }
        if let Some(id) = applied.revoked {
            self.deadlines().remove(id);
        }
        applied.response
    }
}

/// Holds back physical compaction.
#[derive(Debug)]
pub struct Pin {
    state: State,
    revision: i64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.state.pins();
        if let Some(count) = pins.get_mut(&self.revision) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.revision);
                self.state.0.compaction_due.notify_one();
            }
        }
    }
}

impl Replicated for State {
    fn apply(&self, batch: &[Committed]) -> Vec<Response> {
        let answer = |committed: &Committed| {
            let applied = self.write_lock().apply(&committed.command);
            self.publish(applied)
        };
        let responses: Vec<Response> = batch.iter().map(answer).collect();
        #[cfg(test)]
        crate::simulation::record::applied(batch, &responses);
        responses
    }

    fn take_delta(&self) -> Delta {
        self.write_lock().take_delta()
    }

    fn load(&self, rows: &mut dyn Iterator<Item = Result<Row, LoadError>>) -> Result<(), LoadError> {
        let mut loaded = Inner::default();
        loaded.load(rows)?;
        let revision = loaded.mvcc.revision();
        *self.write_lock() = loaded;
        self.deadlines().clear();
        self.0.hub.restore(revision);
        self.0.visible.store(revision, Ordering::Release);
        self.0.compaction_due.notify_one();
        Ok(())
    }
}

impl Inner {
    fn meta(&self) -> Meta {
        Meta {
            revision: self.mvcc.revision(),
            compact_revision: self.mvcc.compact_revision(),
            alarms: AlarmResponse { header: None, alarms: self.alarms.list() }.encode_to_vec().into(),
        }
    }

    fn take_delta(&mut self) -> Delta {
        let mut delta = Delta::default();
        for row in self.mvcc.rows_from(self.checkpointed.rows) {
            let key = Bytes::copy_from_slice(&row.revision().to_key());
            delta.puts.push(Row { table: Table::Revisions, key, value: Bytes::from_owner(row.kv().clone()) });
        }
        for (id, record) in self.mvcc.leases.take_changed() {
            match record {
                Some(record) => delta.puts.push(lease_row(id, &record)),
                None => delta.deletes.push((Table::Leases, lease_key(id))),
            }
        }
        let meta = self.meta();
        delta.puts.extend(meta.rows(self.checkpointed.meta.as_ref()));
        let removed = std::mem::take(&mut self.checkpointed.removed);
        let key = |revision: Revision| (Table::Revisions, Bytes::copy_from_slice(&revision.to_key()));
        delta.deletes.extend(removed.into_iter().map(key));
        delta.deletes.sort_unstable();
        self.checkpointed.rows = Revision::first_of(meta.revision + 1);
        self.checkpointed.meta = Some(meta);
        delta
    }

    fn load(&mut self, rows: &mut dyn Iterator<Item = Result<Row, LoadError>>) -> Result<(), LoadError> {
        let mut meta = self.meta();
        for row in rows {
            let row = row?;
            let refused =
                |reason: &str| LoadError::Row { table: row.table, key: row.key.clone(), reason: reason.to_owned() };
            let number = || {
                let value = row.value.as_ref().try_into().map(i64::from_be_bytes);
                value.map_err(|_| refused("not a number of 8 bytes"))
            };
            match row.table {
                Table::Revisions => {
                    let revision = Revision::from_key(&row.key).ok_or_else(|| refused("not a revision"))?;
                    let loaded = self.mvcc.load_row(revision, &row.value);
                    loaded.map_err(|_| refused("not a key-value pair"))?;
                }
                Table::Leases => self.mvcc.leases.load(&row.key, &row.value).ok_or_else(|| refused("not a lease"))?,
                Table::Meta => match row.key.as_ref() {
                    META_REVISION => meta.revision = number()?,
                    META_COMPACT_REVISION => meta.compact_revision = number()?,
                    META_ALARMS => {
                        let alarms = AlarmResponse::decode(row.value.clone());
                        let alarms = alarms.map_err(|_| refused("not a list of alarms"))?.alarms;
                        self.alarms = Alarms::from_list(&alarms);
                    }
                    _ => return Err(refused("not a name that this release knows")),
                },
            }
        }
        self.mvcc.finish_load(meta.revision, meta.compact_revision);
        self.checkpointed.rows = Revision::first_of(self.mvcc.revision() + 1);
        self.checkpointed.meta = Some(self.meta());
        Ok(())
    }
}
