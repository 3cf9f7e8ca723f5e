//! Members as child processes, and clients of them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::cluster_client::ClusterClient;
use keelson_etcd_api::etcdserverpb::kv_client::KvClient;
use keelson_etcd_api::etcdserverpb::lease_client::LeaseClient;
use keelson_etcd_api::etcdserverpb::maintenance_client::MaintenanceClient;
use keelson_etcd_api::etcdserverpb::watch_client::WatchClient;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use keelson_ports::free_port;

use crate::authority::Authority;
use crate::waiting::wait_until;

/// How long a condition may take to come true, on a machine that builds at the same time.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);
/// What a client waits for one answer: more than a leader is lost and found in.
pub(crate) const REQUEST: Duration = Duration::from_secs(20);

/// Members of one cluster, under one authority.
pub(crate) struct Cluster {
    directory: TempDir,
    authority: Authority,
    pub(crate) members: Vec<Member>,
}

/// Where a member is reached, and in which network namespace it runs if that is not this process's.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) host: String,
    pub(crate) client_port: u16,
    pub(crate) peer_port: u16,
    pub(crate) namespace: Option<String>,
}

impl Place {
    fn here() -> Self {
        let (client_port, peer_port) = (free_port().unwrap(), free_port().unwrap());
        Self { host: "127.0.0.1".to_owned(), client_port, peer_port, namespace: None }
    }
}

pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) peer_url: String,
    directory: PathBuf,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let authority = Authority::new();
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("ca.crt"), authority.pem()).unwrap();
        Self { directory, authority, members: Vec::new() }
    }

    /// So many members, founded together, that serve.
    pub(crate) async fn founded(count: usize, more: &[&str]) -> Self {
        Self::founded_at((0..count).map(|_| Place::here()).collect(), more).await
    }

    /// One at each place.
    pub(crate) async fn founded_at(places: Vec<Place>, more: &[&str]) -> Self {
        let mut cluster = Self::new();
        let count = places.len();
        for (number, place) in places.into_iter().enumerate() {
            cluster.prepare_at(&format!("m{number}"), place);
        }
        let list = cluster.list();
        for member in &mut cluster.members {
            member.arguments.push(format!("--initial-cluster={list}"));
            member.arguments.extend(more.iter().map(|flag| (*flag).to_owned()));
            member.start();
        }
        for number in 0..count {
            cluster.members[number].wait_until_ready().await;
        }
        cluster
    }

    fn list(&self) -> String {
        let items: Vec<_> = self.members.iter().map(|member| format!("{}={}", member.name, member.peer_url)).collect();
        items.join(",")
    }

    /// A member that is not started yet, with a certificate of its own.
    pub(crate) fn prepare(&mut self, name: &str) -> usize {
        self.prepare_at(name, Place::here())
    }

    fn prepare_at(&mut self, name: &str, place: Place) -> usize {
        let directory = self.directory.path().join(name);
        std::fs::create_dir(&directory).unwrap();
        self.certify(&directory, &place.host);
        let Place { host, client_port, peer_port, .. } = &place;
        let (client, peer) = (format!("http://{host}:{client_port}"), format!("https://{host}:{peer_port}"));
        let file = |name: &str| directory.join(name).display().to_string();
        let arguments = vec![
            format!("--name={name}"),
            format!("--data-dir={}", file("data")),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--peer-cert-file={}", file("peer.crt")),
            format!("--peer-key-file={}", file("peer.key")),
            format!("--peer-trusted-ca-file={}", self.directory.path().join("ca.crt").display()),
            "--peer-client-cert-auth".to_owned(),
        ];
        self.members.push(Member { name: name.to_owned(), place, peer_url: peer, directory, arguments, child: None });
        self.members.len() - 1
    }

    /// Gives a member a certificate for a host.
    pub(crate) fn certify(&self, directory: &Path, host: &str) {
        let (certificate, key) = self.authority.issue_for(&[host]);
        std::fs::write(directory.join("peer.crt"), certificate.pem()).unwrap();
        std::fs::write(directory.join("peer.key"), key.serialize_pem()).unwrap();
    }

    /// Starts a prepared member that was added to the cluster.
    pub(crate) fn join(&mut self, number: usize, more: &[&str]) {
        let list = self.list();
        let member = &mut self.members[number];
        member.arguments.push(format!("--initial-cluster={list}"));
        member.arguments.push("--initial-cluster-state=existing".to_owned());
        member.arguments.extend(more.iter().map(|flag| (*flag).to_owned()));
        member.start();
    }

    /// The number of the member that leads, once one that runs does.
    pub(crate) async fn leader(&self) -> usize {
        let mut found = None;
        wait_until("a leader", async || {
            for (number, member) in self.members.iter().enumerate().filter(|(_, member)| member.is_running()) {
                let status = member.status().await;
                if status.is_some_and(|status| status.leader != 0 && status.leader == status.header.unwrap().member_id)
                {
                    found = Some(number);
                    return true;
                }
            }
            false
        })
        .await;
        found.unwrap()
    }

    /// Waits until all running members have applied the same, and compares their hashes.
    pub(crate) async fn assert_equal_hashes(&self) {
        let mut hashes = Vec::new();
        wait_until("equal revisions", async || {
            hashes.clear();
            for member in self.members.iter().filter(|member| member.is_running()) {
                let request = pb::HashKvRequest { revision: 0 };
                let Ok(Ok(hash)) = tokio::time::timeout(REQUEST, member.maintenance().hash_kv(request)).await else {
                    return false;
                };
                let hash = hash.into_inner();
                hashes.push((hash.hash_revision, hash.compact_revision, hash.hash));
            }
            hashes.iter().all(|(revision, compacted, _)| (*revision, *compacted) == (hashes[0].0, hashes[0].1))
        })
        .await;
        assert!(hashes.iter().all(|hash| hash == &hashes[0]), "{hashes:?}");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            member.kill();
            if std::thread::panicking() {
                let log = member.log();
                let tail: Vec<_> = log.lines().rev().take(30).collect();
                println!("{}:\n{}", member.name, tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
        }
    }
}

