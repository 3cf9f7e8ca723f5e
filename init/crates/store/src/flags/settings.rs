//! What is meant: every value parsed and checked, every default in place.

use std::path::PathBuf;
use std::time::Duration;

use super::words::{Word, Words};

/// A place to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub tls: bool,
    /// Host and port, or the path of a unix socket.
    pub address: Address,
}

impl Endpoint {
    /// From a URL such as `https://10.0.0.1:2380`.
    pub fn parse(url: &str) -> Option<Self> {
        parse_url(url)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// Files of one side's TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub client_cert_auth: bool,
    pub trusted_ca: Option<PathBuf>,
    /// Certificates that are refused although an authority vouches for them.
    pub revoked: Option<PathBuf>,
    /// Names, one of which a client's certificate must be for; any if there are none.
    pub allowed_hostnames: Vec<String>,
    pub versions: TlsVersions,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersions {
    #[default]
    All,
    Only12,
    Only13,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    Off,
    /// Keep the history of this time.
    Periodic(Duration),
    /// Keep this many revisions.
    Revisions(i64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub name: String,
    pub data_dir: PathBuf,
    pub listen_client: Vec<Endpoint>,
    pub advertise_client_urls: Vec<String>,
    pub listen_peer: Vec<Endpoint>,
    pub advertise_peer_urls: Vec<String>,
    /// Names and peer URLs of the members that the cluster begins with, or of those that are there already.
    pub initial_cluster: Vec<(String, Vec<String>)>,
    pub initial_cluster_token: String,
    /// Whether the cluster is there already.
    pub join: bool,
    /// Beside the metrics' addresses, which serve the same paths.
    pub listen_http: Vec<Endpoint>,
    pub listen_metrics: Vec<Endpoint>,
    pub client_tls: Option<TlsFiles>,
    pub peer_tls: Option<TlsFiles>,
    /// Whether members' certificates are for names of members, not for hosts.
    pub peer_cert_names_member: bool,
    pub quota_bytes: u64,
    pub max_request_bytes: usize,
    pub max_txn_ops: usize,
    pub max_concurrent_streams: u32,
    /// Zero turns it off.
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
    pub heartbeat_interval: Duration,
    pub election_timeout: Duration,
    pub auto_compaction: AutoCompaction,
    pub watch_progress_notify_interval: Duration,
    pub lease_checkpoints: bool,
    pub log_level: tracing::Level,
}

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("{source_name}: {value:?} is no {expected}")]
    Value { source_name: String, value: String, expected: &'static str },
    #[error("{source_name}: {value:?} is out of range: {range}")]
    Range { source_name: String, value: String, range: &'static str },
    #[error("{source_name}: {instead}")]
    Refused { source_name: String, instead: &'static str },
    #[error("--tls-min-version is above --tls-max-version")]
    TlsVersions,
    #[error("--{given} needs --{missing} beside it")]
    Incomplete { given: &'static str, missing: &'static str },
    #[error("--{flag} asks for https, and --{missing} is not given")]
    NoCertificate { flag: &'static str, missing: &'static str },
    #[error("--advertise-client-urls must be given when --listen-client-urls is")]
    Advertise,
    #[error("--initial-cluster does not name this member, {name}")]
    NotAMember { name: String },
    #[error(
        "--initial-cluster gives {name} other peer URLs ({listed}) than --initial-advertise-peer-urls ({advertised})"
    )]
    OtherPeerUrls { name: String, listed: String, advertised: String },
    #[error("--initial-cluster-state=existing: --initial-cluster names no other member to join")]
    NobodyToJoin,
    #[error("--election-timeout must be at least five times --heartbeat-interval and at most 50 s")]
    Election,
}

const DEFAULT_QUOTA_BYTES: u64 = 2 << 30;
/// etcd's: 1.5 MiB.
const DEFAULT_MAX_REQUEST_BYTES: usize = 1536 << 10;
/// A log segment is made four times as large as the largest request, and is read whole when the store starts.
const LARGEST_MAX_REQUEST_BYTES: usize = 16 << 20;

impl Settings {
    pub fn new(words: &Words) -> Result<Self, SettingsError> {
        if let Some((source_name, instead)) = words.refused() {
            return Err(SettingsError::Refused { source_name: source_name.to_owned(), instead });
        }
        let take = Take { words };
        let name = take.text("name").unwrap_or("default").to_owned();
        let mut client_tls = take.tls(["cert-file", "key-file", "client-cert-auth", "trusted-ca-file"])?;
        if let Some(files) = &mut client_tls {
            files.revoked = take.text("client-crl-file").map(PathBuf::from);
            files.allowed_hostnames = take.list("client-cert-allowed-hostname").unwrap_or_default();
            files.versions = take.tls_versions()?;
            let restricts = files.revoked.is_some() || !files.allowed_hostnames.is_empty();
            if restricts && files.trusted_ca.is_none() {
                let given = if files.revoked.is_some() { "client-crl-file" } else { "client-cert-allowed-hostname" };
                return Err(SettingsError::Incomplete { given, missing: "trusted-ca-file" });
            }
        }
        let mut peer_tls =
            take.tls(["peer-cert-file", "peer-key-file", "peer-client-cert-auth", "peer-trusted-ca-file"])?;
        if let Some(files) = &mut peer_tls {
            files.revoked = take.text("peer-crl-file").map(PathBuf::from);
            files.versions = take.tls_versions()?;
        }
        let client_urls = take.list("listen-client-urls").unwrap_or_else(|| vec!["http://localhost:2379".to_owned()]);
        let peer_urls = take.list("listen-peer-urls").unwrap_or_else(|| vec!["http://localhost:2380".to_owned()]);
        let advertise_peer_urls = take.list("initial-advertise-peer-urls").unwrap_or_else(|| peer_urls.clone());
        // etcd insists as well: an address one listens on is often none that others can reach.
        if take.words.get("listen-client-urls").is_some() && take.words.get("advertise-client-urls").is_none() {
            return Err(SettingsError::Advertise);
        }
        let settings = Self {
            data_dir: take.text("data-dir").map_or_else(|| PathBuf::from(format!("{name}.keelson")), PathBuf::from),
            listen_client: take.endpoints("listen-client-urls", &client_urls, client_tls.as_ref(), "cert-file")?,
            advertise_client_urls: take.list("advertise-client-urls").unwrap_or(client_urls),
            listen_peer: take.endpoints("listen-peer-urls", &peer_urls, peer_tls.as_ref(), "peer-cert-file")?,
            initial_cluster: take.initial_cluster(&name, &advertise_peer_urls)?,
            initial_cluster_token: take.text("initial-cluster-token").unwrap_or("etcd-cluster").to_owned(),
            join: take.joins()?,
            advertise_peer_urls,
            listen_http: take.more_endpoints("listen-client-http-urls", client_tls.as_ref())?,
            listen_metrics: take.more_endpoints("listen-metrics-urls", client_tls.as_ref())?,
            client_tls,
            peer_tls,
            peer_cert_names_member: take.switch("peer-cert-names-member")?,
            quota_bytes: match take.number("quota-backend-bytes", 0, i64::MIN..=i64::MAX, "bytes")? {
                0 => DEFAULT_QUOTA_BYTES,
                // etcd: a negative quota is none.
                quota => u64::try_from(quota).unwrap_or(0),
            },
            max_request_bytes: take.bounded(
                "max-request-bytes",
                DEFAULT_MAX_REQUEST_BYTES,
                LARGEST_MAX_REQUEST_BYTES,
            )?,
            max_txn_ops: take.bounded("max-txn-ops", 128, 1 << 20)?,
            max_concurrent_streams: take.streams()?,
            keepalive_interval: take.duration("grpc-keepalive-interval", Duration::from_hours(2))?,
            keepalive_timeout: take.duration("grpc-keepalive-timeout", Duration::from_secs(20))?,
            heartbeat_interval: take.millis("heartbeat-interval", 100)?,
            election_timeout: take.millis("election-timeout", 1000)?,
            auto_compaction: take.auto_compaction()?,
            watch_progress_notify_interval: take.duration("watch-progress-notify-interval", Duration::from_mins(10))?,
            lease_checkpoints: take.lease_checkpoints()?,
            log_level: take.log_level()?,
            name,
        };
        settings.check_cluster()?;
        let longest = Duration::from_secs(50);
        if settings.election_timeout < 5 * settings.heartbeat_interval || settings.election_timeout > longest {
            return Err(SettingsError::Election);
        }
        Ok(settings)
    }

    /// etcd's rules: this member is in the list, under the URLs that it tells others.
    fn check_cluster(&self) -> Result<(), SettingsError> {
        let Some((_, listed)) = self.initial_cluster.iter().find(|(name, _)| *name == self.name) else {
            return Err(SettingsError::NotAMember { name: self.name.clone() });
        };
        let sorted = |urls: &[String]| {
            let mut urls = urls.to_vec();
            urls.sort_unstable();
            urls.join(",")
        };
        let (listed, advertised) = (sorted(listed), sorted(&self.advertise_peer_urls));
        if listed != advertised {
            return Err(SettingsError::OtherPeerUrls { name: self.name.clone(), listed, advertised });
        }
        if self.join && self.initial_cluster.len() == 1 {
            return Err(SettingsError::NobodyToJoin);
        }
        Ok(())
    }
}

struct Take<'a> {
    words: &'a Words,
}

impl Take<'_> {
    /// An empty value means that none was given, as in etcd.
    fn word(&self, name: &str) -> Option<&Word> {
        self.words.get(name).filter(|word| !word.value.is_empty())
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.word(name).map(|word| word.value.as_str())
    }

