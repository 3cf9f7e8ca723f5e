//! What the process is told: etcd's flags, environment and configuration file.
//!
//! [`Words`] is what was said, each value under its flag's name with the source it came from; [`Settings`] is what is meant, checked.
//! The rules are etcd's: a configuration file, if one is named, is the only source; otherwise a flag beats the environment
//! (`ETCD_` and the flag's name in capitals, with underscores). A flag we do not know is an error, never ignored. Those that mean something in
//! etcd's engine and nothing in this one are taken with a warning; those that would do something which this store does otherwise are refused, with
//! how it is done here.

use std::fmt::Write as _;

mod file;
mod settings;
mod words;

#[cfg(test)]
mod tests;

pub use settings::{Address, AutoCompaction, Endpoint, Settings, SettingsError, TlsFiles, TlsVersions};
pub use words::{Words, WordsError};

/// How a flag's value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    /// May stand alone, and then means true.
    Switch,
    /// Belongs to etcd's engine; accepted and ignored.
    Ignored,
    /// The same, and may stand alone.
    IgnoredSwitch,
    /// Refused unless it is empty or false: ignoring it would do something else than what was asked for.
    Refused,
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

const fn ignored_switch(name: &'static str) -> Flag {
    Flag { kind: Kind::IgnoredSwitch, ..ignored(name) }
}

/// The help says what to do instead.
const fn refused(name: &'static str, help: &'static str) -> Flag {
    Flag { name, kind: Kind::Refused, help }
}

