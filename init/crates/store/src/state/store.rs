//! The replicated state: the ranges of keys and the alarms, and what is known of leases whosever they are.
//!
//! `apply` changes one range at a time, from one task, so whoever holds all locks sees the state between two commands.
//!
//! Meta row of a checkpoint: `alarms`, an encoded `etcdserverpb.AlarmResponse`, beside the public keys'.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use keelson_etcd_api::etcdserverpb::{AlarmMember, AlarmResponse, AlarmType};
use prost::Message;
use tokio::sync::Notify;

use super::apply::{Alarms, Applied};
use super::key_space::{Loading, refused};
use super::{Committed, Delta, Hashed, KeySpace, Keys, LoadError, Replicated, Response, Row, Snapshot, Table};
use crate::histogram::Histogram;
use crate::lease::deadlines::Deadlines;
use crate::lease::{Lease, LeaseId};
use crate::member::MemberId;
use crate::peer::BoxFuture;

const META_ALARMS: &[u8] = b"alarms";

/// etcd's buckets of leases' times: from a second, doubling.
const LEASE_TTL_BUCKETS: u32 = 24;

/// A handle on the state; clones are the same state.
#[derive(Clone, Debug, Default)]
pub struct State(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    public: KeySpace,
    cluster: KeySpace,
    alarms: Mutex<Alarms>,
    /// The alarms' row as of the last delta.
    checkpointed_alarms: Mutex<Option<Row>>,
    deadlines: Mutex<Deadlines>,
    leases_granted: Notify,
    /// Of leases granted since the start, and how many were revoked, those that ran out among them.
    lease_ttls: Histogram,
    leases_revoked: AtomicU64,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            public: KeySpace::new(Keys::Public),
            cluster: KeySpace::new(Keys::Cluster),
            alarms: Mutex::default(),
            checkpointed_alarms: Mutex::default(),
            deadlines: Mutex::default(),
            leases_granted: Notify::new(),
            lease_ttls: Histogram::doubling(Duration::from_secs(1), LEASE_TTL_BUCKETS),
            leases_revoked: AtomicU64::new(0),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    pub fn of(&self, keys: Keys) -> &KeySpace {
        match keys {
            Keys::Public => &self.0.public,
            Keys::Cluster => &self.0.cluster,
        }
    }

    /// What etcd's API shows.
    pub fn public(&self) -> &KeySpace {
        self.of(Keys::Public)
    }

    /// The TTLs of leases granted since the start of the process.
    pub fn lease_ttls(&self) -> &Histogram {
        &self.0.lease_ttls
    }

    pub fn leases_revoked(&self) -> u64 {
        self.0.leases_revoked.load(Ordering::Relaxed)
    }

    pub fn deadlines(&self) -> MutexGuard<'_, Deadlines> {
        locked(&self.0.deadlines)
    }

    /// Whose keys hang on a lease, and what is read of it. An id is given once, whosever keys they are.
    pub fn lease<R>(&self, id: LeaseId, read: impl Fn(&Lease) -> R) -> Option<(Keys, R)> {
        let of = |keys| self.of(keys).read(|mvcc, _| mvcc.leases.get(id).map(|lease| (keys, read(lease))));
        Keys::ALL.into_iter().find_map(of)
    }

    /// Whose keys can hang on a lease.
    pub fn lease_keys(&self, id: LeaseId) -> Option<Keys> {
        self.lease(id, |_| ()).map(|(keys, ())| keys)
    }

    /// All leases, with what a leader that knows nothing newer gives each, in seconds.
    pub fn lease_times(&self) -> Vec<(LeaseId, i64)> {
        let mut times = Vec::new();
        for keys in Keys::ALL {
            let time = |(id, lease): (LeaseId, &Lease)| (id, lease.time_to_live());
            self.of(keys).read(|mvcc, _| times.extend(mvcc.leases.iter().map(time)));
        }
        times
    }

    /// Leases that were granted since the last call, or given all of their time again, and await a deadline.
    pub fn take_granted_leases(&self) -> Vec<LeaseId> {
        Keys::ALL.into_iter().flat_map(|keys| self.of(keys).write(|mvcc| mvcc.leases.take_granted())).collect()
    }

    /// Waits until a lease may have been granted since the last wait.
    pub async fn lease_granted(&self) {
        self.0.leases_granted.notified().await;
    }

    pub fn alarms(&self) -> Vec<AlarmMember> {
        locked(&self.0.alarms).list()
    }

    pub(super) fn change_alarms<R>(&self, change: impl FnOnce(&mut Alarms) -> R) -> R {
        change(&mut locked(&self.0.alarms))
    }

    /// Begins a snapshot of all that was applied until now.
    pub fn snapshot(&self) -> Snapshot {
        // All are held at once, or it would not be of one moment.
        let rest = || self.of(Keys::Cluster).freeze(|| alarms_row(&locked(&self.0.alarms)));
        let (mut public, (cluster, alarms)) = self.public().freeze(rest);
        insert_meta(&mut public.others, alarms);
        let mut snapshot = Snapshot::default();
        snapshot.push(public);
        snapshot.push(cluster);
        snapshot
    }

    fn publish(&self, keys: Keys, applied: Applied) -> Response {
        let space = self.of(keys);
        if let Some(changes) = applied.changes {
            space.publish(changes);
        }
        match &applied.response {
            Response::Compact(_) => space.compaction_due(),
            Response::LeaseCheckpoint(_) => self.0.leases_granted.notify_one(),
            Response::LeaseGrant(granted) => {
                self.0.lease_ttls.observe(Duration::from_secs(u64::try_from(granted.ttl).unwrap_or(0)));
                self.0.leases_granted.notify_one();
            }
            _ => {}
        }
        if let Some(id) = applied.revoked {
            self.0.leases_revoked.fetch_add(1, Ordering::Relaxed);
            self.deadlines().remove(id);
        }
        applied.response
    }
}