    fn list(&self, name: &str) -> Option<Vec<String>> {
        let text = self.text(name)?;
        Some(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
    }

    fn wrong(word: &Word, expected: &'static str) -> SettingsError {
        SettingsError::Value { source_name: word.source.clone(), value: word.value.clone(), expected }
    }

    fn number(
        &self,
        name: &str,
        default: i64,
        range: std::ops::RangeInclusive<i64>,
        range_text: &'static str,
    ) -> Result<i64, SettingsError> {
        let Some(word) = self.word(name) else { return Ok(default) };
        let number: i64 = word.value.parse().map_err(|_| Self::wrong(word, "whole number"))?;
        if range.contains(&number) {
            return Ok(number);
        }
        let (source_name, value) = (word.source.clone(), word.value.clone());
        Err(SettingsError::Range { source_name, value, range: range_text })
    }

    fn bounded(&self, name: &str, default: usize, largest: usize) -> Result<usize, SettingsError> {
        let largest = i64::try_from(largest).unwrap_or(i64::MAX);
        let default = i64::try_from(default).unwrap_or(i64::MAX);
        let range_text = "from 1 to what the log takes (16 MiB for a request)";
        let number = self.number(name, default, 1..=largest, range_text)?;
        Ok(usize::try_from(number).unwrap_or(usize::MAX))
    }

    fn streams(&self) -> Result<u32, SettingsError> {
        let number =
            self.number("max-concurrent-streams", i64::from(u32::MAX), 1..=i64::from(u32::MAX), "1 to 4294967295")?;
        Ok(u32::try_from(number).unwrap_or(u32::MAX))
    }

    fn millis(&self, name: &str, default: i64) -> Result<Duration, SettingsError> {
        let number = self.number(name, default, 1..=50_000, "1 to 50000 milliseconds")?;
        Ok(Duration::from_millis(u64::try_from(number).unwrap_or(0)))
    }

    fn duration(&self, name: &str, default: Duration) -> Result<Duration, SettingsError> {
        let Some(word) = self.word(name) else { return Ok(default) };
        // In its file etcd wants nanoseconds.
        let nanoseconds = word.value.parse().ok().map(Duration::from_nanos);
        nanoseconds.or_else(|| parse_duration(&word.value)).ok_or_else(|| Self::wrong(word, "duration such as 10m0s"))
    }

    fn switch(&self, name: &str) -> Result<bool, SettingsError> {
        let Some(word) = self.word(name) else { return Ok(false) };
        // What Go's flags take.
        match word.value.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => Err(Self::wrong(word, "truth value")),
        }
    }

