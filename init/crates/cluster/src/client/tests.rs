use std::convert::Infallible;
use std::sync::Mutex as StdMutex;

use hyper::service::service_fn;
use keelson_pki::{AuthorityKind, Profile, Subject};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::membership::Membership;
use crate::membership::tests::found_in_memory;

/// An API server that remembers what it was asked and answers from a list.
pub(crate) struct Server {
    address: SocketAddr,
    membership: Membership,
    seen: Arc<StdMutex<Vec<String>>>,
    connections: Arc<StdMutex<Vec<tokio::task::JoinHandle<()>>>>,
}

impl Server {
    pub(crate) async fn start(answer: fn(&str) -> (u16, String)) -> Self {
        let membership = found_in_memory();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Self { address, membership, seen: Arc::default(), connections: Arc::default() };
        let tls = TlsAcceptor::from(Arc::new(server.tls()));
        let (seen, connections) = (Arc::clone(&server.seen), Arc::clone(&server.connections));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, seen) = (tls.clone(), Arc::clone(&seen));
                let task = tokio::spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let service = service_fn(move |request: Request<Incoming>| {
                        let seen = Arc::clone(&seen);
                        async move { Ok::<_, Infallible>(respond(&request, &seen, answer)) }
                    });
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
                connections.lock().unwrap().push(task);
            }
        });
        server
    }

    fn tls(&self) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = self.membership.trust.kubernetes_client.roots().unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
        let names = keelson_pki::Names::loopback();
        let pair = self.issue(AuthorityKind::KubernetesServing, &Profile::server(Subject::named("x"), names));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![pair.certificate().clone()], pair.private_key())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// From long ago until after now, because TLS looks at the real clock.
    fn issue(&self, kind: AuthorityKind, profile: &Profile) -> Pair {
        let clock = keelson_pki::Clock::system(time::OffsetDateTime::UNIX_EPOCH);
        self.membership.control_plane().unwrap().authorities.get(kind).issue(profile, clock).unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        let pair = self.issue(AuthorityKind::KubernetesClient, &Profile::client(Subject::named("manager")));
        let trusted = &self.membership.trust.kubernetes_serving;
        Client::new(self.address, trusted, Some(&pair)).unwrap()
    }

    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    async fn cut_connections(&self) {
        let tasks = std::mem::take(&mut *self.connections.lock().unwrap());
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
    }
}

fn respond(
    request: &Request<Incoming>,
    seen: &StdMutex<Vec<String>>,
    answer: fn(&str) -> (u16, String),
) -> Response<Full<Bytes>> {
    let kind = request.headers().get(CONTENT_TYPE).map_or("", |kind| kind.to_str().unwrap()).to_owned();
    let line = format!("{} {} {kind}", request.method(), request.uri().path_and_query().unwrap());
    let (status, text) = answer(request.uri().path());
    seen.lock().unwrap().push(line.trim_end().to_owned());
    Response::builder().status(status).body(Full::from(text)).unwrap()
}

fn ok(_: &str) -> (u16, String) {
    (200, json!({ "kind": "Node" }).to_string())
}

#[tokio::test]
async fn an_object_is_applied_under_our_name_and_force() {
    let server = Server::start(ok).await;
    server.client().apply("/api/v1/x/a", &json!({})).await.unwrap();
    server.client().merge("/api/v1/x/a", &json!({})).await.unwrap();
    assert_eq!(
        server.seen(),
        [
            "PATCH /api/v1/x/a?fieldManager=keelson&force=true application/apply-patch+yaml",
            "PATCH /api/v1/x/a?fieldManager=keelson application/merge-patch+json",
        ]
    );
}

#[tokio::test]
async fn a_refusal_carries_the_servers_words() {
    let server = Server::start(|path| match path {
        "/absent" => (404, json!({ "kind": "Status", "message": "nodes \"b\" not found" }).to_string()),
        _ => (409, "no json".to_owned()),
    })
    .await;
    let absent = server.client().get("/absent").await.unwrap_err();
    assert!(absent.is_not_found() && absent.to_string().contains("nodes \"b\" not found"), "{absent}");
    let conflict = server.client().get("/changed").await.unwrap_err();
    assert!(conflict.is_conflict() && conflict.to_string().contains("no json"), "{conflict}");
}

#[tokio::test]
async fn a_broken_connection_is_made_again_and_a_question_asked_again() {
    let server = Server::start(ok).await;
    let client = server.client();
    client.get("/one").await.unwrap();
    server.cut_connections().await;
    // The client may learn of the cut only by using the connection once.
    client.get("/two").await.unwrap();
    server.cut_connections().await;
    if client.merge("/three", &json!({})).await.is_err() {
        client.merge("/three", &json!({})).await.unwrap();
    }
}

#[tokio::test]
async fn requests_share_a_connection() {
    let server = Server::start(ok).await;
    let client = server.client();
    let (one, two) = tokio::join!(client.get("/one"), client.get("/two"));
    one.unwrap();
    two.unwrap();
    assert_eq!(server.connections.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_watch_tells_events_until_the_server_ends_it() {
    let server = Server::start(|_| {
        let event = |kind: &str| json!({ "type": kind, "object": { "kind": "Node" } }).to_string();
        (200, format!("{}\n{}\n{}\n", event("ADDED"), event("BOOKMARK"), event("DELETED")))
    })
    .await;
    let mut watch = server.client().watch("/api/v1/nodes?watch=true").await.unwrap();
    let node = json!({ "kind": "Node" });
    assert_eq!(watch.next().await.unwrap(), Some(WatchEvent::Present(node.clone())));
    assert_eq!(watch.next().await.unwrap(), Some(WatchEvent::Deleted(node)));
    assert_eq!(watch.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_server_of_another_authority_is_not_talked_to() {
    let (server, other) = (Server::start(ok).await, found_in_memory());
    let stranger = &other.trust.kubernetes_serving;
    let client = Client::new(server.address, stranger, None).unwrap();
    assert!(matches!(client.get("/").await, Err(ClientError::Connect { .. })));
    assert!(server.seen().is_empty());
}
