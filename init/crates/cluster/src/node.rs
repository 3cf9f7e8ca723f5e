//! What the parts of keelson-cluster share.
//!
//! A [`Node`] exists from the start: configuration, paths, status, what the network daemon reports. A [`Member`] exists once
//! the node has a cluster: its identity and the authorities it signs with. Parts that need the cluster wait for it with
//! [`Node::member`]; nothing else is global.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use keelson_config::network_state::NetworkState;
use keelson_config::scopes::overlay;
use keelson_config::{ClusterConfig, ConfigErrors, NodeConfig, Role, Scopes};
use keelson_control::{Client, ClientError};
use keelson_pki::{Authority, AuthorityKind, Clock, Pair};
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::configuration;
use crate::identity::{Identity, NodeUid};
use crate::membership::Membership;
use crate::paths::Paths;
use crate::registry::Registry;
use crate::status::StatusBoard;
use crate::trust::Trust;
use crate::worker::Worker;

/// How PID 1's log calls this process.
const CLIENT_NAME: &str = "keelson-cluster";

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the request to PID 1 was interrupted")]
    Interrupted,
}

#[derive(Debug)]
pub struct Node {
    pub paths: Paths,
    /// As PID 1 wrote it at this boot.
    pub config: NodeConfig,
    pub status: StatusBoard,
    /// No honest clock is before this.
    pub clock_floor: OffsetDateTime,
    name: String,
    /// The configuration as the next boot will have it.
    settled: watch::Sender<Arc<NodeConfig>>,
    /// As it was when this process took the node's place in its cluster.
    started: OnceLock<NodeConfig>,
    network: watch::Sender<NetworkState>,
    /// What the cluster said of itself to a node that has joined it.
    told: watch::Sender<Option<Arc<ClusterConfig>>>,
    member: watch::Sender<Option<Arc<Member>>>,
    /// Whether it is known that the node has no cluster, and that it was given no token to join one.
    alone: watch::Sender<bool>,
    instance: NodeUid,
    /// Whether this process has to start anew, since what it believes is read once.
    anew: watch::Sender<bool>,
    /// Requests to this node's API that are under way.
    answering: watch::Sender<usize>,
}

/// A request is under way as long as this lives.
#[derive(Debug)]
pub struct Answering<'a>(&'a Node);

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.answering.send_modify(|count| *count -= 1);
    }
}

impl Node {
    pub fn new(paths: Paths, config: NodeConfig, name: String, clock_floor: OffsetDateTime) -> Self {
        Self {
            paths,
            status: StatusBoard::of(config.role),
            settled: watch::Sender::new(Arc::new(config.clone())),
            started: OnceLock::new(),
            config,
            clock_floor,
            name,
            network: watch::Sender::new(NetworkState::default()),
            told: watch::Sender::new(None),
            member: watch::Sender::new(None),
            alone: watch::Sender::new(false),
            instance: NodeUid::generate(),
            anew: watch::Sender::new(false),
            answering: watch::Sender::new(0),
        }
    }

    /// The name the node has or would have in a cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster's settings: those of the node's own configuration for one that has founded it, and else what it was told;
    /// with what operators have said since and needs no boot.
    pub fn cluster(&self) -> Arc<ClusterConfig> {
        Arc::new(self.effective().cluster)
    }

    /// The configuration as it is in effect.
    pub fn effective(&self) -> NodeConfig {
        let mut config = self.started().clone();
        if let Some(told) = self.told.borrow().as_deref() {
            config.cluster.clone_from(told);
        }
        configuration::take_live(&mut config, &self.settled());
        config
    }

    /// As it is from the next boot on.
    pub fn settled(&self) -> Arc<NodeConfig> {
        Arc::clone(&self.settled.borrow())
    }

    /// Operators have said this. A fault in it is an error, and what they said before stands.
    pub fn set_scopes(&self, scopes: &Scopes) -> Result<(), ConfigErrors> {
        let settled = overlay(&self.config, scopes)?;
        self.settled.send_replace(Arc::new(settled));
        Ok(())
    }

    /// What is fixed at a start is fixed from here on.
    pub fn start(&self) {
        self.started.get_or_init(|| {
            let mut config = self.config.clone();
            configuration::take_at_start(&mut config, &self.settled());
            config
        });
    }

    /// The configuration that the node's components were started with.
    pub fn started(&self) -> &NodeConfig {
        self.started.get().unwrap_or(&self.config)
    }

    /// Whether [`Self::cluster`] is what a cluster has told.
    pub fn has_joined(&self) -> bool {
        self.told.borrow().is_some()
    }

    pub fn set_cluster(&self, told: ClusterConfig) {
        self.told.send_replace(Some(Arc::new(told)));
    }

    pub fn clock(&self) -> Clock {
        Clock::system(self.clock_floor)
    }

    /// What keelson-network reported last.
    pub fn network(&self) -> watch::Receiver<NetworkState> {
        self.network.subscribe()
    }

