//! The process: settings in, exit code out.
//!
//! Exit codes are etcd's: 1 after a failure and for settings that cannot be, 2 for arguments that are no flags of it or no values of theirs. After an
//! ordered stop it is 0; etcd ends itself with the signal that stopped it, by which a stop looks like a death.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use keelson_control::notify;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

use crate::data_dir::{DataDir, DataDirError};
use crate::disk::Disk;
use crate::flags::{self, Settings, SettingsError, Words, WordsError};
use crate::listener::ListenError;
use crate::member::Member;
use crate::node::bootstrap::{BootstrapError, Plan};
use crate::node::{Config, Failure, Initial, Node, StartError};
use crate::peer::links::{Dialer, Links};
use crate::peer::{self, Handler};
use crate::random::SystemRandom;
use crate::server::{ETCD_VERSION, Server, ServerError};
use crate::state::State;
use crate::tls::TlsError;
use crate::{cluster_keys, consensus, logging, open_files, raft, tools};

/// Threads for clients and consensus: the store is bound by the disk long before it is by more of them.
const MOST_WORKERS: usize = 8;
/// What connections may take to end after the node has stopped.
const RUNTIME_STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// What a log entry may have beyond the request in it.
const REQUEST_OVERHEAD: usize = 64 << 10;

const EXIT_FAILURE: u8 = 1;
const EXIT_USAGE: u8 = 2;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Words(#[from] WordsError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("start the member")]
    Start(#[source] StartError),
    #[error("begin")]
    Bootstrap(#[source] BootstrapError),
    #[error("TLS for other members")]
    PeerTls(#[source] TlsError),
    #[error("serve other members")]
    PeerServer(#[source] ListenError),
    #[error("serve")]
    Server(#[source] ServerError),
    #[error("wait for signals")]
    Signal(#[source] std::io::Error),
    #[error("{}", .0.0)]
    Failed(Failure),
}

impl Error {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Words(WordsError::Unknown { .. } | WordsError::NoValue { .. }) => EXIT_USAGE,
            // In the environment or the file, etcd's parser of flags does not meet it.
            Self::Settings(SettingsError::Malformed { source_name, .. }) if source_name.starts_with("--") => EXIT_USAGE,
            _ => EXIT_FAILURE,
        }
    }
}

/// Runs until it is told to stop, or cannot go on.
pub fn main(
    arguments: impl IntoIterator<Item = String>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> ExitCode {
    let mut arguments = arguments.into_iter().peekable();
    if let Some(tool) = arguments.next_if(|first| tools::is_tool(first)) {
        return tools::main(&tool, arguments);
    }
    let environment: Vec<_> = environment.into_iter().collect();
    match start(arguments, environment) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A wrong call is told before there is a level to log at.
            logging::start(tracing::Level::INFO);
            tracing::error!(error = logging::chain(&error), "keelson-store ends");
            ExitCode::from(error.exit_code())
        }
    }
}

fn start(arguments: impl IntoIterator<Item = String>, environment: Vec<(String, String)>) -> Result<(), Error> {
    let words = Words::read(arguments, environment)?;
    if words.help || words.version {
        return print(&if words.help { flags::help() } else { version() });
    }
    let settings = Settings::new(&words)?;
    logging::start(settings.log_level);
    for source in words.ignored() {
        tracing::warn!(flag = source, "this flag has no meaning for keelson-store and is ignored");
    }
    for variable in words.unrecognized() {
        tracing::warn!(variable, "this variable of the environment names no flag and is ignored");
    }
    let workers = std::thread::available_parallelism().map_or(1, usize::from).clamp(2, MOST_WORKERS);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let result = runtime.block_on(run(&settings));
    // After a failure nothing more is served: what is in flight ends with the process.
    runtime.shutdown_timeout(if result.is_ok() { RUNTIME_STOP_TIMEOUT } else { Duration::ZERO });
    result
}

/// The first line is etcd's, which scripts read.
fn version() -> String {
    let own = env!("CARGO_PKG_VERSION");
    format!(
        "etcd Version: {ETCD_VERSION}\nkeelson-store Version: {own}\nOS/Arch: {}/{}\n",
        std::env::consts::OS,
        arch()
    )
}

/// As Go names it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn print(text: &str) -> Result<(), Error> {
    use std::io::Write as _;
    std::io::stdout().lock().write_all(text.as_bytes()).map_err(Error::Runtime)
}

async fn run(settings: &Settings) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signal)?;
    let data_dir = DataDir::open(&settings.data_dir).await?;
    tracing::info!(
        name = settings.name,
        data_dir = %settings.data_dir.display(),
        version = env!("CARGO_PKG_VERSION"),
        "starting the member"
    );
    let began = std::time::Instant::now();
    let disk: Arc<dyn Disk> = Arc::<crate::disk::HostDisk>::clone(&data_dir.disk);
    let consensus = consensus::Thread::start().map_err(Error::Runtime)?;
    let connections = open_files::shares(settings.max_connections);
    // Other members may be waited for, for as long as it takes.
    let start = async {
        let Begun { node, peers, plan, dialer } =
            begin(settings, disk, consensus.handle(), connections.members).await?;
        let removed = async {
            if settings.join && node.status().index == 0 {
                return plan.removed(node.member_id(), &dialer).await;
            }
            std::future::pending().await
        };
        tokio::select! {
            ready = node.ready() => ready.map_err(Error::Start)?,
            failure = node.failed() => return Err(Error::Failed(failure)),
            removed = removed => return Err(Error::Bootstrap(removed)),
        }
        Ok::<_, Error>((node, peers))
    };
    let (node, _peers) = tokio::select! {
        started = start => started?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let status = node.status();
    tracing::info!(
        member_id = %node.member_id(),
        cluster_id = %format_args!("{:x}", node.cluster_id()),
        term = status.term,
        applied_index = status.applied,
        milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        "recovered"
    );
    let server = Server::bind(Arc::clone(&node), settings, connections.clients).await.map_err(Error::Server)?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(async move {
        // Dropping the sender stops as well.
        _ = stopped.await;
    }));
    tracing::info!("ready to serve client requests");
    tell(notify::ready());
    // Not before: what a start reads may be a lot, and the supervisor has a limit for that of its own.
    let turns = consensus.handle();
    tokio::spawn(notify::keep_alive(move |rest| turned(rest, turns.clone())));

    let failure = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        failure = node.failed() => Some(failure),
    };
    if let Some(failure) = failure {
        // What could not be written must not be built upon: no drain, no last checkpoint.
        return Err(Error::Failed(failure));
    }
    tracing::info!("stopping");
    tell(notify::stopping());
    drop(stop);
    if let Err(error) = serving.await {
        tracing::warn!(%error, "serving did not end in order");
    }
    node.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// Sleeps for so long, and until the replication's own thread has had its turn: who says that this process lives speaks for both.
