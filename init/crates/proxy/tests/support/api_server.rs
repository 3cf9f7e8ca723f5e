//! An API server as far as the proxy can tell: TLS, `/readyz`, and connections that live. It answers its name to any other
//! path. It can be killed, paused, made unready, and started again at the same address.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use keelson_pki::{Authority, AuthorityKind, Clock, Names, Profile, Subject};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// What is answered with many bytes.
pub(crate) const BULK: &str = "/bulk";
static BULK_BYTES: [u8; 1 << 20] = [0; 1 << 20];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mood {
    Ready,
    /// `/readyz` answers 500, everything else works.
    NotReady,
    /// Accepts and answers nothing, as a stopped process does.
    Paused,
}

pub(crate) struct ApiServer {
    pub(crate) address: SocketAddr,
    name: &'static str,
    mood: watch::Sender<Mood>,
    acceptor: TlsAcceptor,
    /// Dropping it ends every connection.
    life: Option<(watch::Sender<()>, JoinHandle<()>)>,
}

pub(crate) fn authority() -> Authority {
    Authority::create(AuthorityKind::KubernetesServing, "test", clock()).unwrap()
}

fn clock() -> Clock {
    let now = OffsetDateTime::now_utc();
    Clock { now, floor: now - time::Duration::DAY }
}

impl ApiServer {
    pub(crate) fn start(name: &'static str, authority: &Authority) -> Self {
        let pair = authority.issue(&Profile::server(Subject::named(name), Names::loopback()), clock()).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![pair.certificate().clone()], pair.private_key())
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut server = Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            name,
            mood: watch::Sender::new(Mood::Ready),
            acceptor: TlsAcceptor::from(Arc::new(config)),
            life: None,
        };
        server.start_again();
        server
    }

    pub(crate) fn start_again(&mut self) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        let listener = socket.listen(1024).unwrap();
        self.address = listener.local_addr().unwrap();
        let (life, alive) = watch::channel(());
        let work = accept(listener, self.acceptor.clone(), self.name, self.mood.subscribe(), alive);
        self.life = Some((life, tokio::spawn(work)));
    }

    /// The port refuses from here on, and every connection is gone.
    pub(crate) async fn kill(&mut self) {
        if let Some((life, listener)) = self.life.take() {
            listener.abort();
            let _ = listener.await;
            drop(life);
        }
    }

    pub(crate) fn become_(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    name: &'static str,
    mood: watch::Receiver<Mood>,
    alive: watch::Receiver<()>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // As Go has it: an answer does not wait for the acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        let (acceptor, mut mood, mut alive) = (acceptor.clone(), mood.clone(), alive.clone());
        tokio::spawn(async move {
            let serving = async {
                awake(&mut mood).await;
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(|request| answer(request, name, mood.clone()));
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            };
            tokio::select! {
                () = serving => {}
                _ = alive.changed() => {}
            }
        });
    }
}

async fn awake(mood: &mut watch::Receiver<Mood>) {
    let _ = mood.wait_for(|mood| *mood != Mood::Paused).await;
}

async fn answer(
    request: Request<Incoming>,
    name: &'static str,
    mut mood: watch::Receiver<Mood>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    awake(&mut mood).await;
    let bulk = request.uri().path() == BULK;
    let mut response = Response::new(if bulk { Full::from(BULK_BYTES.as_slice()) } else { Full::from(name) });
    if request.uri().path() == "/readyz" && *mood.borrow() == Mood::NotReady {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        *response.body_mut() = Full::from("[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed");
    }
    Ok(response)
}
