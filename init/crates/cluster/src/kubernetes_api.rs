//! This node's Kubernetes API server, as this process uses it: a client with a narrow identity, and for moments one that may
//! do everything.
//!
//! Both identities are made from the authorities when they are needed and live in memory only.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use keelson_api::NodeList;
use keelson_pki::{AuthorityError, AuthorityKind, Profile, Subject, Validity};
use time::Duration;

use crate::api_server::{NodeSource, NodeSourceError};
use crate::client::{Client, ClientError};
use crate::credentials::{CLUSTER_MANAGERS_GROUP, manager_name};
use crate::node::{Member, Node};
use crate::report;

mod nodes;

/// Until each node has a proxy, the local API server.
const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 6443);
/// A manager's identity is renewed without any file, so it need not last.
const MANAGER_LIFE: Duration = Duration::hours(24);
/// The one identity of `system:masters` that there ever is.
const MASTERS_LIFE: Duration = Duration::minutes(5);

#[derive(Debug, thiserror::Error)]
pub enum KubernetesApiError {
    #[error("the node has no cluster yet")]
    NoCluster,
    #[error("certifying this process as a client of the Kubernetes API")]
    Identity(#[source] AuthorityError),
    #[error(transparent)]
    Client(#[from] ClientError),
}

#[derive(Debug)]
pub struct KubernetesApi {
    node: Arc<Node>,
    present: Mutex<Option<(Validity, Arc<Client>)>>,
}

impl KubernetesApi {
    pub fn new(node: Arc<Node>) -> Self {
        Self { node, present: Mutex::new(None) }
    }

    /// A client with this process' own rights.
    pub fn client(&self) -> Result<Arc<Client>, KubernetesApiError> {
        let member = self.node.member_now().ok_or(KubernetesApiError::NoCluster)?;
        let now = self.node.clock().now;
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((validity, client)) = present.as_ref()
            && !validity.is_due(MANAGER_LIFE, now)
        {
            return Ok(Arc::clone(client));
        }
        let name = manager_name(&member.identity);
        let (validity, client) = self.identify(&member, &name, CLUSTER_MANAGERS_GROUP, MANAGER_LIFE)?;
        let client = Arc::new(client);
        *present = Some((validity, Arc::clone(&client)));
        Ok(client)
    }

    /// A client that may do everything, for as long as the caller keeps it and minutes at most.
    pub fn masters(&self) -> Result<Client, KubernetesApiError> {
        let member = self.node.member_now().ok_or(KubernetesApiError::NoCluster)?;
        Ok(self.identify(&member, "keelson:bootstrap", "system:masters", MASTERS_LIFE)?.1)
    }

    fn identify(
        &self,
        member: &Member,
        name: &str,
        group: &str,
        life: Duration,
    ) -> Result<(Validity, Client), KubernetesApiError> {
        let subject = Subject::named(name).organization(group).uid(member.identity.node_uid.as_str());
        let pair = member
            .authority(AuthorityKind::KubernetesClient)
            .issue(&Profile::client(subject).life(life), self.node.clock())
            .map_err(KubernetesApiError::Identity)?;
        let validity = pair.validity().map_err(|error| KubernetesApiError::Identity(error.into()))?;
        let trusted = member.authority(AuthorityKind::KubernetesServing).certificate();
        Ok((validity, Client::new(SERVER, trusted, Some(&pair))?))
    }
}

impl NodeSource for KubernetesApi {
    fn nodes(&self) -> Pin<Box<dyn Future<Output = Result<NodeList, NodeSourceError>> + Send + '_>> {
        Box::pin(async move {
            let client = self.client().map_err(|error| NodeSourceError::Unavailable(report::chain(&error)))?;
            match client.get("/api/v1/nodes").await {
                Ok(list) => Ok(nodes::list(&list)),
                Err(error @ ClientError::Refused { .. }) => Err(NodeSourceError::Refused(error.to_string())),
                Err(error) => Err(NodeSourceError::Unavailable(report::chain(&error))),
            }
        })
    }
}
