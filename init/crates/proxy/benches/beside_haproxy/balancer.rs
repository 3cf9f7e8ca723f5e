//! The two balancers as child processes.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keelson_pki::Authority;
use keelson_proxy::Settings;
use keelson_proxy::feed::{Client as Feed, Endpoint, Reply, Request, Set};
use keelson_proxy::server::Server;

/// The first argument of this program when it is keelson-proxy.
pub(crate) const SERVE: &str = "serve";

const FEED: &str = "feed.sock";
const PORT: &str = "port";
/// Of proc(5), the same on every architecture that Linux shows them on.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Keelson,
    Haproxy,
}

/// It ends with the value.
pub(crate) struct Balancer {
    pub(crate) address: SocketAddr,
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Balancer {
    /// In front of these servers, the first preferred.
    pub(crate) async fn start(kind: Kind, authority: &Authority, servers: [SocketAddr; 2]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (child, port) = match kind {
            Kind::Keelson => start_keelson(folder.path()).await,
            Kind::Haproxy => start_haproxy(folder.path(), authority, servers),
        };
        let balancer = Self { address: (Ipv4Addr::LOCALHOST, port).into(), child, folder };
        if kind == Kind::Keelson {
            let endpoint = |(index, address)| Endpoint { address, local: index == 0 };
            let set = Set {
                version: 1,
                authority: authority.certificate_pem(),
                endpoints: servers.into_iter().enumerate().map(endpoint).collect(),
            };
            let mut feed = Feed::connect(&balancer.folder.path().join(FEED)).await.unwrap();
            assert_eq!(feed.ask(&Request::Set(set)).await.unwrap(), Reply::Applied { version: 1 });
        }
        balancer
    }

    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = self.proc("stat");
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        let ticks: u32 = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum();
        f64::from(ticks) / TICKS_PER_SECOND
    }

    pub(crate) fn resident_megabytes(&self) -> f64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e3
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }
}

async fn start_keelson(folder: &Path) -> (Child, u16) {
    let child = Command::new(std::env::current_exe().unwrap()).arg(SERVE).arg(folder).spawn().unwrap();
    let port = || std::fs::read_to_string(folder.join(PORT)).ok().and_then(|text| text.parse().ok());
    let mut told = port();
    while told.is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        told = port();
    }
    (child, told.unwrap())
}

/// What keelson-proxy's program does, at a port and with files of its own.
pub(crate) async fn serve(folder: &Path) {
    let settings = Settings {
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        feed: folder.join(FEED),
        kept: folder.join("endpoints.json"),
        ..Settings::default()
    };
    let server = Server::bind(settings).await.unwrap();
    std::fs::write(folder.join("new"), server.addresses().first().unwrap().port().to_string()).unwrap();
    std::fs::rename(folder.join("new"), folder.join(PORT)).unwrap();
    match server.serve().await {}
}

/// Debian's package haproxy, with health checks as frequent as ours, and with connections to a server that is down ended, which it does not do by itself.
fn start_haproxy(folder: &Path, authority: &Authority, [a, b]: [SocketAddr; 2]) -> (Child, u16) {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let ca = folder.join("ca.pem");
    std::fs::write(&ca, authority.certificate_pem()).unwrap();
    let check = format!(
        "check check-ssl verify required ca-file {} inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions",
        ca.display()
    );
    let config = format!(
        "global\n  nbthread 2\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n  timeout check 500ms\n\
         frontend api\n  bind 127.0.0.1:{port}\n  default_backend servers\n\
         backend servers\n  option httpchk GET /readyz\n  http-check expect status 200\n  option redispatch\n  retries 3\n  \
         server a {a} {check}\n  server b {b} {check} backup\n"
    );
    let file = folder.join("haproxy.cfg");
    std::fs::write(&file, config).unwrap();
    let child = Command::new("haproxy").arg("-db").arg("-f").arg(&file).stdin(Stdio::null()).spawn().unwrap();
    (child, port)
}