fn alarms_row(alarms: &Alarms) -> Row {
    let value = AlarmResponse { header: None, alarms: alarms.list() }.encode_to_vec().into();
    Row { table: Table::Meta, key: Bytes::from_static(META_ALARMS), value }
}

/// Puts the first row of the meta table where it belongs.
fn insert_meta(rows: &mut Vec<Row>, row: Row) {
    rows.insert(rows.partition_point(|other| other.table < Table::Meta), row);
}

impl Replicated for State {
    fn apply(&self, batch: &[Committed]) -> Vec<Response> {
        let answer = |committed: &Committed| {
            let (keys, applied) = self.apply_one(&committed.command);
            self.publish(keys, applied)
        };
        let responses: Vec<Response> = batch.iter().map(answer).collect();
        #[cfg(test)]
        crate::simulation::record::applied(batch, &responses);
        responses
    }

    fn take_delta(&self) -> Delta {
        let mut delta = self.public().take_delta();
        let alarms = alarms_row(&locked(&self.0.alarms));
        let before = locked(&self.0.checkpointed_alarms).replace(alarms.clone());
        if before.as_ref() != Some(&alarms) {
            insert_meta(&mut delta.puts, alarms);
        }
        let more = self.of(Keys::Cluster).take_delta();
        delta.puts.extend(more.puts);
        delta.deletes.extend(more.deletes);
        delta
    }

    fn load(&self, rows: &mut dyn Iterator<Item = Result<Row, LoadError>>) -> Result<(), LoadError> {
        let (mut public, mut cluster, mut alarms) = (Loading::default(), Loading::default(), Alarms::default());
        for row in rows {
            let row = row?;
            match row.table.keys() {
                Keys::Public if row.table == Table::Meta && row.key == META_ALARMS => {
                    let list = AlarmResponse::decode(row.value.clone());
                    alarms = Alarms::from_list(&list.map_err(|_| refused(&row, "not a list of alarms"))?.alarms);
                }
                Keys::Public => public.row(&row)?,
                Keys::Cluster => cluster.row(&row)?,
            }
        }
        let (public, cluster) = (public.finish(Keys::Public)?, cluster.finish(Keys::Cluster)?);
        self.public().hub().restore(public.revision());
        self.of(Keys::Cluster).hub().restore(cluster.revision());
        // All at once, or a snapshot could be of two moments.
        self.public().replace(public, || {
            self.of(Keys::Cluster).replace(cluster, || {
                *locked(&self.0.checkpointed_alarms) = Some(alarms_row(&alarms));
                *locked(&self.0.alarms) = alarms;
            });
        });
        self.deadlines().clear();
        Ok(())
    }

    fn exempt_bytes(&self) -> u64 {
        self.of(Keys::Cluster).read(|mvcc, _| mvcc.bytes())
    }

    fn tells_no_space(&self, member: MemberId) -> bool {
        self.alarms().contains(&AlarmMember { member_id: member.0, alarm: AlarmType::Nospace.into() })
    }

    fn hash(&self, keys: Keys, revision: i64) -> BoxFuture<'_, Option<Hashed>> {
        Box::pin(async move { self.of(keys).hash_at(revision).await.ok().map(|(hashed, _)| hashed) })
    }
}

#[cfg(test)]
impl State {
    /// Changes the newest value of a public key and nothing else, as a memory does that fails.
    pub(crate) fn corrupt(&self, key: &[u8]) {
        let newest = self.public().read(|mvcc, _| {
            let rows = mvcc.rows_from(crate::mvcc::Revision::default());
            rows.filter(|row| row.key() == key).map(crate::mvcc::Row::revision).last()
        });
        let newest = newest.unwrap().to_key();
        let rows = self.snapshot().rows(usize::MAX).map(Result::unwrap).map(move |mut row| {
            if row.table == Table::Revisions && row.key == newest[..] {
                let mut value = row.value.to_vec();
                // Without a lease, the value comes last.
                *value.last_mut().unwrap() ^= 1;
                row.value = value.into();
            }
            row
        });
        let rows: Vec<Row> = rows.collect();
        self.load(&mut rows.into_iter().map(Ok)).unwrap();
    }
}
