//! A proxy with its feed, and clients of the Kubernetes API behind it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use keelson_pki::Authority;
use keelson_proxy::Settings;
use keelson_proxy::feed::{Client as Feed, Endpoint, EndpointStatus, Reply, Request as FeedRequest, Set, Status};
use keelson_proxy::health::State;
use keelson_proxy::server::Server;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::api_server::{self, ApiServer};

/// Longer than any of it takes, so that a failure is told apart from a slow machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct World {
    pub(crate) authority: Authority,
    pub(crate) address: SocketAddr,
    directory: tempfile::TempDir,
    version: u64,
    proxy: JoinHandle<()>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (address, proxy) = start(&directory).await;
        Self { authority: api_server::authority(), address, directory, version: 0, proxy }
    }

    pub(crate) fn server(&self, name: &'static str) -> ApiServer {
        ApiServer::start(name, &self.authority)
    }

    /// The process ends and another begins, elsewhere on the loopback.
    pub(crate) async fn restart(&mut self) {
        self.proxy.abort();
        let _ = (&mut self.proxy).await;
        (self.address, self.proxy) = start(&self.directory).await;
    }

    pub(crate) fn kept(&self) -> PathBuf {
        self.directory.path().join("endpoints.json")
    }

    pub(crate) async fn ask(&self, request: &FeedRequest) -> Reply {
        let mut feed = Feed::connect(&self.directory.path().join("feed.sock")).await.unwrap();
        feed.ask(request).await.unwrap()
    }

    /// Tells the proxy of servers; the first is the node's own if `local`.
    pub(crate) async fn tell(&mut self, addresses: &[SocketAddr], local: bool) {
        self.version += 1;
        let set = self.set(self.version, addresses, local);
        assert_eq!(self.ask(&FeedRequest::Set(set)).await, Reply::Applied { version: self.version });
    }

    pub(crate) fn set(&self, version: u64, addresses: &[SocketAddr], local: bool) -> Set {
        let endpoint =
            |(index, address): (usize, &SocketAddr)| Endpoint { address: *address, local: local && index == 0 };
        Set {
            version,
            authority: self.authority.certificate_pem(),
            endpoints: addresses.iter().enumerate().map(endpoint).collect(),
        }
    }

    pub(crate) async fn status(&self) -> Status {
        match self.ask(&FeedRequest::Status {}).await {
            Reply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn endpoint(&self, address: SocketAddr) -> EndpointStatus {
        let status = self.status().await;
        status.endpoints.into_iter().find(|endpoint| endpoint.address == address).unwrap()
    }

    pub(crate) async fn wait_for_state(&self, address: SocketAddr, state: State) {
        let begun = Instant::now();
        while self.endpoint(address).await.state != state {
            assert!(begun.elapsed() < DEADLINE, "{address} is not {state:?}: {:?}", self.status().await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn connect(&self) -> std::io::Result<Client> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.certificate().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::from(self.address.ip());
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        let ended = tokio::spawn(async move { drop(connection.await) });
        Ok(Client { sender, ended })
    }

    /// Which server answers a new connection.
    pub(crate) async fn who(&self) -> std::io::Result<String> {
        self.connect().await?.who().await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.proxy.abort();
    }
}

async fn start(directory: &tempfile::TempDir) -> (SocketAddr, JoinHandle<()>) {
    let settings = Settings {
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        feed: directory.path().join("feed.sock"),
        kept: directory.path().join("endpoints.json"),
        drain: Duration::from_secs(1),
    };
    let server = Server::bind(settings).await.unwrap();
    let address = server.addresses()[0];
    let serving = tokio::spawn(async move { match server.serve().await {} });
    (address, serving)
}

/// A connection to some API server.
pub(crate) struct Client {
    sender: SendRequest<Empty<Bytes>>,
    ended: JoinHandle<()>,
}

impl Client {
    pub(crate) async fn who(&mut self) -> std::io::Result<String> {
        let request = Request::builder().uri("/whoami").header("host", "a").body(Empty::new()).unwrap();
        let response = self.sender.send_request(request).await.map_err(std::io::Error::other)?;
        let body = response.into_body().collect().await.map_err(std::io::Error::other)?;
        Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
    }

    /// Until the connection is gone.
    pub(crate) async fn ended(&mut self) {
        tokio::time::timeout(DEADLINE, &mut self.ended).await.expect("the connection was not ended").unwrap();
    }

    pub(crate) fn lives(&self) -> bool {
        !self.ended.is_finished()
    }
}
