//! Starting the program and waiting for what it says.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::kv_client::KvClient;
use tonic::transport::{Channel, Endpoint};

use keelson_ports::free_port;

/// What a start or stop may take here, with the processor shared by all tests.
const DEADLINE: Duration = Duration::from_mins(1);
pub(crate) const READY: &str = r#""msg":"ready to serve client requests""#;

pub(crate) struct Store {
    child: Child,
    pub(crate) port: u16,
    pub(crate) peer_port: u16,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Store {
    /// Starts the program and waits until it says that it serves.
    pub(crate) fn start(data_dir: &Path, more: &[&str]) -> Self {
        let store = Self::spawn(data_dir, more, &[]);
        store.wait_for(READY);
        store
    }

    pub(crate) fn spawn(data_dir: &Path, more: &[&str], environment: &[(&str, &str)]) -> Self {
        let (port, peer_port) = (free_port().unwrap(), free_port().unwrap());
        let url = format!("http://127.0.0.1:{port}");
        let mut child = Command::new(env!("CARGO_BIN_EXE_keelson-store"))
            .arg(format!("--data-dir={}", data_dir.display()))
            .arg(format!("--listen-client-urls={url}"))
            .arg(format!("--advertise-client-urls={url}"))
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"))
            .args(more)
            .envs(environment.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let sink = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        Self { child, port, peer_port, lines }
    }

    pub(crate) fn output(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    pub(crate) fn wait_for(&self, text: &str) {
        let said = until(|| self.output().contains(text));
        assert!(said, "the store did not say {text}; it said:\n{}", self.output());
    }

    fn endpoint(&self) -> Endpoint {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", self.port)).unwrap();
        endpoint.timeout(DEADLINE).connect_timeout(DEADLINE)
    }

    pub(crate) async fn client(&self) -> KvClient<Channel> {
        KvClient::new(self.endpoint().connect().await.unwrap())
    }

    /// One that connects with its first request, and again if need be.
    pub(crate) fn lazy_client(&self) -> KvClient<Channel> {
        KvClient::new(self.endpoint().connect_lazy())
    }

    /// From proc(5).
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }

    /// How often its threads have waited for something, from proc(5).
    pub(crate) fn waits(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let waits = |task: std::io::Result<std::fs::DirEntry>| {
            // A thread that has just ended has none.
            let status = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse::<u64>().ok()
        };
        tasks.filter_map(waits).sum()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn terminate(&self) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        let ended = until(|| {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(ended, "the store did not end; it said:\n{}", self.output());
        status.unwrap()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // It may have ended already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn until(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + DEADLINE;
    let (_quiet, tick) = std::sync::mpsc::channel::<()>();
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        _ = tick.recv_timeout(Duration::from_millis(5));
        std::thread::yield_now();
    }
    true
}

pub(crate) fn put(key: &str, value: impl Into<Bytes>) -> pb::PutRequest {
    pb::PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), value: value.into(), ..Default::default() }
}

/// A linearizable read of one key.
pub(crate) async fn get(client: &mut KvClient<Channel>, key: &str) -> Option<String> {
    let request = pb::RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() };
    let response = client.range(request).await.unwrap().into_inner();
    response.kvs.first().map(|pair| String::from_utf8_lossy(&pair.value).into_owned())
}
