//! Asks an API server all the time whether it is ready, over a connection that is kept.
//!
//! The deadline for an answer follows from how long answers take: a server on a busy or emulated machine that needs a
//! quarter of a second is not dead after half of one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use keelson_pki::TrustAnchors;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::health::Finding;
use crate::pool::{Pool, Target};
use crate::sockets;

/// From the beginning of one question to the next.
const INTERVAL: Duration = Duration::from_millis(500);
/// With one server there is nothing to choose.
const INTERVAL_ALONE: Duration = Duration::from_secs(2);
const DEADLINE_MIN: Duration = Duration::from_millis(500);
const DEADLINE_MAX: Duration = Duration::from_secs(5);
/// So many times the usual round trip are no accident.
const DEADLINE_FACTOR: u32 = 8;
/// The names of checks that failed; what is behind them is nobody's business here.
const ANSWER_MAX: usize = 64 * 1024;

type Connection = SendRequest<Empty<Bytes>>;

/// Probes until the server leaves the set.
pub async fn run(pool: Arc<Pool>, target: Arc<Target>) {
    let mut targets = pool.targets();
    let mut authority = pool.authority();
    let mut connection = None;
    let mut last = Instant::now();
    loop {
        let begun = Instant::now();
        if authority.has_changed().unwrap_or(false) {
            connection = None;
        }
        let trusted = authority.borrow_and_update().clone();
        let (finding, reason) = match trusted {
            Some(trusted) => ask(&target, &trusted, &mut connection).await,
            None => (Finding::Unreachable, "its authority is not known yet".to_owned()),
        };
        pool.take(&target, finding, reason, begun.duration_since(last));
        last = begun;
        let alone = targets.borrow().len() == 1;
        let interval = spread(if alone { INTERVAL_ALONE } else { INTERVAL }, begun);
        tokio::select! {
            () = tokio::time::sleep_until(begun + interval) => {}
            gone = left(&mut targets, &target) => if gone { return },
        }
        if !targets.borrow().iter().any(|other| Arc::ptr_eq(other, &target)) {
            return;
        }
    }
}

/// Waits for a change of the set, and says whether the server is still in it.
async fn left(targets: &mut tokio::sync::watch::Receiver<Vec<Arc<Target>>>, target: &Arc<Target>) -> bool {
    let gone = |targets: &Vec<Arc<Target>>| !targets.iter().any(|other| Arc::ptr_eq(other, target));
    targets.wait_for(gone).await.is_ok()
}

/// A tenth more or less, so that nodes do not ask in step. The clock's low digits are chance enough.
fn spread(interval: Duration, now: Instant) -> Duration {
    let chance = now.elapsed().subsec_nanos() % 200;
    interval * (900 + chance) / 1000
}

async fn ask(target: &Target, authority: &TrustAnchors, connection: &mut Option<Connection>) -> (Finding, String) {
    let deadline =
        target.round_trip().map_or(DEADLINE_MAX, |usual| (usual * DEADLINE_FACTOR).clamp(DEADLINE_MIN, DEADLINE_MAX));
    let asking = async {
        let mut sender = match connection.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => connect(target.address, authority).await?,
        };
        let begun = Instant::now();
        let request = Request::builder().uri("/readyz").header("host", "kubernetes").body(Empty::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(ProbeError::Body)?;
        Ok::<_, ProbeError>((sender, status, body.to_bytes(), begun.elapsed()))
    };
    match timeout(deadline, asking).await {
        Ok(Ok((sender, status, body, round_trip))) => {
            *connection = Some(sender);
            target.answered_after(round_trip);
            if status.is_success() {
                return (Finding::Ready, String::new());
            }
            (Finding::NotReady, format!("/readyz answers {status} {}", failed_checks(&body)).trim_end().to_owned())
        }
        Ok(Err(error)) => (Finding::Unreachable, crate::server::chain(&error)),
        Err(_) => (Finding::Unreachable, format!("no answer within {} ms", deadline.as_millis())),
    }
}

fn failed_checks(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let failed: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("[-]")).take(4).collect();
    failed.join("; ").chars().filter(|character| !character.is_control()).take(200).collect()
}

#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("connecting")]
    Connect(#[from] std::io::Error),
    #[error("its authority cannot be used")]
    Tls(#[from] rustls::Error),
    #[error("asking")]
    Http(#[from] hyper::Error),
    #[error("asking")]
    Request(#[from] hyper::http::Error),
    #[error("reading its answer")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

async fn connect(address: SocketAddr, authority: &TrustAnchors) -> Result<Connection, ProbeError> {
    let stream = TcpStream::connect(address).await?;
    sockets::watch_peer(&stream).map_err(std::io::Error::from)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authority.roots()?)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::from(address.ip()), stream).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // Its end shows at the next question.
        let _ = connection.await;
    });
    Ok(sender)
}
