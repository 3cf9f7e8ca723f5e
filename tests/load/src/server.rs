//! Servers as child processes: the store and etcd, with the same flags, on the same disk.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::kv_client::KvClient;
use keelson_etcd_api::etcdserverpb::maintenance_client::MaintenanceClient;
use serde::Serialize;
use tonic::transport::{Channel, Endpoint};

use crate::child;
use crate::error::Error;
use crate::tls::Authority;
use keelson_ports::free_port;

/// A start on a large database.
const START_DEADLINE: Duration = Duration::from_mins(5);
const POLL: Duration = Duration::from_millis(2);
/// Clock ticks of proc(5), the same on every architecture that Linux shows them on.
const TICKS_PER_SECOND: f64 = 100.0;
/// More than any workload stores; compaction and space are not what is measured here.
const QUOTA: &str = "--quota-backend-bytes=8589934592";
/// No answer of a workload is larger.
pub(crate) const ANSWER_BYTES: usize = 256 << 20;

/// Which program a server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Peer {
    Etcd,
    Keelson,
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub store: PathBuf,
    pub etcd: PathBuf,
}

impl Programs {
    fn of(&self, peer: Peer) -> &Path {
        match peer {
            Peer::Etcd => &self.etcd,
            Peer::Keelson => &self.store,
        }
    }
}

/// One member; it is killed with the value, and with this process.
#[derive(Debug)]
pub(crate) struct Server {
    program: PathBuf,
    arguments: Vec<String>,
    folder: PathBuf,
    endpoint: Endpoint,
    child: Option<Child>,
}

/// What a process has used since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    pub cpu_seconds: f64,
    pub written_bytes: u64,
    pub resident_bytes: u64,
}

impl std::ops::Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
            written_bytes: self.written_bytes + other.written_bytes,
            resident_bytes: self.resident_bytes + other.resident_bytes,
        }
    }
}

/// So many members of one cluster, started and ready.
pub(crate) async fn cluster(
    peer: Peer,
    programs: &Programs,
    authority: &Authority,
    folder: &Path,
    members: usize,
) -> Result<Vec<Server>, Error> {
    let mut ports = Vec::new();
    for _ in 0..members {
        let port = || free_port().map_err(Error::file("find a port for", folder));
        ports.push((port()?, port()?));
    }
    let list: Vec<_> =
        ports.iter().enumerate().map(|(number, (_, peer))| format!("m{number}=https://127.0.0.1:{peer}")).collect();
    let mut servers = Vec::new();
    for (number, (client, peer_port)) in ports.iter().enumerate() {
        let folder = folder.join(format!("{peer:?}-{members}-{number}").to_ascii_lowercase());
        std::fs::create_dir_all(&folder).map_err(Error::file("make", &folder))?;
        let (client, peer_url) = (format!("https://127.0.0.1:{client}"), format!("https://127.0.0.1:{peer_port}"));
        let mut arguments = vec![
            format!("--name=m{number}"),
            format!("--data-dir={}", folder.join("data").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer_url}"),
            format!("--initial-advertise-peer-urls={peer_url}"),
            format!("--initial-cluster={}", list.join(",")),
            QUOTA.to_owned(),
            "--log-level=error".to_owned(),
        ];
        arguments.extend(authority.flags());
        let endpoint = Endpoint::from_shared(client)
            .and_then(|endpoint| endpoint.tls_config(authority.client()))
            .map_err(Error::Connect)?
            .tcp_nodelay(true)
            // What Go's client and server allow, so that the generator holds up neither.
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(32 << 20);
        let mut server = Server { program: programs.of(peer).to_owned(), arguments, folder, endpoint, child: None };
        server.start()?;
        servers.push(server);
    }
    for server in &servers {
        server.ready().await?;
    }
    Ok(servers)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    pub(crate) fn start(&mut self) -> Result<(), Error> {
        let path = self.folder.join("log");
        let log = File::options().create(true).append(true).open(&path).map_err(Error::file("open", path))?;
        let start = child::command(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let program = self.program.display().to_string();
        self.child = Some(start.map_err(|source| Error::Start { program, source })?);
        Ok(())
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            _ = child.kill();
            _ = child.wait();
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// A connection of its own; it is made with the first request.
    pub(crate) fn channel(&self) -> Channel {
        self.endpoint.connect_lazy()
    }

    pub(crate) fn kv(&self) -> KvClient<Channel> {
        kv(self.channel())
    }

    pub(crate) async fn status(&self) -> Option<pb::StatusResponse> {
        let mut maintenance = MaintenanceClient::new(self.channel());
        let asked = maintenance.status(pb::StatusRequest {});
        let answer = tokio::time::timeout(Duration::from_secs(2), asked).await.ok()?;
        answer.ok().map(tonic::Response::into_inner)
    }

    pub(crate) async fn leads(&self) -> bool {
        let status = self.status().await;
        status.is_some_and(|status| status.header.is_some_and(|header| header.member_id == status.leader))
    }

    /// Returns once it answers a linearizable read.
    pub(crate) async fn ready(&self) -> Result<(), Error> {
        let started = Instant::now();
        let mut kv = self.kv();
        let request = pb::RangeRequest { key: "ready".into(), ..Default::default() };
        while kv.range(request.clone()).await.is_err() {
            if started.elapsed() > START_DEADLINE {
                return Err(self.late("answer"));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    pub(crate) fn late(&self, what: &'static str) -> Error {
        let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let tail: Vec<_> = log.lines().rev().take(20).collect();
        let log = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
        Error::Late { name: self.program.display().to_string(), what, log }
    }

    pub(crate) fn usage(&self) -> Usage {
        self.child.as_ref().map_or_else(Usage::default, |child| usage(child.id()))
    }
}

pub(crate) fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(ANSWER_BYTES)
}

/// What several have used together.
pub(crate) fn total_usage(servers: &[Server]) -> Usage {
    servers.iter().map(Server::usage).fold(Usage::default(), |sum, usage| sum + usage)
}

/// From proc(5): `stat` for the time, `io` for what went to the disk, `status` for memory.
fn usage(process: u32) -> Usage {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{process}/{name}")).unwrap_or_default();
    let stat = read("stat");
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks: u32 = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum();
    let number = |text: &str, label: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(label));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    Usage {
        cpu_seconds: f64::from(ticks) / TICKS_PER_SECOND,
        written_bytes: number(&read("io"), "write_bytes:"),
        resident_bytes: number(&read("status"), "VmRSS:") * 1024,
    }
}
