//! What the process is told: etcd's flags, environment and configuration file.
//!
//! [`Words`] is what was said, each value under its flag's name with the source it came from; [`Settings`] is what is meant, checked.
//! The rules are etcd's: a configuration file, if one is named, is the only source; otherwise a flag beats the environment
//! (`ETCD_` and the flag's name in capitals, with underscores). A flag we do not know is an error, never ignored. Those that mean something in
//! etcd's engine and nothing in this one are taken with a warning.

use std::fmt::Write as _;

mod file;
mod settings;
mod words;

#[cfg(test)]
mod tests;

pub use settings::{Address, AutoCompaction, Endpoint, Settings, SettingsError, TlsFiles};
pub use words::{Words, WordsError};

/// How a flag's value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    /// May stand alone, and then means true.
    Switch,
    /// Belongs to etcd's engine; accepted and ignored.
    Ignored,
}

struct Flag {
    name: &'static str,
    kind: Kind,
    help: &'static str,
}

const fn text(name: &'static str, help: &'static str) -> Flag {
    Flag { name, kind: Kind::Text, help }
}

const fn switch(name: &'static str, help: &'static str) -> Flag {
    Flag { name, kind: Kind::Switch, help }
}

const fn ignored(name: &'static str) -> Flag {
    Flag { name, kind: Kind::Ignored, help: "has no meaning here; accepted with a warning" }
}

/// All flags, in the order of `--help`.
const FLAGS: &[Flag] = &[
    text("config-file", "YAML or JSON file with these names as keys; the only source if given"),
    text("name", "this member's name (default)"),
    text("data-dir", "where data is kept (NAME.keelson)"),
    text("listen-client-urls", "where clients are served (http://localhost:2379)"),
    text("advertise-client-urls", "how clients reach this member (listen-client-urls)"),
    text("listen-peer-urls", "where other members are served (http://localhost:2380)"),
    text("initial-advertise-peer-urls", "how other members reach this one (listen-peer-urls)"),
    text("initial-cluster", "the members of a new cluster, NAME=PEER-URL,… (this one alone)"),
    text("initial-cluster-state", "new or existing (new)"),
    text("initial-cluster-token", "sets clusters apart that begin with the same list of members (etcd-cluster)"),
    text("listen-metrics-urls", "where /metrics and the health paths are served as well"),
    text("cert-file", "certificate for clients' connections"),
    text("key-file", "its key"),
    switch("client-cert-auth", "require clients' certificates"),
    text("trusted-ca-file", "authorities of clients' certificates"),
    text("peer-cert-file", "certificate for members' connections"),
    text("peer-key-file", "its key"),
    switch("peer-client-cert-auth", "require members' certificates"),
    text("peer-trusted-ca-file", "authorities of members' certificates"),
    text("quota-backend-bytes", "bytes of keys and values; 0 means 2 GiB"),
    text("max-request-bytes", "largest request (1572864)"),
    text("max-txn-ops", "most operations in a transaction (128)"),
    text("max-concurrent-streams", "most streams of one connection (4294967295)"),
    text("heartbeat-interval", "milliseconds between a leader's heartbeats (100)"),
    text("election-timeout", "milliseconds without a leader before an election (1000)"),
    text("auto-compaction-mode", "periodic or revision (periodic)"),
    text("auto-compaction-retention", "0 turns it off; hours, a duration like 5m, or a number of revisions (0)"),
    text("watch-progress-notify-interval", "how often idle watchers hear of progress (10m0s)"),
    text("log-level", "debug, info, warn, error (info)"),
    ignored("snapshot-count"),
    ignored("max-snapshots"),
    ignored("max-wals"),
    ignored("backend-batch-interval"),
    ignored("backend-batch-limit"),
    ignored("backend-bbolt-freelist-type"),
    ignored("logger"),
    ignored("log-outputs"),
    ignored("log-format"),
    ignored("metrics"),
    ignored("strict-reconfig-check"),
    ignored("pre-vote"),
];

fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// The text of `--help`.
pub fn help() -> String {
    let mut text = "Usage: keelson-store [--FLAG=VALUE]…\n\nA Raft key-value store that speaks etcd v3.\n\n".to_owned();
    for flag in FLAGS {
        // Writing to a string does not fail.
        _ = writeln!(text, "  --{:<34}{}", flag.name, flag.help);
    }
    text.push_str("\nEach flag may also be given in the environment, --data-dir as ETCD_DATA_DIR and so on.\n");
    text
}