async fn turned(rest: Duration, consensus: Handle) {
    tokio::time::sleep(rest).await;
    // Its thread ends with the process.
    let _ = consensus.spawn(async {}).await;
}

fn tell(result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, "the supervisor cannot be notified");
    }
}

/// The peer port, as long as it lives.
#[derive(Debug)]
struct Peers(tokio::task::JoinHandle<()>);

impl Drop for Peers {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A member that takes part in consensus, and what it began from.
#[derive(Debug)]
struct Begun {
    node: Arc<Node<State>>,
    peers: Peers,
    plan: Plan,
    dialer: Arc<Dialer>,
}

/// Takes part in consensus from here on.
async fn begin(
    settings: &Settings,
    disk: Arc<dyn Disk>,
    consensus: Handle,
    connections: usize,
) -> Result<Begun, Error> {
    let plan = plan(settings);
    let random = Arc::new(SystemRandom);
    let dialer = Dialer::new(settings.peer_tls.as_ref()).map_err(Error::PeerTls)?;
    let dialer = dialer.by_name(settings.peer_cert_names_member).with_hints(settings.peer_hints_file.clone());
    let dialer = Arc::new(dialer);
    let (identity, initial) = plan.identity(disk.as_ref(), random.as_ref(), &dialer).await.map_err(Error::Bootstrap)?;
    let local =
        peer::Local { cluster_id: identity.cluster_id, member_id: identity.member_id, store_id: identity.store_id };
    // Not before: who asks this member who it is while it does not know would wait for an answer.
    let bound = peer::server::Server::bind(&settings.listen_peer, settings.peer_tls.as_ref(), connections);
    let server = bound.await.map_err(Error::PeerServer)?;
    let links = Arc::new(Links::new(local, Arc::clone(&dialer), settings.election_timeout * 2));
    let mut config = node_config(settings, plan.member.clone(), initial);
    config.consensus = Some(consensus);
    let node = Node::begin(config, identity, disk, random, State::default(), links).await.map_err(Error::Start)?;
    let handler: Arc<dyn Handler> = Arc::<Node<State>>::clone(&node);
    let serving = tokio::spawn(server.serve(handler, node.largest_command()));
    Ok(Begun { node, peers: Peers(serving), plan, dialer })
}

fn plan(settings: &Settings) -> Plan {
    Plan {
        member: Member {
            name: settings.name.clone(),
            peer_urls: settings.advertise_peer_urls.clone(),
            client_urls: settings.advertise_client_urls.clone(),
            ..Member::default()
        },
        cluster: settings.initial_cluster.clone(),
        token: settings.initial_cluster_token.clone(),
        join: settings.join,
        by_name: settings.peer_cert_names_member,
    }
}

fn node_config(settings: &Settings, member: Member, initial: Initial) -> Config {
    let mut config = Config::new(member);
    config.initial = initial;
    config.certificates_name_members = settings.peer_cert_names_member;
    config.timing =
        raft::Timing { heartbeat_interval: settings.heartbeat_interval, election_timeout: settings.election_timeout };
    config.quota_bytes = settings.quota_bytes;
    config.corrupt_check = Some(settings.corrupt_check).filter(|every| !every.is_zero());
    if settings.cluster_client.is_some() {
        config.cluster_reserve_bytes = cluster_keys::RESERVE_BYTES;
    }
    let needed = settings.max_request_bytes.saturating_add(REQUEST_OVERHEAD).saturating_mul(4);
    config.log_segment_size = config.log_segment_size.max(u32::try_from(needed).unwrap_or(u32::MAX));
    config
}
