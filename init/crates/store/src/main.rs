//! A Raft key-value store that speaks etcd v3.
#![forbid(unsafe_code)]

fn main() {}
