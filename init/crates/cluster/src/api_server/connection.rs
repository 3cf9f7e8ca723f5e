//! One connection: handshake, caller, requests.

use std::{net::IpAddr, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{
    caller::Caller,
    passage,
    router::{self, Context},
    slots::Slot,
};

/// How long a handshake may take, and then each request's header.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
const HEADER_DEADLINE: Duration = Duration::from_secs(10);

/// A connection without a certificate of the cluster's ends after this, whatever is asked over it.
const STRANGERS_LIFE: Duration = Duration::from_mins(2);

const HEADER_BYTES_MAX: usize = 16 * 1024;

/// A silent peer is asked after this long whether it is still there, and again at each interval.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// A peer that acknowledges nothing, or keeps its window shut, for this long is cut off (tcp(7), `TCP_USER_TIMEOUT`).
const USER_TIMEOUT_MILLISECONDS: u32 = 60_000;

/// Serves a connection to port 6400 until it ends. What goes wrong is the peer's business: it is the one that is told.
pub(super) async fn serve_tls(
    context: Arc<Context>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: IpAddr,
    slot: &Slot,
) {
    if watch_peer(&stream).is_err() {
        return;
    }
    let member = context.node.member_now();
    if let Some(worker) = member.as_ref().and_then(|member| member.worker.as_ref()) {
        match timeout(HANDSHAKE_DEADLINE, passage::is_wanted(&stream)).await {
            Ok(Ok(true)) => return passage::pass_on(worker, stream).await,
            Ok(Ok(false)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
    let Ok(Ok(stream)) = timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream)).await else { return };
    let certificates = stream.get_ref().1.peer_certificates();
    let caller = Caller::from_certificate(certificates.and_then(|chain| chain.first()), address);
    if let Caller::Stranger { .. } = caller {
        // What a stranger may ask takes no longer.
        _ = timeout(STRANGERS_LIFE, serve(context, stream, caller)).await;
    } else {
        // A node asks shortly and again; one that is not what it was, or was removed, is to keep no operator out.
        if let Caller::Operator { .. } = caller {
            slot.keep();
        }
        serve(context, stream, caller).await;
    }
}

/// Serves a connection to the unix socket, for root and for the account of this process.
pub async fn serve_unix(context: Arc<Context>, stream: UnixStream) {
    let allowed =
        stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw());
    if allowed {
        serve(context, stream, Caller::Root).await;
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(context: Arc<Context>, stream: S, caller: Caller) {
    let service = service_fn(move |request| router::answer(Arc::clone(&context), caller.clone(), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_header_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // A broken connection has nobody left to be told.
    let _ = connection.await;
}

/// Lets the kernel notice a peer that is gone while a log is followed that says nothing.
pub(super) fn watch_peer(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT_MILLISECONDS)?;
    sockopt::set_tcp_nodelay(stream, true)
}
