//! Sockets, and the handshakes on them.
//!
//! Handshakes run beside each other, each with a deadline, and only so many at once: a client that connects and says
//! nothing holds up nobody.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Duration;

use futures::stream::Stream;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::flags::{Address, Endpoint, TlsFiles};
use crate::tls::{Reloading, TlsError};

/// TLS handshakes under way on one listener.
const MAX_HANDSHAKES: usize = 256;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept: the reason is mostly that no file descriptor is left.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("listen on {address}")]
    Bind {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A bound socket.
#[derive(Debug)]
pub(crate) struct Listener {
    name: String,
    socket: Socket,
    tls: Option<Arc<Reloading<ServerConfig>>>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub(crate) async fn bind(endpoint: &Endpoint, tls: Option<&TlsFiles>) -> Result<Self, ListenError> {
        let name = match &endpoint.address {
            Address::Tcp { host, port } => format!("{host}:{port}"),
            Address::Unix(path) => path.display().to_string(),
        };
        let failed = |source| ListenError::Bind { address: name.clone(), source };
        let socket = match &endpoint.address {
            Address::Tcp { host, port } => {
                Socket::Tcp(TcpListener::bind((host.as_str(), *port)).await.map_err(failed)?)
            }
            Address::Unix(path) => {
                // One that a former process left cannot be bound to again.
                match std::fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                    _ => {}
                }
                Socket::Unix(UnixListener::bind(path).map_err(failed)?)
            }
        };
        let tls = match tls.filter(|_| endpoint.tls) {
            Some(files) => Some(Arc::new(Reloading::server(files)?)),
            None => None,
        };
        Ok(Self { name, socket, tls })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    /// Connections, ready to be spoken on.
    pub(crate) fn incoming(self) -> impl Stream<Item = io::Result<Connection>> {
        let (ready, connections) = mpsc::channel(1);
        tokio::spawn(self.accept(ready));
        futures::stream::unfold(connections, |mut connections| async move {
            Some((Ok(connections.recv().await?), connections))
        })
    }

    /// Accepts until nobody takes the connections any more.
    async fn accept(self, ready: mpsc::Sender<Connection>) {
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = ready.closed() => return,
            };
            let raw = match accepted {
                Ok(raw) => raw,
                Err(error) => {
                    tracing::warn!(address = self.name, %error, "accept");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let Some(tls) = self.tls.clone() else {
                if ready.send(raw).await.is_err() {
                    return;
                }
                continue;
            };
            let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
            let ready = ready.clone();
            tokio::spawn(async move {
                let connection = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(&tls, raw)).await;
                drop(permit);
                match connection {
                    // Nobody is left to serve it if the send fails.
                    Ok(Ok(connection)) => drop(ready.send(connection).await),
                    Ok(Err(error)) => tracing::debug!(%error, "TLS handshake"),
                    Err(_) => tracing::debug!("TLS handshake timed out"),
                }
            });
        }
    }
}

async fn handshake(tls: &Reloading<ServerConfig>, raw: Connection) -> io::Result<Connection> {
    let acceptor = TlsAcceptor::from(tls.current());
    match raw {
        Connection::Tcp(stream) => Ok(Connection::TcpTls(Box::new(acceptor.accept(stream).await?))),
        Connection::Unix(stream) => Ok(Connection::UnixTls(Box::new(acceptor.accept(stream).await?))),
        other => Ok(other),
    }
}

impl Socket {
    async fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Connection::Tcp(stream))
            }
            Self::Unix(listener) => Ok(Connection::Unix(listener.accept().await?.0)),
        }
    }
}

/// A connection of any kind.
#[derive(Debug)]
pub(crate) enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
    TcpTls(Box<TlsStream<TcpStream>>),
    UnixTls(Box<TlsStream<UnixStream>>),
}

impl Connection {
    /// The certificate that the other side has shown and proved, if it had to.
    pub(crate) fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        let session = match self {
            Self::Tcp(_) | Self::Unix(_) => return None,
            Self::TcpTls(stream) => stream.get_ref().1,
            Self::UnixTls(stream) => stream.get_ref().1,
        };
        session.peer_certificates()?.first()
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

macro_rules! delegate {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Connection::Tcp($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Connection::Unix($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Connection::TcpTls($stream) => {
                let $stream = Pin::new(&mut **$stream);
                $call
            }
            Connection::UnixTls($stream) => {
                let $stream = Pin::new(&mut **$stream);
                $call
            }
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut task::Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, stream => stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, stream => stream.poll_write_vectored(context, buffers))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::TcpTls(stream) => stream.is_write_vectored(),
            Self::UnixTls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_shutdown(context))
    }
}
