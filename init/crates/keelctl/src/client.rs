//! One request over one connection.
//!
//! A command makes one or two requests, so there is no pool. Connecting and answering have deadlines; a stream of log
//! lines has none.

use std::{cell::RefCell, error::Error as StdError, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use keelson_api::{CONTROL_PLANE_NAME, CONTROL_PLANES, ErrorBody, ErrorCode, NEXT_AUTHORITY};
use keelson_pki::{PinnedVerifier, pin};
use rustls::{ClientConfig, crypto::aws_lc_rs, version::TLS13};
use rustls_pki_types::ServerName;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    config::{Context, Endpoint, Fingerprint, Learned},
    credential::Credential,
};

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Longer than the node's own deadline for an answer, so that its reason arrives.
const ANSWER_DEADLINE: Duration = Duration::from_secs(40);

/// A list of a thousand nodes with all their conditions has about two megabytes.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("neither a host's name nor an address")]
    Name,
    #[error("the request cannot be made")]
    Build(#[source] hyper::http::Error),
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("did not accept a connection within {} s", CONNECT_DEADLINE.as_secs())]
    ConnectTimeout,
    #[error(
        "is not the node that is pinned: its authority's fingerprint is {found}, the context says {expected}; compare with \
         the node's console"
    )]
    Pin { expected: String, found: String },
    #[error("cannot establish TLS")]
    Handshake(#[source] io::Error),
    #[error("cannot use the certificate for TLS")]
    Tls(#[source] rustls::Error),
    #[error("the connection broke")]
    Request(#[source] hyper::Error),
    #[error("did not answer within {} s", ANSWER_DEADLINE.as_secs())]
    AnswerTimeout,
    #[error("cannot write the request")]
    Encode(#[source] serde_json::Error),
    #[error("cannot read the answer")]
    Body(#[source] Box<dyn StdError + Send + Sync>),
    #[error("sent something else than an answer of this API (status {status})")]
    Foreign { status: StatusCode },
}

impl ClientError {
    /// Whether the node has refused the client's certificate in the handshake. With TLS 1.3 a client learns that only
    /// when it reads the answer (RFC 8446, 4.4.3 and 6.2).
    pub(crate) fn is_certificate_refusal(&self) -> bool {
        let mut cause: Option<&(dyn StdError + 'static)> = Some(self);
        while let Some(error) = cause {
            let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            let alert = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
            if matches!(alert, Some(rustls::Error::AlertReceived(_))) {
                return true;
            }
            cause = error.source();
        }
        false
    }

    pub(crate) fn is_broken_connection(&self) -> bool {
        matches!(self, Self::Request(_))
    }

    /// Whether nothing was sent, nor will be by trying again.
    pub(crate) fn is_own_fault(&self) -> bool {
        matches!(self, Self::Build(_) | Self::Encode(_))
    }
}

/// What the node says to a request.
pub(crate) type Answer<T> = Result<T, ErrorBody>;

/// Who is to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// The node of the context.
    Node,
    /// A control plane, to which that node passes the connection on.
    ControlPlane,
}

/// Asks one node, or through it a control plane.
#[derive(Debug)]
pub(crate) struct Client {
    endpoint: Endpoint,
    name: ServerName<'static>,
    control_plane: ServerName<'static>,
    context: Context,
    learned: RefCell<Learned>,
}

impl Client {
    pub(crate) fn new(context: &Context) -> Result<Self, ClientError> {
        let endpoint = context.endpoint.clone();
        let name = endpoint.server_name().ok_or(ClientError::Name)?;
        let control_plane = ServerName::try_from(CONTROL_PLANE_NAME).map_err(|_| ClientError::Name)?;
        Ok(Self { endpoint, name, control_plane, context: context.clone(), learned: RefCell::default() })
    }

    /// From now on the cluster is known by what this context says.
    pub(crate) fn set_context(&mut self, context: Context) {
        self.context = context;
    }

    /// What the last control plane that has answered has shown.
    pub(crate) fn learned(&self) -> Learned {
        self.learned.borrow().clone()
    }

    /// Sends a request and reads the answer's JSON.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        via: Via,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        credential: Option<&Credential>,
    ) -> Result<Answer<T>, ClientError> {
        let response = match self.stream(via, method, path, body, credential).await? {
            Ok(response) => response,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let status = response.status();
        let bytes = collect(response).await?;
        serde_json::from_slice(&bytes).map(Ok).map_err(|_| ClientError::Foreign { status })
    }

    /// Sends a request and returns the answer's stream, or the refusal.
    pub(crate) async fn stream(
        &self,
        via: Via,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        credential: Option<&Credential>,
    ) -> Result<Answer<Response<Incoming>>, ClientError> {
        let exchange = self.exchange(via, method, path, body, credential);
        let response = timeout(ANSWER_DEADLINE, exchange).await.map_err(|_| ClientError::AnswerTimeout)??;
        let status = response.status();
        if status.is_success() {
            return Ok(Ok(response));
        }
        let bytes = collect(response).await?;
        serde_json::from_slice(&bytes).map(Err).map_err(|_| ClientError::Foreign { status })
    }

    async fn exchange(
        &self,
        via: Via,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        credential: Option<&Credential>,
    ) -> Result<Response<Incoming>, ClientError> {
        let request = self.request(method, path, body)?;
        let stream = timeout(CONNECT_DEADLINE, self.connect(via, credential))
            .await
            .map_err(|_| ClientError::ConnectTimeout)??;
        let shown = self.shown(&stream);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::Request)?;
        // It ends with the answer; what goes wrong is seen by the sender.
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(ClientError::Request)?;
        if let Some(shown) = shown {
            let next = response.headers().get(NEXT_AUTHORITY).and_then(|value| value.to_str().ok()?.parse().ok());
            self.learned.replace(Learned { shown: Some(shown), next });
        }
        Ok(response)
    }

    fn request(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.endpoint.authority())
            .header(USER_AGENT, concat!("keelctl/", env!("CARGO_PKG_VERSION")));
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request.body(Full::new(body.unwrap_or_default())).map_err(ClientError::Build)
    }

    async fn connect(&self, via: Via, credential: Option<&Credential>) -> Result<TlsStream<TcpStream>, ClientError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = PinnedVerifier::of_any(self.context.fingerprints(), Arc::clone(&provider));
        let (name, verifier) = match via {
            Via::Node => (self.name.clone(), Arc::new(verifier)),
            // Which of them it is does not matter.
            Via::ControlPlane => {
                (self.control_plane.clone(), Arc::new(verifier.organization(CONTROL_PLANES).any_name()))
            }
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(ClientError::Tls)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<_>);
        let mut config = match credential {
            Some(credential) => {
                let (chain, key) = credential.for_tls();
                builder.with_client_auth_cert(chain, key).map_err(ClientError::Tls)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = TcpStream::connect((self.endpoint.host.as_str(), self.endpoint.port))
            .await
            .map_err(ClientError::Connect)?;
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        connecting.await.map_err(|error| match verifier.mismatch() {
            Some(found) => ClientError::Pin { expected: self.context.fingerprint.to_string(), found },
            None => ClientError::Handshake(error),
        })
    }

    /// The pinned authority of a control plane: what a worker says of authorities is not to be believed.
    fn shown(&self, stream: &TlsStream<TcpStream>) -> Option<Fingerprint> {
        let chain = stream.get_ref().1.peer_certificates()?;
        let is_control_plane = pin::is_of(chain.first()?, CONTROL_PLANES);
        is_control_plane.then(|| Fingerprint::among(chain, &self.context.fingerprints())).flatten()
    }
}

/// A body as it is sent.
pub(crate) fn encode<B: Serialize>(body: &B) -> Result<Bytes, ClientError> {
    serde_json::to_vec(body).map(Bytes::from).map_err(ClientError::Encode)
}

async fn collect(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let collecting = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
    let collected = timeout(ANSWER_DEADLINE, collecting).await.map_err(|_| ClientError::AnswerTimeout)?;
    collected.map(http_body_util::Collected::to_bytes).map_err(ClientError::Body)
}

/// Whether the node says that a control plane is to be asked.
pub(crate) fn is_for_control_planes(refusal: &ErrorBody) -> bool {
    refusal.code == ErrorCode::NotControlPlane
}

/// Whether the node says that it does not know the caller.
pub(crate) fn is_unauthenticated(refusal: &ErrorBody) -> bool {
    refusal.code == ErrorCode::Unauthenticated
}
