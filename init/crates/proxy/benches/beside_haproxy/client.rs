//! A client of the Kubernetes API behind a balancer.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use keelson_pki::Authority;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

#[derive(Clone)]
pub(crate) struct Client {
    tls: TlsConnector,
    address: SocketAddr,
}

pub(crate) struct Connection(SendRequest<Empty<Bytes>>);

impl Client {
    pub(crate) fn new(authority: &Authority, address: SocketAddr) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { tls: TlsConnector::from(Arc::new(config)), address }
    }

    pub(crate) async fn connect(&self) -> std::io::Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(ServerName::from(self.address.ip()), stream).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        Ok(Connection(sender))
    }
}

impl Connection {
    pub(crate) async fn ask(&mut self, path: &str) -> std::io::Result<Bytes> {
        let request = Request::builder().uri(path).header("host", "kubernetes").body(Empty::new());
        let response =
            self.0.send_request(request.map_err(std::io::Error::other)?).await.map_err(std::io::Error::other)?;
        Ok(response.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes())
    }
}