    fn tls(&self, names: [&'static str; 4]) -> Result<Option<TlsFiles>, SettingsError> {
        let [cert_name, key_name, auth_name, ca_name] = names;
        let client_cert_auth = self.switch(auth_name)?;
        let trusted_ca = self.text(ca_name).map(PathBuf::from);
        let (cert, key) = match (self.text(cert_name), self.text(key_name)) {
            (Some(cert), Some(key)) => (PathBuf::from(cert), PathBuf::from(key)),
            (Some(_), None) => return Err(SettingsError::Incomplete { given: cert_name, missing: key_name }),
            (None, Some(_)) => return Err(SettingsError::Incomplete { given: key_name, missing: cert_name }),
            (None, None) if client_cert_auth => {
                return Err(SettingsError::Incomplete { given: auth_name, missing: cert_name });
            }
            (None, None) => return Ok(None),
        };
        if client_cert_auth && trusted_ca.is_none() {
            return Err(SettingsError::Incomplete { given: auth_name, missing: ca_name });
        }
        let versions = TlsVersions::default();
        Ok(Some(TlsFiles {
            cert,
            key,
            client_cert_auth,
            trusted_ca,
            revoked: None,
            allowed_hostnames: Vec::new(),
            versions,
        }))
    }

    fn tls_versions(&self) -> Result<TlsVersions, SettingsError> {
        let version = |name: &str| match self.word(name) {
            None => Ok(None),
            Some(word) => match word.value.as_str() {
                "TLS1.2" => Ok(Some(2)),
                "TLS1.3" => Ok(Some(3)),
                _ => Err(Self::wrong(word, "TLS version: TLS1.2 or TLS1.3")),
            },
        };
        match (version("tls-min-version")?.unwrap_or(2), version("tls-max-version")?.unwrap_or(3)) {
            (2, 3) => Ok(TlsVersions::All),
            (2, _) => Ok(TlsVersions::Only12),
            (_, 3) => Ok(TlsVersions::Only13),
            _ => Err(SettingsError::TlsVersions),
        }
    }

    /// etcd's list of features that are turned on or off; those without a meaning here are taken all the same.
    fn lease_checkpoints(&self) -> Result<bool, SettingsError> {
        const KNOWN: [&str; 11] = [
            "AllAlpha",
            "AllBeta",
            "CompactHashCheck",
            "FastLeaseKeepAlive",
            "InitialCorruptCheck",
            "LeaseCheckpoint",
            "LeaseCheckpointPersist",
            "PriorityRequest",
            "SetMemberLocalAddr",
            "StopGRPCServiceOnDefrag",
            "TxnModeWriteWithSharedBuffer",
        ];
        let Some(word) = self.word("feature-gates") else { return Ok(false) };
        let mut on = false;
        for gate in word.value.split(',').map(str::trim).filter(|gate| !gate.is_empty()) {
            let (name, truth) = gate.split_once('=').unwrap_or((gate, ""));
            if !KNOWN.contains(&name) || !matches!(truth, "true" | "false") {
                return Err(Self::wrong(word, "list of etcd's features such as LeaseCheckpoint=true"));
            }
            on |= truth == "true" && matches!(name, "LeaseCheckpoint" | "LeaseCheckpointPersist" | "AllAlpha");
        }
        Ok(on)
    }

    /// Of addresses that there are only if they are named.
    fn more_endpoints(&self, flag: &'static str, tls: Option<&TlsFiles>) -> Result<Vec<Endpoint>, SettingsError> {
        self.endpoints(flag, &self.list(flag).unwrap_or_default(), tls, "cert-file")
    }

    fn endpoints(
        &self,
        flag: &'static str,
        urls: &[String],
        tls: Option<&TlsFiles>,
        missing: &'static str,
    ) -> Result<Vec<Endpoint>, SettingsError> {
        let parse = |url: &String| {
            let endpoint = parse_url(url).ok_or_else(|| SettingsError::Value {
                source_name: self.word(flag).map_or_else(|| format!("--{flag}"), |word| word.source.clone()),
                value: url.clone(),
                expected: "URL such as https://10.0.0.1:2379",
            })?;
            if endpoint.tls && tls.is_none() {
                return Err(SettingsError::NoCertificate { flag, missing });
            }
            Ok(endpoint)
        };
        urls.iter().map(parse).collect()
    }

    /// Members by name, each with all URLs it is listed with; this one alone if none are.
    fn initial_cluster(&self, name: &str, urls: &[String]) -> Result<Vec<(String, Vec<String>)>, SettingsError> {
        let Some(word) = self.word("initial-cluster") else { return Ok(vec![(name.to_owned(), urls.to_vec())]) };
        let mut members = std::collections::BTreeMap::<String, Vec<String>>::new();
        for item in word.value.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            match item.split_once('=') {
                Some((name, url)) if !name.is_empty() && parse_url(url).is_some() => {
                    members.entry(name.to_owned()).or_default().push(url.to_owned());
                }
                _ => {
                    return Err(Self::wrong(
                        word,
                        "list of members such as a=https://10.0.0.1:2380,b=https://10.0.0.2:2380",
                    ));
                }
            }
        }
        Ok(members.into_iter().collect())
    }

