//! What must hold of a history: what was applied, answered, and promised.
//!
//! The log is the order in which writes took effect, and each answer names a revision; so linearizability is checked against both, transactions over
//! several keys included: an operation's revision is not below that of any which had returned before it was called, a write's place in the log
//! is behind all such, every write is in the log as often as it was acknowledged (once) or at most once, and every answer is what a naive model of the store
//! answers there. [`super::linearizability`] finds out the same for single keys without trusting any revision.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::mvccpb::KeyValue;
use prost::Message;

use super::clients::{Answered, Asked, Operation, REGISTERS};
use super::linearizability::{self, Action, is_linearizable};
use super::model::{Model, encoded};
use super::record::Applied;
use crate::command::Command;
use crate::state::{Keys, Rejection, Response};

/// The one history, and what the naive model makes of it.
#[derive(Debug)]
pub(crate) struct Truth {
    pub model: Model,
    /// Of the cluster's own keys.
    own: Model,
    /// Places in the log of commands that clients made, by what is unique in them.
    places: HashMap<Vec<u8>, Vec<u64>>,
    /// All pairs at each revision.
    pairs: BTreeMap<i64, Vec<KeyValue>>,
    applied: BTreeMap<u64, Applied>,
}

/// What tells a write from all others. None of compactions, which nothing tells apart.
fn name(command: &Command) -> Option<Vec<u8>> {
    Some(match command {
        Command::Put(request) => [b"put", request.encode_to_vec().as_slice()].concat(),
        Command::DeleteRange(request) => [b"delete", request.encode_to_vec().as_slice()].concat(),
        Command::Txn(request) => [b"txn", request.encode_to_vec().as_slice()].concat(),
        Command::LeaseGrant(request) => [b"grant".as_slice(), &request.id.to_be_bytes()].concat(),
        _ => return None,
    })
}

fn command(asked: &Asked) -> Option<Command> {
    Some(match asked {
        Asked::Put(request) => Command::Put(request.clone()),
        Asked::Delete(request) => Command::DeleteRange(request.clone()),
        Asked::Txn(request) => Command::Txn(request.clone()),
        Asked::Grant { id, ttl } => Command::LeaseGrant(pb::LeaseGrantRequest { id: *id, ttl: *ttl }),
        _ => return None,
    })
}

