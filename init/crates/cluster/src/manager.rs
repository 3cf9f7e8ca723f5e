//! The order in which a node comes up, and what is kept as it should be afterwards.
//!
//! Nothing waits for more than it needs: containerd's settings and login1 come before any cluster, the store's files as soon
//! as the node has one, Kubernetes' as soon as it has an address. The whole configuration is one function of the
//! circumstances ([`Manager::reconcile`]), run again when they change (addresses, the clock) and every minute for the leaves'
//! age; it writes only what differs.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keelson_config::Scopes;
use keelson_control::ServiceSpec;
use keelson_pki::{AuthorityError, Files, FilesError, Mode, Owner, StandardFiles};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::configuration;
use crate::credentials::CredentialError;
use crate::join::renewal::{self, Renewal, RenewalError};
use crate::kubernetes::KubernetesError;
use crate::kubernetes_api::KubernetesApi;
use crate::membership::{self, ControlPlane, Membership, Standing};
use crate::node::Node;
use crate::paths::Paths;
use crate::place::{self, PlaceError};
use crate::registry::Registry;
use crate::registry::etcd::Etcd;
use crate::status::ConditionKind;
use crate::store::peers::PeersError;
use crate::store::{self, StoreError};
use crate::unix_socket::Admitted;
use crate::worker::{Worker, WorkerError};
use crate::{
    accounts, api_server, boot_mark, container_runtime, departed, discovery, events, features, images, login, network,
    operators, probes, proxy_feed, report, rotation, signer, supervision, virtual_address, worker,
};

mod cluster;
mod work;

use work::Work;

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
/// How long a worker's start waits for a control plane to say whether it was removed.
const REMOVED_DEADLINE: Duration = Duration::from_secs(5);
/// How long the rest of a worker's configuration waits until its other address is seen. It is tried again every minute.
const VERIFY_DEADLINE: Duration = Duration::from_secs(5);

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
    #[error(transparent)]
    Renewal(#[from] RenewalError),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Peers(#[from] PeersError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("the work was interrupted")]
    Interrupted,
}

impl ReconcileError {
    fn is_removed(&self) -> bool {
        matches!(self, Self::Renewal(RenewalError::Removed) | Self::Place(PlaceError::Removed))
    }
}

/// Runs until whom the node believes has changed: then everything has to begin anew, in another runtime. An error says that there is nothing to
/// begin with.
pub async fn run(paths: Paths) -> Result<(), StartError> {
    run_with(paths, Arc::new(StandardFiles)).await
}

/// The same on files that are written in another way.
pub async fn run_with(paths: Paths, files: Arc<dyn Files>) -> Result<(), StartError> {
    let node = Arc::new(start::read_node(paths)?);
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
        tokio::spawn(proxy_feed::run(Arc::clone(&node))),
        tokio::spawn(boot_mark::run(Arc::clone(&node))),
        tokio::spawn(discovery::answer(Arc::clone(&node))),
    ] {
        // They run as long as the process; none has an end that anybody waits for.
        drop(task);
    }

    let membership = Arc::new(cluster::find(&node, &files).await);
    let mut manager = Manager::new(node, files, membership);
    manager.become_member().await;
    manager.start_following();
    let ready = watch::Sender::new(false);
    manager.contend(ready.subscribe());
    manager.exchange_authorities(&api, ready.subscribe());
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

