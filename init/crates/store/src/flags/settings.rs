//! What is meant: every value parsed and checked, every default in place.

mod addresses;
mod choices;
mod take;
mod tls;

use std::path::PathBuf;
use std::time::Duration;

pub use self::addresses::{Address, Endpoint};
pub use self::choices::AutoCompaction;
use self::take::Take;
pub use self::tls::{TlsFiles, TlsVersions};
use super::words::Words;

#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
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
    /// If there are any, client addresses serve gRPC only.
    pub listen_http: Vec<Endpoint>,
    pub listen_metrics: Vec<Endpoint>,
    pub client_tls: Option<TlsFiles>,
    pub peer_tls: Option<TlsFiles>,
    /// Whether members' certificates are for names of members, not for hosts.
    pub peer_cert_names_member: bool,
    /// Where members may be that are not where the membership has them; see [`crate::peer`].
    pub peer_hints_file: Option<PathBuf>,
    /// The common name of the client whose the cluster's keys are; see [`crate::cluster_keys`].
    pub cluster_client: Option<String>,
    pub quota_bytes: u64,
    pub max_request_bytes: usize,
    pub max_txn_ops: usize,
    /// Of clients.
    pub max_connections: usize,
    pub max_concurrent_streams: u32,
    /// Of members that are added to learn only.
    pub max_learners: usize,
    /// Zero turns it off.
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
    pub heartbeat_interval: Duration,
    pub election_timeout: Duration,
    pub auto_compaction: AutoCompaction,
    pub watch_progress_notify_interval: Duration,
    pub lease_checkpoints: bool,
    /// Zero turns it off.
    pub corrupt_check: Duration,
    /// Whether the API is served as JSON, too.
    pub json_gateway: bool,
    /// Whether metrics tell how long calls took.
    pub extensive_metrics: bool,
    pub log_level: tracing::Level,
}

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A value that is not of the flag's type, which etcd does not read any further.
    #[error("{source_name}: {value:?} is no {expected}")]
    Malformed { source_name: String, value: String, expected: &'static str },
    #[error("{source_name}: {value:?} is no {expected}")]
    Value { source_name: String, value: String, expected: &'static str },
    #[error("{source_name}: {value:?} is out of range: {range}")]
    Range { source_name: String, value: String, range: &'static str },
    #[error("{source_name}: {instead}")]
    Refused { source_name: String, instead: &'static str },
    #[error("--tls-min-version is above --tls-max-version")]
    TlsVersions,
    #[error("--cipher-suites are those of TLS 1.2, which --tls-min-version leaves out")]
    CipherSuites,
    #[error("--peer-cert-allowed-cn and --peer-cert-allowed-hostname exclude each other")]
    AllowedTwice,
    #[error("--{given} needs --{missing} beside it")]
    Incomplete { given: &'static str, missing: &'static str },
    #[error("--{flag} asks for https, and --{missing} is not given")]
    NoCertificate { flag: &'static str, missing: &'static str },
    #[error("--advertise-client-urls must be given when --listen-client-urls is")]
    Advertise,
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
        let (client_tls, peer_tls) = (take.client_tls()?, take.peer_tls()?);
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
            peer_hints_file: take.text("peer-hints-file").map(PathBuf::from),
            cluster_client: take.text("cluster-client").map(str::to_owned),
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
            max_connections: take.connections()?,
            max_concurrent_streams: take.streams()?,
            max_learners: take.learners()?,
            keepalive_interval: take.duration("grpc-keepalive-interval", Duration::from_hours(2))?,
            keepalive_timeout: take.duration("grpc-keepalive-timeout", Duration::from_secs(20))?,
            heartbeat_interval: take.millis("heartbeat-interval", 100)?,
            election_timeout: take.millis("election-timeout", 1000)?,
            auto_compaction: take.auto_compaction()?,
            watch_progress_notify_interval: take.duration("watch-progress-notify-interval", Duration::from_mins(10))?,
            lease_checkpoints: take.lease_checkpoints()?,
            corrupt_check: take.duration("corrupt-check-time", Duration::ZERO)?,
            json_gateway: take.switch_or("enable-grpc-gateway", true)?,
            extensive_metrics: take.extensive_metrics()?,
            log_level: take.log_level()?,
            name,
        };
        if settings.peer_hints_file.is_some() && !settings.peer_cert_names_member {
            return Err(SettingsError::Incomplete { given: "peer-hints-file", missing: "peer-cert-names-member" });
        }
        // Without their certificates clients have no names.
        if settings.cluster_client.is_some() && !settings.client_tls.as_ref().is_some_and(|tls| tls.client_cert_auth) {
            return Err(SettingsError::Incomplete { given: "cluster-client", missing: "client-cert-auth" });
        }
        let longest = Duration::from_secs(50);
        if settings.election_timeout < 5 * settings.heartbeat_interval || settings.election_timeout > longest {
            return Err(SettingsError::Election);
        }
        Ok(settings)
    }
}
