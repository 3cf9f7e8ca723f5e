//! A plain client of the API, with whatever certificate a test wants to show.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, client::conn::http1, header::HeaderMap};
use hyper_util::rt::TokioIo;
use keelson_pki::{Authority, Pair};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, crypto::aws_lc_rs, version::TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::fixture::Fixture;

/// Longer than any of it takes, so that a failure is told apart from a slow machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{:?} is not JSON: {error}", self.text))
    }

    /// The `code` and the `field` of a refusal.
    pub(crate) fn refusal(&self) -> (String, String) {
        let json = self.json();
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        (text("code"), text("field"))
    }
}

pub(crate) fn identity(pair: &Pair) -> Identity {
    (vec![pair.certificate().clone()], pair.private_key())
}

/// Sends a request over TLS; `None` when the connection is refused before an answer comes.
pub(crate) async fn ask(
    fixture: &Fixture,
    identity: Option<Identity>,
    method: &str,
    path: &str,
    body: &str,
) -> Option<Answer> {
    let response = stream(fixture, identity, &[&TLS13], method, path, body).await?;
    Some(read(response).await)
}

/// The same with the answer's body unread, and with versions of TLS.
pub(crate) async fn stream(
    fixture: &Fixture,
    identity: Option<Identity>,
    versions: &[&'static SupportedProtocolVersion],
    method: &str,
    path: &str,
    body: &str,
) -> Option<Response<Incoming>> {
    let asking = async { send(connect(fixture, identity, versions).await?, method, path, body).await };
    tokio::time::timeout(DEADLINE, asking).await.expect("an answer in time")
}

/// A connection on which nothing was asked yet.
pub(crate) async fn connect(
    fixture: &Fixture,
    identity: Option<Identity>,
    versions: &[&'static SupportedProtocolVersion],
) -> Option<TlsStream<TcpStream>> {
    let authority = fixture.member();
    let authority: &Authority = authority.authority(keelson_pki::AuthorityKind::Api).expect("a control plane");
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone()).expect("a root");
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots);
    let config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).expect("a client's certificate"),
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(fixture.address).await.expect("connected");
    let name = ServerName::try_from(fixture.address.ip().to_string()).expect("an address");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()
}

/// Sends a request over the unix socket.
pub(crate) async fn ask_locally(socket: &Path, method: &str, path: &str, body: &str) -> Answer {
    let asking = async {
        let stream = loop {
            match UnixStream::connect(socket).await {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        read(send(stream, method, path, body).await.expect("an answer")).await
    };
    tokio::time::timeout(DEADLINE, asking).await.expect("an answer in time")
}

async fn send<S>(stream: S, method: &str, path: &str, body: &str) -> Option<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method.parse::<Method>().expect("a method"))
        .uri(path)
        .header("host", "node")
        .body(Full::new(Bytes::from(body.to_owned())))
        .expect("a request");
    sender.send_request(request).await.ok()
}

pub(crate) async fn read(response: Response<Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let bytes =
        tokio::time::timeout(DEADLINE, body.collect()).await.expect("a body in time").expect("a body").to_bytes();
    let text = String::from_utf8(bytes.to_vec()).expect("text");
    Answer { status: StatusCode::as_u16(&head.status), headers: head.headers, text }
}
