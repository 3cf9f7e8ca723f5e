//! A worker's way to a control plane: a client that asks for [`CONTROL_PLANE_NAME`] is passed on to one, and its TLS with it. The worker sees
//! nothing of what is said, and has no part in who is believed.
//!
//! A machine that accepts connections need not answer them: its process may hang. So the client's first message goes to one control
//! plane after the other until one says something to it; nobody has decided anything before that (RFC 8446, 2). Which one it was is kept,
//! because a nonce is good only where it was given.

use std::io;
use std::time::Duration;

use keelson_api::CONTROL_PLANE_NAME;
use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::connection::watch_peer;
use crate::join::connection::first;
use crate::worker::Worker;

/// A first message with keys of several kinds has about two KiB.
const HELLO_MAX: usize = 16 * 1024;
/// Before more of it is looked for: what has arrived is left in the socket, which is therefore always readable.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// After this the next control plane is asked as well. The first is not given up: on a machine without a processor to spare all are slow.
const STAGGER: Duration = Duration::from_secs(2);
/// For all of them, as long as a client waits.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// For the rest of what one says, once the other has gone.
const PARTING_DEADLINE: Duration = Duration::from_secs(30);

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

/// Passes everything on until both ends have had enough. Without a control plane that answers the connection ends.
pub(super) async fn pass_on(worker: &Worker, mut stream: TcpStream) {
    let mut hello = vec![0; HELLO_MAX];
    // All of it is there: it was looked at.
    let Ok(length) = stream.read(&mut hello).await else { return };
    hello.truncate(length);
    let asking = first_to_answer(worker.endpoints_for_operators(), &hello);
    let Ok(Some((endpoint, mut control_plane))) = timeout(ANSWER_DEADLINE, asking).await else { return };
    worker.set_answered(endpoint);
    both_ways(&mut stream, &mut control_plane, PARTING_DEADLINE).await;
}

/// Whoever is left learns by the end of the stream that the other has gone, and has a while to say the rest.
async fn both_ways(client: &mut TcpStream, control_plane: &mut TcpStream, parting: Duration) {
    let ((mut from_client, mut to_client), (mut answers, mut questions)) = (client.split(), control_plane.split());
    let asking = async {
        _ = tokio::io::copy(&mut from_client, &mut questions).await;
        _ = questions.shutdown().await;
    };
    let answering = async {
        _ = tokio::io::copy(&mut answers, &mut to_client).await;
        _ = to_client.shutdown().await;
    };
    tokio::pin!(asking, answering);
    tokio::select! {
        () = &mut asking => drop(timeout(parting, answering).await),
        () = &mut answering => drop(timeout(parting, asking).await),
    }
}

/// `None` once all of them have refused.
async fn first_to_answer(endpoints: Vec<String>, hello: &[u8]) -> Option<(String, TcpStream)> {
    let attempts = endpoints.into_iter().map(|endpoint| greet(endpoint, hello)).collect();
    first(attempts, STAGGER).await.ok()
}

/// Returns when the control plane has begun to answer. Its answer stays in the stream.
async fn greet(endpoint: String, hello: &[u8]) -> io::Result<(String, TcpStream)> {
    let mut stream = TcpStream::connect(&endpoint).await?;
    watch_peer(&stream)?;
    stream.write_all(hello).await?;
    match stream.peek(&mut [0]).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok((endpoint, stream)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::ClientConnection;
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

    #[tokio::test]
    async fn when_a_control_plane_ends_a_client_that_stays_is_let_go() {
        let (clients, planes) = (listener().await, listener().await);
        let _staying = TcpStream::connect(&clients.1).await.unwrap();
        let mut accepted = clients.0.accept().await.unwrap().0;
        let mut to_plane = TcpStream::connect(&planes.1).await.unwrap();
        drop(planes.0.accept().await.unwrap());
        let passing = both_ways(&mut accepted, &mut to_plane, LOOK_AGAIN);
        timeout(ANSWER_DEADLINE, passing).await.expect("it ends");
    }

    async fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        (listener, endpoint)
    }

    #[tokio::test]
    async fn a_control_plane_that_accepts_and_says_nothing_is_not_waited_for() {
        let ((absent, refusing), (silent, mute), (leaving, rude), (well, polite)) =
            (listener().await, listener().await, listener().await, listener().await);
        drop(absent);
        tokio::spawn(async move { while leaving.accept().await.is_ok() {} });
        tokio::spawn(async move {
            let mut stream = well.accept().await.unwrap().0;
            let mut hello = [0; 5];
            stream.read_exact(&mut hello).await.unwrap();
            stream.write_all(&hello).await.unwrap();
            std::future::pending::<()>().await;
        });
        let endpoints = vec![refusing.clone(), mute, rude.clone(), polite.clone()];
        let asking = timeout(ANSWER_DEADLINE, first_to_answer(endpoints, b"hello"));
        let (endpoint, mut stream) = asking.await.expect("in time").expect("an answer");
        assert_eq!(endpoint, polite);
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"hello", "something of the answer was taken");
        let mut passed_over = silent.accept().await.unwrap().0;
        let mut rest = Vec::new();
        passed_over.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"hello", "it was asked, and left alone");
        assert!(first_to_answer(vec![refusing, rude], b"hello").await.is_none());
        assert!(first_to_answer(Vec::new(), b"hello").await.is_none());
    }
}
