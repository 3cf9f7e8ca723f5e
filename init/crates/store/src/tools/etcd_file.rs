//! An etcd's state in its database file, as rows of ours.
//!
//! Bucket `key` holds the rows of all revisions as pairs of etcd's revision key and an encoded `mvccpb.KeyValue`, which are our rows but for the
//! key's form. Bucket `lease` holds `leasepb.Lease`. Bucket `meta` says how far compaction was begun (`scheduledCompactRev`) and ended
//! (`finishedCompactRev`), and of which release the file is. The other buckets are the old cluster's own: members, alarms, users. Users
//! cannot be taken over, so a file with authentication turned on is refused unless that is waived.

use std::collections::HashSet;

use bytes::Bytes;
use prost::Message as _;

use super::bbolt::{Bbolt, BboltError, Cursor, Pair};
use super::snapshot_file::{Facts, SnapshotError};
use crate::lease::{self, Lease, LeaseId};
use crate::mvcc::Revision;
use crate::state::{Keys, LoadError, Revisions, Row, Table};

const KEY: &[u8] = b"key";
const LEASE: &[u8] = b"lease";
const META: &[u8] = b"meta";
const AUTH: &[u8] = b"auth";

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct LeaseRecord {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
    #[prost(int64, tag = "3")]
    remaining_ttl: i64,
}

#[derive(Debug)]
pub(super) struct EtcdFile(pub(super) Bbolt);

impl EtcdFile {
    fn value(&self, bucket: &[u8], key: &[u8]) -> Result<Option<Bytes>, BboltError> {
        let Some(pairs) = self.0.bucket(bucket)? else { return Ok(None) };
        for pair in pairs {
            let pair = pair?;
            if pair.key == key {
                return Ok(Some(pair.value));
            }
        }
        Ok(None)
    }

    fn compacted_to(&self) -> Result<i64, BboltError> {
        let mut last = Revisions::default().compacted;
        for key in [&b"scheduledCompactRev"[..], b"finishedCompactRev"] {
            let revision = self.value(META, key)?.and_then(|value| Revision::from_etcd_key(&value));
            last = last.max(revision.map_or(last, |(revision, _)| revision.main));
        }
        Ok(last)
    }

    pub(super) fn has_users(&self) -> Result<bool, BboltError> {
        Ok(self.value(AUTH, b"authEnabled")?.is_some_and(|value| value[..] == [1]))
    }

    /// What etcdutl says of the file: its hash is over all buckets.
    pub(super) fn facts(&self) -> Result<Facts, SnapshotError> {
        let mut facts = Facts { total_size: self.0.bytes(), ..Facts::default() };
        let mut keys = HashSet::new();
        for name in self.0.buckets() {
            let name = name?;
            facts.hash = crc32c::crc32c_append(facts.hash, &name);
            for pair in self.0.bucket(&name)?.into_iter().flatten() {
                let pair = pair?;
                facts.hash = crc32c::crc32c_append(facts.hash, &pair.key);
                facts.hash = crc32c::crc32c_append(facts.hash, &pair.value);
                if name == KEY {
                    let row = row_of(&pair)?;
                    facts.revision = row.revision.main;
                    match row.key {
                        Some(key) if row.tombstone => drop(keys.remove(&key)),
                        Some(key) => drop(keys.insert(key)),
                        None => {}
                    }
                }
            }
        }
        facts.total_keys = keys.len();
        let version = self.value(META, b"storageVersion")?;
        facts.version = version.map_or(String::new(), |version| String::from_utf8_lossy(&version).into_owned());
        Ok(facts)
    }

    /// Rows by table and key, ascending.
    pub(super) fn rows(&self) -> Result<EtcdRows<'_>, SnapshotError> {
        let compacted = self.compacted_to()?;
        Ok(EtcdRows {
            keys: self.0.bucket(KEY)?,
            leases: self.0.bucket(LEASE)?,
            // The loader raises it to that of the last row.
            meta: Revisions { current: compacted.max(Revisions::default().current), compacted }
                .rows(Keys::Public)
                .into_iter(),
        })
    }
}

/// What a pair of the bucket `key` says. etcdutl marks a revision that it raised by a pair without a value, which is no row.
struct KeyRow {
    revision: Revision,
    tombstone: bool,
    key: Option<Bytes>,
}

fn row_of(pair: &Pair) -> Result<KeyRow, SnapshotError> {
    let (revision, tombstone) = Revision::from_etcd_key(&pair.key).ok_or(SnapshotError::Row("a key is no revision"))?;
    if pair.value.is_empty() {
        return Ok(KeyRow { revision, tombstone, key: None });
    }
    let kv = keelson_etcd_api::mvccpb::KeyValue::decode(pair.value.clone());
    let kv = kv.map_err(|_| SnapshotError::Row("a value is no key-value pair"))?;
    if (kv.version == 0) != tombstone {
        return Err(SnapshotError::Row("a deletion is not marked as one"));
    }
    // The key is a slice of the page, which it would keep in memory.
    Ok(KeyRow { revision, tombstone, key: Some(Bytes::copy_from_slice(&kv.key)) })
}

#[derive(Debug)]
pub(super) struct EtcdRows<'f> {
    keys: Option<Cursor<'f>>,
    leases: Option<Cursor<'f>>,
    meta: std::array::IntoIter<Row, 2>,
}

impl EtcdRows<'_> {
    fn advance(&mut self) -> Result<Option<Row>, SnapshotError> {
        while let Some(pair) = self.keys.as_mut().and_then(Iterator::next) {
            let pair = pair?;
            let KeyRow { revision, key, .. } = row_of(&pair)?;
            if key.is_some() {
                let key = Bytes::copy_from_slice(&revision.to_key());
                return Ok(Some(Row { table: Table::Revisions, key, value: pair.value }));
            }
        }
        if let Some(pair) = self.leases.as_mut().and_then(Iterator::next) {
            let record =
                LeaseRecord::decode(pair?.value).map_err(|_| SnapshotError::Row("a lease cannot be decoded"))?;
            let lease = Lease {
                ttl_seconds: record.ttl,
                remaining_seconds: record.remaining_ttl,
                keys: std::collections::BTreeSet::new(),
            };
            return Ok(Some(lease::row(LeaseId(record.id), &lease)));
        }
        Ok(self.meta.next())
    }
}

impl Iterator for EtcdRows<'_> {
    type Item = Result<Row, LoadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().map_err(|error| LoadError::Read(std::io::Error::other(error))).transpose()
    }
}
