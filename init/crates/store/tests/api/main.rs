//! The store as its clients meet it: against a naive model, against a real etcd, and by the etcd command line.
//!
//! Random histories are drawn from a seed, which a failure prints; `KEELSON_SEED` repeats one. What needs other programs
//! finds them by `KEELSON_ETCD`, `KEELSON_ETCDCTL` and `KEELSON_KUBERNETES`, which the harness sets where it has built them; without them those
//! tests say so and end.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "all of this is test code; clippy frees only the functions that are tests themselves"
)]

#[path = "../support/api_server.rs"]
mod api_server;
#[path = "../support/authority.rs"]
mod authority;
mod cases;
mod cluster_keys;
mod compare;
mod concurrency;
mod differential;
mod etcdctl;
mod gateway;
mod histories;
mod kubernetes;
mod leases;
mod model;
mod model_test;
mod servers;
mod shrink;
mod streams;
mod tls;
mod tools;
#[path = "../support/waiting.rs"]
mod waiting;
mod watches;

use servers::DEADLINE;

/// How long an answer of kube-apiserver may take.
const PATIENCE: std::time::Duration = DEADLINE;
