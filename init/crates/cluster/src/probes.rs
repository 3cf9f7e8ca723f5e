//! Asks the components how they are, and tells PID 1 of those that no longer answer.
//!
//! The API server's readiness is what others wait for: while `/readyz` of the node's own answers ok, the file `apiserver-ready` exists,
//! and while that of any does, `any-apiserver-ready`. A control plane asks its own, and another one through the proxy only while that
//! is not ready; a worker has no own. [Liveness](liveness) is another question, asked of each component.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use keelson_control::ServiceState;
use keelson_pki::{Files, FilesError, Mode, Owner};
use tokio::sync::watch;

use crate::client::{Client, ClientError};
use crate::features::leases;
use crate::kubernetes_api::{KubernetesApi, KubernetesApiError};
use crate::node::{ControlError, Node};
use crate::status::ConditionKind;
use crate::{kubernetes_api, proxy_feed, report};

mod liveness;

/// While nobody listens: a refused connection costs next to nothing.
const LISTENING_INTERVAL: Duration = Duration::from_millis(100);
/// While the API server starts, which each question delays a little.
const STARTING_INTERVAL: Duration = Duration::from_millis(250);
const READY_INTERVAL: Duration = Duration::from_secs(2);
/// On a machine whose processor is short an answer may take seconds.
const PROBE_DEADLINE: Duration = Duration::from_secs(15);
/// Not ready is told after this many failures in a row: a single slow answer stops no controller.
const NOT_READY_FAILURES: u32 = 2;

pub async fn run(node: Arc<Node>, files: Arc<dyn Files>, api: Arc<KubernetesApi>, ready: watch::Sender<bool>) {
    let member = node.member().await;
    let authority = member.trust().kubernetes_serving.clone();
    let is_control_plane = member.membership.control_plane().is_some();
    liveness::watch(&node, &authority, is_control_plane);
    let any = node.paths.any_apiserver_ready();
    // A worker asks whichever API server its proxy finds.
    let (server, file) = if is_control_plane {
        (kubernetes_api::SERVER, node.paths.apiserver_ready())
    } else {
        (kubernetes_api::PROXY, any.clone())
    };
    if is_control_plane {
        match Client::new(kubernetes_api::PROXY, &authority, None) {
            Ok(client) => drop(tokio::spawn(watch_any(Arc::clone(&files), any, ready.subscribe(), client))),
            Err(error) => report::error(&error),
        }
    }
    let readiness = Readiness { node, files, file, api, ready, is_control_plane };
    match Client::new(server, &authority, None) {
        Ok(client) => readiness.watch(&client).await,
        Err(error) => report::error(&error),
    }
}

/// Says by `file` whether some API server is ready. `own` is whether the node's own one is.
async fn watch_any(files: Arc<dyn Files>, file: PathBuf, mut own: watch::Receiver<bool>, client: Client) {
    let mut said = None;
    let mut failures = 0;
    loop {
        let found = if *own.borrow_and_update() {
            true
        } else {
            tokio::select! {
                answer = answers(&client, "/readyz") => answer.is_ok(),
                // The proxy holds a question for as long as nobody can be asked.
                () = proxy_feed::changed(Some(&mut own)) => continue,
            }
        };
        failures = if found { 0 } else { failures + 1 };
        let holds = found || (said == Some(true) && failures < NOT_READY_FAILURES);
        if said != Some(holds) {
            match say(&*files, &file, holds) {
                Ok(()) => said = Some(holds),
                Err(error) => report::error(&error),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(READY_INTERVAL) => {}
            () = proxy_feed::changed(Some(&mut own)) => {}
        }
    }
}

/// A file that exists while something holds.
fn say(files: &dyn Files, file: &Path, holds: bool) -> Result<(), FilesError> {
    if holds { files.write(file, b"", Mode::PUBLIC, Owner::ROOT) } else { files.remove(file) }
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
        Ok((status, body)) => Err(no_success(path, status, &body)),
        Err(error @ ClientError::Connect { .. }) => Err(Failure::Absent(report::chain(&error))),
        Err(error) => Err(Failure::Unwell(report::chain(&error))),
    }
}

/// Of what it says, the lines of the checks that fail.
fn no_success(path: &str, status: StatusCode, body: &[u8]) -> Failure {
    let said = String::from_utf8_lossy(body);
    let failed: Vec<_> = said.lines().filter(|line| line.starts_with("[-]")).collect();
    Failure::Unwell(format!("{path} answers {status} {}", failed.join(" ")).trim_end().to_owned())
}

struct Readiness {
    node: Arc<Node>,
    files: Arc<dyn Files>,
    /// Exists while the API server that is asked is ready.
    file: PathBuf,
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
        match say(&*self.files, &self.file, true) {
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
        if let Err(error) = say(&*self.files, &self.file, false) {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use keelson_pki::StandardFiles;

    use super::*;
    use crate::client::tests::Server;

    static WELL: AtomicBool = AtomicBool::new(false);

    async fn wait_until(what: &str, condition: impl Fn() -> bool) {
        let waiting = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), waiting).await.expect(what);
    }

    #[tokio::test]
    async fn some_api_server_is_ready_while_the_nodes_own_or_another_one_is() {
        let server = Server::start(|_| (if WELL.load(Ordering::SeqCst) { 200 } else { 500 }, String::new())).await;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ready");
        // A former process has left it.
        std::fs::write(&file, "").unwrap();
        let own = watch::Sender::new(false);
        let work = watch_any(Arc::new(StandardFiles), file.clone(), own.subscribe(), server.client());
        let work = tokio::spawn(work);
        wait_until("none is ready", || !file.exists()).await;
        own.send_replace(true);
        wait_until("the node's own is ready", || file.exists()).await;
        WELL.store(true, Ordering::SeqCst);
        own.send_replace(false);
        let asked = server.seen().len();
        wait_until("another one was asked twice", || server.seen().len() > asked + 1).await;
        assert!(file.exists(), "the other one is ready");
        WELL.store(false, Ordering::SeqCst);
        wait_until("none is ready any more", || !file.exists()).await;
        work.abort();
    }
}
