//! Asks the components how they are, and tells PID 1 of those that no longer answer.
//!
//! The API server's readiness is what others wait for: while `/readyz` answers ok, the file `apiserver-ready` exists. A control
//! plane asks its own, a worker any. Liveness is
//! another question, asked of each component; several failures in a row, after it has once answered, are reported, and PID 1 decides.
//! A component that never answered is PID 1's own matter (its start has a timeout).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use keelson_control::ServiceState;
use keelson_pki::{Files, Mode, Owner};
use tokio::sync::watch;

use crate::client::{Client, ClientError};
use crate::features::leases;
use crate::kubernetes_api::{KubernetesApi, KubernetesApiError};
use crate::node::{ControlError, Node};
use crate::status::ConditionKind;
use crate::{kubernetes_api, report, supervision};

/// While nobody listens: a refused connection costs next to nothing.
const LISTENING_INTERVAL: Duration = Duration::from_millis(100);
/// While the API server starts, which each question delays a little.
const STARTING_INTERVAL: Duration = Duration::from_millis(250);
const READY_INTERVAL: Duration = Duration::from_secs(2);
const LIVENESS_INTERVAL: Duration = Duration::from_secs(10);
/// On a machine whose processor is short an answer may take seconds.
const PROBE_DEADLINE: Duration = Duration::from_secs(15);
/// Not ready is told after this many failures in a row: a single slow answer stops no controller.
const NOT_READY_FAILURES: u32 = 2;
/// kubeadm's figures: a restart in the middle of a shortage makes the shortage worse.
const UNHEALTHY_FAILURES: u32 = 8;

/// Components with a health path of their own on the loopback.
const LIVENESS: [(&str, u16, &str); 3] = [
    ("kube-apiserver", 6443, "/livez"),
    ("kube-controller-manager", 10257, "/healthz"),
    ("kube-scheduler", 10259, "/healthz"),
];

pub async fn run(node: Arc<Node>, files: Arc<dyn Files>, api: Arc<KubernetesApi>, ready: watch::Sender<bool>) {
    let member = node.member().await;
    let authority = member.trust().kubernetes_serving.clone();
    let is_control_plane = member.membership.control_plane().is_some();
    for (service, port, path) in LIVENESS.into_iter().filter(|_| is_control_plane) {
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match Client::new(server, &authority, None) {
            Ok(client) => drop(tokio::spawn(watch_liveness(Arc::clone(&node), client, service, path))),
            Err(error) => report::error(&error),
        }
    }
    let readiness = Readiness { node, files, api, ready, is_control_plane };
    // A worker asks whichever API server its proxy finds.
    let server = if is_control_plane { kubernetes_api::SERVER } else { kubernetes_api::PROXY };
    match Client::new(server, &authority, None) {
        Ok(client) => readiness.watch(&client).await,
        Err(error) => report::error(&error),
    }
}

/// Why a component does not answer as it should.
enum Failure {
    /// Nobody accepts a connection.
    Absent(String),
    /// It says no, or not in time.
    Unwell(String),
}

impl Failure {
    fn into_reason(self) -> String {
        match self {
            Self::Absent(reason) | Self::Unwell(reason) => reason,
        }
    }
}

async fn answers(client: &Client, path: &str) -> Result<(), Failure> {
    match client.probe(path, PROBE_DEADLINE).await {
        Ok((status, _)) if status.is_success() => Ok(()),
        Ok((status, body)) => {
            let failed = String::from_utf8_lossy(&body);
            let failed: Vec<_> = failed.lines().filter(|line| line.starts_with("[-]")).collect();
            Err(Failure::Unwell(format!("{path} answers {status} {}", failed.join(" ")).trim_end().to_owned()))
        }
        Err(error @ ClientError::Connect { .. }) => Err(Failure::Absent(report::chain(&error))),
        Err(error) => Err(Failure::Unwell(report::chain(&error))),
    }
}

async fn watch_liveness(node: Arc<Node>, client: Client, service: &'static str, path: &'static str) {
    let mut failures = None;
    loop {
        tokio::time::sleep(LIVENESS_INTERVAL).await;
        match (answers(&client, path).await, failures) {
            (Ok(()), _) => failures = Some(0),
            // It has not answered since it was started.
            (Err(_), None) => {}
            (Err(_), Some(count)) if count + 1 < UNHEALTHY_FAILURES => failures = Some(count + 1),
            (Err(failure), Some(_)) => {
                failures = None;
                let reason = format!("{UNHEALTHY_FAILURES} probes in a row failed: {}", failure.into_reason());
                report::info(format!("{service}: {reason}"));
                if let Err(error) = supervision::report_unhealthy(&node, service, &reason).await {
                    report::error(&error);
                }
            }
        }
    }
}

struct Readiness {
    node: Arc<Node>,
    files: Arc<dyn Files>,
    api: Arc<KubernetesApi>,
    ready: watch::Sender<bool>,
    is_control_plane: bool,
}

impl Readiness {
    async fn watch(&self, client: &Client) {
        let mut failures = 0;
        loop {
            let pause = match answers(client, "/readyz").await {
                Ok(()) => {
                    failures = 0;
                    if !*self.ready.borrow() {
                        self.became_ready().await;
                    }
                    READY_INTERVAL
                }
                Err(failure) => {
                    failures += 1;
                    let pause = match failure {
                        Failure::Absent(_) => LISTENING_INTERVAL,
                        Failure::Unwell(_) => STARTING_INTERVAL,
                    };
                    if failures >= NOT_READY_FAILURES || !*self.ready.borrow() {
                        self.not_ready(&failure.into_reason());
                    }
                    pause
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn became_ready(&self) {
        if self.is_control_plane
            && let Err(error) = self.release_stale_leases().await
        {
            report::error(&error);
        }
        match self.files.write(&self.node.paths.apiserver_ready(), b"", Mode::PUBLIC, Owner::ROOT) {
            Ok(()) => {
                self.node.status.holds(ConditionKind::ApiServerReady, "/readyz answers ok");
                report::info("the API server is ready");
                self.ready.send_replace(true);
            }
            Err(error) => report::error(&error),
        }
    }

    fn not_ready(&self, reason: &str) {
        if *self.ready.borrow() {
            report::info(format!("the API server is not ready: {reason}"));
        }
        self.node.status.fails(ConditionKind::ApiServerReady, reason);
        if let Err(error) = self.files.remove(&self.node.paths.apiserver_ready()) {
            report::error(&error);
        }
        self.ready.send_replace(false);
    }

    /// Controllers wait for the file, so none of this boot's runs yet, unless this process itself was started again.
    async fn release_stale_leases(&self) -> Result<(), StaleLeaseError> {
        let status = self.node.control(|mut client| client.list()).await?;
        let running = |name: &str| {
            status.services.iter().any(|service| {
                service.name.as_str() == name && (service.pid.is_some() || service.state == ServiceState::Ready)
            })
        };
        let masters = self.api.masters()?;
        let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let stale = leases::NAMES.iter().filter(|name| !running(name));
        let released = stale.map(|name| leases::give_up(&masters, name, &hostname));
        futures::future::try_join_all(released).await.map_err(KubernetesApiError::Client)?;
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
enum StaleLeaseError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("releasing the leases of controllers that are gone")]
    Api(#[from] KubernetesApiError),
}
