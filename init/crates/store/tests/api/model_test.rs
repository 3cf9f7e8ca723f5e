//! The state against the naive model: every answer, every readable revision, every event, across checkpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use keelson_etcd_api::encoded::Event;
use keelson_etcd_api::etcdserverpb as pb;
use keelson_store::command::Command;
use keelson_store::mvcc::KeyRange;
use keelson_store::server::validate;
use keelson_store::state::{Committed, KeySpace, Keys, Rejection, Replicated, Response, Row, State, Table};
use keelson_store::watch::{Spec, WatchId, history};
use prost::Message;

use crate::histories::{Histories, Step, count, seed};
use crate::model::{Model, encoded};

/// What checkpoints have written so far.
#[derive(Debug, Default)]
struct Disk(BTreeMap<(Table, Bytes), Bytes>);

impl Disk {
    fn save(&mut self, state: &State) {
        let delta = state.take_delta();
        assert!(delta.puts.is_sorted_by_key(|row| (row.table, row.key.clone())), "rows to write are in order");
        assert!(delta.deletes.is_sorted(), "rows to remove are in order");
        for row in delta.puts {
            assert!(!delta.deletes.contains(&(row.table, row.key.clone())), "a row is in one list only");
            self.0.insert((row.table, row.key), row.value);
        }
        for key in delta.deletes {
            self.0.remove(&key);
        }
    }

    fn load(&self) -> State {
        let state = State::default();
        let rows = self
            .0
            .iter()
            .map(|((table, key), value)| Ok(Row { table: *table, key: key.clone(), value: value.clone() }));
        state.load(&mut rows.into_iter()).unwrap();
        state
    }
}

fn apply(state: &State, command: &Command) -> Response {
    let committed = Committed { index: 1, term: 1, command: Arc::new(command.clone()) };
    let mut answers = state.apply(&[committed]);
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

fn check_range(space: &KeySpace, model: &Model, request: &pb::RangeRequest, context: &str) {
    let answer = space.read(|mvcc, current| mvcc.range(request, current));
    let answer = answer.map(|response| response.encode_to_vec());
    let expected = model.range(request).map(|response| response.encode_to_vec());
    assert_eq!(answer, expected, "{context}: {request:?}");
}

/// Everything that can be read, and all of history.
fn check_everything(space: &KeySpace, model: &Model, context: &str) {
    assert_eq!(space.revision(), model.revision(), "{context}");
    for revision in model.compact_revision.max(1)..=model.revision() {
        let everything = pb::RangeRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            revision,
            ..pb::RangeRequest::default()
        };
        check_range(space, model, &everything, context);
    }
    let live = model.range(&pb::RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..pb::RangeRequest::default()
    });
    let live = usize::try_from(live.unwrap().count).unwrap();
    space.read(|mvcc, _| {
        assert_eq!(mvcc.live_keys(), live, "{context}");
        let leases: Vec<i64> = mvcc.leases.ids().map(|id| id.0).collect();
        assert_eq!(leases, model.leases.iter().copied().collect::<Vec<_>>(), "{context}");
    });
    let spec = Spec { id: WatchId(1), range: KeyRange::everything(), prev_kv: true, no_put: false, no_delete: false };
    let from = model.compact_revision.max(1);
    let slice = space.read(|mvcc, visible| history::read(mvcc, &spec, from, visible)).unwrap();
    assert_eq!(slice.next, model.revision() + 1, "{context}");
    let revision = |event: &Event| event.kv.parts().mod_revision;
    let shown = slice.events.iter().filter(|event| revision(event) > from).map(Message::encode_to_vec);
    let expected = model.events_from(from + 1).iter().map(Message::encode_to_vec).collect::<Vec<_>>();
    assert_eq!(shown.collect::<Vec<_>>(), expected, "{context}");
    // Of a key that one transaction put and deleted, compaction to just that revision leaves the deletion.
    let mut expected = model.events_from(from).into_iter().map(|event| event.encode_to_vec());
    for event in slice.events.iter().filter(|event| revision(event) == from) {
        let event = event.encode_to_vec();
        assert!(expected.any(|other| other == event), "{context}");
    }
    if from > 1 {
        let refused = space.read(|mvcc, visible| history::read(mvcc, &spec, from - 1, visible)).unwrap_err();
        assert_eq!(refused.compact_revision, model.compact_revision, "{context}");
    }
}

