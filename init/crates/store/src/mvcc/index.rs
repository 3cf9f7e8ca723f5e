//! All keys in order, each with its rows, in blocks that know how many of their keys exist.
//!
//! kube-apiserver asks for a page of 500 keys and is told, with every page, how many there are: counting must not visit
//! each. A block's count is that of the newest revision, and of every earlier one at which the block already was as it is
//! now, which is what its `changed` says. So a count adds up blocks and looks at keys only at the range's ends and in blocks
//! that changed since.
//!
//! Blocks are a list in order, not a tree: with 256 keys in each, a million keys are some thousands of blocks, in which a
//! binary search takes a dozen steps, and putting one into the list moves less memory than a page.
//!
//! A key is not repeated here: it is read where its newest row has it.

use super::Revision;
use super::key_range::KeyRange;
use super::row::{KeyHistory, Row};

/// Keys in a block before it is split. What an insertion moves, and what a count at a range's end visits, at most.
const BLOCK_KEYS: usize = 256;

#[derive(Debug, Default)]
pub(super) struct KeyIndex {
    /// None is empty; they are in order and do not overlap.
    blocks: Vec<Block>,
    live: usize,
}

#[derive(Debug)]
struct Block {
    /// At most its first key, and above the last of the block before.
    start: Box<[u8]>,
    keys: Vec<KeyHistory>,
    /// Keys that exist at the newest revision.
    live: usize,
    /// The main revision of the last change of one of its keys.
    changed: i64,
}

impl Block {
    fn new(keys: Vec<KeyHistory>, changed: i64) -> Self {
        let start = keys.first().map_or_else(Box::default, |key| key.key().into());
        let live = keys.iter().filter(|key| !key.newest().is_tombstone()).count();
        Self { start, keys, live, changed }
    }

    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        self.keys.binary_search_by(|history| history.key().cmp(key))
    }

    /// Puts a key that is not there yet in its place.
    fn insert(&mut self, place: usize, row: Row, live: usize) {
        if place == 0 && *row.key() < *self.start {
            self.start = row.key().into();
        }
        self.changed = row.revision().main;
        self.live += live;
        self.keys.insert(place, KeyHistory::new(row));
    }
}

/// Where a count goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) keys: usize,
    /// The first key that was not looked at; none when the count is complete.
    pub(super) resume: Option<Box<[u8]>>,
}

