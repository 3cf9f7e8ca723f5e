//! Several members as processes on this host, with mutual TLS between them: killed, stopped, cut off, added, removed, left behind.
#![forbid(unsafe_code)]
#![cfg(test)]

#[path = "../support/api_server.rs"]
mod api_server;
#[path = "../support/authority.rs"]
mod authority;
mod faults;
mod harness;
mod history;
mod kubernetes;
mod leases;
mod links;
mod membership;
mod observers;
mod snapshots;
mod succession;
#[path = "../support/waiting.rs"]
mod waiting;
mod world;

use harness::DEADLINE;

/// How long an answer of kube-apiserver may take: it asks the store again where that does not answer.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
