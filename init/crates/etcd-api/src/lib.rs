//! The etcd v3 messages and services, generated from their definitions.
#![forbid(unsafe_code)]
