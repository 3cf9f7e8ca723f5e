//! Asking whichever control plane answers.
//!
//! Of the endpoints that a token or the settings name, some may be gone: a connection to the next one is begun a quarter of
//! a second after the one before, and the first that is made is used, so that dead addresses cost fractions of a second.
//! A server is believed if its certificate leads to an authority with a right fingerprint and is a control plane's. One
//! that answers that it cannot answer is left out, and the others are asked.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt as _};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use keelson_api::{CONTROL_PLANES, ErrorBody, ErrorCode};
use keelson_pki::{Fingerprint, Pair, PinnedVerifier};
use rustls::ClientConfig;
use rustls::version::TLS13;
use rustls_pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::report;

/// Before the next endpoint is tried beside those that have not answered yet (RFC 8305, 5).
const STAGGER: Duration = Duration::from_millis(250);
/// For TCP and TLS with one endpoint; others are tried meanwhile.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Longer than the server's own deadline, so that its reason arrives.
const ANSWER_DEADLINE: Duration = Duration::from_secs(40);
/// Settings of a cluster with many control planes are a few KiB.
const ANSWER_MAX: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum PlanesError {
    #[error("there is no address to ask")]
    None,
    #[error("{}", .0.join("; "))]
    Connect(Vec<String>),
    #[error("the connection to {endpoint} broke")]
    Broken { endpoint: String, source: hyper::Error },
    #[error("the answer of {endpoint} cannot be read")]
    Body { endpoint: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{endpoint} did not answer in time")]
    Timeout { endpoint: String },
    #[error("{endpoint} sent something else than an answer of this API (status {status})")]
    Foreign { endpoint: String, status: StatusCode },
    #[error("this node's own certificate cannot be used")]
    Tls(#[from] rustls::Error),
    #[error("the request cannot be written")]
    Encode(#[from] serde_json::Error),
    #[error("the request cannot be made")]
    Request(#[from] hyper::http::Error),
}

/// What a control plane says to a request.
pub type Answer<T> = Result<T, ErrorBody>;

#[derive(Debug, Clone)]
pub struct Planes {
    /// `HOST:PORT`
    endpoints: Vec<String>,
    /// Of authorities, any of which will do.
    pins: Vec<Fingerprint>,
    /// What connections come from, one of each family; the kernel chooses for a family that has none.
    sources: Vec<IpAddr>,
}

impl Planes {
    pub fn new(endpoints: Vec<String>, pins: Vec<Fingerprint>) -> Self {
        Self { endpoints, pins, sources: Vec::new() }
    }

    /// The same, asked from these addresses of the node.
    #[must_use]
    pub fn asked_from(self, sources: &[IpAddr]) -> Self {
        Self { sources: sources.to_vec(), ..self }
    }

    /// One of them alone.
    #[must_use]
    pub fn only(&self, endpoint: String) -> Self {
        Self { endpoints: vec![endpoint], ..self.clone() }
    }

    /// Asks one control plane after the other until one has decided.
    pub async fn ask<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        identity: Option<&Pair>,
    ) -> Result<Answer<T>, PlanesError> {
        Ok(self.ask_telling(method, path, body, identity).await?.1)
    }

    /// The same, and whose answer it is.
    pub async fn ask_telling<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        identity: Option<&Pair>,
    ) -> Result<(String, Answer<T>), PlanesError> {
        let body = body.map(serde_json::to_vec).transpose()?.map(Bytes::from);
        let config = Arc::new(self.tls(identity)?);
        let mut left = self.endpoints.clone();
        loop {
            let (endpoint, stream) = connect_any(&left, &self.sources, &config).await?;
            let answer = exchange(&endpoint, stream, method.clone(), path, body.clone()).await;
            left.retain(|other| *other != endpoint);
            let passes_on = match &answer {
                Ok(Err(refusal)) => {
                    matches!(refusal.code, ErrorCode::Unavailable | ErrorCode::NotControlPlane | ErrorCode::Timeout)
                }
                Ok(Ok(_)) => false,
                Err(_) => true,
            };
            if !passes_on || left.is_empty() {
                return answer.map(|answer| (endpoint, answer));
            }
        }
    }

    fn tls(&self, identity: Option<&Pair>) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = PinnedVerifier::of_any(self.pins.clone(), Arc::clone(&provider)).organization(CONTROL_PLANES);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match identity {
            Some(pair) => builder.with_client_auth_cert(vec![pair.certificate().clone()], pair.private_key())?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// The first connection that is made to one of the endpoints.
async fn connect_any(
    endpoints: &[String],
    sources: &[IpAddr],
    config: &Arc<ClientConfig>,
) -> Result<(String, TlsStream<TcpStream>), PlanesError> {
    if endpoints.is_empty() {
        return Err(PlanesError::None);
    }
    let attempts: Vec<_> = endpoints.iter().map(|endpoint| connect_from(endpoint, sources, config)).collect();
    first(attempts, STAGGER).await.map_err(PlanesError::Connect)
}

/// The first attempt that succeeds, or what went wrong with all. The next one is begun when one has failed, and else after `stagger`, beside
/// those that go on.
pub(crate) async fn first<T, E>(
    waiting: Vec<impl Future<Output = Result<T, E>>>,
    stagger: Duration,
) -> Result<T, Vec<E>> {
    let mut waiting = waiting.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failures = Vec::new();
    loop {
        attempts.extend(waiting.next());
        let more = waiting.len() > 0;
        tokio::select! {
            Some(attempt) = attempts.next() => match attempt {
                Ok(succeeded) => return Ok(succeeded),
                Err(reason) => failures.push(reason),
            },
            () = tokio::time::sleep(stagger), if more => {}
            else => return Err(failures),
        }
    }
}

pub(crate) async fn connect(
    endpoint: &str,
    config: &Arc<ClientConfig>,
) -> Result<(String, TlsStream<TcpStream>), String> {
    connect_from(endpoint, &[], config).await
}

async fn connect_from(
    endpoint: &str,
    sources: &[IpAddr],
    config: &Arc<ClientConfig>,
) -> Result<(String, TlsStream<TcpStream>), String> {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(|_| format!("{endpoint} is neither a name nor an address"))?;
    let connecting = async {
        let stream = open(endpoint, sources).await?;
        stream.set_nodelay(true)?;
        TlsConnector::from(Arc::clone(config)).connect(name, stream).await
    };
    match timeout(CONNECT_DEADLINE, connecting).await {
        Ok(Ok(stream)) => Ok((endpoint.to_owned(), stream)),
        Ok(Err(error)) => Err(format!("{endpoint}: {}", report::chain(&error))),
        Err(_) => Err(format!("{endpoint} does not answer")),
    }
}

async fn open(endpoint: &str, sources: &[IpAddr]) -> io::Result<TcpStream> {
    let address = endpoint.parse::<SocketAddr>().ok();
    let source = address.and_then(|to| sources.iter().find(|source| source.is_ipv4() == to.is_ipv4()));
    let (Some(address), Some(source)) = (address, source) else { return TcpStream::connect(endpoint).await };
    let socket = if source.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(*source, 0))?;
    socket.connect(address).await
}

pub(crate) async fn exchange<T: DeserializeOwned>(
    endpoint: &str,
    stream: TlsStream<TcpStream>,
    method: Method,
    path: &str,
    body: Option<Bytes>,
) -> Result<Answer<T>, PlanesError> {
    let broken = |source| PlanesError::Broken { endpoint: endpoint.to_owned(), source };
    let asking = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // It ends with the answer; what goes wrong is seen by the sender.
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(HOST, endpoint);
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body.unwrap_or_default()))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let collected = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let bytes = collected.map_err(|source| PlanesError::Body { endpoint: endpoint.to_owned(), source })?.to_bytes();
        let foreign = |_| PlanesError::Foreign { endpoint: endpoint.to_owned(), status };
        if status.is_success() {
            return serde_json::from_slice(&bytes).map(Ok).map_err(foreign);
        }
        serde_json::from_slice(&bytes).map(Err).map_err(foreign)
    };
    timeout(ANSWER_DEADLINE, asking).await.map_err(|_| PlanesError::Timeout { endpoint: endpoint.to_owned() })?
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_comes_from_the_nodes_address_of_its_family() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let seen_from = async |sources: &[&str]| {
            let sources: Vec<IpAddr> = sources.iter().map(|source| source.parse().unwrap()).collect();
            let connection = open(&endpoint, &sources).await.unwrap();
            let (_, seen) = listener.accept().await.unwrap();
            assert_eq!(connection.local_addr().unwrap(), seen);
            seen.ip().to_string()
        };
        assert_eq!(seen_from(&["fd00::7", "127.0.0.7"]).await, "127.0.0.7");
        assert_eq!(seen_from(&["fd00::7"]).await, "127.0.0.1", "the kernel's choice");
        assert_eq!(seen_from(&[]).await, "127.0.0.1");
    }
}
