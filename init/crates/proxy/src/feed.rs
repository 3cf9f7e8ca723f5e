//! How the proxy is told of API servers, and asked how they are.
//!
//! A unix socket for root; a line of JSON is a request, and each has one line as its answer. A set is always whole, so
//! there is no order of changes to get wrong; its version grows, and an older one than the applied one is refused, so
//! that a late sender cannot undo a newer decision. The version counts within a boot.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keelson_pki::TrustAnchors;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::pool::Pool;

/// A cluster has five control planes; with two addresses each that leaves room.
pub const ENDPOINTS_MAX: usize = 64;
const LINE_MAX: u64 = 256 * 1024;
const CLIENTS_MAX: usize = 8;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const EXCHANGE_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Set {
    pub version: u64,
    /// The authorities by which API servers are known, PEM: more than one while they are exchanged.
    pub authority: String,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// This node's own, which is preferred while it is well.
    #[serde(default)]
    pub local: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    #[error("version {version} is older than the applied one, {applied}")]
    Old { version: u64, applied: u64 },
    #[error("{count} endpoints; at most {ENDPOINTS_MAX} are possible")]
    TooMany { count: usize },
    #[error("there is no endpoint in it")]
    Empty,
    #[error("the authority is no certificate")]
    Authority,
}

impl Set {
    pub fn authority(&self) -> Result<TrustAnchors, SetError> {
        TrustAnchors::from_pem(&self.authority).map_err(|_| SetError::Authority)
    }

    pub fn check(&self) -> Result<(), SetError> {
        match self.endpoints.len() {
            0 => Err(SetError::Empty),
            count if count > ENDPOINTS_MAX => Err(SetError::TooMany { count }),
            _ => self.authority().map(|_| ()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    Set(Set),
    Status {},
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    Applied { version: u64 },
    Status(Status),
    Refused { reason: String },
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// 0 while the set is the one that was kept.
    pub version: u64,
    /// Connections that wait for a server.
    pub waiting: u64,
    pub endpoints: Vec<EndpointStatus>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointStatus {
    pub address: SocketAddr,
    pub local: bool,
    pub state: crate::health::State,
    /// Why it is not ready, in plain words.
    pub reason: String,
    /// Of the probes' answers, smoothed.
    pub round_trip_milliseconds: Option<u64>,
    pub connections: u64,
    pub connections_total: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
    /// How often it was given up.
    pub evictions: u64,
}

/// Listens, replacing the socket that a former process left.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

pub async fn serve(listener: UnixListener, pool: Arc<Pool>) -> std::convert::Infallible {
    let slots = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        // The semaphore is never closed.
        let slot = Arc::clone(&slots).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) if is_allowed(&stream) => {
                let pool = Arc::clone(&pool);
                tokio::spawn(async move {
                    // Who goes away in the middle is told nothing more.
                    let _ = converse(stream, &pool).await;
                    drop(slot);
                });
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Root, and this process' own account.
fn is_allowed(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
}

async fn converse(stream: UnixStream, pool: &Arc<Pool>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        (&mut stream).take(LINE_MAX).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Ok(());
        }
        let reply = match serde_json::from_slice(&line) {
            Ok(Request::Status {}) => Reply::Status(pool.status()),
            Ok(Request::Set(set)) => match pool.apply(&set) {
                Ok(()) => Reply::Applied { version: set.version },
                Err(error) => Reply::Refused { reason: error.to_string() },
            },
            Err(error) => Reply::Refused { reason: error.to_string() },
        };
        let mut bytes = serde_json::to_vec(&reply)?;
        bytes.push(b'\n');
        stream.get_mut().write_all(&bytes).await?;
    }
}

/// The other end: one request, one answer.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    pub async fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self { stream: BufReader::new(UnixStream::connect(path).await?) })
    }

    pub async fn ask(&mut self, request: &Request) -> io::Result<Reply> {
        let mut bytes = serde_json::to_vec(request)?;
        bytes.push(b'\n');
        let exchange = async {
            self.stream.get_mut().write_all(&bytes).await?;
            let mut line = Vec::new();
            (&mut self.stream).take(LINE_MAX).read_until(b'\n', &mut line).await?;
            Ok(serde_json::from_slice(&line)?)
        };
        timeout(EXCHANGE_DEADLINE, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}