const DISCOVERY: &str = "not served: name the members with --initial-cluster";

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
    text("listen-client-http-urls", "where HTTP is served, which then is not on listen-client-urls"),
    text("listen-metrics-urls", "where /metrics and the health paths are served as well"),
    text("cert-file", "certificate for clients' connections"),
    text("key-file", "its key"),
    switch("client-cert-auth", "require clients' certificates"),
    text("trusted-ca-file", "authorities of clients' certificates"),
    text("client-crl-file", "revoked certificates of clients, PEM or DER, followed as the others are"),
    text("client-cert-allowed-hostname", "names, any of which a client's certificate must be for"),
    text("tls-min-version", "TLS1.2 or TLS1.3 (TLS1.2)"),
    text("tls-max-version", "TLS1.2 or TLS1.3 (the newest)"),
    text(
        "cipher-suites",
        "those of TLS 1.2 that may be used (all that are good); names that are not known here add none",
    ),
    text("peer-cert-file", "certificate for members' connections"),
    text("peer-key-file", "its key"),
    switch("peer-client-cert-auth", "require members' certificates"),
    text("peer-trusted-ca-file", "authorities of members' certificates"),
    text("peer-crl-file", "revoked certificates of members"),
    text("peer-cert-allowed-hostname", "names, any of which a member's certificate must be for"),
    text("peer-cert-allowed-cn", "common names, one of which the subject of a member's certificate must have"),
    switch("peer-cert-names-member", "members' certificates name the member (--name), not a host of its peer URLs"),
    text("peer-hints-file", "JSON file: by a member's name, URLs to try it at first; needs peer-cert-names-member"),
    text(
        "cluster-client",
        "common name of the client whose alone the keys below /keelson/ are, and the space kept for them",
    ),
    text("quota-backend-bytes", "bytes of keys and values; 0 means 2 GiB"),
    text("max-request-bytes", "largest request (1572864)"),
    text("max-txn-ops", "most operations in a transaction (128)"),
    text("max-learners", "most members that were added to learn only, 1 to 16 (16)"),
    text("max-connections", "most connections of clients, as far as the limit of open files allows (65536)"),
    text("max-concurrent-streams", "most streams of one connection (4294967295)"),
    text("grpc-keepalive-interval", "how often idle connections are asked for a sign of life; 0s never (2h0m0s)"),
    text("grpc-keepalive-timeout", "how long that sign may take (20s)"),
    text("heartbeat-interval", "milliseconds between a leader's heartbeats (100)"),
    text("election-timeout", "milliseconds without a leader before an election (1000)"),
    text("auto-compaction-mode", "periodic or revision (periodic)"),
    text("auto-compaction-retention", "0 turns it off; hours, a duration like 5m, or a number of revisions (0)"),
    text("watch-progress-notify-interval", "how often idle watchers hear of progress (10m0s)"),
    text(
        "feature-gates",
        "LeaseCheckpoint or LeaseCheckpointPersist=true: leases go on where they were after a restart",
    ),
    text("corrupt-check-time", "how often the leader compares the members' states; 0s never (0s)"),
    switch("enable-grpc-gateway", "serve the API as JSON too, below /v3/ (true)"),
    text("metrics", "basic or extensive, which tells how long calls took (basic)"),
    text("log-level", "debug, info, warn, error (info)"),
    refused("force-new-cluster", "not served: stop the member and run keelson-store recover"),
    refused("discovery", DISCOVERY),
    refused("discovery-token", DISCOVERY),
    refused("discovery-endpoints", DISCOVERY),
    refused("discovery-srv", DISCOVERY),
    ignored("auth-token"),
    ignored("auth-token-ttl"),
    ignored_switch("auto-tls"),
    ignored("backend-batch-interval"),
    ignored("backend-batch-limit"),
    ignored("backend-bbolt-freelist-type"),
    ignored("bcrypt-cost"),
    ignored("bootstrap-defrag-threshold-megabytes"),
    ignored("client-cert-file"),
    ignored("client-key-file"),
    ignored("compact-hash-check-time"),
    ignored("compaction-batch-limit"),
    ignored("compaction-sleep-interval"),
    ignored("cors"),
    ignored("discovery-cacert"),
    ignored("discovery-cert"),
    ignored("discovery-dial-timeout"),
    ignored("discovery-fallback"),
    ignored_switch("discovery-insecure-skip-tls-verify"),
    ignored_switch("discovery-insecure-transport"),
    ignored("discovery-keepalive-time"),
    ignored("discovery-keepalive-timeout"),
    ignored("discovery-key"),
    ignored("discovery-password"),
    ignored("discovery-proxy"),
    ignored("discovery-request-timeout"),
    ignored("discovery-srv-name"),
    ignored("discovery-user"),
    ignored("distributed-tracing-address"),
    ignored("distributed-tracing-instance-id"),
    ignored("distributed-tracing-sampling-rate"),
    ignored("distributed-tracing-service-name"),
    ignored("downgrade-check-time"),
    ignored_switch("enable-distributed-tracing"),
    ignored_switch("enable-log-rotation"),
    ignored_switch("enable-pprof"),
    ignored("grpc-keepalive-min-time"),
    ignored("host-whitelist"),
    ignored_switch("initial-election-tick-advance"),
    ignored("log-format"),
    ignored("log-outputs"),
    ignored("log-rotation-config-json"),
    ignored("logger"),
    ignored("max-snapshots"),
    ignored("max-wals"),
    ignored_switch("memory-mlock"),
    ignored_switch("peer-auto-tls"),
    ignored("peer-client-cert-file"),
    ignored("peer-client-key-file"),
    ignored_switch("peer-skip-client-san-verification"),
    ignored_switch("pre-vote"),
    ignored("raft-read-timeout"),
    ignored("raft-write-timeout"),
    ignored("self-signed-cert-validity"),
    ignored("snapshot-catchup-entries"),
    ignored("snapshot-count"),
    ignored_switch("socket-reuse-address"),
    ignored_switch("socket-reuse-port"),
    ignored_switch("strict-reconfig-check"),
    ignored_switch("unsafe-no-fsync"),
    ignored("v2-deprecation"),
    ignored("wal-dir"),
    ignored("warning-apply-duration"),
    ignored("warning-unary-request-duration"),
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
    text.push_str("\nOther commands: keelson-store snapshot --help, keelson-store recover --help\n");
    text.push_str("\nEach flag may also be given in the environment, --data-dir as ETCD_DATA_DIR and so on.\n");
    text
}