impl Truth {
    /// Replays what was applied; an error if a member's answer is not the model's.
    pub(crate) fn new(applied: BTreeMap<u64, Applied>) -> Result<Self, String> {
        let mut truth = Self {
            model: Model::new(),
            own: Model::new(),
            places: HashMap::new(),
            pairs: BTreeMap::from([(1, Vec::new())]),
            applied: BTreeMap::new(),
        };
        let all = pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..pb::RangeRequest::default() };
        for (index, entry) in &applied {
            truth.replay(entry).map_err(|text| format!("entry {index}, {:?}: {text}", entry.command))?;
            if !truth.pairs.contains_key(&truth.model.revision()) {
                let pairs = truth.model.range(&all).map_err(|rejection| format!("{rejection:?}"))?;
                truth.pairs.insert(truth.model.revision(), pairs.kvs);
            }
            if let Some(name) = name(&entry.command) {
                truth.places.entry(name).or_default().push(*index);
            }
        }
        truth.applied = applied;
        Ok(truth)
    }

    fn replay(&mut self, entry: &Applied) -> Result<(), String> {
        let answer = &entry.response;
        // Whether space ran out is what an alarm said, which the model does not know.
        if matches!(answer, Response::Rejected(Rejection::NoSpace)) {
            return Ok(());
        }
        let (model, command) = match entry.command.parts() {
            (Keys::Public, command) => (&mut self.model, command),
            (Keys::Cluster, command) => (&mut self.own, command),
        };
        let expected = match command {
            Command::LeaseCheckpoint(_) | Command::Alarm(_) | Command::Cluster(_) => Ok(Vec::new()),
            command => model.answer(command),
        };
        let answered = encoded(answer);
        if answered == expected { Ok(()) } else { Err(format!("answered {answered:?}, the model {expected:?}")) }
    }

    /// Where a write is in the log, if it is; an error if it is there twice.
    fn place(&self, asked: &Asked) -> Result<Option<u64>, String> {
        let Some(name) = command(asked).as_ref().and_then(name) else { return Ok(None) };
        match self.places.get(&name).map(Vec::as_slice) {
            None => Ok(None),
            Some([place]) => Ok(Some(*place)),
            Some(places) => Err(format!("{asked:?} was applied {} times, at {places:?}", places.len())),
        }
    }

    /// Checks all operations.
    pub(crate) fn check(&self, operations: &[Operation]) -> Result<(), String> {
        let mut floors = Floors::default();
        let mut moments: Vec<(u64, usize, bool)> = Vec::new();
        for (number, operation) in operations.iter().enumerate() {
            moments.push((operation.called, number, false));
            if let Some((returned, _)) = operation.returned {
                moments.push((returned, number, true));
            }
            // Not twice, whatever became of it.
            self.place(&operation.asked)?;
        }
        moments.sort_unstable();
        let mut called: HashMap<usize, Floors> = HashMap::new();
        for (_, number, is_return) in moments {
            if !is_return {
                called.insert(number, floors);
                continue;
            }
            let operation = &operations[number];
            let Some((_, Ok(answer))) = &operation.returned else { continue };
            let place = self.place(&operation.asked)?;
            self.check_answer(operation, answer, place, called[&number])
                .map_err(|text| format!("{text}: operation {number}, {operation:?}"))?;
            floors.raise(answer, place);
        }
        Ok(())
    }

    fn check_answer(
        &self,
        operation: &Operation,
        answer: &Answered,
        place: Option<u64>,
        floors: Floors,
    ) -> Result<(), String> {
        let is_write = command(&operation.asked).is_some();
        if is_write {
            let place = place.ok_or("an acknowledged write is not in the log")?;
            if place <= floors.place {
                return Err(format!("a write is at {place}, and one before it at {}", floors.place));
            }
            self.check_write(answer, place)?;
        }
        let serializable = matches!(&operation.asked, Asked::Range(request) if request.serializable);
        if !serializable && answer.revision() != 0 && answer.revision() < floors.revision {
            let text = format!("revision {} after {} was told", answer.revision(), floors.revision);
            return Err(format!("not linearizable: {text}"));
        }
        match (&operation.asked, answer) {
            (Asked::Range(request), Answered::Range(answer)) => self.check_read(request, answer),
            _ => Ok(()),
        }
    }

    /// What a client was answered is what a member answered when it applied it.
    fn check_write(&self, answer: &Answered, place: u64) -> Result<(), String> {
        let same = match (answer, &self.applied[&place].response) {
            (Answered::Put(a), Response::Put(b)) => {
                let header = a.header.as_ref().map(|header| header.revision);
                header == b.header.as_ref().map(|header| header.revision)
            }
            (Answered::Delete(a), Response::DeleteRange(b)) => a.deleted == b.deleted,
            (Answered::Txn(a), Response::Txn(b)) => {
                a.succeeded == b.succeeded && a.responses.len() == b.responses.len()
            }
            (Answered::Done(_), Response::LeaseGrant(_)) => true,
            _ => false,
        };
        if same { Ok(()) } else { Err(format!("answered otherwise than at {place}")) }
    }

    /// What was read is what was there at the revision that the answer names.
    fn check_read(&self, request: &pb::RangeRequest, answer: &pb::RangeResponse) -> Result<(), String> {
        let revision = answer.header.as_ref().map_or(0, |header| header.revision);
        if revision > self.model.revision() {
            return Err(format!("revision {revision} is not there yet"));
        }
        let expected: Vec<&KeyValue> =
            self.pairs[&revision].iter().filter(|kv| in_range(&kv.key, &request.key, &request.range_end)).collect();
        let same = expected.iter().copied().eq(&answer.kvs) && answer.count == i64::try_from(expected.len()).unwrap();
        if same { Ok(()) } else { Err(format!("not what was there at {revision}, {expected:?}")) }
    }

    /// The registers again, from their answers alone.
    pub(crate) fn check_registers(operations: &[Operation]) -> Result<usize, String> {
        let mut checked = 0;
        for key in REGISTERS {
            let history: Vec<_> = operations.iter().filter_map(|operation| register(key, operation)).collect();
            checked += history.len();
            if !is_linearizable(&history) {
                return Err(format!("{key} is not linearizable: {history:?}"));
            }
        }
        Ok(checked)
    }

    /// No lease ended by itself before its last acknowledged renewal allows.
    pub(crate) fn check_leases(&self, operations: &[Operation]) -> Result<(), String> {
        for operation in operations {
            let Asked::Grant { id, ttl } = operation.asked else { continue };
            let revoked = |entry: &&Applied| {
                matches!(entry.command.as_ref(), Command::LeaseRevoke(revoke) if revoke.id == id)
                    && !matches!(entry.response, Response::Rejected(_))
            };
            let of_it = |other: &&Operation| match other.asked {
                Asked::KeepAlive(kept) => kept == id,
                Asked::Revoke(revoked) => revoked == id,
                _ => false,
            };
            let asked_for = operations.iter().filter(of_it).any(|other| matches!(other.asked, Asked::Revoke(_)));
            let Some(end) = self.applied.values().find(revoked) else { continue };
            if asked_for {
                continue;
            }
            let lasts = |from: Duration| from + Duration::from_secs(u64::try_from(ttl).unwrap());
            let renewed = operations
                .iter()
                .filter(of_it)
                .filter(|other| matches!(other.returned, Some((_, Ok(Answered::Kept(Some(_)))))));
            let mut promises = renewed.map(|other| lasts(other.called_at)).collect::<Vec<_>>();
            if matches!(operation.returned, Some((_, Ok(_)))) {
                promises.push(lasts(operation.called_at));
            }
            if let Some(promise) = promises.into_iter().max()
                && end.at < promise
            {
                return Err(format!("lease {id} ended at {:?}, and was promised until {promise:?}", end.at));
            }
        }
        Ok(())
    }

    /// Leases that should be there still, or no more, by now.
    pub(crate) fn leases(&self) -> Vec<i64> {
        self.model.leases.iter().copied().collect()
    }

    /// The compacted revision.
    pub(crate) fn compacted(&self) -> i64 {
        self.model.compact_revision
    }
}

