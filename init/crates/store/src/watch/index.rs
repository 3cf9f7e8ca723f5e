//! Which watches a key concerns: watches of single keys by hash, those of ranges by an interval tree.
//!
//! Watches of the same range share one entry, so ten thousand of them on one prefix match as one. The tree is implicit in
//! a sorted list (the middle element of a slice is its root) with the highest end of each subtree beside it; it is
//! rebuilt when a range was added or removed since the last match. Ranges change seldom and there are few distinct ones.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::queue::Selection;
use super::{Group, Registered, Token};
use crate::mvcc::{Changes, KeyRange};

#[derive(Debug, Default)]
pub(super) struct Index {
    keys: HashMap<Bytes, Group>,
    /// By range, ascending: the start comes first in its order.
    ranges: Vec<(KeyRange, Group)>,
    /// For each element the highest end in the subtree whose root it is.
    ends: Vec<Reach>,
    stale: bool,
}

/// Where a range ends; in this order, a range without an end reaches furthest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Nowhere,
    Before(Bytes),
    Everything,
}

impl Index {
    pub(super) fn insert(&mut self, range: KeyRange, token: Token, registered: Registered) {
        if let Some(key) = range.as_key() {
            self.keys.entry(key.clone()).or_default().insert(token, registered);
            return;
        }
        match self.ranges.binary_search_by(|(other, _)| other.cmp(&range)) {
            Ok(place) => {
                if let Some((_, group)) = self.ranges.get_mut(place) {
                    group.insert(token, registered);
                }
            }
            Err(place) => {
                self.ranges.insert(place, (range, Group::from([(token, registered)])));
                self.stale = true;
            }
        }
    }

    /// False if there is no such watch.
    pub(super) fn remove(&mut self, range: &KeyRange, token: Token) -> bool {
        if let Some(key) = range.as_key() {
            let Some(group) = self.keys.get_mut(key) else { return false };
            let removed = group.remove(&token).is_some();
            if group.is_empty() {
                self.keys.remove(key);
            }
            return removed;
        }
        let Ok(place) = self.ranges.binary_search_by(|(other, _)| other.cmp(range)) else { return false };
        let Some((_, group)) = self.ranges.get_mut(place) else { return false };
        let removed = group.remove(&token).is_some();
        if group.is_empty() {
            self.ranges.remove(place);
            self.stale = true;
        }
        removed
    }

    pub(super) fn take_all(&mut self) -> Vec<Registered> {
        let keys = std::mem::take(&mut self.keys).into_values();
        let ranges = std::mem::take(&mut self.ranges).into_iter().map(|(_, group)| group);
        self.stale = true;
        keys.chain(ranges).flat_map(Group::into_values).collect()
    }

    /// Calls `visit` for each group that a transaction concerns, with the events that do.
    pub(super) fn matching(&mut self, changes: &Changes, mut visit: impl FnMut(&Group, Selection)) {
        self.rebuild();
        if let [event] = &changes.events[..] {
            let key = event.kv.parts().key;
            if let Some(group) = self.keys.get(key) {
                visit(group, Selection::All);
            }
            self.stab(key, |place| {
                if let Some((_, group)) = self.ranges.get(place) {
                    visit(group, Selection::All);
                }
            });
            return;
        }
        let mut by_key: HashMap<&[u8], Vec<usize>> = HashMap::new();
        let mut by_range: Vec<(usize, usize)> = Vec::new();
        for (place, event) in changes.events.iter().enumerate() {
            let key = event.kv.parts().key;
            if self.keys.contains_key(key) {
                by_key.entry(key).or_default().push(place);
            }
            self.stab(key, |range| by_range.push((range, place)));
        }
        for (key, places) in by_key {
            if let Some(group) = self.keys.get(key) {
                visit(group, select(places.into_iter(), changes));
            }
        }
        by_range.sort_unstable();
        for pairs in by_range.chunk_by(|left, right| left.0 == right.0) {
            if let Some((_, group)) = pairs.first().and_then(|(range, _)| self.ranges.get(*range)) {
                visit(group, select(pairs.iter().map(|(_, place)| *place), changes));
            }
        }
    }

    fn rebuild(&mut self) {
        if self.stale {
            self.stale = false;
            self.ends = vec![Reach::Nowhere; self.ranges.len()];
            let Self { ranges, ends, .. } = self;
            reach(ranges, ends);
        }
    }

    fn stab(&self, key: &[u8], mut visit: impl FnMut(usize)) {
        stab(&self.ranges, &self.ends, key, 0, &mut visit);
    }
}

fn select(places: impl ExactSizeIterator<Item = usize>, changes: &Changes) -> Selection {
    if places.len() == changes.events.len() {
        Selection::All
    } else {
        Selection::Some(places.collect::<Arc<[usize]>>())
    }
}

/// Fills in the highest ends of a subtree and returns its own.
fn reach(ranges: &[(KeyRange, Group)], ends: &mut [Reach]) -> Reach {
    let middle = ranges.len() / 2;
    let Some((range, _)) = ranges.get(middle) else { return Reach::Nowhere };
    let own = range.before().map_or(Reach::Everything, |end| Reach::Before(end.clone()));
    let (left, rest) = ends.split_at_mut(middle);
    let Some((root, right)) = rest.split_first_mut() else { return Reach::Nowhere };
    let below = reach(ranges.get(..middle).unwrap_or_default(), left);
    let above = reach(ranges.get(middle + 1..).unwrap_or_default(), right);
    *root = own.max(below).max(above);
    root.clone()
}

fn stab(ranges: &[(KeyRange, Group)], ends: &[Reach], key: &[u8], offset: usize, visit: &mut impl FnMut(usize)) {
    let middle = ranges.len() / 2;
    let (Some((range, _)), Some(end)) = (ranges.get(middle), ends.get(middle)) else { return };
    match end {
        Reach::Nowhere => return,
        Reach::Before(end) if **end <= *key => return,
        Reach::Before(_) | Reach::Everything => {}
    }
    stab(ranges.get(..middle).unwrap_or_default(), ends.get(..middle).unwrap_or_default(), key, offset, visit);
    if **range.start() <= *key {
        if range.contains(key) {
            visit(offset + middle);
        }
        let next = middle + 1;
        let (ranges, ends) = (ranges.get(next..).unwrap_or_default(), ends.get(next..).unwrap_or_default());
        stab(ranges, ends, key, offset + next, visit);
    }
}
