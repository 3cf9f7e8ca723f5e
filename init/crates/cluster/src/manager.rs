//! The order in which a node comes up, and what is kept as it should be afterwards.
//!
//! Nothing waits for more than it needs: containerd's settings and login1 come before any cluster, the store's files as soon
//! as the node has one, Kubernetes' as soon as it has an address. The whole configuration is one function of the
//! circumstances ([`Manager::reconcile`]), run again when they change (addresses, the clock) and every minute for the leaves'
//! age; it writes only what differs.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keelson_control::ServiceSpec;
use keelson_pki::{AuthorityError, AuthorityKind, Files, Mode, Owner, StandardFiles};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::credentials::{self, Circumstances, CredentialError};
use crate::kubernetes::{self, KubernetesError, Settings};
use crate::kubernetes_api::KubernetesApi;
use crate::membership::{self, Decision, Membership};
use crate::node::{Member, Node};
use crate::paths::Paths;
use crate::status::ConditionKind;
use crate::store::{self, StoreError};
use crate::unix_socket::Admitted;
use crate::{
    accounts, api_server, boot_mark, container_runtime, features, images, login, network, probes, report, signer,
    supervision,
};

mod start;

pub use start::StartError;

/// How often the leaves' age is looked at.
const RECONCILE_INTERVAL: Duration = Duration::from_mins(1);
/// How often the wall clock is compared with the monotonic one: a jump may make every leaf stale at once.
const CLOCK_INTERVAL: Duration = Duration::from_secs(2);
/// A clock that is slewed moves less than this between two looks.
const CLOCK_JUMP: Duration = Duration::from_secs(30);
/// Before another try after a failure that may pass, such as a full disk or a PID 1 that is busy.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
enum ReconcileError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    #[error("certifying this process' own API")]
    Api(#[source] AuthorityError),
    #[error("the work was interrupted")]
    Interrupted,
}

/// Runs for ever; an error says that there is nothing to begin with.
pub async fn run(paths: Paths) -> Result<(), StartError> {
    let node = Arc::new(start::read_node(paths)?);
    let files: Arc<dyn Files> = Arc::new(StandardFiles);
    report::info(format!("this is {}, a {}", node.name(), node.config.role));
    let api = Arc::new(KubernetesApi::new(Arc::clone(&node)));
    let images = watch::Sender::new(Vec::new());

    configure_container_runtime(&node, &files).await;
    let ended_controllers = supervision::follow(&node);
    for task in [
        tokio::spawn(network::follow(Arc::clone(&node))),
        tokio::spawn(login::serve(Arc::clone(&node))),
        tokio::spawn(images::keep(Arc::clone(&node), images.clone())),
        tokio::spawn(serve_api(Arc::clone(&node), Arc::clone(&api))),
        tokio::spawn(boot_mark::run(Arc::clone(&node))),
    ] {
        // They run as long as the process; none has an end that anybody waits for.
        drop(task);
    }

    let membership = Arc::new(join_or_found(&node, &files).await);
    let mut manager = Manager { node, files, membership, applied: None };
    manager.become_member().await;
    tokio::spawn(serve_signer(Arc::clone(&manager.node), Arc::clone(&manager.membership)));
    let ready = watch::Sender::new(false);
    tokio::spawn(features::run(
        Arc::clone(&manager.node),
        Arc::clone(&manager.files),
        Arc::clone(&api),
        ready.subscribe(),
        images.subscribe(),
        ended_controllers,
    ));
    tokio::spawn(probes::run(Arc::clone(&manager.node), Arc::clone(&manager.files), api, ready));
    manager.keep().await;
    Ok(())
}

async fn serve_api(node: Arc<Node>, api: Arc<KubernetesApi>) {
    let endpoints = api_server::Endpoints::of(&node);
    api_server::serve(node, api, endpoints, |message| report::info(format!("error: {message}"))).await;
}

async fn configure_container_runtime(node: &Arc<Node>, files: &Arc<dyn Files>) {
    let kind = ConditionKind::ContainerRuntimeReady;
    let (shared, files) = (Arc::clone(node), Arc::clone(files));
    let write = move || container_runtime::configure(&*files, &shared.paths, &shared.config);
    match tokio::task::spawn_blocking(write).await {
        // From here on PID 1 knows more of it.
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            node.status.fails(kind, report::chain(&error));
            report::error(&error);
        }
        Err(error) => report::error(&error),
    }
}

