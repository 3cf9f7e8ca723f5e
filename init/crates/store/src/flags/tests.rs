use std::time::Duration;

use super::*;

fn words(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Words, WordsError> {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned());
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Words::read(arguments, environment)
}

fn settings(arguments: &[&str]) -> Result<Settings, SettingsError> {
    Settings::new(&words(arguments, &[]).unwrap())
}

fn tcp(tls: bool, host: &str, port: u16) -> Endpoint {
    Endpoint { tls, address: Address::Tcp { host: host.to_owned(), port } }
}

#[test]
fn nothing_said_gives_etcds_defaults() {
    let settings = settings(&[]).unwrap();
    assert_eq!(settings.name, "default");
    assert_eq!(settings.listen_client, [tcp(false, "localhost", 2379)]);
    assert_eq!(settings.advertise_client_urls, ["http://localhost:2379"]);
    assert_eq!(settings.quota_bytes, 2 << 30);
    assert_eq!(settings.max_request_bytes, 1_572_864);
    assert_eq!(settings.max_txn_ops, 128);
    assert_eq!(settings.heartbeat_interval, Duration::from_millis(100));
    assert_eq!(settings.election_timeout, Duration::from_secs(1));
    assert_eq!(settings.auto_compaction, AutoCompaction::Off);
    assert_eq!(settings.log_level, tracing::Level::INFO);
}

#[test]
fn a_flag_beats_the_environment_in_any_of_gos_forms() {
    let environment = [("ETCD_NAME", "from-environment"), ("ETCD_DATA_DIR", "/e"), ("ETCD_UNSUPPORTED_ARCH", "arm")];
    let words = words(&["--name=a", "-max-txn-ops", "7", "--client-cert-auth=false"], &environment).unwrap();
    let settings = Settings::new(&words).unwrap();
    assert_eq!(settings.name, "a");
    assert_eq!(settings.max_txn_ops, 7);
    assert_eq!(settings.data_dir, std::path::Path::new("/e"));
}

#[test]
fn an_unknown_flag_is_refused_with_its_nearest_neighbour() {
    let error = words(&["--data-dri=/x"], &[]).unwrap_err();
    assert_eq!(error.to_string(), "--data-dri=/x: this is no flag of keelson-store; did you mean --data-dir?");
    assert!(words(&["--frobnicate"], &[]).unwrap_err().to_string().ends_with("no flag of keelson-store"));
    assert!(matches!(words(&["serve"], &[]), Err(WordsError::NoFlag { .. })));
    assert!(matches!(words(&["--name"], &[]), Err(WordsError::NoValue { name: "name" })));
}

#[test]
fn flags_of_etcds_engine_are_taken_and_told() {
    let words = words(&["--snapshot-count=10", "--name=a"], &[]).unwrap();
    assert_eq!(words.ignored().collect::<Vec<_>>(), ["--snapshot-count"]);
}

#[test]
fn a_configuration_file_is_the_only_source() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    let content = r#"{
        "name": "from-file", "data-dir": "/state/store",
        "listen-client-urls": "https://127.0.0.1:2379", "advertise-client-urls": "https://127.0.0.1:2379",
        "quota-backend-bytes": 4294967296, "listen-metrics-urls": "http://127.0.0.1:2381",
        "client-transport-security": {
            "cert-file": "/c.crt", "key-file": "/c.key", "client-cert-auth": true, "trusted-ca-file": "/ca.crt"
        },
        "peer-transport-security": { "cert-file": "/p.crt", "key-file": "/p.key" }
    }"#;
    std::fs::write(&path, content).unwrap();
    let argument = format!("--config-file={}", path.display());
    let words = words(&[&argument, "--name=ignored"], &[("ETCD_NAME", "ignored")]).unwrap();
    let settings = Settings::new(&words).unwrap();
    assert_eq!(settings.name, "from-file");
    assert_eq!(settings.listen_client, [tcp(true, "127.0.0.1", 2379)]);
    assert_eq!(settings.listen_metrics, [tcp(false, "127.0.0.1", 2381)]);
    assert_eq!(settings.quota_bytes, 4 << 30);
    let tls = settings.client_tls.unwrap();
    assert!(tls.client_cert_auth);
    assert_eq!(tls.trusted_ca.unwrap(), std::path::Path::new("/ca.crt"));
    assert_eq!(settings.peer_tls.unwrap().cert, std::path::Path::new("/p.crt"));
}

#[test]
fn a_configuration_file_may_be_yaml_and_its_errors_name_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("etcd.conf.yml");
    let argument = format!("--config-file={}", path.display());
    std::fs::write(&path, "name: 'yaml'\nsnapshot-count: 5\nclient-transport-security:\n").unwrap();
    assert_eq!(Settings::new(&words(&[&argument], &[]).unwrap()).unwrap().name, "yaml");
    for (content, expected) in [
        ("nmae: x\n", "nmae is no flag of keelson-store; did you mean name?"),
        ("peer-transport-security: { cert: x }\n", "peer-transport-security has no key cert"),
        ("name: {a: b}\n", "name takes one value"),
        ("name: {\n", "etcd.conf.yml"),
    ] {
        std::fs::write(&path, content).unwrap();
        let error = words(&[&argument], &[]).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("etcd.conf.yml"), "{error}");
    }
    let error = words(&["--config-file=/nowhere/x"], &[]).unwrap_err();
    assert!(matches!(error, WordsError::Read { .. }));
}

