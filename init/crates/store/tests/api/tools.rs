//! Snapshots, moving over from etcd, and recovery, as an operator does them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use keelson_etcd_api::etcdserverpb as pb;
use tempfile::TempDir;
use tonic::Code;

use crate::servers::{Clients, Server, etcd_program};

fn tool(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keelson-store")).args(arguments).output().unwrap()
}

fn ok(arguments: &[&str]) -> String {
    let output = tool(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn fails(arguments: &[&str], code: i32, with: &str) {
    let output = tool(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    assert!(errors.contains(with), "{arguments:?}: {errors}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Writes what `etcdctl snapshot save` writes: the blobs one after the other.
async fn save(clients: &Clients, path: &Path) {
    let mut pieces = clients.maintenance.clone().snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    let mut content = Vec::new();
    while let Some(piece) = pieces.message().await.unwrap() {
        content.extend_from_slice(&piece.blob);
    }
    std::fs::write(path, content).unwrap();
}

/// Several revisions of some keys, deletions, a compaction, leases.
async fn fill(clients: &Clients) {
    let lease = pb::LeaseGrantRequest { ttl: 3600, id: 77 };
    clients.lease.clone().lease_grant(lease).await.unwrap();
    for round in 0..5 {
        for key in 0..200 {
            let request = pb::PutRequest {
                key: format!("/registry/{key:04}").into(),
                value: vec![b'a' + round; 500].into(),
                lease: if key % 50 == 0 { 77 } else { 0 },
                ..Default::default()
            };
            clients.kv.clone().put(request).await.unwrap();
        }
        clients.delete(&format!("/registry/{round:04}")).await;
    }
    clients.put("large", &"x".repeat(100_000)).await;
    clients.compact(600).await;
    clients.put("last", "v").await;
}

/// A filled server, and a snapshot of it.
struct Saved {
    server: Server,
    clients: Clients,
    directory: TempDir,
    snapshot: PathBuf,
}

impl Saved {
    async fn of(server: Server) -> Self {
        let (clients, directory) = (server.clients(), TempDir::new().unwrap());
        let snapshot = directory.path().join("snapshot");
        fill(&clients).await;
        save(&clients, &snapshot).await;
        Self { server, clients, directory, snapshot }
    }
}

async fn hash(clients: &Clients) -> pb::HashKvResponse {
    let mut hash = clients.maintenance.clone().hash_kv(pb::HashKvRequest { revision: 0 }).await.unwrap().into_inner();
    hash.header = None;
    hash
}

async fn cluster_id(clients: &Clients) -> u64 {
    let status = clients.maintenance.clone().status(pb::StatusRequest {}).await.unwrap().into_inner();
    status.header.unwrap().cluster_id
}

/// Everything is there: the rows of all revisions, and leases with their keys.
async fn assert_same(from: &Clients, to: &Clients) {
    assert_eq!(hash(to).await, hash(from).await);
    let request = pb::LeaseTimeToLiveRequest { id: 77, keys: true };
    let lease = to.lease.clone().lease_time_to_live(request).await.unwrap().into_inner();
    assert_eq!((lease.granted_ttl, lease.keys.len()), (3600, 4));
    assert!(to.get("/registry/0004").await.is_none() && to.get("/registry/0199").await.is_some());
    assert_eq!(to.get("large").await.unwrap().len(), 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_ours_is_restored_as_a_new_cluster() {
    let Saved { clients, snapshot, .. } = &Saved::of(Server::keelson(&[]).await).await;
    let hash = hash(clients).await;
    let status = ok(&["snapshot", "status", text(snapshot)]);
    assert!(status.starts_with(&format!("{:x}, {}, 201, ", hash.hash, hash.hash_revision)), "{status}");
    let status = ok(&["snapshot", "status", text(snapshot), "-w", "json"]);
    assert!(status.contains("\"totalKey\":201"), "{status}");

    let restore = |data_dir: &Path| {
        let data_dir = format!("--data-dir={}", data_dir.display());
        ok(&["snapshot", "restore", text(snapshot), &data_dir, "--name=default", "--bump-revision=0"]);
        fails(&["snapshot", "restore", text(snapshot), &data_dir], 1, "is not empty");
    };
    let mut restored = Server::keelson_on(restore).await;
    assert_same(clients, &restored.clients()).await;
    assert_ne!(cluster_id(clients).await, cluster_id(&restored.clients()).await);
    let revision = restored.clients().put("after", "v").await;
    assert_eq!(revision, hash.hash_revision + 1);
    restored.crash_and_restart().await;
    assert_eq!(restored.clients().get("after").await.as_deref(), Some("v"));
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_are_raised_and_compacted_unless_they_are_to_stay() {
    let Saved { clients, snapshot, .. } = &Saved::of(Server::keelson(&[]).await).await;
    let revision = clients.put("k", "v").await;
    save(clients, snapshot).await;
    fails(&["snapshot", "restore", text(snapshot), "--bump-revision=5"], 128, "go together");
    fails(&["snapshot", "restore", text(snapshot), "--bump-revision=0", "--mark-compacted"], 128, "go together");
    let asked: &[&str] = &["--bump-revision=1000000", "--mark-compacted"];
    for (flags, by) in [(&[] as &[&str], 1_000_000_000), (asked, 1_000_000)] {
        let restore = |data_dir: &Path| {
            let data_dir = format!("--data-dir={}", data_dir.display());
            ok(&[&["snapshot", "restore", text(snapshot), &data_dir][..], flags].concat());
        };
        let restored = Server::keelson_on(restore).await;
        let clients = restored.clients();
        let raised = revision + by;
        let read = pb::RangeRequest { key: "k".into(), revision, ..Default::default() };
        assert_eq!(clients.kv.clone().range(read).await.unwrap_err().code(), Code::OutOfRange);
        let read = pb::RangeRequest { key: "k".into(), ..Default::default() };
        let read = clients.kv.clone().range(read).await.unwrap().into_inner();
        assert_eq!((read.header.unwrap().revision, read.kvs[0].mod_revision), (raised, revision));
        assert_eq!(clients.put("k", "w").await, raised + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_foreign_files_are_refused() {
    let Saved { directory, snapshot, .. } = Saved::of(Server::keelson(&[]).await).await;
    let mut content = std::fs::read(&snapshot).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    let flipped = directory.path().join("flipped");
    std::fs::write(&flipped, &content).unwrap();
    let data_dir = format!("--data-dir={}", directory.path().join("data").display());
    fails(&["snapshot", "restore", text(&flipped), &data_dir], 1, "does not match its checksum");
    std::fs::write(&flipped, &content[..middle]).unwrap();
    fails(&["snapshot", "restore", text(&flipped), &data_dir], 1, "checksum");
    std::fs::write(&flipped, vec![7; 8192]).unwrap();
    fails(&["snapshot", "restore", text(&flipped), &data_dir], 1, "not a bbolt file");
    fails(&["snapshot", "restore", "/nowhere/x", &data_dir], 1, "read /nowhere/x");
    fails(&["snapshot", "restore"], 128, "takes 1 argument");
    fails(&["snapshot", "frobnicate"], 128, "there is no command");
    assert!(!directory.path().join("data").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_moves_over_with_its_snapshot_or_its_file() {
    let Some(program) = etcd_program("KEELSON_ETCD") else { return };
    let Saved { server: mut etcd, clients, directory, snapshot } = Saved::of(Server::etcd(&program).await).await;
    let before = hash(&clients).await;
    let status = ok(&["snapshot", "status", text(&snapshot)]);
    assert!(status.contains(&format!(", {}, 201, ", before.hash_revision)), "{status}");

    let from_snapshot = |data_dir: &Path| {
        let data_dir = format!("--data-dir={}", data_dir.display());
        ok(&["snapshot", "restore", text(&snapshot), &data_dir, "--bump-revision=0"]);
    };
    let restored = Server::keelson_on(from_snapshot).await;
    assert_same(&clients, &restored.clients()).await;

    etcd.kill();
    let file = etcd.data_dir().join("member/snap/db");
    let data_dir = format!("--data-dir={}", directory.path().join("refused").display());
    fails(&["snapshot", "restore", text(&file), &data_dir], 1, "--skip-hash-check");
    let from_file = |data_dir: &Path| {
        let data_dir = format!("--data-dir={}", data_dir.display());
        ok(&["snapshot", "restore", text(&file), &data_dir, "--skip-hash-check", "--bump-revision=0"]);
    };
    let restored = Server::keelson_on(from_file).await;
    assert_eq!(hash(&restored.clients()).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_its_quorum_becomes_a_cluster_of_its_own() {
    let mut server = Server::keelson(&[]).await;
    let clients = server.clients();
    fill(&clients).await;
    let (revision, old_cluster) = (clients.put("k", "v").await, cluster_id(&clients).await);
    let data_dir = format!("--data-dir={}", server.data_dir().display());
    fails(&["recover", &data_dir], 1, "is in use by another process");
    server.kill();
    let told = ok(&["recover", &data_dir]);
    assert!(told.contains(&format!("revision: {revision}\n")) && told.contains("Nothing was changed"), "{told}");
    let index: u64 = told.lines().find_map(|line| line.strip_prefix("index: ")).unwrap().parse().unwrap();
    assert!(index > 1000, "{told}");
    assert!(told.find("index:").unwrap() < told.find("revision:").unwrap(), "{told}");

    let told = ok(&["recover", &data_dir, "--yes"]);
    let old: PathBuf = told.rsplit_once("is in ").unwrap().1.trim().trim_end_matches('.').into();
    assert!(old.join("identity").exists(), "{told}");
    server.start_again().await;
    let clients = server.clients();
    assert_ne!(cluster_id(&clients).await, old_cluster);
    assert_eq!(clients.get("k").await.as_deref(), Some("v"));
    assert_eq!(clients.put("k", "w").await, revision + 1_000_000_001);
    fails(&["recover", "--data-dir=/nowhere/x"], 1, "holds no member");
}