/// Returns once the node has a cluster. A node that has none stays here, and says why.
async fn join_or_found(node: &Arc<Node>, files: &Arc<dyn Files>) -> Membership {
    loop {
        let (shared, own_files) = (Arc::clone(node), Arc::clone(files));
        let decide =
            move || membership::decide(&*own_files, &shared.paths, &shared.config, shared.name(), shared.clock());
        let (reason, may_pass) = match tokio::task::spawn_blocking(decide).await {
            Ok(Ok(Decision::Member(membership))) => return *membership,
            Ok(Ok(Decision::Waiting(reason))) => (reason, false),
            Ok(Err(error)) => (report::chain(&error), true),
            Err(error) => (report::chain(&error), true),
        };
        if node.status.fails(ConditionKind::Member, reason.as_str()) {
            report::info(&reason);
            show(node, files, &format!("no cluster: {reason}\n")).await;
        }
        if !may_pass {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Gives PID 1 something to show on the console.
async fn show(node: &Arc<Node>, files: &Arc<dyn Files>, text: &str) {
    let (path, files, text) = (node.paths.console(), Arc::clone(files), text.to_owned());
    let write = move || files.update(&path, text.as_bytes(), Mode::PUBLIC, Owner::ROOT);
    match tokio::task::spawn_blocking(write).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => report::error(&error),
        Err(error) => report::error(&error),
    }
}

async fn serve_signer(node: Arc<Node>, membership: Arc<Membership>) {
    let path = node.paths.signer_socket();
    let admitted = Admitted::account(accounts::KUBE_APISERVER);
    loop {
        match signer::listen(&path, admitted) {
            Ok(listener) => match signer::serve(listener, admitted, Arc::clone(&membership)).await {},
            Err(error) => report::error(&error),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

struct Manager {
    node: Arc<Node>,
    files: Arc<dyn Files>,
    membership: Arc<Membership>,
    /// What PID 1 has accepted.
    applied: Option<Vec<ServiceSpec>>,
}

impl Manager {
    /// The first certificates, before anything can be served under them.
    async fn become_member(&mut self) {
        loop {
            match self.reconcile().await {
                Ok(()) => break,
                Err(error) => {
                    self.node.status.fails(ConditionKind::Member, report::chain(&error));
                    report::error(&error);
                }
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        let cluster = &self.membership.identity.cluster_id;
        self.node.status.holds(ConditionKind::Member, format!("the node belongs to cluster {cluster}"));
        report::info(format!("member of cluster {cluster}"));
    }

    /// Reconciles when circumstances change, and every minute.
    async fn keep(&mut self) {
        let mut network = self.node.network();
        loop {
            let result = self.reconcile().await;
            let failed = result.is_err();
            if let Err(error) = result {
                report::error(&error);
            }
            let pause = if failed || self.applied.is_none() { RETRY_PAUSE } else { RECONCILE_INTERVAL };
            tokio::select! {
                _ = network.changed() => {}
                () = tokio::time::sleep(pause) => {}
                () = clock_jump() => report::info("the clock was set: looking at all certificates again"),
            }
        }
    }

    async fn reconcile(&mut self) -> Result<(), ReconcileError> {
        let (node, files, membership) = (Arc::clone(&self.node), Arc::clone(&self.files), Arc::clone(&self.membership));
        let addresses = self.node.addresses();
        let write = move || write_configuration(&node, &*files, &membership, &addresses);
        let services = tokio::task::spawn_blocking(write).await.map_err(|_| ReconcileError::Interrupted)??;
        match services {
            Some(services) => {
                self.show_address().await;
                self.apply(services).await;
            }
            None => {
                self.node.status.fails(ConditionKind::ServicesApplied, "waiting for an address of the node");
            }
        }
        Ok(())
    }

    /// Hands the services over if they are others than before.
    async fn apply(&mut self, services: Vec<ServiceSpec>) {
        if self.applied.as_ref() == Some(&services) {
            return;
        }
        match supervision::apply(&self.node, services.clone()).await {
            Ok(applied) => {
                let count = services.len();
                self.node.status.holds(
                    ConditionKind::ServicesApplied,
                    format!("{count} services are with PID 1, version {}", applied.version),
                );
                report::info(format!("handed {count} services to PID 1, version {}", applied.version));
                self.applied = Some(services);
            }
            Err(error) => {
                self.node.status.fails(ConditionKind::ServicesApplied, report::chain(&error));
                report::error(&error);
            }
        }
    }

    async fn show_address(&self) {
        let Some(address) = self.node.addresses().first().copied() else {
            return;
        };
        let fingerprint = self.membership.authorities.get(AuthorityKind::Api).fingerprint();
        let host = std::net::SocketAddr::new(address, keelson_api::PORT);
        show(&self.node, &self.files, &format!("API https://{host} fingerprint {fingerprint}\n")).await;
    }
}

/// Everything that others read. The services need an address; without one there are none yet.
fn write_configuration(
    node: &Node,
    files: &dyn Files,
    membership: &Arc<Membership>,
    addresses: &[IpAddr],
) -> Result<Option<Vec<ServiceSpec>>, ReconcileError> {
    let clock = node.clock();
    let circumstances = Circumstances { identity: &membership.identity, cluster: &node.config.cluster, addresses };
    store::configure(files, &node.paths, membership, circumstances, clock)?;
    renew_api_serving(node, membership, circumstances)?;
    let Some(address) = addresses.first().copied() else {
        return Ok(None);
    };
    let settings = Settings { paths: &node.paths, config: &node.config, membership, address, addresses };
    Ok(Some(kubernetes::configure(files, settings, clock)?))
}

fn renew_api_serving(
    node: &Node,
    membership: &Arc<Membership>,
    circumstances: Circumstances<'_>,
) -> Result<(), ReconcileError> {
    let (clock, profile) = (node.clock(), circumstances.api_profile());
    let authority = membership.authorities.get(AuthorityKind::Api);
    let issue = || authority.issue(&profile, clock).map_err(ReconcileError::Api);
    match node.member_now() {
        None => node.set_member(Arc::new(Member::new(Arc::clone(membership), issue()?))),
        Some(member) => {
            let current = credentials::is_current(&member.api_serving().borrow(), &profile, authority, clock);
            if !current {
                member.set_api_serving(issue()?);
            }
        }
    }
    Ok(())
}

/// Returns when the wall clock has been set.
async fn clock_jump() {
    loop {
        let (wall, monotonic) = (SystemTime::now(), Instant::now());
        tokio::time::sleep(CLOCK_INTERVAL).await;
        let expected = wall + monotonic.elapsed();
        let now = SystemTime::now();
        let difference = now.duration_since(expected).unwrap_or_else(|backwards| backwards.duration());
        if difference > CLOCK_JUMP {
            return;
        }
    }
}
