//! The Kubernetes API, as this process uses it: a client with a narrow identity, and for moments one that may do everything.
//!
//! A control plane makes both identities from its authorities when they are needed, and they live in memory only. A worker
//! has the one that it was given, which reads Nodes, and speaks to whichever API server its proxy finds. So does a control plane
//! for operators, who are to be answered while the cluster is well and this node's API server is not.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use keelson_api::{DrainStep, NodeList};
use keelson_pki::validity::LEAF_LIFE;
use keelson_pki::{AuthorityError, AuthorityKind, Profile, Subject, Validity};
use time::Duration;

use crate::api_server::{Answer, NodeSource, NodeSourceError};
use crate::client::{Client, ClientError};
use crate::credentials::{CLUSTER_MANAGERS_GROUP, manager_name};
use crate::features::{departure, dns};
use crate::node::{Member, Node};
use crate::report;

mod nodes;

/// A control plane's own API server: what it makes sure of, it makes sure of there.
pub const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 6443);
/// Any API server, through the node's proxy.
pub const PROXY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 6444);
/// A manager's identity is renewed without any file, so it need not last.
const MANAGER_LIFE: Duration = Duration::hours(24);
/// The one identity of `system:masters` that there ever is.
const MASTERS_LIFE: Duration = Duration::minutes(5);

#[derive(Debug, thiserror::Error)]
pub enum KubernetesApiError {
    #[error("the node has no cluster yet")]
    NoCluster,
    #[error("a worker has no such rights")]
    Worker,
    #[error("the node's certificates are being renewed")]
    NoCertificate,
    #[error("certifying this process as a client of the Kubernetes API")]
    Identity(#[source] AuthorityError),
    #[error(transparent)]
    Client(#[from] ClientError),
}

#[derive(Debug)]
pub struct KubernetesApi {
    node: Arc<Node>,
    own: Kept,
    any: Kept,
}

/// A client, and how long its certificate is good.
type Kept = Mutex<Option<(Validity, Arc<Client>)>>;

impl KubernetesApi {
    pub fn new(node: Arc<Node>) -> Self {
        Self { node, own: Mutex::new(None), any: Mutex::new(None) }
    }

    /// A client with this process' own rights.
    pub fn client(&self) -> Result<Arc<Client>, KubernetesApiError> {
        self.kept(&self.own, SERVER)
    }

    /// One with the same rights, of whichever API server the proxy finds.
    pub fn any(&self) -> Result<Arc<Client>, KubernetesApiError> {
        self.kept(&self.any, PROXY)
    }

    fn kept(&self, kept: &Kept, server: SocketAddr) -> Result<Arc<Client>, KubernetesApiError> {
        let member = self.node.member_now().ok_or(KubernetesApiError::NoCluster)?;
        let now = self.node.clock().now;
        let mut present = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let life = if member.worker.is_some() { LEAF_LIFE } else { MANAGER_LIFE };
        if let Some((validity, client)) = present.as_ref()
            && !validity.is_due(life, now)
        {
            return Ok(Arc::clone(client));
        }
        let (validity, client) = if let Some(worker) = &member.worker {
            let pairs = worker.pairs_now().ok_or(KubernetesApiError::NoCertificate)?;
            let validity = pairs.network_reconciler.validity();
            let validity = validity.map_err(|error| KubernetesApiError::Identity(error.into()))?;
            let trusted = &member.trust().kubernetes_serving;
            (validity, Client::new(PROXY, trusted, Some(&pairs.network_reconciler))?)
        } else {
            let name = manager_name(&member.identity);
            self.identify(&member, server, (&name, CLUSTER_MANAGERS_GROUP), MANAGER_LIFE)?
        };
        let client = Arc::new(client);
        *present = Some((validity, Arc::clone(&client)));
        Ok(client)
    }

    /// A client that may do everything, for as long as the caller keeps it and minutes at most.
    pub fn masters(&self) -> Result<Client, KubernetesApiError> {
        let member = self.node.member_now().ok_or(KubernetesApiError::NoCluster)?;
        Ok(self.identify(&member, SERVER, ("keelson:bootstrap", "system:masters"), MASTERS_LIFE)?.1)
    }

    fn identify(
        &self,
        member: &Member,
        server: SocketAddr,
        (name, group): (&str, &str),
        life: Duration,
    ) -> Result<(Validity, Client), KubernetesApiError> {
        let subject = Subject::named(name).organization(group).uid(member.identity.node_uid.as_str());
        let pair = member
            .authority(AuthorityKind::KubernetesClient)
            .ok_or(KubernetesApiError::Worker)?
            .issue(&Profile::client(subject).life(life), self.node.clock())
            .map_err(KubernetesApiError::Identity)?;
        let validity = pair.validity().map_err(|error| KubernetesApiError::Identity(error.into()))?;
        Ok((validity, Client::new(server, &member.trust().kubernetes_serving, Some(&pair))?))
    }
}

impl KubernetesApi {
    /// This process' own rights do for everything that operators ask for.
    fn for_operators(&self) -> Result<Arc<Client>, NodeSourceError> {
        self.any().map_err(|error| NodeSourceError::Unavailable(report::chain(&error)))
    }
}

fn answer<T>(result: Result<T, ClientError>) -> Result<T, NodeSourceError> {
    result.map_err(|error| match error {
        error if error.is_not_found() => NodeSourceError::NotFound,
        error @ ClientError::Refused { .. } => NodeSourceError::Refused(error.to_string()),
        error => NodeSourceError::Unavailable(report::chain(&error)),
    })
}

impl NodeSource for KubernetesApi {
    fn nodes(&self) -> Answer<'_, NodeList> {
        Box::pin(async move {
            let client = self.for_operators()?;
            answer(client.get("/api/v1/nodes").await.map(|list| nodes::list(&list)))
        })
    }

    fn set_unschedulable<'a>(&'a self, name: &'a str, unschedulable: bool) -> Answer<'a, bool> {
        Box::pin(async move {
            let client = self.for_operators()?;
            answer(departure::set_unschedulable(&client, name, unschedulable).await)
        })
    }

    fn drain<'a>(&'a self, name: &'a str) -> Answer<'a, DrainStep> {
        Box::pin(async move {
            let client = self.for_operators()?;
            answer(departure::drain(&client, name).await)
        })
    }

    fn dns(&self) -> Answer<'_, Option<dns::Deployed>> {
        Box::pin(async move {
            let client = self.for_operators()?;
            answer(dns::deployed(&client).await)
        })
    }

    fn clean<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let client = self.for_operators()?;
            answer(departure::clean(&client, name).await)
        })
    }
}
