//! A small client of the Kubernetes API: JSON over HTTP/2 over TLS, with a client certificate.
//!
//! What keelson-cluster needs is few requests on few objects, so a client library with its own types for all of Kubernetes would be
//! the larger part of this process. One connection carries all requests and watches; it is made again when it breaks, and what only
//! asks is asked once more then. Every request has a deadline, watches excepted, which end when the server ends them or the
//! connection's pings go unanswered.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use keelson_pki::{Pair, TrustAnchors};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

mod watch;

pub use watch::{Watch, WatchEvent};

const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// A server that vanished is noticed after two of these, watches included.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// Lists of nodes are the largest answers; a thousand nodes take about ten megabytes.
const ANSWER_MAX: usize = 32 << 20;
/// Who changed a field, as the API server records it.
const FIELD_MANAGER: &str = "keelson";

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the client's certificate is not usable")]
    Certificate(#[source] rustls::Error),
    #[error("connecting to {server}")]
    Connect { server: SocketAddr, source: std::io::Error },
    #[error("{server} did not accept a connection in time")]
    ConnectTimeout { server: SocketAddr },
    #[error("talking to the Kubernetes API")]
    Http(#[source] hyper::Error),
    #[error("the Kubernetes API did not answer in time")]
    Timeout,
    #[error("the request cannot be sent")]
    Request(#[from] hyper::http::Error),
    #[error("the Kubernetes API answered something that is no JSON")]
    Answer(#[source] serde_json::Error),
    #[error("the Kubernetes API answered more than {ANSWER_MAX} bytes")]
    TooLarge,
    #[error("the Kubernetes API refused {method} {path}: {status}: {message}")]
    Refused { method: Method, path: String, status: StatusCode, message: String },
}

impl ClientError {
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: StatusCode::NOT_FOUND, .. })
    }

    /// The object changed in between; read it again.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: StatusCode::CONFLICT, .. })
    }
}

pub struct Client {
    server: SocketAddr,
    tls: TlsConnector,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Client").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Client {
    /// A client that trusts `authority` for the server and shows `identity`; without one it is anonymous.
    pub fn new(server: SocketAddr, authority: &TrustAnchors, identity: Option<&Pair>) -> Result<Self, ClientError> {
        let roots = authority.roots().map_err(ClientError::Certificate)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(ClientError::Certificate)?
            .with_root_certificates(roots);
        let mut config = match identity {
            Some(pair) => builder
                .with_client_auth_cert(vec![pair.certificate().clone()], pair.private_key())
                .map_err(ClientError::Certificate)?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { server, tls: TlsConnector::from(Arc::new(config)), connection: Mutex::new(None) })
    }

    pub async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.json(Method::GET, path, None).await
    }

    /// The body of any answer, without looking at it: for health paths.
    pub async fn probe(&self, path: &str, deadline: Duration) -> Result<(StatusCode, Bytes), ClientError> {
        let attempt = async {
            let response = self.send(Method::GET, path, None).await?;
            let code = response.status();
            Ok((code, body(response).await?))
        };
        tokio::time::timeout(deadline, attempt).await.map_err(|_| ClientError::Timeout)?
    }

    /// Server-side apply: makes the object, or brings the fields named here into this state.
    pub async fn apply(&self, path: &str, object: &Value) -> Result<Value, ClientError> {
        let path = format!("{path}?fieldManager={FIELD_MANAGER}&force=true");
        self.json(Method::PATCH, &path, Some(("application/apply-patch+yaml", object))).await
    }

    pub async fn merge(&self, path: &str, change: &Value) -> Result<Value, ClientError> {
        let path = format!("{path}?fieldManager={FIELD_MANAGER}");
        self.json(Method::PATCH, &path, Some(("application/merge-patch+json", change))).await
    }

    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, ClientError> {
        self.json(Method::POST, path, Some(("application/json", object))).await
    }

    pub async fn delete(&self, path: &str) -> Result<Value, ClientError> {
        self.json(Method::DELETE, path, None).await
    }

    /// Follows the objects of a list path from `resource_version` on.
    pub async fn watch(&self, path: &str) -> Result<Watch, ClientError> {
        let attempt = self.send(Method::GET, path, None);
        let response = tokio::time::timeout(REQUEST_DEADLINE, attempt).await.map_err(|_| ClientError::Timeout)??;
        if !response.status().is_success() {
            let status = response.status();
            return Err(refusal(Method::GET, path, status, &body(response).await?));
        }
        Ok(Watch::new(response.into_body()))
    }

    async fn json(&self, method: Method, path: &str, content: Option<(&str, &Value)>) -> Result<Value, ClientError> {
        let content = match content {
            Some((kind, value)) => Some((kind, serde_json::to_vec(value).map_err(ClientError::Answer)?)),
            None => None,
        };
        let is_question = method == Method::GET;
        let attempt = async {
            let response = match self.send(method.clone(), path, content).await {
                // The proxy resets what leads to a server that is given up: another one can be asked the same.
                Err(ClientError::Http(_)) if is_question => {
                    self.connection.lock().await.take();
                    self.send(Method::GET, path, None).await?
                }
                sent => sent?,
            };
            let status = response.status();
            let answer = body(response).await?;
            if !status.is_success() {
                return Err(refusal(method, path, status, &answer));
            }
            serde_json::from_slice(&answer).map_err(ClientError::Answer)
        };
        tokio::time::timeout(REQUEST_DEADLINE, attempt).await.map_err(|_| ClientError::Timeout)?
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content: Option<(&str, Vec<u8>)>,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.server))
            .header(ACCEPT, HeaderValue::from_static("application/json"));
        let body = match content {
            Some((kind, bytes)) => {
                request = request.header(CONTENT_TYPE, kind);
                Full::from(bytes)
            }
            None => Full::default(),
        };
        let mut sender = self.connection().await?;
        sender.send_request(request.body(body)?).await.map_err(ClientError::Http)
    }

    /// The open connection, or a new one.
    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let mut slot = self.connection.lock().await;
        if let Some(sender) = slot.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let sender = tokio::time::timeout(CONNECT_DEADLINE, self.connect())
            .await
            .map_err(|_| ClientError::ConnectTimeout { server: self.server })??;
        *slot = Some(sender.clone());
        Ok(sender)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let connect_error = |source| ClientError::Connect { server: self.server, source };
        let stream = TcpStream::connect(self.server).await.map_err(connect_error)?;
        stream.set_nodelay(true).map_err(connect_error)?;
        let name = ServerName::from(self.server.ip());
        let stream = self.tls.connect(name, stream).await.map_err(connect_error)?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_INTERVAL)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ClientError::Http)?;
        tokio::spawn(async move {
            // Its end shows at the next request, which makes a new one.
            let _ = connection.await;
        });
        Ok(sender)
    }
}

async fn body(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let limited = http_body_util::Limited::new(response.into_body(), ANSWER_MAX);
    let collected = limited.collect().await.map_err(|error| match error.downcast::<hyper::Error>() {
        Ok(error) => ClientError::Http(*error),
        Err(_) => ClientError::TooLarge,
    })?;
    Ok(collected.to_bytes())
}

/// A refusal is a `Status` object; its message is for people.
fn refusal(method: Method, path: &str, status: StatusCode, answer: &[u8]) -> ClientError {
    let message = serde_json::from_slice::<Value>(answer)
        .ok()
        .and_then(|value| value.get("message")?.as_str().map(str::to_owned))
        .unwrap_or_else(|| String::from_utf8_lossy(answer).chars().take(200).collect());
    ClientError::Refused { method, path: path.to_owned(), status, message }
}

#[cfg(test)]
pub(crate) mod tests;
