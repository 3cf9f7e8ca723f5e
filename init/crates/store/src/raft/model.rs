//! A state that is simple enough to be right: the last value of each key, and how many commands there were.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use keelson_etcd_api::etcdserverpb as pb;

use crate::command::Command;
use crate::state::{Committed, Delta, LoadError, Replicated, Response, Row, Table};

const COUNT_KEY: &[u8] = b"count";

#[derive(Clone, Debug, Default)]
pub(crate) struct Model(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    pairs: BTreeMap<Bytes, Bytes>,
    count: u64,
    changed: BTreeSet<Bytes>,
}

impl Model {
    pub(crate) fn pairs(&self) -> BTreeMap<Bytes, Bytes> {
        self.0.lock().unwrap().pairs.clone()
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.lock().unwrap().count
    }

    pub(crate) fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Command {
        Command::Put(pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() })
    }

    pub(crate) fn delete(key: impl Into<Bytes>) -> Command {
        Command::DeleteRange(pb::DeleteRangeRequest { key: key.into(), ..Default::default() })
    }
}

impl Replicated for Model {
    fn apply(&self, batch: &[Committed]) -> Vec<Response> {
        let mut inner = self.0.lock().unwrap();
        let answer = |committed: &Committed| {
            inner.count += 1;
            match committed.command.parts().1 {
                Command::Put(put) => {
                    inner.changed.insert(put.key.clone());
                    inner.pairs.insert(put.key.clone(), put.value.clone());
                }
                Command::DeleteRange(delete) => {
                    inner.changed.insert(delete.key.clone());
                    inner.pairs.remove(&delete.key);
                }
                _ => {}
            }
            Response::Empty
        };
        batch.iter().map(answer).collect()
    }

    fn take_delta(&self) -> Delta {
        let mut inner = self.0.lock().unwrap();
        let mut delta = Delta::default();
        for key in std::mem::take(&mut inner.changed) {
            match inner.pairs.get(&key) {
                Some(value) => {
                    delta.puts.push(Row { table: Table::Revisions, key, value: value.clone() });
                }
                None => delta.deletes.push((Table::Revisions, key)),
            }
        }
        let value = Bytes::copy_from_slice(&inner.count.to_le_bytes());
        delta.puts.push(Row { table: Table::Meta, key: COUNT_KEY.into(), value });
        delta
    }

    fn load(&self, rows: &mut dyn Iterator<Item = Result<Row, LoadError>>) -> Result<(), LoadError> {
        let mut inner = self.0.lock().unwrap();
        *inner = Inner::default();
        for row in rows {
            let Row { table, key, value } = row?;
            if table == Table::Revisions {
                inner.pairs.insert(key, value);
            } else {
                inner.count = u64::from_le_bytes(value.as_ref().try_into().unwrap());
            }
        }
        Ok(())
    }
}
