//! Random requests, the same for the same seed.

use bytes::Bytes;
use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use keelson_etcd_api::etcdserverpb::request_op::Request;
use keelson_store::command::Command;

/// `SplitMix64`: small, and good enough to choose requests.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u64)).unwrap()].clone()
    }
}

/// The seed of this run: given, or of the day's making.
pub(crate) fn seed(test: &str) -> u64 {
    let seed = std::env::var("KEELSON_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Dice::new(u64::try_from(now.as_nanos() % u128::from(u64::MAX)).unwrap()).next() % 1_000_000_000
    });
    println!("{test}: KEELSON_SEED={seed}");
    seed
}

/// A number from the environment, for longer runs.
pub(crate) fn count(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|count| count.parse().ok()).unwrap_or(default)
}

/// Few keys, close together, with prefixes of each other and the edges of the byte range.
const KEYS: [&[u8]; 14] =
    [b"\0", b"a", b"aa", b"ab", b"b", b"b\0", b"ba", b"b\xff", b"c", b"ca", b"d", b"e", b"\xff", b"\xff\xff"];
const ENDS: [&[u8]; 8] = [b"\0", b"a", b"b", b"bb", b"c", b"d\0", b"f", b"\xff"];
const LEASES: [i64; 5] = [1, 2, 3, 77, 0x1234_5678_9abc];

/// Draws requests around a state of which it knows the revisions.
#[derive(Clone, Debug)]
pub(crate) struct Histories {
    pub(crate) dice: Dice,
    pub(crate) revision: i64,
    pub(crate) compact_revision: i64,
}

/// What a client does next.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Command(Command),
    Range(pb::RangeRequest),
    /// Checked against a hash, or saved and loaded.
    Checkpoint,
}

impl Histories {
    pub(crate) fn new(seed: u64) -> Self {
        Self { dice: Dice::new(seed), revision: 1, compact_revision: -1 }
    }

    pub(crate) fn step(&mut self) -> Step {
        match self.dice.below(100) {
            0..=29 => Step::Command(Command::Put(self.put())),
            30..=37 => Step::Command(Command::DeleteRange(self.delete_range(true))),
            38..=54 => Step::Command(Command::Txn(self.txn(3))),
            55..=57 => Step::Command(Command::Compact(self.compact())),
            58..=62 => {
                let id = self.dice.pick(&LEASES);
                Step::Command(Command::LeaseGrant(pb::LeaseGrantRequest { ttl: 1000, id }))
            }
            63..=65 => Step::Command(Command::LeaseRevoke(pb::LeaseRevokeRequest { id: self.dice.pick(&LEASES) })),
            66..=97 => Step::Range(self.range()),
            _ => Step::Checkpoint,
        }
    }

    /// One that may be granted.
    pub(crate) fn lease_id(&mut self) -> i64 {
        self.dice.pick(&LEASES)
    }

    pub(crate) fn key(&mut self) -> Bytes {
        Bytes::from_static(self.dice.pick(&KEYS))
    }

    pub(crate) fn range_end(&mut self) -> Bytes {
        if self.dice.one_in(3) { Bytes::new() } else { Bytes::from_static(self.dice.pick(&ENDS)) }
    }

    fn value(&mut self) -> Bytes {
        if self.dice.one_in(8) { Bytes::new() } else { Bytes::from(format!("v{}", self.dice.below(5))) }
    }

    /// Mostly one that can be read; sometimes none, one that is compacted, or one to come.
    pub(crate) fn some_revision(&mut self) -> i64 {
        match self.dice.below(10) {
            0..=3 => 0,
            4 => self.revision + i64::try_from(self.dice.below(3)).unwrap(),
            5 => -1,
            6 => self.compact_revision - 1,
            _ => {
                let low = self.compact_revision.max(1);
                let width = u64::try_from(self.revision - low + 1).unwrap().max(1);
                low + i64::try_from(self.dice.below(width)).unwrap()
            }
        }
    }

    fn lease(&mut self) -> i64 {
        if self.dice.one_in(4) { self.dice.pick(&LEASES) } else { 0 }
    }

    fn put(&mut self) -> pb::PutRequest {
        let ignore_value = self.dice.one_in(10);
        let ignore_lease = self.dice.one_in(10);
        pb::PutRequest {
            key: self.key(),
            value: if ignore_value { Bytes::new() } else { self.value() },
            lease: if ignore_lease { 0 } else { self.lease() },
            prev_kv: self.dice.one_in(2),
            ignore_value,
            ignore_lease,
        }
    }

