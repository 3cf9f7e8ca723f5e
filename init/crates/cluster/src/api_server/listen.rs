//! The two listeners.

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use keelson_api::PORT;
use keelson_pki::Pair;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
};
use tokio_rustls::TlsAcceptor;

use super::{
    connection::{serve_tls, serve_unix},
    respond::with_causes,
    router::Context,
    slots::Slots,
    sources::NodeSource,
    tls::{self, TlsError},
};
use crate::node::Node;

/// Connections over TLS at a time; operators and their scripts are few, and nodes ask in turn.
const CONNECTIONS_MAX: usize = 128;

/// Connections over the unix socket at a time.
const LOCAL_CONNECTIONS_MAX: usize = 32;

/// After what went wrong (an address in use, no descriptors left), the pause before the next try.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Only root, and this process's own account.
const SOCKET_MODE: u32 = 0o600;

/// Where the API answers.
#[derive(Clone, Debug)]
pub struct Endpoints {
    pub tcp: SocketAddr,
    pub unix: PathBuf,
}

impl Endpoints {
    /// All addresses of the node, and the socket below `/run`.
    pub fn of(node: &Node) -> Self {
        Self { tcp: (Ipv6Addr::UNSPECIFIED, PORT).into(), unix: node.paths.own().join("api.sock") }
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ListenError {
    #[error("cannot listen on {address}")]
    Tcp { address: SocketAddr, source: io::Error },
    #[error("cannot listen on {}", path.display())]
    Unix { path: PathBuf, source: io::Error },
    #[error("cannot tell PID 1 that the API answers")]
    Ready { source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Serves for ever, from before the node has a cluster. `report` is told of what goes wrong, once for each time.
pub async fn serve(node: Arc<Node>, nodes: Arc<dyn NodeSource>, endpoints: Endpoints, report: fn(&str)) {
    let context = loop {
        match Context::new(Arc::clone(&node), Arc::clone(&nodes)) {
            Ok(context) => break Arc::new(context),
            Err(error) => report(&with_causes(&error)),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    };
    tokio::join!(
        repeat(report, || serve_socket(Arc::clone(&context), &endpoints.unix)),
        repeat(report, || serve_port(Arc::clone(&context), endpoints.tcp)),
    );
}

/// Does it again after each failure.
async fn repeat<F: Future<Output = ListenError>>(report: fn(&str), serve: impl Fn() -> F) {
    let mut last = String::new();
    loop {
        let error = with_causes(&serve().await);
        if error != last {
            report(&error);
            last = error;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn serve_socket(context: Arc<Context>, path: &Path) -> ListenError {
    let bind = || {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
        Ok(listener)
    };
    let failed = |source| ListenError::Unix { path: path.to_path_buf(), source };
    let listener = match bind() {
        Ok(listener) => listener,
        Err(source) => return failed(source),
    };
    // From here on this process answers: the port follows when it is known whether there is a cluster.
    if let Err(source) = keelson_control::notify::ready() {
        return ListenError::Ready { source };
    }
    let slots = Arc::new(Semaphore::new(LOCAL_CONNECTIONS_MAX));
    loop {
        // The semaphore is never closed.
        let slot = Arc::clone(&slots).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let context = Arc::clone(&context);
                tokio::spawn(async move {
                    serve_unix(context, stream).await;
                    drop(slot);
                });
            }
            // A peer that is gone already, or no descriptors left.
            Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }
}

async fn serve_port(context: Arc<Context>, address: SocketAddr) -> ListenError {
    // A member shows no certificate but its own, from its first moment on: who has pinned that takes another for an attack.
    context.node.knows_its_cluster().await;
    let failed = |source| ListenError::Tcp { address, source };
    let listener = match bind(address).await {
        Ok(listener) => listener,
        Err(source) => return failed(source),
    };
    let mut shown = match Shown::of(&context.node) {
        Ok(shown) => shown,
        Err(error) => return error.into(),
    };
    let slots = Slots::new(CONNECTIONS_MAX);
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(RETRY_PAUSE).await;
            continue;
        };
        let slot = slots.take(peer.ip()).await;
        if let Err(error) = shown.refresh(&context.node) {
            return error.into();
        }
        let (context, acceptor) = (Arc::clone(&context), shown.acceptor.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = serve_tls(context, acceptor, stream, peer.ip(), &slot) => {}
                () = slot.is_recalled() => {}
            }
        });
    }
}

/// The certificate that is shown: a member's own, and one that nobody can trust while there is no cluster.
struct Shown {
    acceptor: TlsAcceptor,
    serving: Option<watch::Receiver<Arc<Pair>>>,
}

impl Shown {
    fn of(node: &Node) -> Result<Self, TlsError> {
        let (config, serving) = match node.member_now() {
            Some(member) => {
                let mut serving = member.api_serving();
                let pair = Arc::clone(&serving.borrow_and_update());
                (tls::server_config(&pair, &member.trust().api)?, Some(serving))
            }
            None => (tls::passing_config(node.name(), node.clock())?, None),
        };
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), serving })
    }

    fn refresh(&mut self, node: &Node) -> Result<(), TlsError> {
        let is_stale = match &self.serving {
            Some(serving) => serving.has_changed().unwrap_or(false),
            None => node.member_now().is_some(),
        };
        if is_stale {
            *self = Self::of(node)?;
        }
        Ok(())
    }
}

/// A kernel without IPv6 has no `[::]`; then all IPv4 addresses are meant.
async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(_) if address.ip() == Ipv6Addr::UNSPECIFIED => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}
