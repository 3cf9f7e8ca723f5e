//! Mutual TLS, with certificates that change while the server runs.

use std::path::Path;

use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::authority::Authority;
use crate::servers::{Server, within};
use crate::waiting::wait_until;

async fn get(stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> std::io::Result<String> {
    exchange(stream, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> std::io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    within("an HTTP answer", stream.read_to_string(&mut answer)).await?;
    Ok(answer)
}

/// The answer to an HTTP request without TLS.
pub(crate) async fn plain_get(port: u16, path: &str) -> String {
    get(TcpStream::connect(("127.0.0.1", port)).await.unwrap(), path).await.unwrap()
}

/// The same, of one that is given as a whole.
pub(crate) async fn plain(port: u16, request: &str) -> String {
    exchange(TcpStream::connect(("127.0.0.1", port)).await.unwrap(), request).await.unwrap()
}

fn write_pair(directory: &Path, (certificate, key): &(rcgen::Certificate, KeyPair)) {
    // By rename, the key first: the server may look at any moment.
    for (name, text) in [("server.key", key.serialize_pem()), ("server.crt", certificate.pem())] {
        std::fs::write(directory.join("new"), text).unwrap();
        std::fs::rename(directory.join("new"), directory.join(name)).unwrap();
    }
}

/// A store with the files of a directory.
fn serve(directory: &Path) -> Server {
    let path = |name: &str| directory.join(name).display().to_string();
    let flags = [
        format!("--cert-file={}", path("server.crt")),
        format!("--key-file={}", path("server.key")),
        format!("--trusted-ca-file={}", path("ca.crt")),
        "--client-cert-auth".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Server::spawn(Path::new(env!("CARGO_BIN_EXE_keelson-store")), &flags)
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
    std::fs::write(path("ca.crt"), authority.pem()).unwrap();
    let server = serve(directory.path());

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

/// A request on a connection that stays open, and whether it is answered.
async fn ask_again(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<()> {
    stream.write_all(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_believed_no_more_is_shown_out() {
    let (former, next) = (Authority::new(), Authority::new());
    let directory = tempfile::TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let trust = |text: String| {
        std::fs::write(path("new"), text).unwrap();
        std::fs::rename(path("new"), path("ca.crt")).unwrap();
    };
    write_pair(directory.path(), &former.issue());
    trust(former.pem());
    let server = serve(directory.path());
    let (of_former, of_next) = (former.issue(), next.issue());
    let [by_former, by_next] = [&of_former, &of_next].map(|identity| former.connector(Some(identity)));
    wait_until("the server answers", async || ask(&by_former, server.port).await.is_ok()).await;
    let stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    let mut kept = by_former.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
    within("an answer", ask_again(&mut kept)).await.unwrap();

    trust(former.pem() + &next.pem());
    wait_until("both are believed", async || ask(&by_next, server.port).await.is_ok()).await;
    // Longer than until the next look at who is there.
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    within("an answer", ask_again(&mut kept)).await.expect("it is believed as before");

    trust(next.pem());
    let mut rest = Vec::new();
    let end = within("the end of the connection", kept.read_to_end(&mut rest)).await;
    assert!(end.is_err() || rest.is_empty(), "{rest:?}");
    assert!(ask(&by_former, server.port).await.is_err());
    ask(&by_next, server.port).await.expect("the others go on");
    assert!(server.log().contains("believed no more"));
}
