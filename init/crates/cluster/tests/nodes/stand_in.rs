//! In the place of kube-apiserver on nodes that have none: it is well while a file says so, and knows nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keelson_cluster::kubernetes_api;
use keelson_pki::Pair;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Below the node's root.
pub(super) const WELL: &str = "api-server-well";

/// Listens as soon as it is well for the first time and has its certificate.
pub(super) async fn serve(root: PathBuf) {
    let (well, pair) = (root.join(WELL), root.join("run/keelson/kube-apiserver/serving.pem"));
    while !well.exists() || !pair.exists() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let listener = TcpListener::bind(kubernetes_api::SERVER).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        // The certificate is replaced in place.
        let (acceptor, well) = (acceptor(&pair), well.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let answer = service_fn(move |_| {
                let status = if well.exists() { 200 } else { 503 };
                async move { Response::builder().status(status).body(Full::new(Bytes::from_static(b"{}"))) }
            });
            // Whoever asked has gone.
            let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

fn acceptor(pair: &Path) -> TlsAcceptor {
    let pair = Pair::from_file(&std::fs::read(pair).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.certificate().clone()], pair.private_key())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}
