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

mod cases;
mod compare;
mod differential;
mod etcdctl;
mod histories;
mod kubernetes;
mod leases;
mod model;
mod model_test;
mod servers;
mod streams;
mod tls;
mod tools;
mod watches;
