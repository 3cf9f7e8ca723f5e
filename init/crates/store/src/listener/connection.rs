//! Connections of all kinds, read and written alike.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

use bytes::{Buf as _, Bytes};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::guests::Guest;
use crate::tls::Doorman;

/// A connection as it is accepted.
#[derive(Debug)]
pub(super) enum RawStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl RawStream {
    /// Waits for the first byte, or the end.
    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
        }
    }

    pub(super) fn plain(self) -> Transport {
        match self {
            Self::Tcp(stream) => Transport::Tcp(stream),
            Self::Unix(stream) => Transport::Unix(stream),
        }
    }

    pub(super) async fn handshake(self, doorman: &Doorman) -> io::Result<Transport> {
        let acceptor = TlsAcceptor::from(Arc::clone(&doorman.config));
        Ok(match self {
            Self::Tcp(stream) => Transport::TcpTls(Box::new(acceptor.accept(stream).await?)),
            Self::Unix(stream) => Transport::UnixTls(Box::new(acceptor.accept(stream).await?)),
        })
    }
}

/// A stream of any kind.
#[derive(Debug)]
pub(super) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    TcpTls(Box<TlsStream<TcpStream>>),
    UnixTls(Box<TlsStream<UnixStream>>),
}

impl Transport {
    /// The certificates that the other side has shown, if it had to, its own first.
    pub(super) fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => None,
            Self::TcpTls(stream) => stream.get_ref().1.peer_certificates(),
            Self::UnixTls(stream) => stream.get_ref().1.peer_certificates(),
        }
    }
}

/// A connection on which something was said.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Transport,
    guest: Option<Arc<Guest>>,
    /// What was read of it already.
    opening: Bytes,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    pub(super) fn new(
        stream: Transport,
        guest: Option<Arc<Guest>>,
        opening: Bytes,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self { stream, guest, opening, _place: place }
    }

    /// The certificate that the other side has shown and proved, if it had to.
    pub(crate) fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.stream.peer_certificates()?.first()
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

macro_rules! delegate {
    ($transport:expr, $stream:ident => $call:expr) => {
        match $transport {
            Transport::Tcp($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Transport::Unix($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Transport::TcpTls($stream) => {
                let $stream = Pin::new(&mut **$stream);
                $call
            }
            Transport::UnixTls($stream) => {
                let $stream = Pin::new(&mut **$stream);
                $call
            }
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self.get_mut(), stream => stream.poll_read(context, buffer))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(guest) = &self.guest {
            guest.check(context)?;
        }
        if self.opening.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let bytes = self.opening.len().min(buffer.remaining());
        buffer.put_slice(self.opening.get(..bytes).unwrap_or_default());
        self.opening.advance(bytes);
        if self.opening.is_empty() {
            // Not an empty part of a larger piece of memory.
            self.opening = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut task::Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(&mut self.get_mut().stream, stream => stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(&mut self.get_mut().stream, stream => stream.poll_write_vectored(context, buffers))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Transport::Tcp(stream) => stream.is_write_vectored(),
            Transport::Unix(stream) => stream.is_write_vectored(),
            Transport::TcpTls(stream) => stream.is_write_vectored(),
            Transport::UnixTls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        delegate!(&mut self.get_mut().stream, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        delegate!(&mut self.get_mut().stream, stream => stream.poll_shutdown(context))
    }
}
