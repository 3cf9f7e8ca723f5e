//! What a cluster needs beside its components: each a reconciler that states what should be, says how it stands, and
//! changes nothing that is so already. What an operator can be without is a feature ([`settings`]).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use keelson_config::Role;
use keelson_pki::Files;
use tokio::sync::{mpsc, watch};

use crate::kubernetes_api::{KubernetesApi, KubernetesApiError};
use crate::node::Node;
use crate::registry::View;
use crate::report;
use crate::status::ConditionKind;

pub mod access;
pub mod departure;
pub mod dns;
pub mod labels;
pub mod leases;
pub mod node_object;
pub mod pod_network;
pub mod roles;
pub mod routes;
pub mod settings;

use leases::Lead;
use settings::Dns;

/// Before another try.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// While a node is awaited.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// What somebody else changed is put right after this long.
const RESYNC: Duration = Duration::from_mins(5);
/// The name under which the build imports it, with its version behind.
const DNS_IMAGE: &str = "keelson.local/coredns:";

/// All reconcilers, each on its own so that none waits for another's failure.
pub async fn run(
    node: Arc<Node>,
    files: Arc<dyn Files>,
    api: Arc<KubernetesApi>,
    ready: watch::Receiver<bool>,
    images: watch::Receiver<Vec<String>>,
    ended_controllers: mpsc::Receiver<&'static str>,
) {
    let features = Features { node, files, api, ready };
    if features.node.config.role == Role::Worker {
        tokio::join!(features.keep_node(), features.keep_routes());
        return;
    }
    tokio::join!(
        features.keep_roles(),
        features.clean_up(),
        features.keep_routes(),
        features.keep_access(),
        features.keep_node(),
        features.keep_dns(images),
        features.release_leases(ended_controllers)
    );
}

/// How the cluster's DNS stands.
enum Settled {
    Done(String),
    /// There is to be more, once there is a node for it.
    LookAgain(String),
    NoImage,
}

struct Features {
    node: Arc<Node>,
    files: Arc<dyn Files>,
    api: Arc<KubernetesApi>,
    ready: watch::Receiver<bool>,
}

