//! One range of keys with its revisions: behind one lock, with what hangs on its changes.
//!
//! A change takes the write lock, its events go to the watches, and then its revision becomes visible. In that order: a reader that sees
//! revision R can rely on the watches' hub having got all of R, which is what makes progress answers right (see `watch`). Readers take the
//! read lock for bounded slices and read at the visible revision, so a long list is no pause for writes.
//!
//! Meta rows of a checkpoint: `revision` and `compact_revision`, 8 bytes big endian.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::pins::{Pin, Pins};
use super::{Delta, Keys, LoadError, Rejection, Row, Table};
use crate::lease::LeaseId;
use crate::mvcc::{Changes, Mvcc, Revision};
use crate::watch::Hub;

const META_REVISION: &[u8] = b"revision";
const META_COMPACT_REVISION: &[u8] = b"compact_revision";

/// Rows that physical compaction removes under one hold of the write lock: well below a millisecond.
const COMPACTION_SLICE: usize = 256;

/// How long a reader may take nothing while a compaction waits for it; at most twice that. Longer than a slow connection takes for one answer.
const READER_PATIENCE: Duration = Duration::from_secs(30);

/// Further than any store counts its revisions: sums with those beyond would overflow.
const REVISION_MAX: i64 = i64::MAX / 2;

/// A handle; clones are the same range.
#[derive(Clone, Debug)]
pub struct KeySpace(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    keys: Keys,
    inner: RwLock<Inner>,
    /// The revision that readers see: the last that was published.
    visible: AtomicI64,
    hub: Hub,
    pins: Pins,
    compaction_due: Notify,
    /// Keys put and keys deleted since the start.
    puts: AtomicU64,
    deletes: AtomicU64,
    /// Up to which revision physical compaction is complete, but for what readers still need.
    compacted: watch::Sender<i64>,
}

/// What is left to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    More,
    /// Only what readers need.
    Pinned,
    Nothing,
}

#[derive(Debug, Default)]
struct Inner {
    mvcc: Mvcc,
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
    revisions: Option<Revisions>,
}

/// What the meta table says of a range of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revisions {
    pub current: i64,
    pub compacted: i64,
}

impl Default for Revisions {
    /// Of an empty store.
    fn default() -> Self {
        Self::of(&Mvcc::default())
    }
}

impl Revisions {
    fn of(mvcc: &Mvcc) -> Self {
        Self { current: mvcc.revision(), compacted: mvcc.compact_revision() }
    }

