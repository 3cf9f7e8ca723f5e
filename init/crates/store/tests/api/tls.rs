//! Mutual TLS, with certificates that change while the server runs.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::servers::{Server, wait_until, within};

async fn get(stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> std::io::Result<String> {
    exchange(stream, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> std::io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    within("an HTTP answer", stream.read_to_string(&mut answer)).await?;
    Ok(answer)
}

/// One request over TLS: status code and body.
pub(crate) async fn https_request(
    tls: &TlsConnector,
    port: u16,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> std::io::Result<(u16, String)> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let stream = tls.connect(ServerName::try_from("localhost").unwrap(), stream).await?;
    let length = body.len();
    // HTTP/1.0, so that the body comes in one piece and ends with the connection.
    let request =
        format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
    let answer = exchange(stream, &request).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(std::io::ErrorKind::InvalidData)?;
    Ok((code, body.to_owned()))
}

/// The answer to an HTTP request without TLS.
pub(crate) async fn plain_get(port: u16, path: &str) -> String {
    get(TcpStream::connect(("127.0.0.1", port)).await.unwrap(), path).await.unwrap()
}

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// The certificate as a file.
    pub(crate) fn write(&self, directory: &Path, name: &str) {
        std::fs::write(directory.join(format!("{name}.crt")), self.0.pem()).unwrap();
    }

    /// A new pair as files.
    pub(crate) fn issue_to(&self, directory: &Path, name: &str) {
        let (certificate, key) = self.issue();
        std::fs::write(directory.join(format!("{name}.crt")), certificate.pem()).unwrap();
        std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        std::fs::write(directory.join(format!("{name}.pub")), key.public_key_pem()).unwrap();
    }

    /// Certificate and key.
    fn issue(&self) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    pub(crate) fn connector(&self, identity: Option<&(rcgen::Certificate, KeyPair)>) -> TlsConnector {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            Some((certificate, key)) => {
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        TlsConnector::from(Arc::new(config))
    }
}

fn write_pair(directory: &Path, (certificate, key): &(rcgen::Certificate, KeyPair)) {
    // By rename, the key first: the server may look at any moment.
    for (name, text) in [("server.key", key.serialize_pem()), ("server.crt", certificate.pem())] {
        std::fs::write(directory.join("new"), text).unwrap();
        std::fs::rename(directory.join("new"), directory.join(name)).unwrap();
    }
}

/// The certificate that the server shows, and its answer.
async fn ask(connector: &TlsConnector, port: u16) -> std::io::Result<(CertificateDer<'static>, String)> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap();
    let certificate = certificates[0].clone().into_owned();
    Ok((certificate, get(stream, "/version").await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_need_a_certificate_of_the_authority() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let directory = tempfile::TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    write_pair(directory.path(), &authority.issue());
    std::fs::write(path("ca.crt"), authority.0.pem()).unwrap();
    let flags = [
        format!("--cert-file={}", path("server.crt").display()),
        format!("--key-file={}", path("server.key").display()),
        format!("--trusted-ca-file={}", path("ca.crt").display()),
        "--client-cert-auth".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = Server::spawn(Path::new(env!("CARGO_BIN_EXE_keelson-store")), &flags);

    let own = authority.issue();
    let connector = authority.connector(Some(&own));
    wait_until("the server answers", async || ask(&connector, server.port).await.is_ok()).await;
    let (_, answer) = ask(&connector, server.port).await.unwrap();
    assert!(answer.contains("etcdserver"), "{answer}");

    let foreign = stranger.issue();
    for identity in [None, Some(&foreign)] {
        // In TLS 1.3 the client learns of the refusal when it reads.
        let refused = ask(&authority.connector(identity), server.port).await;
        assert!(refused.is_err(), "{refused:?}");
    }
    let plain = get(TcpStream::connect(("127.0.0.1", server.port)).await.unwrap(), "/version").await;
    assert!(!plain.is_ok_and(|answer| answer.contains("etcdserver")));

    let renewed = authority.issue();
    write_pair(directory.path(), &renewed);
    wait_until("the renewed certificate is shown", async || {
        ask(&connector, server.port).await.is_ok_and(|(shown, _)| shown == *renewed.0.der())
    })
    .await;

    // One that cannot be loaded changes nothing.
    std::fs::write(path("server.crt"), "nonsense").unwrap();
    wait_until("the bad certificate is reported", async || {
        // The server looks at its files when a client comes.
        let (shown, _) = ask(&connector, server.port).await.unwrap();
        assert_eq!(shown, *renewed.0.der());
        server.log().contains("the old one stays")
    })
    .await;
}