/// Runs garbage collection until it has caught up, as the server's task does.
fn remove_garbage(space: &KeySpace) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let compacted = space.read(|mvcc, _| mvcc.compact_revision());
        tokio::select! {
            () = space.remove_garbage() => {}
            () = space.compacted(compacted) => {}
        }
    });
}

fn run(seed: u64, steps: u64) {
    // Each range of keys has its own model: what is done to the other shows in none.
    let mut histories = [Histories::new(seed), Histories::new(!seed)];
    let mut models = [Model::new(), Model::new()];
    let mut state = State::default();
    let mut disk = Disk::default();
    for step in 0..steps {
        let which = usize::from(histories[0].dice.below(3) == 0);
        let (keys, history, other) = (Keys::ALL[which], &mut histories[which], models[1 - which].leases.clone());
        let model = &mut models[which];
        history.revision = model.revision();
        history.compact_revision = model.compact_revision;
        let context = format!("KEELSON_SEED={seed}, step {step}, {keys:?}");
        match history.step() {
            // The server does not propose what is wrong by itself.
            Step::Command(Command::Txn(request)) if validate::txn(&request, 128).is_err() => {}
            Step::Command(command) => {
                let answer = encoded(&apply(&state, &command.clone().on(keys)));
                let expected = match &command {
                    Command::LeaseGrant(request) if other.contains(&request.id) => Err(Rejection::LeaseExists),
                    command => model.answer(command),
                };
                assert_eq!(answer, expected, "{context}: {command:?}");
            }
            Step::Range(request) => check_range(state.of(keys), model, &request, &context),
            Step::Checkpoint => match history.dice.below(4) {
                0 => remove_garbage(state.of(keys)),
                1 => disk.save(&state),
                2 => {
                    disk.save(&state);
                    let loaded = disk.load();
                    assert_eq!(loaded.take_delta().puts, [], "{context}: nothing is new after a load");
                    state = loaded;
                }
                _ => check_everything(state.of(keys), model, &context),
            },
        }
    }
    for (keys, model) in Keys::ALL.into_iter().zip(&models) {
        check_everything(state.of(keys), model, &format!("KEELSON_SEED={seed}, end, {keys:?}"));
    }
}

#[test]
fn state_answers_as_the_model_does() {
    let seed = seed("state_answers_as_the_model_does");
    for offset in 0..count("KEELSON_MODEL_RUNS", 60) {
        run(seed + offset, 250);
    }
}

#[test]
fn two_states_that_applied_the_same_have_the_same_rows() {
    let seed = seed("two_states_that_applied_the_same_have_the_same_rows");
    let mut histories = Histories::new(seed);
    let (left, right) = (State::default(), State::default());
    let (mut often, mut seldom) = (Disk::default(), Disk::default());
    for _ in 0..2000 {
        histories.revision = left.public().revision();
        histories.compact_revision = left.public().read(|mvcc, _| mvcc.compact_revision());
        match histories.step() {
            Step::Command(Command::Txn(request)) if validate::txn(&request, 128).is_err() => {}
            Step::Command(command) => {
                apply(&left, &command);
                apply(&right, &command);
            }
            Step::Range(_) => {}
            Step::Checkpoint => {
                remove_garbage(left.public());
                often.save(&left);
            }
        }
    }
    remove_garbage(left.public());
    remove_garbage(right.public());
    often.save(&left);
    seldom.save(&right);
    assert_eq!(often.0, seldom.0, "KEELSON_SEED={seed}");
}