impl Member {
    pub(crate) fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.directory.join("log")).unwrap();
        let program = env!("CARGO_BIN_EXE_keelson-store");
        let mut command = match &self.place.namespace {
            None => Command::new(program),
            // It becomes the program, whose id is therefore the child's.
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, program]);
                command
            }
        };
        let child = command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            _ = child.kill();
            child.wait().unwrap();
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// Waits until the process has ended, and returns its code.
    pub(crate) async fn wait(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        let mut status = None;
        wait_until("the end of a process", async || {
            status = child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap().code()
    }

    pub(crate) async fn wait_until_ready(&self) {
        wait_until(&format!("{} serves", self.name), async || {
            self.status().await.is_some_and(|status| status.leader != 0)
        })
        .await;
    }

    pub(crate) async fn wait_for_log(&self, text: &str) {
        wait_until(&format!("{} says {text}", self.name), async || self.log().contains(text)).await;
    }

    pub(crate) fn channel(&self) -> Channel {
        Endpoint::from_shared(self.client_url()).unwrap().connect_lazy()
    }

    pub(crate) fn client_url(&self) -> String {
        format!("http://{}:{}", self.place.host, self.place.client_port)
    }

    pub(crate) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel()).max_decoding_message_size(usize::MAX)
    }

    pub(crate) fn watch(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel())
    }

    pub(crate) fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel())
    }

    pub(crate) fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel())
    }

    pub(crate) fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel())
    }

    pub(crate) async fn status(&self) -> Option<pb::StatusResponse> {
        let mut maintenance = self.maintenance();
        let asked = maintenance.status(pb::StatusRequest {});
        let answer = tokio::time::timeout(Duration::from_secs(2), asked).await.ok()?;
        answer.ok().map(tonic::Response::into_inner)
    }

    pub(crate) async fn id(&self) -> u64 {
        self.status().await.unwrap().header.unwrap().member_id
    }

    /// Members by name, each with whether it learns only, as this one knows them.
    pub(crate) async fn members(&self) -> Vec<pb::Member> {
        let request = pb::MemberListRequest { linearizable: true };
        let mut members = self.cluster().member_list(request).await.unwrap().into_inner().members;
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members
    }
}

pub(crate) fn put(key: &str, value: impl Into<Bytes>) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.into(), ..Default::default() }
}

pub(crate) async fn get(kv: &mut KvClient<Channel>, key: &str, serializable: bool) -> Option<String> {
    let request = pb::RangeRequest { key: key.to_owned().into(), serializable, ..Default::default() };
    let response = tokio::time::timeout(REQUEST, kv.range(request)).await.unwrap().unwrap().into_inner();
    response.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
}
