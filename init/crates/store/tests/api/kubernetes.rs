//! An unmodified kube-apiserver on our store, as it runs on a node: mutual TLS, watch cache, consistent reads from the cache,
//! streamed lists. The store is killed under its writes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use keelson_etcd_api::etcdserverpb as pb;
use tonic::transport::{Certificate, Endpoint, Identity};

use crate::servers::{Server, etcd_program, wait_until};
use crate::tls::{Authority, https_request};
use keelson_ports::free_port;

const TOKEN: &str = "a-token-for-this-test";
const STORE_PREFIX: &str = "/registry/configmaps/default/";

/// kube-apiserver as a child process; it ends with the value.
struct ApiServer {
    child: Child,
    directory: PathBuf,
    port: u16,
    tls: tokio_rustls::TlsConnector,
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.join("apiserver.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            println!("kube-apiserver, last line first:\n{}", tail.join("\n"));
        }
    }
}

impl ApiServer {
    fn start(program: &Path, directory: &Path, store_port: u16, authority: &Authority) -> Self {
        let port = free_port().unwrap();
        let file = |name: &str| directory.join(name).display().to_string();
        std::fs::write(directory.join("tokens"), format!("{TOKEN},admin,admin,system:masters\n")).unwrap();
        let log = std::fs::File::create(directory.join("apiserver.log")).unwrap();
        let child = Command::new(program)
            .arg("kube-apiserver")
            .arg(format!("--etcd-servers=https://127.0.0.1:{store_port}"))
            .arg(format!("--etcd-cafile={}", file("ca.crt")))
            .arg(format!("--etcd-certfile={}", file("client.crt")))
            .arg(format!("--etcd-keyfile={}", file("client.key")))
            .arg(format!("--secure-port={port}"))
            .arg("--bind-address=127.0.0.1")
            .arg(format!("--tls-cert-file={}", file("server.crt")))
            .arg(format!("--tls-private-key-file={}", file("server.key")))
            .arg(format!("--token-auth-file={}", file("tokens")))
            .arg("--authorization-mode=RBAC")
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!("--service-account-key-file={}", file("server.pub")))
            .arg(format!("--service-account-signing-key-file={}", file("server.key")))
            .arg("--service-cluster-ip-range=10.96.0.0/16")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, directory: directory.to_owned(), port, tls: authority.connector(None) }
    }

    /// Status code and body; an error if there is no answer.
    async fn ask(&self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
        let headers = format!("Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n");
        https_request(&self.tls, self.port, method, path, &headers, body).await
    }

    async fn create(&self, name: &str) -> bool {
        let body = format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"{name}\"}},\"data\":{{\"k\":\"v\"}}}}"
        );
        let answer = self.ask("POST", "/api/v1/namespaces/default/configmaps", &body).await;
        answer.is_ok_and(|(code, _)| code == 201)
    }

    /// Names of config maps: from the watch cache, and consistent all the same.
    async fn list(&self) -> Vec<String> {
        let (code, body) = self.ask("GET", "/api/v1/namespaces/default/configmaps", "").await.unwrap();
        assert_eq!(code, 200, "{body}");
        let list: serde_json::Value = serde_json::from_str(&body).unwrap();
        let name = |item: &serde_json::Value| item["metadata"]["name"].as_str().unwrap().to_owned();
        list["items"].as_array().unwrap().iter().map(name).collect()
    }
}

/// The same from the store itself.
async fn stored(directory: &Path, port: u16) -> Vec<String> {
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
    let tls = tonic::transport::ClientTlsConfig::new()
        .domain_name("localhost")
        .ca_certificate(Certificate::from_pem(read("ca.crt")))
        .identity(Identity::from_pem(read("client.crt"), read("client.key")));
    let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap().tls_config(tls).unwrap();
    let mut kv = pb::kv_client::KvClient::new(endpoint.connect().await.unwrap());
    let mut range_end = STORE_PREFIX.as_bytes().to_vec();
    *range_end.last_mut().unwrap() += 1;
    let request = pb::RangeRequest {
        key: STORE_PREFIX.into(),
        range_end: range_end.into(),
        keys_only: true,
        ..Default::default()
    };
    let kvs = kv.range(request).await.unwrap().into_inner().kvs;
    kvs.iter().map(|kv| String::from_utf8(kv.key[STORE_PREFIX.len()..].to_vec()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_loses_nothing_when_the_store_is_killed() {
    let Some(program) = etcd_program("KEELSON_KUBERNETES") else { return };
    let authority = Authority::new();
    let directory = tempfile::TempDir::new().unwrap();
    let directory = directory.path();
    authority.write(directory, "ca");
    authority.issue_to(directory, "server");
    authority.issue_to(directory, "client");
    let flag = |flag: &str, name: &str| format!("--{flag}={}", directory.join(name).display());
    let flags = [
        flag("cert-file", "server.crt"),
        flag("key-file", "server.key"),
        flag("trusted-ca-file", "ca.crt"),
        "--client-cert-auth".to_owned(),
        "--watch-progress-notify-interval=5s".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut store = Server::spawn(Path::new(env!("CARGO_BIN_EXE_keelson-store")), &flags);
    let api = ApiServer::start(&program, directory, store.port, &authority);
    let ready = async || api.ask("GET", "/readyz", "").await.is_ok_and(|(code, _)| code == 200);
    wait_until("kube-apiserver is ready", ready).await;
    wait_until("the namespace is there", async || api.create("first").await).await;

    let mut acknowledged = vec!["first".to_owned()];
    for number in 0..120 {
        if number % 40 == 20 {
            store.kill_and_spawn();
        }
        let name = format!("c{number:03}");
        if api.create(&name).await {
            acknowledged.push(name);
            // A list after an acknowledged write shows it, though the watch cache answers.
            if number % 5 == 0 {
                assert_eq!(
                    api.list().await.iter().filter(|name| **name == acknowledged[acknowledged.len() - 1]).count(),
                    1
                );
            }
        }
    }
    assert!(acknowledged.len() > 80, "{}", acknowledged.len());
    wait_until("kube-apiserver is ready again", ready).await;
    let listed = api.list().await;
    for name in &acknowledged {
        assert!(listed.contains(name), "{name} was acknowledged and is gone");
    }
    assert_eq!(listed, stored(directory, store.port).await, "the cache and the store agree");
    let (_, metrics) = api.ask("GET", "/metrics", "").await.unwrap();
    let failures = |line: &&str| {
        line.starts_with("apiserver_storage_consistency_checks_total") && !line.contains("status=\"success\"")
    };
    assert_eq!(metrics.lines().find(failures), None);
    let streamed = |line: &str| line.starts_with("etcd_requests_total") && line.contains("operation=\"listStream\"");
    assert!(metrics.lines().any(streamed), "lists are streamed");
}