#[test]
fn all_flags_of_etcd_are_known() {
    // etcd 3.7.3: `etcd --help`, the first word of each line that begins with `--`.
    let etcds = include_str!("etcd-flags");
    assert!(etcds.lines().count() > 110);
    for name in etcds.lines() {
        assert!(find(name).is_some(), "--{name}");
    }
}

#[test]
fn what_would_do_something_else_here_is_refused() {
    for (argument, instead) in [
        ("--force-new-cluster", "keelson-store recover"),
        ("--discovery=https://discovery.example/x", "--initial-cluster"),
        ("--discovery-srv=example.com", "--initial-cluster"),
    ] {
        let error = settings(&[argument]).unwrap_err().to_string();
        assert!(error.contains(instead), "{error}");
    }
    assert!(settings(&["--force-new-cluster=false", "--discovery="]).is_ok());
}

#[test]
fn hints_need_certificates_that_name_members() {
    let error = settings(&["--peer-hints-file=h"]).unwrap_err().to_string();
    assert!(error.contains("--peer-hints-file needs --peer-cert-names-member"), "{error}");
    let given = settings(&["--peer-hints-file=h", "--peer-cert-names-member"]).unwrap();
    assert_eq!(given.peer_hints_file.as_deref(), Some(std::path::Path::new("h")));
}

#[test]
fn restrictions_on_clients_are_taken_and_need_an_authority() {
    let tls = ["--cert-file=c", "--key-file=k", "--client-crl-file=r", "--client-cert-allowed-hostname=a,b"];
    let error = settings(&tls).unwrap_err().to_string();
    assert!(error.contains("--client-crl-file needs --trusted-ca-file"), "{error}");
    let more = [&tls[..], &["--trusted-ca-file=ca", "--tls-min-version=TLS1.3"]].concat();
    let files = settings(&more).unwrap().client_tls.unwrap();
    assert_eq!(files.revoked.unwrap(), std::path::Path::new("r"));
    assert_eq!(files.allowed_hostnames, ["a", "b"]);
    assert_eq!(files.versions, TlsVersions::Only13);
    let crossed = settings(&["--cert-file=c", "--key-file=k", "--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"]);
    assert!(matches!(crossed, Err(SettingsError::TlsVersions)));
}

#[test]
fn the_clusters_client_is_named_where_clients_have_certificates() {
    let named = ["--cert-file=c", "--key-file=k", "--cluster-client=keelson-cluster"];
    let error = settings(&named).unwrap_err().to_string();
    assert!(error.contains("--cluster-client needs --client-cert-auth"), "{error}");
    let more = [&named[..], &["--client-cert-auth", "--trusted-ca-file=ca", "--corrupt-check-time=4h"]].concat();
    let settings = settings(&more).unwrap();
    assert_eq!(settings.cluster_client.as_deref(), Some("keelson-cluster"));
    assert_eq!(settings.corrupt_check, Duration::from_hours(4));
}

#[test]
fn restrictions_on_members_are_taken_and_need_an_authority() {
    let tls = ["--peer-cert-file=c", "--peer-key-file=k", "--peer-cert-allowed-cn=a,b"];
    let error = settings(&tls).unwrap_err().to_string();
    assert!(error.contains("--peer-cert-allowed-cn needs --peer-trusted-ca-file"), "{error}");
    let trusting = [&tls[..], &["--peer-trusted-ca-file=ca"]].concat();
    let files = settings(&trusting).unwrap().peer_tls.unwrap();
    assert_eq!((files.allowed_common_names.len(), files.allowed_hostnames.len()), (2, 0));
    let both = [&trusting[..], &["--peer-cert-allowed-hostname=h"]].concat();
    assert!(matches!(settings(&both), Err(SettingsError::AllowedTwice)));
    let hostname =
        ["--peer-cert-file=c", "--peer-key-file=k", "--peer-trusted-ca-file=ca", "--peer-cert-allowed-hostname=h"];
    assert_eq!(settings(&hostname).unwrap().peer_tls.unwrap().allowed_hostnames, ["h"]);
}

#[test]
fn cipher_suites_are_those_of_tls_1_2() {
    let tls = ["--cert-file=c", "--key-file=k", "--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"];
    let files = settings(&tls).unwrap().client_tls.unwrap();
    assert_eq!(files.cipher_suites, ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]);
    let newest = [&tls[..], &["--tls-min-version=TLS1.3"]].concat();
    assert!(matches!(settings(&newest), Err(SettingsError::CipherSuites)));
    let error = settings(&["--cert-file=c", "--key-file=k", "--cipher-suites=strong"]).unwrap_err().to_string();
    assert!(error.contains("is no list of cipher suites"), "{error}");
}

