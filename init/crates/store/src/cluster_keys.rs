//! The cluster's own keys, and whose they are.
//!
//! Keelson keeps its records (nodes, tokens, operators) in the store, in the same Raft group as Kubernetes' keys and in a range of their own
//! ([`crate::state::Keys::Cluster`]): with their own revisions, compaction, watches and leases. With `--cluster-client=NAME` they belong to the
//! client whose certificate has that common name. It reaches them through etcd's API, by saying so with each call ([`keelson_etcd_api::CLUSTER_KEYS`]); nobody else
//! does, and what is asked without that shows nothing of them, be it a range of all keys, a revision or a hash.
//!
//! - their quota is their own: with [`QUOTA_BYTES`] of them, more are refused, and they take nothing of everybody's (`--quota-backend-bytes`)
//! - when there is no space for anybody's writes, those to them go on, for as long as a reserve of their own lasts: whoever has filled the store
//!   cannot keep the cluster from putting them out
//! - who compacts Kubernetes' keys does not know of them, so the store does it: [`KEPT_REVISIONS`] can be watched from
//!
//! A snapshot has both.

/// How many bytes of keys and values there may be, old revisions included.
pub const QUOTA_BYTES: u64 = 256 << 20;

/// What the cluster may write while there is no space for others: hundreds of removals, with the events that tell of them.
pub const RESERVE_BYTES: u64 = 4 << 20;

/// Revisions that are kept.
pub const KEPT_REVISIONS: i64 = 1000;
