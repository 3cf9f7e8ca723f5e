//! What a process of this test binary is when a namespace's `ip netns exec` has started it: a node, or a request made from
//! inside a node.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use keelson_api::{CONTROL_PLANE_NAME, CONTROL_PLANES};
use keelson_cluster::client::{Client, ClientError};
use keelson_cluster::{Paths, kubernetes_api, manager};
use keelson_pki::{Files, Fingerprint, Pair, PinnedVerifier, StandardFiles, TrustAnchors};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::cut::Cut;
use super::{init, stand_in, writer};

/// The node's root directory.
pub(super) const ROOT: &str = "KEELSON_TEST_NODE";
pub(super) const STORE: &str = "KEELSON_TEST_STORE";
pub(super) const KUBERNETES: &str = "KEELSON_KUBERNETES";
/// `METHOD PATH CERTIFICATE [OBJECT]`, by whoever has that certificate.
pub(super) const REQUEST: &str = "KEELSON_TEST_REQUEST";

/// Instead: `ADDRESS NAME FINGERPRINT PATH`, of a node's API, by its authority's fingerprint and without a certificate.
pub(super) const OPERATOR: &str = "operator ";
/// Instead: `ADDRESS:PORT`, whether anybody takes a connection there.
pub(super) const CONNECT: &str = "connect ";

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

/// After how many changes of the node's disk the power goes.
pub(super) const CUT: &str = "KEELSON_TEST_CUT";

/// Does nothing when the tests run; it is a node when it is asked to be one.
#[test]
fn a_process_of_a_node() {
    let Some(root) = variable(ROOT) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Ok(name) = std::env::var(writer::WRITER) {
        return runtime.block_on(writer::write(&root, &name));
    }
    if let Ok(request) = std::env::var(REQUEST) {
        let answer = runtime.block_on(async {
            if let Some(request) = request.strip_prefix(OPERATOR) {
                ask_as_operator(request).await
            } else if let Some(address) = request.strip_prefix(CONNECT) {
                json!(TcpStream::connect(address).await.is_ok())
            } else {
                ask(&root, &request).await
            }
        });
        println!("answer: {answer}");
        return;
    }
    init::start(&root, variable(STORE), variable(KUBERNETES));
    let settings = keelson_proxy::Settings {
        feed: root.join("run/keelson/proxy/feed.sock"),
        kept: root.join("var/lib/keelson-proxy/endpoints.json"),
        ..keelson_proxy::Settings::default()
    };
    let proxy = runtime.block_on(keelson_proxy::server::Server::bind(settings)).unwrap();
    runtime.spawn(proxy.serve());
    if variable(KUBERNETES).is_none() {
        runtime.spawn(stand_in::serve(root.clone()));
    }
    let cut = std::env::var(CUT).ok().map(|count| Cut::after(count.parse().unwrap(), root.join("state")));
    let files: Arc<dyn Files> = match cut {
        Some(files) => Arc::new(files),
        None => Arc::new(StandardFiles),
    };
    loop {
        // As PID 1 does when the process has ended to begin anew.
        let own = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        own.block_on(manager::run_with(Paths::below(&root), Arc::clone(&files))).unwrap();
        own.shutdown_background();
        println!("the node's process begins anew");
    }
}

/// As keelctl does. The name is that of the TLS client's first message; who answers to [`CONTROL_PLANE_NAME`] has to be one.
async fn ask_as_operator(request: &str) -> Value {
    let words: Vec<_> = request.split(' ').map(str::to_owned).collect();
    let [address, name, fingerprint, path] = <[String; 4]>::try_from(words).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let pin = Fingerprint::from_hexadecimal(&fingerprint).unwrap();
    let mut verifier = PinnedVerifier::new(pin, Arc::clone(&provider));
    if name == CONTROL_PLANE_NAME {
        verifier = verifier.organization(CONTROL_PLANES).any_name();
    }
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let stream = TcpStream::connect((address.as_str(), keelson_api::PORT)).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name.try_into().unwrap(), stream).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().uri(path).header("host", "node").body(Empty::<Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    json!({ "status": status, "object": serde_json::from_slice::<Value>(&body).unwrap() })
}

/// Through the node's proxy, as kubelet would ask.
async fn ask(root: &Path, request: &str) -> Value {
    let mut words = request.splitn(4, ' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (method, path, certificate, object) = (word(), word(), word(), word());
    let pair = Pair::from_file(&std::fs::read(root.join(certificate)).unwrap()).unwrap();
    let authority = std::fs::read(root.join("run/keelson/kubelet/serving-ca.crt")).unwrap();
    let authority = TrustAnchors::from_pem(&String::from_utf8(authority).unwrap()).unwrap();
    let client = Client::new(kubernetes_api::PROXY, &authority, Some(&pair)).unwrap();
    let asking = async {
        match method.as_str() {
            "GET" => client.get(&path).await,
            "POST" => client.create(&path, &serde_json::from_str(&object).unwrap()).await,
            other => panic!("{other}"),
        }
    };
    match tokio::time::timeout(Duration::from_secs(20), asking).await {
        Ok(Ok(object)) => json!({ "status": 200, "object": object }),
        Ok(Err(ClientError::Refused { status, message, .. })) => {
            json!({ "status": status.as_u16(), "message": message })
        }
        Ok(Err(error)) => json!({ "status": 0, "message": format!("{error:?}") }),
        Err(_) => json!({ "status": 0, "message": "no answer" }),
    }
}
