//! An unmodified kube-apiserver on our store, as it runs on a node: mutual TLS, watch cache, consistent reads from the cache,
//! streamed lists. The store is killed under its writes.

use std::path::Path;

use keelson_etcd_api::etcdserverpb as pb;
use keelson_ports::free_port;
use tonic::transport::{Certificate, Endpoint, Identity};

use crate::api_server::ApiServer;
use crate::authority::Authority;
use crate::servers::{Server, etcd_program};
use crate::waiting::wait_until;

const STORE_PREFIX: &str = "/registry/configmaps/default/";

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
    std::fs::write(directory.join("ca.crt"), authority.pem()).unwrap();
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
    let stores = [
        format!("--etcd-servers=https://127.0.0.1:{}", store.port),
        flag("etcd-cafile", "ca.crt"),
        flag("etcd-certfile", "client.crt"),
        flag("etcd-keyfile", "client.key"),
    ];
    let own = directory.join("apiserver");
    std::fs::create_dir(&own).unwrap();
    let api = ApiServer::start(&program, &own, free_port().unwrap(), &authority, &stores);
    wait_until("kube-apiserver is ready", async || api.is_ready().await).await;
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
                let listed = api.list().await.expect("a list after an answer");
                assert_eq!(listed.iter().filter(|name| Some(*name) == acknowledged.last()).count(), 1);
            }
        }
    }
    assert!(acknowledged.len() > 80, "{}", acknowledged.len());
    wait_until("kube-apiserver is ready again", async || api.is_ready().await).await;
    let listed = api.list().await.unwrap();
    for name in &acknowledged {
        assert!(listed.contains(name), "{name} was acknowledged and is gone");
    }
    assert_eq!(listed, stored(directory, store.port).await, "the cache and the store agree");
    api.check_metrics().await;
}