/// What was told to somebody by now: nothing that is asked from now on may be before it.
#[derive(Clone, Copy, Debug, Default)]
struct Floors {
    revision: i64,
    place: u64,
}

impl Floors {
    /// Also by what a serializable read has shown: a member had applied it, so a linearizable read sees it.
    fn raise(&mut self, answer: &Answered, place: Option<u64>) {
        self.revision = self.revision.max(answer.revision());
        self.place = self.place.max(place.unwrap_or(0));
    }
}

/// An operation as one on a register, whose values are numbers.
fn register(key: &str, operation: &Operation) -> Option<linearizability::Operation> {
    let number = |value: &[u8]| std::str::from_utf8(value).unwrap().trim().parse::<u64>().unwrap() + 1;
    let returned = |operation: &Operation| match &operation.returned {
        Some((at, Ok(_))) => Some(*at),
        _ => None,
    };
    let action = match (&operation.asked, &operation.returned) {
        (Asked::Put(request), _) if request.key == key.as_bytes() => Action::Write(number(&request.value)),
        (Asked::Range(request), Some((_, Ok(Answered::Range(answer))))) if request.key == key.as_bytes() => {
            Action::Read(answer.kvs.first().map_or(0, |kv| number(&kv.value)))
        }
        _ => return None,
    };
    Some(linearizability::Operation { action, called: operation.called, returned: returned(operation) })
}

pub(crate) fn in_range(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        _ => key >= start && key < end,
    }
}

/// Shared by those who check.
pub(crate) fn truth() -> Result<Arc<Truth>, String> {
    Truth::new(super::record::history()?).map(Arc::new)
}