    fn joins(&self) -> Result<bool, SettingsError> {
        match self.word("initial-cluster-state") {
            None => Ok(false),
            Some(word) => match word.value.as_str() {
                "new" => Ok(false),
                "existing" => Ok(true),
                _ => Err(Self::wrong(word, "state of a cluster: new or existing")),
            },
        }
    }

    fn auto_compaction(&self) -> Result<AutoCompaction, SettingsError> {
        let Some(retention) = self.word("auto-compaction-retention") else { return Ok(AutoCompaction::Off) };
        let number = retention.value.parse::<u32>().ok();
        if number == Some(0) {
            return Ok(AutoCompaction::Off);
        }
        match (self.text("auto-compaction-mode").unwrap_or("periodic"), number) {
            ("revision", Some(revisions)) => Ok(AutoCompaction::Revisions(i64::from(revisions))),
            ("revision", None) => Err(Self::wrong(retention, "number of revisions")),
            ("periodic", Some(hours)) => Ok(AutoCompaction::Periodic(Duration::from_secs(u64::from(hours) * 3600))),
            ("periodic", None) => match parse_duration(&retention.value) {
                Some(Duration::ZERO) => Ok(AutoCompaction::Off),
                Some(time) => Ok(AutoCompaction::Periodic(time)),
                None => Err(Self::wrong(retention, "number of hours or duration such as 5m")),
            },
            _ => match self.word("auto-compaction-mode") {
                Some(mode) => Err(Self::wrong(mode, "mode of compaction: periodic or revision")),
                None => Ok(AutoCompaction::Off),
            },
        }
    }

