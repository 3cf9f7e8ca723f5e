//! A worker's way to a control plane: a client that asks for [`CONTROL_PLANE_NAME`] is passed on to one, and its TLS with it. The worker sees
//! nothing of what is said, and has no part in who is believed.

use std::io;
use std::time::Duration;

use keelson_api::CONTROL_PLANE_NAME;
use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::connection::watch_peer;
use crate::worker::{self, Worker};

/// A first message with keys of several kinds has about two KiB.
const HELLO_MAX: usize = 16 * 1024;
/// Before more of it is looked for: what has arrived is left in the socket, which is therefore always readable.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// For one control plane; the next is tried after it.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// Whether the client wants to be passed on. Takes nothing from the stream.
///
/// # Errors
///
/// Those of recv(2). What is no TLS is for the handshake to refuse.
pub(super) async fn is_wanted(stream: &TcpStream) -> io::Result<bool> {
    let mut bytes = vec![0; HELLO_MAX];
    let mut seen = 0;
    loop {
        let length = stream.peek(&mut bytes).await?;
        if length == 0 || length == HELLO_MAX {
            return Ok(false);
        }
        if length == seen {
            sleep(LOOK_AGAIN).await;
            continue;
        }
        seen = length;
        let mut acceptor = Acceptor::default();
        let mut rest = bytes.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            acceptor.read_tls(&mut rest)?;
        }
        match acceptor.accept() {
            Ok(Some(hello)) => return Ok(hello.client_hello().server_name() == Some(CONTROL_PLANE_NAME)),
            Ok(None) => {}
            Err(_) => return Ok(false),
        }
    }
}

/// Passes everything on until both ends have had enough. Without a control plane that takes it the connection ends.
pub(super) async fn pass_on(worker: &Worker, mut stream: TcpStream) {
    for endpoint in worker::endpoints(&worker.settings_now()) {
        let Ok(Ok(mut control_plane)) = timeout(CONNECT_DEADLINE, TcpStream::connect(&endpoint)).await else {
            continue;
        };
        if watch_peer(&control_plane).is_ok() {
            // Whoever is left learns by the end of the stream that the other has gone.
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut control_plane).await;
        }
        return;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::ClientConnection;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    fn hello(name: &str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The bytes arrive in two pieces.
    async fn wanted(bytes: &[u8]) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let server = listener.accept().await.unwrap().0;
        let (first, second) = bytes.split_at(bytes.len() / 2);
        client.write_all(first).await.unwrap();
        let sending = async {
            sleep(LOOK_AGAIN * 3).await;
            client.write_all(second).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let (wanted, ()) = tokio::join!(is_wanted(&server), sending);
        // Nothing was taken.
        let mut again = vec![0; HELLO_MAX];
        assert!(server.peek(&mut again).await.unwrap() > 0);
        wanted.unwrap()
    }

    #[tokio::test]
    async fn who_names_a_control_plane_is_passed_on_and_nobody_else() {
        assert!(wanted(&hello(CONTROL_PLANE_NAME)).await);
        assert!(!wanted(&hello("w1")).await);
        assert!(!wanted(&hello("192.0.2.1")).await);
        assert!(!wanted(b"GET / HTTP/1.1\r\nHost: control-plane\r\n\r\n").await);
    }
}