    /// Without an end only outside transactions: inside, etcd's check for overlaps does not see such a deletion, and one
    /// together with a put of the same key makes an etcd that later loses the key to compaction, or panics.
    fn delete_range(&mut self, open: bool) -> pb::DeleteRangeRequest {
        let mut range_end = self.range_end();
        if !open && range_end[..] == [0] {
            range_end = Bytes::new();
        }
        pb::DeleteRangeRequest { key: self.key(), range_end, prev_kv: self.dice.one_in(2) }
    }

    pub(crate) fn range(&mut self) -> pb::RangeRequest {
        let dice = &mut self.dice;
        let sorted = dice.one_in(4);
        let filtered = dice.one_in(6);
        let (sort_order, sort_target) = if sorted { (dice.below(3), dice.below(5)) } else { (0, 0) };
        let (limit, keys_only, count_only) = (dice.below(6), dice.one_in(5), dice.one_in(6));
        let limit = if sort_target == 0 && dice.one_in(2) { i64::try_from(limit).unwrap() } else { 0 };
        let mut bound = || {
            if filtered && self.dice.one_in(2) { 1 + self.dice.below(u64::try_from(self.revision).unwrap()) } else { 0 }
        };
        let bounds = [bound(), bound(), bound(), bound()].map(|bound| i64::try_from(bound).unwrap());
        pb::RangeRequest {
            key: self.key(),
            range_end: self.range_end(),
            limit,
            revision: self.some_revision(),
            sort_order: i32::try_from(sort_order).unwrap(),
            sort_target: i32::try_from(sort_target).unwrap(),
            serializable: self.dice.one_in(2),
            keys_only,
            count_only,
            min_mod_revision: bounds[0],
            max_mod_revision: bounds[1],
            min_create_revision: bounds[2],
            max_create_revision: bounds[3],
        }
    }

    fn compare(&mut self) -> pb::Compare {
        let small = |dice: &mut Dice, revision: i64| {
            let near = i64::try_from(dice.below(4)).unwrap();
            if dice.one_in(2) { near } else { (revision - near).max(0) }
        };
        let target = self.dice.pick(&[
            CompareTarget::Version,
            CompareTarget::Create,
            CompareTarget::Mod,
            CompareTarget::Value,
            CompareTarget::Lease,
        ]);
        let number = small(&mut self.dice, self.revision);
        let target_union = match target {
            CompareTarget::Version => TargetUnion::Version(number.min(3)),
            CompareTarget::Create => TargetUnion::CreateRevision(number),
            CompareTarget::Mod => TargetUnion::ModRevision(number),
            CompareTarget::Value => TargetUnion::Value(self.value()),
            CompareTarget::Lease => TargetUnion::Lease(self.lease()),
        };
        let result = self.dice.pick(&[
            CompareResult::Equal,
            CompareResult::NotEqual,
            CompareResult::Greater,
            CompareResult::Less,
        ]);
        pb::Compare {
            result: result.into(),
            target: target.into(),
            key: self.key(),
            // Absent, or that of another target, now and then.
            target_union: (!self.dice.one_in(12)).then_some(target_union),
            range_end: if self.dice.one_in(4) { self.range_end() } else { Bytes::new() },
        }
    }

    pub(crate) fn txn(&mut self, depth: u64) -> pb::TxnRequest {
        let compares = self.dice.below(3);
        let mut ops = |depth: u64| {
            let count = self.dice.below(4);
            (0..count).map(|_| self.op(depth)).collect::<Vec<_>>()
        };
        let (success, failure) = (ops(depth), ops(depth));
        pb::TxnRequest { compare: (0..compares).map(|_| self.compare()).collect(), success, failure }
    }

    fn op(&mut self, depth: u64) -> pb::RequestOp {
        let request = match self.dice.below(10) {
            0..=3 => Request::RequestRange(self.range()),
            4..=6 => Request::RequestPut(self.put()),
            7 => Request::RequestDeleteRange(self.delete_range(false)),
            _ if depth > 0 => Request::RequestTxn(self.txn(depth - 1)),
            _ => Request::RequestPut(self.put()),
        };
        pb::RequestOp { request: Some(request) }
    }

    fn compact(&mut self) -> pb::CompactionRequest {
        pb::CompactionRequest { revision: self.some_revision(), physical: true }
    }
}