impl Features {
    async fn api_server(&self) {
        // The sender lives as long as the probes do, which is as long as the process.
        if self.ready.clone().wait_for(|ready| *ready).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Until a client of this node is answered: a control plane's has no rights before it has applied them.
    async fn may_ask(&self) {
        self.api_server().await;
        if self.node.config.role == Role::ControlPlane {
            self.access_applied().await;
        }
    }

    /// Once a start: nobody but an administrator may change these, and what he changes he means.
    async fn keep_access(&self) {
        loop {
            self.api_server().await;
            match self.apply_access().await {
                Ok(()) => return self.node.status.holds(ConditionKind::AccessApplied, "groups have their rights"),
                Err(error) => self.tell(ConditionKind::AccessApplied, &error),
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn apply_access(&self) -> Result<(), KubernetesApiError> {
        let masters = self.api.masters()?;
        Ok(access::apply(&masters).await?)
    }

    async fn keep_node(&self) {
        loop {
            self.may_ask().await;
            let result = match self.api.client() {
                Ok(client) => node_object::follow(&self.node, &self.files, &client).await.map_err(Into::into),
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                self.tell(ConditionKind::NodeRegistered, &error);
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }

    /// Every member's Node says what it is, and what operators say of it: kubelet may not say that of its own node.
    async fn keep_roles(&self) {
        let member = self.node.member().await;
        let Some(registry) = member.registry.clone() else { return };
        loop {
            self.api_server().await;
            self.access_applied().await;
            let result = match self.api.client() {
                Ok(client) => roles::follow(&registry, &client, &hostname()).await.map_err(Into::into),
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                report::error(&error);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Tells keelson-network where other nodes' pods are.
    async fn keep_routes(&self) {
        let member = self.node.member().await;
        loop {
            self.may_ask().await;
            let result = match self.api.client() {
                Ok(client) => routes::follow(&self.node, &self.files, &member, &client).await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = result {
                report::error(&error);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Deletes what Kubernetes still has of nodes that were removed.
    async fn clean_up(&self) {
        let member = self.node.member().await;
        let Some(registry) = member.registry.clone() else { return };
        let mut views = registry.view();
        let mut done = BTreeSet::new();
        loop {
            self.api_server().await;
            self.access_applied().await;
            let view = views.borrow_and_update().clone();
            let result = match (view, self.api.client()) {
                (Some(view), Ok(client)) => {
                    let now = self.node.clock().now;
                    departure::clean_all(&client, &view, now, &mut done).await.map_err(KubernetesApiError::from)
                }
                (None, _) => Ok(()),
                (_, Err(error)) => Err(error),
            };
            let pause = match result {
                Ok(()) => RESYNC,
                Err(error) => {
                    report::error(&error);
                    RETRY_PAUSE
                }
            };
            tokio::select! {
                _ = views.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn keep_dns(&self, mut images: watch::Receiver<Vec<String>>) {
        let member = self.node.member().await;
        let Some(registry) = member.registry.clone() else { return };
        let (mut network, mut views) = (self.node.network(), registry.view());
        loop {
            self.api_server().await;
            self.access_applied().await;
            let image = images.borrow_and_update().iter().find(|name| name.starts_with(DNS_IMAGE)).cloned();
            let nameservers = network.borrow_and_update().nameservers.clone();
            let (nodes, said) = known(&mut views).await;
            let pause = match self.settle_dns(image, &nameservers, nodes, &said).await {
                Ok(Settled::Done(how)) => {
                    self.node.status.holds(ConditionKind::DnsApplied, how);
                    RESYNC
                }
                Ok(Settled::LookAgain(how)) => {
                    self.node.status.holds(ConditionKind::DnsApplied, how);
                    LOOK_AGAIN
                }
                Ok(Settled::NoImage) => {
                    self.node.status.fails(ConditionKind::DnsApplied, "the image of CoreDNS is not imported yet");
                    RESYNC
                }
                Err(error) => {
                    self.tell(ConditionKind::DnsApplied, &error);
                    RETRY_PAUSE
                }
            };
            tokio::select! {
                _ = images.changed() => {}
                () = nameservers_changed(&mut network, &nameservers) => {}
                () = known_changed(&mut views, nodes, &said) => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Of several control planes the one with the lead sees to it; the only node has nobody to wait for.
    async fn settle_dns(
        &self,
        image: Option<String>,
        nameservers: &[IpAddr],
        nodes: usize,
        said: &Dns,
    ) -> Result<Settled, KubernetesApiError> {
        let client = self.api.client()?;
        if nodes > 1
            && let Lead::Elsewhere(holder) = leases::lead(&client, &hostname()).await?
        {
            return Ok(Settled::Done(format!("left to the control plane that leads, {holder}")));
        }
        if !said.enabled {
            if dns::remove(&client).await? {
                report::info("the cluster's DNS is removed");
            }
            return Ok(Settled::Done("DNS is disabled".to_owned()));
        }
        let Some(image) = image else { return Ok(Settled::NoImage) };
        let (replicas, is_settled) = match said.replicas {
            Some(replicas) => (replicas, true),
            None => dns::replicas(&client, nodes).await?,
        };
        let upstream = said.upstream.clone().unwrap_or_else(|| nameservers.to_vec());
        let wanted = dns::Wanted { image, upstream, is_upstream_said: said.upstream.is_some(), replicas };
        dns::apply(&client, &self.node.cluster(), &wanted).await?;
        let how = format!("{} is deployed", wanted.image);
        Ok(if is_settled { Settled::Done(how) } else { Settled::LookAgain(how) })
    }

    async fn access_applied(&self) {
        let mut status = self.node.status.watch();
        while !self.node.status.is(ConditionKind::AccessApplied) {
            if status.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn release_leases(&self, mut ended: mpsc::Receiver<&'static str>) {
        self.access_applied().await;
        let hostname = hostname();
        while let Some(name) = ended.recv().await {
            // The node's own API server may be what has ended.
            let released = match self.api.any() {
                Ok(client) => leases::give_up(&client, name, &hostname).await.map_err(Into::into),
                Err(error) => Err(error),
            };
            if let Err(error) = released {
                report::error(&error);
            }
        }
    }

    fn tell(&self, kind: ConditionKind, error: &KubernetesApiError) {
        if self.node.status.fails(kind, report::chain(error)) {
            report::error(error);
        }
    }
}

/// As the controllers name it in their leases.
fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// How many nodes the cluster has, and what was said of its DNS, as soon as the registry says.
async fn known(views: &mut watch::Receiver<Option<Arc<View>>>) -> (usize, Dns) {
    match views.wait_for(Option::is_some).await.map(|view| view.as_ref().map(|view| known_of(view))) {
        Ok(Some(known)) => known,
        _ => std::future::pending().await,
    }
}

fn known_of(view: &View) -> (usize, Dns) {
    (view.nodes.len(), Dns::of(view))
}

async fn known_changed(views: &mut watch::Receiver<Option<Arc<View>>>, nodes: usize, said: &Dns) {
    let is_news = |view: &View| {
        let (count, dns) = known_of(view);
        count != nodes || dns != *said
    };
    if views.wait_for(|view| view.as_deref().is_some_and(is_news)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn nameservers_changed(
    network: &mut watch::Receiver<keelson_config::network_state::NetworkState>,
    known: &[IpAddr],
) {
    if network.wait_for(|state| state.nameservers != known).await.is_err() {
        std::future::pending::<()>().await;
    }
}