async fn serve_signer(node: Arc<Node>, held: Arc<ControlPlane>, registry: Arc<Registry>) {
    let path = node.paths.signer_socket();
    let admitted = Admitted::account(accounts::KUBE_APISERVER);
    loop {
        match signer::listen(&path, admitted) {
            Ok(listener) => match signer::serve(listener, admitted, Arc::clone(&held), Arc::clone(&registry)).await {},
            Err(error) => report::error(&error),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

struct Manager {
    node: Arc<Node>,
    files: Arc<dyn Files>,
    membership: Arc<Membership>,
    /// The cluster's records, on a control plane.
    registry: Option<Arc<Registry>>,
    worker: Option<Arc<Worker>>,
    /// What PID 1 has accepted.
    applied: Option<Vec<ServiceSpec>>,
    /// What operators have said, as far as it is known.
    scopes: Option<Scopes>,
    complaint: report::Complaint,
    /// About an address of the node that no control plane has seen.
    unverified: report::Complaint,
}

impl Manager {
    fn new(node: Arc<Node>, files: Arc<dyn Files>, membership: Arc<Membership>) -> Self {
        let registry = membership.control_plane().map(|held| {
            let backend = Etcd::new(store::CLIENT_ADDRESS, Arc::clone(held), node.clock_floor);
            Arc::new(Registry::new(Arc::new(backend)))
        });
        Self {
            node,
            files,
            membership,
            registry,
            worker: None,
            applied: None,
            scopes: None,
            complaint: report::Complaint::default(),
            unverified: report::Complaint::default(),
        }
    }

    /// The first certificates, before anything can be served under them.
    async fn become_member(&mut self) {
        loop {
            match self.take_place().await {
                Ok(()) => break,
                Err(error) if error.is_removed() => self.leave().await,
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

    /// Everything that has to be there before the first services are handed over.
    async fn take_place(&mut self) -> Result<(), ReconcileError> {
        if let Standing::Worker(holding) = &self.membership.standing {
            let worker = match &self.worker {
                Some(worker) => Arc::clone(worker),
                None => Arc::clone(self.worker.insert(Arc::new(Worker::new(holding)?))),
            };
            self.ask_whether_removed(&worker).await?;
        }
        self.recall_scopes().await;
        self.node.start();
        if let Standing::ControlPlane(held) = &self.membership.standing {
            if let Some(settings) = &held.settings {
                self.node.set_cluster(worker::joined_configuration(self.node.started(), settings)?.cluster);
            }
            place::enter(&self.node, &self.files, &self.membership, held).await?;
        }
        self.reconcile().await
    }

    /// What operators had said when this node heard of it last.
    async fn recall_scopes(&mut self) {
        self.scopes = match configuration::kept(&self.files, &self.node.paths).await {
            Ok(Some(kept)) => Some(kept),
            // One that has just joined knows what it was told.
            Ok(None) => self.membership.control_plane().and_then(|held| configuration::told(held.settings.as_ref()?)),
            Err(error) => {
                report::error(&error);
                None
            }
        };
        self.follow_scopes();
    }

    /// What operators have said since.
    fn follow_scopes(&mut self) {
        let known = match (&self.worker, &self.registry) {
            (Some(worker), _) => configuration::told(&worker.settings_now()),
            (None, Some(registry)) => registry.view_now().map(|view| view.scopes(self.node.name())),
            (None, None) => None,
        };
        self.scopes = known.or(self.scopes.take());
        let Some(scopes) = &self.scopes else { return };
        match self.node.set_scopes(scopes) {
            Ok(()) => self.complaint.passed(),
            Err(error) => self.complaint.of(report::chain(&error)),
        }
    }

    /// A node that was removed while it was off has to know before it starts a pod. If nobody answers, it goes on: its pods
    /// come from an API server, and none of those answers either.
    async fn ask_whether_removed(&self, worker: &Arc<Worker>) -> Result<(), ReconcileError> {
        let asking = async {
            self.renew(worker).await?;
            renewal::fetch_settings(&self.node, &self.files, worker, &self.membership.trust).await
        };
        match tokio::time::timeout(REMOVED_DEADLINE, asking).await {
            Ok(Err(error @ RenewalError::Removed)) => Err(error.into()),
            Ok(Err(error)) => {
                report::error(&error);
                Ok(())
            }
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }

    async fn renew(&self, worker: &Arc<Worker>) -> Result<bool, RenewalError> {
        self.renewal(worker, &self.node.addresses()).renew_if_due().await
    }

    fn renewal<'a>(&'a self, worker: &'a Worker, addresses: &'a [IpAddr]) -> Renewal<'a> {
        let Membership { identity, trust, .. } = &*self.membership;
        Renewal { node: &self.node, files: &self.files, worker, identity, trust, addresses }
    }

    /// What runs beside [`Self::keep`] for as long as the node is a member.
    fn start_following(&self) {
        if let (Some(held), Some(registry)) = (self.membership.control_plane(), &self.registry) {
            tokio::spawn(serve_signer(Arc::clone(&self.node), Arc::clone(held), Arc::clone(registry)));
            let kept = Arc::clone(registry);
            tokio::spawn(place::keep(
                Arc::clone(&self.node),
                Arc::clone(&self.files),
                Arc::clone(registry),
                Arc::clone(&self.membership),
            ));
            tokio::spawn(departed::keep(Arc::clone(&self.node), Arc::clone(&self.files), Arc::clone(registry)));
            tokio::spawn(operators::keep(Arc::clone(&self.node), Arc::clone(&self.files), Arc::clone(registry)));
            let told = Arc::clone(registry);
            tokio::spawn(async move { events::keep(&told).await });
            tokio::spawn(async move { kept.keep(|error| report::error(error)).await });
        }
    }

    /// For the cluster's virtual address, as long as the node is a control plane of it.
    fn contend(&self, ready: watch::Receiver<bool>) {
        if let Some(registry) = &self.registry {
            tokio::spawn(virtual_address::keep(
                Arc::clone(&self.node),
                Arc::clone(&self.files),
                Arc::clone(registry),
                self.membership.identity.clone(),
                ready,
            ));
        }
    }

    /// What this control plane does while the cluster's authorities are exchanged.
    fn exchange_authorities(&self, api: &Arc<KubernetesApi>, ready: watch::Receiver<bool>) {
        if let Some(registry) = &self.registry {
            tokio::spawn(rotation::keep(
                Arc::clone(&self.node),
                Arc::clone(&self.files),
                Arc::clone(registry),
                Arc::clone(&self.membership),
                Arc::clone(api),
                ready,
            ));
        }
    }

    /// Reconciles when circumstances change, and every minute, until the process has to begin anew.
    async fn keep(&mut self) {
        let node = Arc::clone(&self.node);
        let mut network = node.network();
        let mut settings = self.worker.as_ref().map(|worker| worker.settings());
        let mut views = self.registry.as_ref().map(|registry| registry.view());
        let mut following = self.follow_membership().await;
        loop {
            let result = self.reconcile().await;
            let failed = result.is_err();
            match result {
                Err(error) if error.is_removed() => self.leave().await,
                Err(error) => report::error(&error),
                Ok(()) => {}
            }
            let pause = if failed || self.applied.is_none() { RETRY_PAUSE } else { RECONCILE_INTERVAL };
            tokio::select! {
                _ = network.changed() => {}
                () = proxy_feed::changed(settings.as_mut()) => {}
                // Who was removed is denied at once.
                () = proxy_feed::changed(views.as_mut()) => {}
                _ = &mut following => self.leave().await,
                () = node.has_to_begin_anew() => return,
                () = tokio::time::sleep(pause) => {}
                () = clock_jump() => report::info("the clock was set: looking at all certificates again"),
            }
        }
    }

    /// Ends when the node was removed.
    async fn follow_membership(&self) -> JoinHandle<()> {
        let (node, files) = (Arc::clone(&self.node), Arc::clone(&self.files));
        if let Some(registry) = &self.registry {
            let (registry, membership) = (Arc::clone(registry), Arc::clone(&self.membership));
            return tokio::spawn(place::watch_others(node, files, registry, membership));
        }
        let member = self.node.member().await;
        tokio::spawn(renewal::follow_settings(node, files, member))
    }

    /// The node was removed: it forgets the cluster and reboots, which ends its pods. Does not return.
    async fn leave(&mut self) {
        let cluster = &self.membership.identity.cluster_id;
        let reason = format!("the node was removed from cluster {cluster}; to join again it needs a new token");
        self.node.status.fails(ConditionKind::Member, reason.as_str());
        report::info(&reason);
        loop {
            let (files, paths) = (Arc::clone(&self.files), self.node.paths.clone());
            let forget = move || {
                let forgotten = membership::forget(&*files, &paths);
                // The store still runs and may write once more; a later join clears what is left then.
                if let Err(error) = membership::forget_store(&paths) {
                    report::error(&error);
                }
                forgotten
            };
            let forgotten = tokio::task::spawn_blocking(forget).await;
            match forgotten {
                Ok(Ok(())) => {
                    let order = reason.clone();
                    match self.node.control(move |mut client| client.reboot(&order)).await {
                        Ok(()) => std::future::pending::<()>().await,
                        Err(error) => report::error(&error),
                    }
                }
                Ok(Err(error)) => report::error(&error),
                Err(error) => report::error(&error),
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn reconcile(&mut self) -> Result<(), ReconcileError> {
        self.follow_scopes();
        let mut addresses = self.node.addresses();
        if let Some(worker) = self.worker.clone() {
            match self.renew(&worker).await {
                Ok(true) => report::info("the node's certificates were renewed"),
                Ok(false) => {}
                // The present ones hold for a while yet.
                Err(error) if !matches!(error, RenewalError::Removed) && worker.pairs_now().is_some() => {
                    report::error(&error);
                }
                Err(error) => return Err(error.into()),
            }
            self.verify(&worker).await;
            // What control planes have not seen is in no certificate.
            let verified = worker::verified_addresses(&worker.settings_now());
            addresses.retain(|address| verified.contains(address));
        }
        let work = Work {
            node: Arc::clone(&self.node),
            files: Arc::clone(&self.files),
            membership: Arc::clone(&self.membership),
            registry: self.registry.clone(),
            worker: self.worker.clone(),
            scopes: self.scopes.clone(),
            addresses,
        };
        let write = move || work.write_configuration();
        let services = tokio::task::spawn_blocking(write).await.map_err(|_| ReconcileError::Interrupted)??;
        match services {
            Some(services) => {
                self.show_address().await;
                match self.node.obstacle() {
                    // What runs goes on: its pods would lose more.
                    Some(obstacle) if self.applied.is_none() => self.hold(&obstacle),
                    _ => self.apply(services).await,
                }
            }
            None => {
                self.node.status.fails(ConditionKind::ServicesApplied, "waiting for an address of the node");
            }
        }
        // Whose networks the cluster's are is known by now.
        network::tell(&self.node, &self.node.network().borrow());
        Ok(())
    }

    /// Has the node's address of the other family seen, in dual stack. A node is a member without it.
    async fn verify(&mut self, worker: &Worker) {
        let addresses = self.node.addresses();
        let verifying = self.renewal(worker, &addresses).verify_if_due();
        let outcome = tokio::time::timeout(VERIFY_DEADLINE, verifying).await;
        match outcome {
            Ok(Ok(true)) => report::info("the node's addresses of both families are verified"),
            Ok(Ok(false)) => self.unverified.passed(),
            Ok(Err(error)) => {
                self.unverified.of(format!("verifying the node's other address: {}", report::chain(&error)));
            }
            Err(_) => {
                self.unverified.of("verifying the node's other address: no control plane answers there".to_owned());
            }
        }
    }

    /// A founder's networks can still be changed in its configuration while nothing has been started in them.
    fn hold(&self, obstacle: &str) {
        if self.node.status.fails(ConditionKind::ServicesApplied, format!("Kubernetes is not started: {obstacle}")) {
            report::info(format!("error: Kubernetes is not started: {obstacle}"));
        }
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
        let fingerprint = self.membership.trust.fingerprint();
        let host = std::net::SocketAddr::new(address, keelson_api::PORT);
        show(&self.node, &self.files, &format!("API https://{host} fingerprint {fingerprint}\n")).await;
    }
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