    /// The rows, by key ascending; that of alarms comes before them.
    pub fn rows(self, keys: Keys) -> [Row; 2] {
        let row = |key: &'static [u8], value: i64| Row {
            table: keys.tables().meta,
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

impl KeySpace {
    pub(super) fn new(keys: Keys) -> Self {
        let inner = Inner::default();
        let revision = inner.mvcc.revision();
        Self(Arc::new(Shared {
            keys,
            visible: AtomicI64::new(revision),
            hub: Hub::new(revision),
            pins: Pins::default(),
            compaction_due: Notify::new(),
            puts: AtomicU64::new(0),
            deletes: AtomicU64::new(0),
            compacted: watch::channel(inner.mvcc.compact_revision()).0,
            inner: RwLock::new(inner),
        }))
    }

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

    /// Reads under the lock. The function gets the visible revision too, and must be short.
    pub fn read<R>(&self, read: impl FnOnce(&Mvcc, i64) -> R) -> R {
        let inner = self.read_lock();
        read(&inner.mvcc, self.revision())
    }

    /// Changes what is there, from the one task that applies.
    pub(super) fn write<R>(&self, write: impl FnOnce(&mut Mvcc) -> R) -> R {
        write(&mut self.write_lock().mvcc)
    }

    /// Hands a change to the watches, then shows it to readers.
    pub(super) fn publish(&self, changes: Changes) {
        let revision = changes.revision;
        let deletes = changes.events.iter().filter(|event| event.delete).count() as u64;
        self.0.deletes.fetch_add(deletes, Ordering::Relaxed);
        self.0.puts.fetch_add(changes.events.len() as u64 - deletes, Ordering::Relaxed);
        self.0.hub.publish(changes);
        self.0.visible.store(revision, Ordering::Release);
    }

    /// Says that a compaction was applied.
    pub(super) fn compaction_due(&self) {
        self.0.compaction_due.notify_one();
    }

    /// Keeps rows that a reader at `revision` sees, as long as it goes on reading. To be called inside [`KeySpace::read`].
    pub fn pin(&self, revision: i64) -> Pin {
        Pin::new(self, revision)
    }

    pub(super) fn pins(&self) -> &Pins {
        &self.0.pins
    }

    /// Removes superseded rows as compactions come, for ever. One task per range.
    pub async fn remove_garbage(&self) {
        let mut review = Instant::now();
        loop {
            match self.remove_garbage_slice() {
                // Between slices, whoever waits for the lock gets it.
                Left::More => tokio::task::yield_now().await,
                Left::Nothing => self.0.compaction_due.notified().await,
                Left::Pinned => {
                    if tokio::time::timeout_at(review, self.0.compaction_due.notified()).await.is_err() {
                        self.0.pins.review(self.read(|mvcc, _| mvcc.compact_revision()));
                        review = Instant::now() + READER_PATIENCE;
                    }
                }
            }
        }
    }

    pub(super) fn remove_garbage_slice(&self) -> Left {
        let mut inner = self.write_lock();
        let compact_revision = inner.mvcc.compact_revision();
        let floor = self.0.pins.lowest().map_or(compact_revision, |pinned| compact_revision.min(pinned));
        let removed = inner.mvcc.remove_garbage(floor, COMPACTION_SLICE);
        let more = removed.len() == COMPACTION_SLICE;
        let Checkpointed { rows, removed: all_removed, .. } = &mut inner.checkpointed;
        all_removed.extend(removed.into_iter().filter(|revision| *revision < *rows));
        drop(inner);
        if more {
            return Left::More;
        }
        self.0.compacted.send_if_modified(|done| std::mem::replace(done, compact_revision) != compact_revision);
        if floor < compact_revision { Left::Pinned } else { Left::Nothing }
    }

    /// Waits until the rows that a compaction to `revision` made superfluous are gone from memory, but for what readers still need. It is not
    /// known of a reader when it will be done.
    pub async fn compacted(&self, revision: i64) {
        let mut compacted = self.0.compacted.subscribe();
        // The sender lives as long as the range, so the wait cannot fail.
        let _ = compacted.wait_for(|done| *done >= revision).await;
    }

    /// Begins to read all that is there. While `meanwhile` runs, nothing is applied to this range.
    pub(super) fn freeze<R>(&self, meanwhile: impl FnOnce() -> R) -> (Frozen, R) {
        let inner = self.read_lock();
        let table = self.0.keys.tables().leases;
        let lease = |(id, record): (LeaseId, _)| lease_row(table, id, record);
        let mut others: Vec<Row> = inner.mvcc.leases.records().map(lease).collect();
        others.extend(Revisions::of(&inner.mvcc).rows(self.0.keys));
        let keys = FrozenKeys {
            pin: self.pin(inner.mvcc.compact_revision()),
            table: self.0.keys.tables().revisions,
            from: Revision::default(),
            last: inner.mvcc.revision(),
        };
        (Frozen { keys, rows: inner.mvcc.rows(), bytes: inner.mvcc.bytes(), others }, meanwhile())
    }

    /// What changed since the last call.
    pub(super) fn take_delta(&self) -> Delta {
        let mut inner = self.write_lock();
        let Inner { mvcc, checkpointed } = &mut *inner;
        let tables = self.0.keys.tables();
        let mut delta = Delta::default();
        delta.puts.extend(mvcc.rows_from(checkpointed.rows).map(|row| key_row(tables.revisions, row)));
        for (id, record) in mvcc.leases.take_changed() {
            match record {
                Some(record) => delta.puts.push(lease_row(tables.leases, id, record)),
                None => delta.deletes.push((tables.leases, lease_key(id))),
            }
        }
        let revisions = Revisions::of(mvcc);
        let before = checkpointed.revisions.map(|revisions| revisions.rows(self.0.keys));
        let now = revisions.rows(self.0.keys).into_iter();
        delta.puts.extend(now.filter(|row| before.as_ref().is_none_or(|before| !before.contains(row))));
        let removed = std::mem::take(&mut checkpointed.removed);
        let key = |revision: Revision| (tables.revisions, Bytes::copy_from_slice(&revision.to_key()));
        delta.deletes.extend(removed.into_iter().map(key));
        delta.deletes.sort_unstable();
        checkpointed.rows = Revision::first_of(revisions.current + 1);
        checkpointed.revisions = Some(revisions);
        delta
    }

    /// Replaces all that is there, of which the watches' hub knows already. While `meanwhile` runs, nobody sees the new range or the old.
    pub(super) fn replace(&self, loaded: Loading, meanwhile: impl FnOnce()) {
        let mut inner = self.write_lock();
        *inner = loaded.inner;
        // Under the lock, like the pins: nothing was kept in it for those who read the one before, whose newest revision may be compacted in it.
        self.0.visible.store(inner.mvcc.revision(), Ordering::Release);
        self.0.pins.clear();
        meanwhile();
        drop(inner);
        self.0.compaction_due.notify_one();
    }
}

/// A range as of one moment.
#[derive(Debug)]
pub(super) struct Frozen {
    pub(super) keys: FrozenKeys,
    /// Rows of keys and their bytes, at most: some may be garbage that is about to be removed.
    pub(super) rows: usize,
    pub(super) bytes: u64,
    /// Those that are not keys.
    pub(super) others: Vec<Row>,
}

/// The rows of keys from a revision on, up to another.
#[derive(Debug)]
pub(super) struct FrozenKeys {
    pin: Pin,
    table: Table,
    from: Revision,
    last: i64,
}

impl FrozenKeys {
    /// The next rows, as a checkpoint has them, at most `limit`; and whether there are more.
    pub(super) fn slice(&mut self, limit: usize) -> Result<(Vec<Row>, bool), Rejection> {
        let (taken, next) = self.pin.read(|mvcc, _| {
            let mut rows = mvcc.rows_from(self.from).take_while(|row| row.revision().main <= self.last);
            let taken = rows.by_ref().take(limit).map(|row| key_row(self.table, row)).collect();
            (taken, rows.next().map(crate::mvcc::Row::revision))
        })?;
        if let Some(next) = next {
            self.from = next;
        }
        Ok((taken, next.is_some()))
    }
}

fn key_row(table: Table, row: &crate::mvcc::Row) -> Row {
    let key = Bytes::copy_from_slice(&row.revision().to_key());
    Row { table, key, value: Bytes::from_owner(row.kv().clone()) }
}

fn lease_row(table: Table, id: LeaseId, record: impl AsRef<[u8]>) -> Row {
    Row { table, key: lease_key(id), value: Bytes::copy_from_slice(record.as_ref()) }
}

/// A range as it is read from a checkpoint.
#[derive(Debug, Default)]
pub(super) struct Loading {
    inner: Inner,
    revisions: Revisions,
    last: Revision,
}

impl Loading {
    pub(super) fn revision(&self) -> i64 {
        self.inner.mvcc.revision()
    }

    pub(super) fn row(&mut self, row: &Row) -> Result<(), LoadError> {
        let refused = |reason: &str| refused(row, reason);
        let tables = row.table.keys().tables();
        if row.table == tables.revisions {
            let revision = Revision::from_key(&row.key).ok_or_else(|| refused("not a revision"))?;
            if revision <= self.last || revision.main > REVISION_MAX || revision.sub == u32::MAX {
                return Err(refused("not behind the row before it, or beyond all that a store has"));
            }
            self.last = revision;
            self.inner.mvcc.load_row(revision, &row.value).map_err(|_| refused("not a key-value pair"))
        } else if row.table == tables.leases {
            self.inner.mvcc.leases.load(&row.key, &row.value).ok_or_else(|| refused("not a lease"))
        } else {
            if ![META_REVISION, META_COMPACT_REVISION].contains(&row.key.as_ref()) {
                return Err(refused("not a name that this release knows"));
            }
            let value: Option<[u8; 8]> = row.value.as_ref().try_into().ok();
            let value = value.map(i64::from_be_bytes).ok_or_else(|| refused("not a number of 8 bytes"))?;
            if value > REVISION_MAX {
                return Err(refused("not a revision that a store has"));
            }
            self.revisions.take(row);
            Ok(())
        }
    }

    pub(super) fn finish(mut self, keys: Keys) -> Result<Self, LoadError> {
        let Revisions { current, compacted } = self.revisions;
        if compacted > current.max(self.last.main) {
            let [row, _] = self.revisions.rows(keys);
            return Err(refused(&row, "behind the newest revision"));
        }
        self.inner.mvcc.finish_load(current, compacted);
        self.inner.checkpointed.rows = Revision::first_of(self.inner.mvcc.revision() + 1);
        self.inner.checkpointed.revisions = Some(Revisions::of(&self.inner.mvcc));
        Ok(self)
    }
}

pub(super) fn refused(row: &Row, reason: &str) -> LoadError {
    LoadError::Row { table: row.table, key: row.key.clone(), reason: reason.to_owned() }
}
