//! What a cluster needs beside its components: each a reconciler that states what should be, says how it stands, and
//! changes nothing that is so already.

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
pub mod leases;
pub mod node_object;
pub mod pod_network;
pub mod roles;
pub mod routes;

use leases::Lead;

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

    /// Every member's Node says what it is: kubelet may not say that of its own node.
    async fn keep_roles(&self) {
        let member = self.node.member().await;
        let Some(registry) = member.registry.clone() else { return };
        loop {
            self.api_server().await;
            self.access_applied().await;
            let result = match self.api.client() {
                Ok(client) => roles::follow(&registry, &client).await.map_err(Into::into),
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
        let mut done = Vec::new();
        loop {
            self.api_server().await;
            self.access_applied().await;
            let view = views.borrow_and_update().clone();
            let result = match (view, self.api.client()) {
                (Some(view), Ok(client)) => {
                    departure::clean_all(&client, &view, &mut done).await.map_err(KubernetesApiError::from)
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
            let upstream = network.borrow_and_update().nameservers.clone();
            let nodes = known_count(&mut views).await;
            let pause = match image {
                None => {
                    self.node.status.fails(ConditionKind::DnsApplied, "the image of CoreDNS is not imported yet");
                    RESYNC
                }
                Some(image) => match self.apply_dns(image, upstream.clone(), nodes).await {
                    Ok((how, is_settled)) => {
                        self.node.status.holds(ConditionKind::DnsApplied, how);
                        if is_settled { RESYNC } else { LOOK_AGAIN }
                    }
                    Err(error) => {
                        self.tell(ConditionKind::DnsApplied, &error);
                        RETRY_PAUSE
                    }
                },
            };
            tokio::select! {
                _ = images.changed() => {}
                () = nameservers_changed(&mut network, &upstream) => {}
                () = count_changed(&mut views, nodes) => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Says how it stands, and whether that is all for now. Of several control planes the one with the lead states it; the only node has
    /// nobody to wait for.
    async fn apply_dns(
        &self,
        image: String,
        upstream: Vec<std::net::IpAddr>,
        nodes: usize,
    ) -> Result<(String, bool), KubernetesApiError> {
        let client = self.api.client()?;
        if nodes > 1
            && let Lead::Elsewhere(holder) = leases::lead(&client, &hostname()).await?
        {
            return Ok((format!("left to the control plane that leads, {holder}"), true));
        }
        let (replicas, is_settled) = dns::replicas(&client, nodes).await?;
        let wanted = dns::Wanted { image, upstream, replicas };
        dns::apply(&client, &self.node.cluster(), &wanted).await?;
        Ok((format!("{} is deployed", wanted.image), is_settled))
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
            let released = match self.api.client() {
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

/// How many nodes the cluster has, as soon as the registry says.
async fn known_count(views: &mut watch::Receiver<Option<Arc<View>>>) -> usize {
    match views.wait_for(Option::is_some).await.map(|view| view.as_ref().map(|view| view.nodes.len())) {
        Ok(Some(nodes)) => nodes,
        _ => std::future::pending().await,
    }
}

async fn count_changed(views: &mut watch::Receiver<Option<Arc<View>>>, known: usize) {
    if views.wait_for(|view| view.as_ref().is_some_and(|view| view.nodes.len() != known)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn nameservers_changed(
    network: &mut watch::Receiver<keelson_config::network_state::NetworkState>,
    known: &[std::net::IpAddr],
) {
    if network.wait_for(|state| state.nameservers != known).await.is_err() {
        std::future::pending::<()>().await;
    }
}
