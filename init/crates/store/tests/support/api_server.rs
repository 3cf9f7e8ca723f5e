//! kube-apiserver, unmodified, as a child process of a test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::authority::Authority;

const TOKEN: &str = "a-token-for-this-test";
pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// It ends with the value.
pub(crate) struct ApiServer {
    child: Child,
    directory: PathBuf,
    port: u16,
    tls: TlsConnector,
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
    /// `flags` say where it keeps its objects, and what else differs.
    pub(crate) fn start(program: &Path, directory: &Path, port: u16, authority: &Authority, flags: &[String]) -> Self {
        let file = |name: &str| directory.join(name).display().to_string();
        authority.issue_to(directory, "server");
        std::fs::write(directory.join("tokens"), format!("{TOKEN},admin,admin,system:masters\n")).unwrap();
        let log = std::fs::File::create(directory.join("apiserver.log")).unwrap();
        let child = Command::new(program)
            .arg("kube-apiserver")
            .args(flags)
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

    /// A connection on which a request was made. The answer's end is that of the connection, and its body comes as it is: HTTP/1.0.
    pub(crate) async fn send(&self, method: &str, path: &str, body: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let mut stream = self.tls.connect(ServerName::try_from("localhost").unwrap(), stream).await?;
        let head = format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n");
        let kind = format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{kind}{body}").as_bytes()).await?;
        Ok(stream)
    }

    /// Status code and body; an error if there is no answer.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
        let exchange = async {
            let mut answer = String::new();
            self.send(method, path, body).await?.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = tokio::time::timeout(crate::PATIENCE, exchange).await??;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(std::io::ErrorKind::InvalidData)?;
        Ok((code, body.to_owned()))
    }

    pub(crate) async fn is_ready(&self) -> bool {
        self.ask("GET", "/readyz", "").await.is_ok_and(|(code, _)| code == 200)
    }

    /// Whether it was acknowledged.
    pub(crate) async fn create(&self, name: &str) -> bool {
        let body = format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"{name}\"}},\"data\":{{\"k\":\"v\"}}}}"
        );
        let answer = self.ask("POST", CONFIG_MAPS, &body).await;
        answer.is_ok_and(|(code, _)| code == 201)
    }

    /// Names of config maps: from the watch cache, and consistent all the same. None while it cannot tell.
    pub(crate) async fn list(&self) -> Option<Vec<String>> {
        let (code, body) = self.ask("GET", CONFIG_MAPS, "").await.ok()?;
        if code != 200 {
            return None;
        }
        let list: serde_json::Value = serde_json::from_str(&body).unwrap();
        let name = |item: &serde_json::Value| item["metadata"]["name"].as_str().unwrap().to_owned();
        Some(list["items"].as_array().unwrap().iter().map(name).collect())
    }

    /// Its watch cache compares itself with the store now and then; and lists are streamed.
    pub(crate) async fn check_metrics(&self) {
        let (_, metrics) = self.ask("GET", "/metrics", "").await.unwrap();
        let failures = |line: &&str| {
            line.starts_with("apiserver_storage_consistency_checks_total") && !line.contains("status=\"success\"")
        };
        assert_eq!(metrics.lines().find(failures), None);
        let streamed =
            |line: &str| line.starts_with("etcd_requests_total") && line.contains("operation=\"listStream\"");
        assert!(metrics.lines().any(streamed), "lists are streamed");
    }
}