#[test]
fn learners_and_the_detail_of_metrics_are_set_by_etcds_flags() {
    let defaults = settings(&[]).unwrap();
    assert_eq!((defaults.max_learners, defaults.extensive_metrics), (16, false));
    let given = settings(&["--max-learners=1", "--metrics=extensive"]).unwrap();
    assert_eq!((given.max_learners, given.extensive_metrics), (1, true));
    assert!(settings(&["--max-learners=17"]).is_err() && settings(&["--metrics=all"]).is_err());
}

#[test]
fn variables_that_name_no_flag_are_told() {
    let words = words(&[], &[("ETCD_NAME", "a"), ("ETCD_SERVICE_HOST", "10.0.0.1"), ("PATH", "/bin")]).unwrap();
    assert_eq!(words.unrecognized(), ["ETCD_SERVICE_HOST"]);
}

#[test]
fn features_are_turned_on_by_etcds_names() {
    assert!(!settings(&["--feature-gates=AllBeta=true"]).unwrap().lease_checkpoints);
    assert!(settings(&["--feature-gates=LeaseCheckpoint=true,InitialCorruptCheck=false"]).unwrap().lease_checkpoints);
    assert!(settings(&["--feature-gates=Nonsense=true"]).is_err());
}

#[test]
fn the_files_durations_are_nanoseconds_and_its_lists_lists() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("etcd.conf.yml");
    std::fs::write(
        &path,
        "watch-progress-notify-interval: 5000000000\nlog-outputs: [stderr, stdout]\nforce-new-cluster: false\n",
    )
    .unwrap();
    let words = words(&[&format!("--config-file={}", path.display())], &[]).unwrap();
    assert_eq!(Settings::new(&words).unwrap().watch_progress_notify_interval, Duration::from_secs(5));
    assert_eq!(words.ignored().count(), 1);
}

#[test]
fn values_that_mean_nothing_are_refused_with_their_source() {
    for (arguments, expected) in [
        (&["--max-txn-ops=many"][..], "--max-txn-ops: \"many\" is no whole number"),
        (&["--max-request-bytes=99999999"], "--max-request-bytes"),
        (&["--client-cert-auth=perhaps"], "truth value"),
        (&["--listen-client-urls=localhost:1", "--advertise-client-urls=x"], "is no URL"),
        (&["--listen-client-urls=http://localhost:1"], "--advertise-client-urls"),
        (&["--listen-client-urls=https://a:1", "--advertise-client-urls=x"], "--cert-file is not given"),
        (&["--cert-file=a"], "--cert-file needs --key-file"),
        (&["--cert-file=a", "--key-file=b", "--client-cert-auth"], "--client-cert-auth needs --trusted-ca-file"),
        (&["--heartbeat-interval=500"], "--election-timeout"),
        (&["--auto-compaction-retention=soon"], "auto-compaction-retention"),
        (&["--initial-cluster=a"], "list of members"),
        (&["--initial-cluster-state=old"], "new or existing"),
        (&["--log-level=loud"], "log level"),
    ] {
        let error = settings(arguments).unwrap_err().to_string();
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[test]
fn urls_and_durations_are_read_as_etcd_reads_them() {
    let urls = "http://[::1]:2379,unix:///run/x.sock,http://h:1/";
    let settings = settings(&[&format!("--listen-metrics-urls={urls}"), "--watch-progress-notify-interval=1m30.5s"]);
    let settings = settings.unwrap();
    let socket = Endpoint { tls: false, address: Address::Unix("/run/x.sock".into()) };
    assert_eq!(settings.listen_metrics, [tcp(false, "::1", 2379), socket, tcp(false, "h", 1)]);
    assert_eq!(settings.watch_progress_notify_interval, Duration::from_millis(90_500));
}

#[test]
fn compaction_is_by_time_or_by_revisions() {
    for (mode, retention, expected) in [
        ("periodic", "0", AutoCompaction::Off),
        ("periodic", "2", AutoCompaction::Periodic(Duration::from_hours(2))),
        ("periodic", "5m", AutoCompaction::Periodic(Duration::from_mins(5))),
        ("revision", "1000", AutoCompaction::Revisions(1000)),
    ] {
        let mode = format!("--auto-compaction-mode={mode}");
        let retention = format!("--auto-compaction-retention={retention}");
        assert_eq!(settings(&[&mode, &retention]).unwrap().auto_compaction, expected);
    }
}

#[test]
fn help_names_every_flag() {
    let help = help();
    assert!(FLAGS.iter().all(|flag| help.contains(&format!("--{}", flag.name))));
}

/// Whoever comes from etcd reads there what becomes of its flags.
#[test]
fn flags_that_mean_nothing_are_listed_in_the_document() {
    let document = include_str!("../../ETCD.md");
    let (_, list) = document.split_once("## Flags that mean nothing here").unwrap();
    for flag in FLAGS.iter().filter(|flag| !matches!(flag.kind, Kind::Text | Kind::Switch)) {
        assert!(list.contains(&format!("`{}`", flag.name)), "--{}", flag.name);
    }
}
