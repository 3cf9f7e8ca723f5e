//! Requests with any bytes in them: decoded and checked as a server does, then applied and read, and what came of it is loaded again.
//! Those that the check refuses are applied too: `apply` is total.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::compare::TargetUnion;
use keelson_etcd_api::etcdserverpb::request_op::Request;
use keelson_mutation::{Random, inputs, mutate};
use prost::Message as _;

use super::{Committed, Keys, Replicated as _, State};
use crate::command::Command;
use crate::lease::{Lease, LeaseId};
use crate::mvcc::hash::Hasher;
use crate::server::validate;

const WORDS: [&[u8]; 8] = [
    b"\0",
    b"\x01",
    b"\x0a\x01a",
    b"\x12\x01b",
    b"\x12\x01\0",
    b"\x08\x07",
    b"\x18\xff\x01",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
];
/// Operations of a transaction, as many as etcd allows by default.
const OPERATIONS: usize = 128;
/// Requests that one state is asked.
const REQUESTS: usize = 12;

fn put(key: &'static str, lease: i64) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: "value".into(), lease, prev_kv: true, ..Default::default() }
}

fn range(key: &'static str, end: &'static str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), range_end: end.into(), limit: 2, ..Default::default() }
}

fn ranges() -> [pb::RangeRequest; 4] {
    [
        range("a", ""),
        range("\0", "\0"),
        pb::RangeRequest { revision: 3, keys_only: true, sort_target: 4, sort_order: 2, ..range("a", "z") },
        pb::RangeRequest { min_mod_revision: 2, max_create_revision: 4, count_only: true, ..range("a", "c") },
    ]
}

fn transaction(nested: Option<pb::TxnRequest>) -> pb::TxnRequest {
    let op = |request| pb::RequestOp { request: Some(request) };
    let delete = pb::DeleteRangeRequest { key: "d".into(), range_end: "e".into(), prev_kv: true };
    let compare = pb::Compare {
        target: 1,
        key: "a".into(),
        target_union: Some(TargetUnion::CreateRevision(2)),
        ..Default::default()
    };
    let mut success = vec![op(Request::RequestPut(put("a", 0))), op(Request::RequestRange(range("a", "b")))];
    success.extend(nested.map(|nested| op(Request::RequestTxn(nested))));
    pb::TxnRequest { compare: vec![compare], success, failure: vec![op(Request::RequestDeleteRange(delete))] }
}

fn commands() -> Vec<Command> {
    let checkpoint = pb::LeaseCheckpoint { id: 7, remaining_ttl: 5 };
    vec![
        Command::Put(put("a", 0)),
        Command::Put(put("b", 7)),
        Command::Put(pb::PutRequest { ignore_lease: true, ..put("b", 0) }),
        Command::Put(pb::PutRequest { ignore_value: true, value: Bytes::new(), ..put("c", 0) }),
        Command::DeleteRange(pb::DeleteRangeRequest { key: "a".into(), range_end: "b".into(), prev_kv: true }),
        Command::Txn(transaction(Some(transaction(Some(transaction(None)))))),
        Command::Compact(pb::CompactionRequest { revision: 4, physical: true }),
        Command::LeaseGrant(pb::LeaseGrantRequest { ttl: 60, id: 7 }),
        Command::LeaseRevoke(pb::LeaseRevokeRequest { id: 7 }),
        Command::LeaseCheckpoint(pb::LeaseCheckpointRequest { checkpoints: vec![checkpoint] }),
        Command::Alarm(pb::AlarmRequest { action: 1, member_id: 9, alarm: 1 }),
        Command::Put(put("a", 8)).on(Keys::Cluster),
        Command::Txn(transaction(None)).on(Keys::Cluster),
        Command::Compact(pb::CompactionRequest { revision: 2, physical: true }).on(Keys::Cluster),
        Command::LeaseGrant(pb::LeaseGrantRequest { ttl: 60, id: 8 }).on(Keys::Cluster),
        Command::LeaseRevoke(pb::LeaseRevokeRequest { id: 8 }).on(Keys::Cluster),
    ]
}

fn apply(state: &State, command: Command) {
    let committed = Committed { index: 1, term: 1, command: Arc::new(command) };
    assert_eq!(state.apply(&[committed]).len(), 1);
}

/// With keys, some of them with a lease, and a past.
fn prepared() -> State {
    let state = State::default();
    apply(&state, Command::LeaseGrant(pb::LeaseGrantRequest { ttl: 60, id: 7 }));
    for key in ["a", "b", "c", "a", "d"] {
        apply(&state, Command::Put(put(key, if key == "b" { 7 } else { 0 })));
    }
    state
}

fn is_valid(command: &Command) -> bool {
    match command.parts().1 {
        Command::Put(request) => validate::put(request).is_ok(),
        Command::DeleteRange(request) => validate::delete_range(request).is_ok(),
        Command::Txn(request) => validate::txn(request, OPERATIONS).is_ok(),
        _ => true,
    }
}

fn encoded(command: &Command) -> Vec<u8> {
    let mut buffer = BytesMut::new();
    command.encode(&mut buffer);
    buffer.to_vec()
}

/// A changed request, to a state whose requests are all valid unless `any` may be applied.
fn ask(random: &mut Random, state: &State, any: bool) {
    let seed = random.choose(&commands()).map(encoded).unwrap();
    if let Ok(command) = Command::decode(&Bytes::from(mutate(random, &seed, &WORDS)))
        && (is_valid(&command) || any)
    {
        assert_eq!(encoded(&command).len(), command.encoded_len());
        apply(state, command);
    }
    let seed = random.choose(&ranges()).map(pb::RangeRequest::encode_to_vec).unwrap();
    if let Ok(request) = pb::RangeRequest::decode(mutate(random, &seed, &WORDS).as_slice())
        && (validate::range(&request).is_ok() || any)
    {
        // It may be compacted, or yet to come.
        let _ = state.public().read(|mvcc, current| mvcc.range(&request, current));
    }
}

/// Hash, revisions, keys and leases of a range.
type Summary = (Option<u32>, i64, i64, usize, Vec<(LeaseId, Lease)>);

/// All that is to be the same after a checkpoint.
fn summary(state: &State) -> ([Summary; 2], Vec<pb::AlarmMember>) {
    let of = |keys| {
        state.of(keys).read(|mvcc, revision| {
            let hash = Hasher::new(mvcc, revision).step(mvcc, usize::MAX);
            let leases = mvcc.leases.iter().map(|(id, lease)| (id, lease.clone())).collect();
            (hash, revision, mvcc.compact_revision(), mvcc.live_keys(), leases)
        })
    };
    (Keys::ALL.map(of), state.alarms())
}

#[test]
fn requests_are_answered_or_refused_and_survive_a_checkpoint() {
    inputs("requests", 3000, |random| {
        let state = prepared();
        let any = random.below(2) == 0;
        for _ in 0..REQUESTS {
            ask(random, &state, any);
        }
        let loaded = State::default();
        loaded.load(&mut state.take_delta().puts.into_iter().map(Ok)).unwrap();
        assert_eq!(summary(&loaded), summary(&state));
    });
}