    /// The node's addresses, that of the cluster's first family first; empty while there is none.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut addresses = self.network.borrow().node_addresses.clone();
        // keelson-network knows the node's own word only, and not the cluster's.
        let told = self.told.borrow().as_deref().map(|told| told.pod_cidr);
        let ranges = told.unwrap_or(self.started().cluster.pod_cidr);
        addresses.sort_by_key(|address| !ranges.begins_with_family_of(*address));
        addresses
    }

    /// Why Kubernetes cannot be started with the addresses that the node has: they are inside one of the cluster's networks, or
    /// the API server has none of the family that it is to tell.
    pub fn obstacle(&self) -> Option<String> {
        let (cluster, addresses) = (self.cluster(), self.addresses());
        if let Some(conflict) = addresses.iter().find_map(|address| cluster.conflict(*address)) {
            return Some(conflict.to_string());
        }
        let address = addresses.first().filter(|_| self.config.role == Role::ControlPlane)?;
        let ranges = cluster.service_cidr;
        let reason = format!("the API server needs an address of the family of {ranges} (spec.cluster.serviceCIDR)");
        (!ranges.begins_with_family_of(*address)).then(|| format!("{reason}, and the node has {address}"))
    }

    /// Whether [`Self::cluster`] has the networks of the node's own cluster, and not those that another one would have here.
    pub fn knows_its_networks(&self) -> bool {
        self.has_joined() || self.config.bootstrap || self.member_now().is_some()
    }

    pub fn set_network(&self, state: NetworkState) {
        self.network.send_if_modified(|present| {
            let changed = *present != state;
            *present = state;
            changed
        });
    }

    /// The node as member of its cluster, as soon as it is one.
    pub async fn member(&self) -> Arc<Member> {
        let mut receiver = self.member.subscribe();
        loop {
            if let Some(member) = receiver.borrow_and_update().clone() {
                return member;
            }
            // The sender is a field of this very node, so the channel cannot close while it is borrowed.
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub fn member_now(&self) -> Option<Arc<Member>> {
        self.member.borrow().clone()
    }

    pub fn set_member(&self, member: Arc<Member>) {
        self.member.send_replace(Some(member));
    }

    /// Tells one start of a node from all others.
    pub fn instance(&self) -> &str {
        self.instance.as_str()
    }

    pub fn answering(&self) -> Answering<'_> {
        self.answering.send_modify(|count| *count += 1);
        Answering(self)
    }

    /// Returns once no request is under way.
    pub async fn has_answered(&self) {
        let mut answering = self.answering.subscribe();
        // The sender is a field of this very node.
        let _ = answering.wait_for(|count| *count == 0).await;
    }

    /// Whom this node believes, or by whom it certifies, is other on STATE than this process has read.
    pub fn begin_anew(&self) {
        self.anew.send_replace(true);
    }

    /// Returns once this process has to start anew.
    pub async fn has_to_begin_anew(&self) {
        let mut anew = self.anew.subscribe();
        // The sender is a field of this very node.
        let _ = anew.wait_for(|anew| *anew).await;
    }

    pub fn set_alone(&self) {
        self.alone.send_replace(true);
    }

    /// Returns once it is known whether the node has a cluster; one that is joining does not know yet.
    pub async fn knows_its_cluster(&self) {
        let mut alone = self.alone.subscribe();
        tokio::select! {
            _ = self.member() => {}
            // The sender is a field of this very node.
            _ = alone.wait_for(|alone| *alone) => {}
        }
    }

    /// Asks PID 1 something over a connection of its own.
    pub async fn control<T, F>(&self, request: F) -> Result<T, ControlError>
    where
        T: Send + 'static,
        F: FnOnce(Client) -> Result<T, ClientError> + Send + 'static,
    {
        let socket = self.paths.control_socket();
        tokio::task::spawn_blocking(move || request(Client::connect(socket, CLIENT_NAME)?))
            .await
            .map_err(|_| ControlError::Interrupted)?
            .map_err(ControlError::Client)
    }
}

/// The node once it has a cluster.
#[derive(Debug)]
pub struct Member {
    pub identity: Identity,
    pub membership: Arc<Membership>,
    /// The cluster's records, on a control plane.
    pub registry: Option<Arc<Registry>>,
    /// What a worker holds and renews.
    pub worker: Option<Arc<Worker>>,
    api_serving: watch::Sender<Arc<Pair>>,
}

impl Member {
    pub fn new(membership: Arc<Membership>, api_serving: Arc<Pair>) -> Self {
        let identity = membership.identity.clone();
        Self { identity, membership, registry: None, worker: None, api_serving: watch::Sender::new(api_serving) }
    }

    #[must_use]
    pub fn with_registry(self, registry: Arc<Registry>) -> Self {
        Self { registry: Some(registry), ..self }
    }

    #[must_use]
    pub fn with_worker(self, worker: Arc<Worker>) -> Self {
        Self { worker: Some(worker), ..self }
    }

    /// An authority that this node signs with. A control plane holds all of them, a worker none.
    pub fn authority(&self, kind: AuthorityKind) -> Option<&Authority> {
        self.membership.control_plane().map(|held| held.authorities.get(kind))
    }

    pub fn trust(&self) -> &Trust {
        &self.membership.trust
    }

    /// The certificate that the API on port 6400 serves with; it changes at each renewal and when addresses change.
    pub fn api_serving(&self) -> watch::Receiver<Arc<Pair>> {
        self.api_serving.subscribe()
    }

    pub fn set_api_serving(&self, pair: Arc<Pair>) {
        self.api_serving.send_replace(pair);
    }
}