    fn log_level(&self) -> Result<tracing::Level, SettingsError> {
        let Some(word) = self.word("log-level") else { return Ok(tracing::Level::INFO) };
        match word.value.as_str() {
            "debug" => Ok(tracing::Level::DEBUG),
            "info" => Ok(tracing::Level::INFO),
            "warn" => Ok(tracing::Level::WARN),
            // zap's levels above error differ in what they do, not in what passes.
            "error" | "dpanic" | "panic" | "fatal" => Ok(tracing::Level::ERROR),
            _ => Err(Self::wrong(word, "log level: debug, info, warn, error")),
        }
    }
}

/// Go's durations: numbers with units from hours to nanoseconds.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest == "0" {
        return Some(total);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(digits);
        let unit_len = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, after) = behind.split_at(unit_len);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

fn parse_url(url: &str) -> Option<Endpoint> {
    let (scheme, rest) = url.split_once("://")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let tls = match scheme {
        "http" => false,
        "https" => true,
        "unix" => return Some(Endpoint { tls: false, address: Address::Unix(PathBuf::from(rest)) }),
        "unixs" => return Some(Endpoint { tls: true, address: Address::Unix(PathBuf::from(rest)) }),
        _ => return None,
    };
    let (host, port) = rest.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() || host.contains('/') {
        return None;
    }
    Some(Endpoint { tls, address: Address::Tcp { host: host.to_owned(), port: port.parse().ok()? } })
}
