//! Readers that let go of the state's lock between two steps, and what they keep from compaction meanwhile.
//!
//! A reader holds a [`Pin`] on the revision that it reads at, and physical compaction leaves what can be seen from there on. Two things end
//! that. Whoever has taken nothing for a while, of a revision that is compacted, is let down: what is kept for one that sleeps is memory that nobody
//! bounds. And a state that is replaced by another member's has been compacted as far as that member was.
//!
//! So each step looks first whether its rows are there, under the lock under which rows are removed. A reader is told that its revision
//! is compacted, and never less than there was.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{KeySpace, Rejection};
use crate::mvcc::Mvcc;

/// A revision, and the number of a reader at it.
type Place = (i64, u64);

/// The readers of a range of keys.
#[derive(Debug, Default)]
pub(super) struct Pins(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Whether each has read since the last review.
    held: BTreeMap<Place, bool>,
    next: u64,
}

impl Pins {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, revision: i64) -> Place {
        let mut inner = self.lock();
        let place = (revision, inner.next);
        inner.next += 1;
        inner.held.insert(place, true);
        place
    }

    /// False if what is to be seen there has not been kept.
    fn renew(&self, place: Place, compact_revision: i64) -> bool {
        let held = &mut self.lock().held;
        let kept = held.contains_key(&place) || place.0 >= compact_revision;
        if kept {
            held.insert(place, true);
        }
        kept
    }

    /// True if compaction has waited for this one.
    fn remove(&self, place: Place) -> bool {
        let held = &mut self.lock().held;
        let lowest = held.first_key_value().is_some_and(|(lowest, _)| *lowest == place);
        held.remove(&place);
        lowest
    }

    pub(super) fn lowest(&self) -> Option<i64> {
        self.lock().held.first_key_value().map(|((revision, _), _)| *revision)
    }

    /// Lets those down that are in the way of a compaction and have read nothing since the last time.
    pub(super) fn review(&self, compact_revision: i64) {
        self.lock().held.retain(|(revision, _), has_read| *revision >= compact_revision || std::mem::take(has_read));
    }

    pub(super) fn clear(&self) {
        self.lock().held.clear();
    }
}

/// Holds back physical compaction, for a reader that goes on reading.
#[derive(Debug)]
pub struct Pin {
    space: KeySpace,
    place: Place,
}

impl Pin {
    /// Keeps what a reader at `revision` sees. To be called under the state's lock.
    pub(super) fn new(space: &KeySpace, revision: i64) -> Self {
        Self { place: space.pins().add(revision), space: space.clone() }
    }

