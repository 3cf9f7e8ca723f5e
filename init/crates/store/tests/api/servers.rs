//! Servers as child processes, and clients of them.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::auth_client::AuthClient;
use keelson_etcd_api::etcdserverpb::cluster_client::ClusterClient;
use keelson_etcd_api::etcdserverpb::kv_client::KvClient;
use keelson_etcd_api::etcdserverpb::lease_client::LeaseClient;
use keelson_etcd_api::etcdserverpb::maintenance_client::MaintenanceClient;
use keelson_etcd_api::etcdserverpb::watch_client::WatchClient;
use keelson_etcd_api::v3electionpb::election_client::ElectionClient;
use keelson_etcd_api::v3lockpb::lock_client::LockClient;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use keelson_ports::free_port;

use crate::waiting::wait_until;

/// How long a server may take to be ready, and a condition to come true, on a machine that builds at the same time.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// A program to test with, if the environment names one.
pub(crate) fn etcd_program(variable: &str) -> Option<PathBuf> {
    let program = std::env::var_os(variable).map(PathBuf::from);
    if program.is_none() {
        println!("{variable} is not set: nothing to test with, this test ends here");
    }
    program
}

/// A running server; it ends with the value.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    program: PathBuf,
    arguments: Vec<String>,
    directory: TempDir,
    pub(crate) port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("{}:\n{}", self.program.display(), self.log());
        }
    }
}

impl Server {
    pub(crate) async fn keelson(more: &[&str]) -> Self {
        Self::start(Path::new(env!("CARGO_BIN_EXE_keelson-store")), more).await
    }

    pub(crate) async fn etcd(program: &Path) -> Self {
        Self::etcd_with(program, &[]).await
    }

    pub(crate) async fn etcd_with(program: &Path, more: &[&str]) -> Self {
        Self::start(program, &[&["--unsafe-no-fsync", "--log-level=error"], more].concat()).await
    }

    async fn start(program: &Path, more: &[&str]) -> Self {
        let server = Self::spawn(program, more);
        server.ready().await;
        server
    }

    /// On a data directory that something else makes first.
    pub(crate) async fn keelson_on(prepare: impl FnOnce(&Path)) -> Self {
        let directory = TempDir::new().unwrap();
        prepare(&directory.path().join("data"));
        let server = Self::spawn_in(directory, Path::new(env!("CARGO_BIN_EXE_keelson-store")), &[]);
        server.ready().await;
        server
    }

    /// Starts without waiting: for servers that the plain client cannot reach.
    pub(crate) fn spawn(program: &Path, more: &[&str]) -> Self {
        Self::spawn_in(TempDir::new().unwrap(), program, more)
    }

    fn spawn_in(directory: TempDir, program: &Path, more: &[&str]) -> Self {
        let (port, peer) = (free_port().unwrap(), free_port().unwrap());
        let scheme = if more.iter().any(|flag| flag.starts_with("--cert-file")) { "https" } else { "http" };
        let (client, peer) = (format!("{scheme}://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        let mut arguments = vec![
            format!("--data-dir={}", directory.path().join("data").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
        ];
        arguments.extend(more.iter().map(|flag| (*flag).to_owned()));
        let child = run(program, &arguments, directory.path());
        Self { child, program: program.to_owned(), arguments, directory, port }
    }

    /// Kills it and starts it on the same data.
    pub(crate) async fn crash_and_restart(&mut self) {
        self.kill_and_spawn();
        self.ready().await;
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Ends it at once; its data stays as long as the value.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it on what it left, or on what was put in its place.
    pub(crate) async fn start_again(&mut self) {
        self.child = run(&self.program, &self.arguments, self.directory.path());
        self.ready().await;
    }

    /// The same, without waiting for it to be ready.
    pub(crate) fn kill_and_spawn(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = run(&self.program, &self.arguments, self.directory.path());
    }

    pub(crate) fn log(&self) -> String {
        let mut log = String::new();
        let file = std::fs::File::open(self.directory.path().join("log"));
        file.and_then(|mut file| file.read_to_string(&mut log)).map_or(String::new(), |_| log)
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    async fn ready(&self) {
        let clients = self.clients();
        wait_until("the server has a leader", async || {
            let status = clients.maintenance.clone().status(pb::StatusRequest {}).await;
            status.is_ok_and(|status| status.get_ref().leader != 0)
        })
        .await;
    }

    pub(crate) fn clients(&self) -> Clients {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.endpoint())).unwrap();
        Clients::new(endpoint.connect_lazy())
    }
}

fn run(program: &Path, arguments: &[String], directory: &Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(directory.join("log")).unwrap();
    Command::new(program)
        .args(arguments)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("start {}: {error}", program.display()))
}

/// Waits for an answer with a deadline.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

#[derive(Clone, Debug)]
pub(crate) struct Clients {
    pub(crate) kv: KvClient<Channel>,
    pub(crate) watch: WatchClient<Channel>,
    pub(crate) lease: LeaseClient<Channel>,
    pub(crate) cluster: ClusterClient<Channel>,
    pub(crate) maintenance: MaintenanceClient<Channel>,
    pub(crate) auth: AuthClient<Channel>,
    pub(crate) lock: LockClient<Channel>,
    pub(crate) election: ElectionClient<Channel>,
}

impl Clients {
    fn new(channel: Channel) -> Self {
        Self {
            kv: KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            watch: WatchClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            lease: LeaseClient::new(channel.clone()),
            cluster: ClusterClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel.clone()),
            auth: AuthClient::new(channel.clone()),
            lock: LockClient::new(channel.clone()),
            election: ElectionClient::new(channel),
        }
    }

    pub(crate) async fn put(&self, key: &str, value: &str) -> i64 {
        let request =
            pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
        let response = self.kv.clone().put(request).await.unwrap();
        response.into_inner().header.unwrap().revision
    }

    pub(crate) async fn delete(&self, key: &str) -> i64 {
        let request = pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
        let response = self.kv.clone().delete_range(request).await.unwrap();
        response.into_inner().header.unwrap().revision
    }

    pub(crate) async fn get(&self, key: &str) -> Option<String> {
        let request = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
        let response = self.kv.clone().range(request).await.unwrap().into_inner();
        response.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
    }

    pub(crate) async fn compact(&self, revision: i64) {
        self.kv.clone().compact(pb::CompactionRequest { revision, physical: true }).await.unwrap();
    }
}