impl KeyIndex {
    /// Keys that exist at the newest revision.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// The block in which a key is, or would be. The first takes keys below all.
    fn block(&self, key: &[u8]) -> usize {
        self.blocks.partition_point(|block| *block.start <= *key).saturating_sub(1)
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&KeyHistory> {
        let block = self.blocks.get(self.block(key))?;
        let place = block.find(key).ok()?;
        block.keys.get(place)
    }

    /// Adds a row, the newest of all. Returns the row that it supersedes, unless that is a tombstone.
    pub(super) fn push(&mut self, row: Row) -> Option<Revision> {
        let live = usize::from(!row.is_tombstone());
        let index = self.block(row.key());
        let Some(block) = self.blocks.get_mut(index) else {
            let changed = row.revision().main;
            self.blocks.push(Block::new(vec![KeyHistory::new(row)], changed));
            self.live += live;
            return None;
        };
        // Keys mostly come in order, and then the last one says enough.
        let is_last = block.keys.last().is_some_and(|last| last.key() < row.key());
        let place = if is_last { Err(block.keys.len()) } else { block.find(row.key()) };
        match place {
            Ok(place) => {
                block.changed = row.revision().main;
                let history = block.keys.get_mut(place)?;
                let newest = history.newest();
                let superseded = (!newest.is_tombstone()).then(|| newest.revision());
                history.push(row);
                let was_live = usize::from(superseded.is_some());
                block.live = block.live + live - was_live;
                self.live = self.live + live - was_live;
                superseded
            }
            Err(place) => {
                self.live += live;
                if block.keys.len() < BLOCK_KEYS {
                    block.insert(place, row, live);
                } else {
                    self.split_and_insert(index, place, row, live);
                }
                None
            }
        }
    }

    /// Puts a key into a block that is full. Keys that come in order, of which there may be several sequences, leave full blocks behind; the others
    /// leave halves.
    fn split_and_insert(&mut self, index: usize, place: usize, row: Row, live: usize) {
        let Some(block) = self.blocks.get_mut(index) else { return };
        let changed = row.revision().main;
        let upper = if place == block.keys.len() {
            Block::new(vec![KeyHistory::new(row)], changed)
        } else {
            let half = block.keys.len() / 2;
            let mut upper = Block::new(block.keys.split_off(half), block.changed);
            block.live -= upper.live;
            if place <= half {
                block.insert(place, row, live);
            } else {
                upper.insert(place - half, row, live);
            }
            upper
        };
        self.blocks.insert(index + 1, upper);
    }

    /// Takes out a row that no read sees any more.
    pub(super) fn remove(&mut self, key: &[u8], revision: Revision) {
        let index = self.block(key);
        let Some(block) = self.blocks.get_mut(index) else { return };
        let Ok(place) = block.find(key) else { return };
        if block.keys.get_mut(place).is_some_and(|history| history.remove(revision)) {
            block.keys.remove(place);
            if block.keys.is_empty() {
                self.blocks.remove(index);
            }
        }
    }

    /// Keys of a range, from `resume` on.
    pub(super) fn range<'a>(
        &'a self,
        range: &'a KeyRange,
        resume: Option<&[u8]>,
    ) -> impl Iterator<Item = &'a KeyHistory> {
        let start = range.from(resume);
        let (first, rest) = match self.blocks.get(self.block(start)..).and_then(<[Block]>::split_first) {
            Some((block, rest)) => {
                let (Ok(place) | Err(place)) = block.find(start);
                (block.keys.get(place..).unwrap_or_default(), rest)
            }
            None => (&[][..], &[][..]),
        };
        let keys = first.iter().chain(rest.iter().flat_map(|block| &block.keys));
        keys.take_while(|history| range.ends_after(history.key()))
    }

    /// Counts the keys of a range that exist at a revision, visiting at most about `limit` keys or blocks.
    pub(super) fn count(&self, range: &KeyRange, resume: Option<&[u8]>, revision: i64, limit: usize) -> Counted {
        let start = range.from(resume);
        let mut counted = Counted { keys: 0, resume: None };
        let mut visited = 0;
        let mut blocks = self.blocks.get(self.block(start)..).unwrap_or_default().iter().peekable();
        while let Some(block) = blocks.next() {
            if !range.ends_after(&block.start) && *block.start >= *start {
                break;
            }
            if visited >= limit {
                counted.resume = Some((&*block.start).max(start).into());
                break;
            }
            let next_starts = blocks.peek().map(|next| &*next.start);
            let whole = *block.start >= *start && range.ends_after_all_before(next_starts);
            if whole && block.changed <= revision {
                counted.keys += block.live;
                visited += 1;
            } else {
                // The first block may hold keys below the start, which a resumed count has counted already.
                let from = block.keys.partition_point(|history| history.key() < start);
                let keys = block.keys.get(from..).unwrap_or_default();
                let inside = keys.iter().take_while(|history| range.ends_after(history.key()));
                counted.keys += inside.filter(|history| history.live_at(revision).is_some()).count();
                visited += keys.len();
            }
        }
        counted
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &KeyHistory> {
        self.blocks.iter().flat_map(|block| &block.keys)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use keelson_etcd_api::encoded::Parts;
    use proptest::prelude::*;

    use super::*;

    fn row(key: &[u8], main: i64, version: i64) -> Row {
        let parts = Parts { key, mod_revision: main, version, ..Parts::default() };
        Row::new(Revision::first_of(main), &parts)
    }

    /// A number as a key, so that the order is that of the numbers.
    fn key(number: u32) -> Vec<u8> {
        format!("{number:06}").into_bytes()
    }

    fn range(start: u32, end: u32) -> KeyRange {
        KeyRange::new(&Bytes::from(key(start)), &Bytes::from(key(end)))
    }

    /// Counts in steps of the given size.
    fn count(index: &KeyIndex, range: &KeyRange, revision: i64, limit: usize) -> usize {
        let mut keys = 0;
        let mut resume: Option<Box<[u8]>> = None;
        loop {
            let counted = index.count(range, resume.as_deref(), revision, limit);
            keys += counted.keys;
            resume = counted.resume;
            if resume.is_none() {
                return keys;
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn counts_and_ranges_are_those_of_a_plain_map(
            changes in prop::collection::vec((0_u32..3000, any::<bool>()), 1..4000),
            sequential in any::<bool>(),
            bounds in prop::collection::vec((0_u32..3000, 0_u32..3000, 0_usize..4000), 20),
        ) {
            let mut index = KeyIndex::default();
            // Per key: revision and whether it exists from then on.
            let mut plain: BTreeMap<Vec<u8>, Vec<(i64, bool)>> = BTreeMap::new();
            for (number, (place, live)) in changes.iter().enumerate() {
                let main = i64::try_from(number).unwrap() + 2;
                let key = key(if sequential { u32::try_from(number).unwrap() } else { *place });
                let history = plain.entry(key.clone()).or_default();
                let superseded = index.push(row(&key, main, i64::from(*live)));
                let expected = history.last().filter(|(_, live)| *live).map(|(main, _)| Revision::first_of(*main));
                prop_assert_eq!(superseded, expected);
                history.push((main, *live));
            }
            let newest = i64::try_from(changes.len()).unwrap() + 1;
            let live_at = |history: &[(i64, bool)], revision: i64| {
                history.iter().rev().find(|(main, _)| *main <= revision).is_some_and(|(_, live)| *live)
            };
            let all = plain.values().filter(|history| live_at(history, newest)).count();
            prop_assert_eq!(index.live(), all);
            for (start, end, back) in bounds {
                let revision = newest - i64::try_from(back).unwrap();
                let range = range(start, end);
                let inside = || plain.iter().filter(|(key, _)| range.contains(key));
                let expected = inside().filter(|(_, history)| live_at(history, revision)).count();
                for limit in [1, 100, usize::MAX] {
                    prop_assert_eq!(count(&index, &range, revision, limit), expected, "{}..{}", start, end);
                }
                let keys: Vec<&[u8]> = index.range(&range, None).map(KeyHistory::key).collect();
                prop_assert_eq!(keys, inside().map(|(key, _)| key.as_slice()).collect::<Vec<_>>());
            }
            for (key, history) in &plain {
                prop_assert_eq!(index.get(key).unwrap().len(), history.len());
                for (main, _) in history {
                    index.remove(key, Revision::first_of(*main));
                }
                prop_assert!(index.get(key).is_none());
            }
            prop_assert!(index.blocks.is_empty());
        }
    }

    #[test]
    fn keys_that_come_in_order_fill_their_blocks() {
        // Several clients, each with a range of its own.
        let mut index = KeyIndex::default();
        for number in 0..10_000 {
            index.push(row(&key(number % 8 * 2000 + number / 8), i64::from(number) + 2, 1));
        }
        assert!(index.blocks.len() <= 10_000 / BLOCK_KEYS + 16, "{}", index.blocks.len());
        assert!(index.blocks.iter().all(|block| block.keys.capacity() <= BLOCK_KEYS));
        let everything = KeyRange::everything();
        let counted = index.count(&everything, None, 20_000, 100);
        assert_eq!(counted, Counted { keys: 10_000, resume: None }, "in fewer visits than keys");
    }
}