    /// A step of the reader.
    pub fn read<R>(&self, read: impl FnOnce(&Mvcc, i64) -> R) -> Result<R, Rejection> {
        self.space.read(|mvcc, current| {
            let kept = self.space.pins().renew(self.place, mvcc.compact_revision());
            if kept { Ok(read(mvcc, current)) } else { Err(Rejection::Compacted) }
        })
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if self.space.pins().remove(self.place) {
            self.space.compaction_due();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use bytes::Bytes;
    use futures::FutureExt as _;
    use keelson_etcd_api::etcdserverpb as pb;

    use super::super::key_space::Left;
    use super::super::{Committed, Keys, Replicated as _, Response, State};
    use super::*;
    use crate::command::Command;
    use crate::mvcc::hash::Hasher;
    use crate::mvcc::range::Scan;

    fn apply(state: &State, command: Command) {
        let responses = state.apply(&[Committed { index: 1, term: 1, command: Arc::new(command) }]);
        assert!(!matches!(responses[..], [Response::Rejected(_)]), "{responses:?}");
    }

    fn put(state: &State, key: &str, value: &str) {
        let request =
            pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
        apply(state, Command::Put(request));
    }

    fn compact(state: &State, revision: i64) {
        apply(state, Command::Compact(pb::CompactionRequest { revision, physical: false }));
    }

    /// Revisions 2 to 11 of one key.
    fn ten_revisions() -> State {
        let state = State::default();
        for number in 2..12 {
            put(&state, "key", &number.to_string());
        }
        state
    }

    fn pin(state: &State, revision: i64) -> Pin {
        state.public().read(|_, _| state.public().pin(revision))
    }

    fn remove_garbage(state: &State) -> tokio::task::JoinHandle<()> {
        let space = state.public().clone();
        tokio::spawn(async move { space.remove_garbage().await })
    }

    fn rows(state: &State) -> usize {
        state.public().read(|mvcc, _| mvcc.rows())
    }

    fn value_at(pin: &Pin, revision: i64) -> Result<Vec<u8>, Rejection> {
        let request = pb::RangeRequest { key: "key".into(), revision, ..Default::default() };
        pin.read(|mvcc, current| {
            let mut scan = Scan::pinned(&request, current);
            assert!(scan.step(mvcc, 1));
            scan.finish(&request).kvs[0].parts().value.to_vec()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_sleeps_is_let_down_and_one_that_reads_is_not() {
        let state = ten_revisions();
        let removing = remove_garbage(&state);
        let (sleeping, reading) = (pin(&state, 4), pin(&state, 7));
        compact(&state, 9);
        for round in 0..30 {
            tokio::time::sleep(Duration::from_secs(20)).await;
            assert_eq!(value_at(&reading, 7), Ok(b"7".to_vec()), "round {round}");
        }
        assert_eq!(rows(&state), 5, "from revision 7 on");
        assert_eq!(value_at(&sleeping, 4), Err(Rejection::Compacted));
        drop(reading);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(rows(&state), 3);
        removing.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_whose_revision_is_not_compacted_may_sleep() {
        let state = ten_revisions();
        let removing = remove_garbage(&state);
        let (lower, higher) = (pin(&state, 4), pin(&state, 9));
        compact(&state, 5);
        tokio::time::sleep(Duration::from_mins(10)).await;
        compact(&state, 9);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((value_at(&lower, 4), value_at(&higher, 9)), (Err(Rejection::Compacted), Ok(b"9".to_vec())));
        removing.abort();
    }

    #[tokio::test]
    async fn whoever_waits_for_a_compaction_or_a_hash_does_not_wait_for_readers() {
        let (read, plain) = (ten_revisions(), ten_revisions());
        let pinned = pin(&read, 4);
        for state in [&read, &plain] {
            put(state, "other", "value");
            compact(state, 9);
            let removing = state.public().remove_garbage();
            let removed = tokio::select! {
                biased;
                () = removing => false,
                () = state.public().compacted(9) => true,
            };
            assert!(removed);
        }
        assert_eq!((rows(&read), rows(&plain)), (9, 4));
        let hash = |state: &State| state.public().hash_at(0).now_or_never().unwrap().unwrap();
        assert_eq!(hash(&read), hash(&plain));
        assert_eq!(value_at(&pinned, 4), Ok(b"4".to_vec()));
    }

    /// As a member does that was away for longer than the log reaches back.
    fn replace(state: &State, by: &State) {
        state.load(&mut by.snapshot().rows(usize::MAX)).unwrap();
    }

    #[test]
    fn under_a_replaced_state_a_reader_goes_on_or_is_told_that_it_cannot() {
        let (state, newer) = (ten_revisions(), ten_revisions());
        put(&newer, "key", "newest");
        let (low, high) = (pin(&state, 4), pin(&state, 9));
        replace(&state, &newer);
        assert_eq!((value_at(&low, 4), value_at(&high, 9)), (Ok(b"4".to_vec()), Ok(b"9".to_vec())));

        compact(&newer, 7);
        assert_eq!(newer.public().remove_garbage_slice(), Left::Nothing);
        replace(&state, &newer);
        assert_eq!((value_at(&low, 4), value_at(&high, 9)), (Err(Rejection::Compacted), Ok(b"9".to_vec())));
        // It is kept again.
        compact(&state, 12);
        assert_eq!(state.public().remove_garbage_slice(), Left::Pinned);
        assert_eq!(value_at(&high, 9), Ok(b"9".to_vec()));
    }

    /// The newest revision as a snapshot has it, of both ranges.
    fn newest(state: &State) -> Vec<Bytes> {
        let rows = state.snapshot().rows(usize::MAX).filter_map(Result::ok);
        rows.filter(|row| row.key == "revision").map(|row| row.value).collect()
    }

    #[test]
    fn a_state_takes_the_place_of_another_at_once() {
        let (state, newer) = (State::default(), State::default());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reads = || {
                while !done.load(Ordering::Relaxed) {
                    let (current, compacted) = state.public().read(|mvcc, current| (current, mvcc.compact_revision()));
                    assert!(current >= compacted, "{current} is compacted to {compacted}");
                }
            };
            let snapshots = || {
                while !done.load(Ordering::Relaxed) {
                    let [public, cluster] = newest(&state).try_into().unwrap();
                    assert_eq!(public, cluster);
                }
            };
            let readers = [scope.spawn(reads), scope.spawn(snapshots)];
            for revision in 2..300 {
                for keys in Keys::ALL {
                    let request = pb::PutRequest { key: "key".into(), ..Default::default() };
                    apply(&newer, Command::Put(request).on(keys));
                }
                compact(&newer, revision);
                newer.public().remove_garbage_slice();
                replace(&state, &newer);
            }
            done.store(true, Ordering::Relaxed);
            for reader in readers {
                reader.join().unwrap();
            }
        });
    }

    #[test]
    fn a_snapshot_ends_with_an_error_where_the_state_is_replaced_by_one_that_lacks_its_rows() {
        let (state, newer) = (ten_revisions(), ten_revisions());
        put(&newer, "key", "newest");
        let mut snapshot = state.snapshot();
        assert_eq!(snapshot.slice(3).unwrap().unwrap().len(), 3);
        compact(&newer, 12);
        replace(&state, &newer);
        assert_eq!(snapshot.slice(3).unwrap(), Err(Rejection::Compacted));
    }

    #[test]
    fn a_hash_ends_with_an_error_where_the_state_is_replaced_by_one_that_lacks_its_rows() {
        let (state, newer) = (ten_revisions(), ten_revisions());
        put(&newer, "key", "newest");
        let space = state.public();
        let mut hashing = space.read(|mvcc, current| (Hasher::new(mvcc, current), space.pin(mvcc.compact_revision())));
        let mut step = || hashing.1.read(|mvcc, _| hashing.0.step(mvcc, 3));
        assert_eq!(step(), Ok(None));
        compact(&newer, 12);
        replace(&state, &newer);
        assert_eq!(step(), Err(Rejection::Compacted));
        assert!(state.of(Keys::Cluster).hash_at(0).now_or_never().unwrap().is_ok());
    }
}
