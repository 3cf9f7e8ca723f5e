//! Who may become a node of this cluster, what each node gets, and what operators change in the records: decided by a
//! control plane, from the records.
//!
//! Nothing but keys is taken from a request. The name must be free or the token must be bound to it, the address is the one
//! that the node connects from, rights follow from the role, and every change of the records is one transaction, so that of
//! two nodes that want the same thing at the same moment one gets it. Each step can be asked for again with the same
//! result, because a node may lose power after any of them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keelson_api::token::TokenError;
use keelson_api::{EventKind, Identities, MemberAddresses, NodeScopes, NodeSettings, TokenRole};
use keelson_config::{ClusterConfig, ConfigErrors, Conflict, OperatorKey, Role, Scopes};
use keelson_pki::{AuthorityError, Clock, KeyError, pair::certificate_pem};

use crate::credentials::Circumstances;
use crate::features::settings::FeatureName;
use crate::identity::{Identity, NodeUid};
use crate::membership::ControlPlane;
use crate::registry::{Change, EventRecord, MemberError, NodeGenerations, NodeRecord, Registry, RegistryError, View};
use crate::rotation;
use crate::shared_secrets::SharedSecretsError;
use crate::trust::Trust;

mod configuration;
mod exchange;
mod features;
mod join;
mod names;
mod operators;
mod removal;
mod renew;
mod store;
mod tokens;

pub use removal::{Gone, Remover};
pub(crate) use tokens::timestamp;

#[cfg(test)]
mod tests;

/// More nodes than join in the same moment on one token.
const ATTEMPTS: u32 = 60;
const PAUSE_MIN_MILLISECONDS: u64 = 3;

#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the join token is of another cluster: its authority is sha256:{found}, this cluster's is {own}")]
    Foreign { found: String, own: String },
    #[error("the join token is not known here, or its secret is wrong")]
    Unproven,
    #[error("the join token has expired")]
    Expired,
    #[error("the join token was revoked")]
    Revoked,
    #[error("the join token was used as often as it may be ({uses})")]
    Used { uses: u32 },
    #[error("the join token is for the role {token}, the node is a {asked}")]
    Role { token: TokenRole, asked: TokenRole },
    #[error("the join token is bound to the name {bound}")]
    BoundName { bound: String },
    #[error("the join token is bound to another machine")]
    BoundMachine,
    #[error("{name:?} cannot be a node's name: {problem}")]
    Name { name: String, problem: &'static str },
    #[error("a node with the name {name} is in the cluster; remove it first with keelctl node remove {name}")]
    NameInUse { name: String },
    #[error("the address {address} belongs to the node {owner}; remove that first with keelctl node remove {owner}")]
    AddressInUse { address: IpAddr, owner: String },
    #[error("the address {0} is the cluster's virtual address, which no node may have as its own")]
    VirtualAddress(IpAddr),
    #[error("the address {0} is one of the API server's (cluster.extraSANs), which no worker may have as its own")]
    ApiServerAddress(IpAddr),
    #[error(
        "{name} was removed from the cluster after it had joined with this join token; to join again it needs a new one"
    )]
    SameToken { name: String },
    #[error("{0}: a node cannot be there")]
    Conflict(Conflict),
    #[error(
        "the node knows itself by {known}, but it connects from {peer}: nodes must reach each other without address \
         translation"
    )]
    Translated { known: String, peer: IpAddr },
    #[error("the request for {identity}")]
    Request { identity: &'static str, source: AuthorityError },
    #[error("the node was removed from this cluster")]
    Removed,
    #[error("this is no node of the cluster")]
    NoMember,
    #[error("the proof of the node's key does not hold")]
    NoProof,
    #[error("{field}: {problem}")]
    Field { field: &'static str, problem: String },
    #[error("{name}: {problem}")]
    Setting { name: String, problem: String },
    /// Each is told for itself.
    #[error("the settings are not valid, and nothing was changed")]
    Configuration(ConfigErrors),
    #[error("somebody else has changed the settings meanwhile; look at them again (keelctl config show)")]
    Outdated,
    #[error("there is no feature {name}; there are: {there}")]
    NoFeature { name: String, there: String },
    #[error("there are {count} join tokens that let nodes in, and no room for more; revoke some")]
    TooManyTokens { count: usize },
    #[error("there is no such token")]
    NoToken,
    #[error("there is no node {name} in the cluster")]
    NoNode { name: String },
    #[error("there is no operator and no operator's key {name}; keelctl operator list shows those that there are")]
    NoOperator { name: String },
    #[error("without {name} nobody could operate the cluster: add another operator first")]
    LastOperator { name: String },
    #[error("the key belongs to the operator {name} already")]
    KeyInUse { name: String },
    #[error("there are records of {count} operators' keys, and no room for more")]
    TooManyOperators { count: usize },
    #[error("{name} is the only control plane: the cluster would be lost with it")]
    LastControlPlane { name: String },
    #[error(
        "without {name} the cluster could not decide anything: {source}; bring the others back first, or remove it with \
         --force, which removes with it those that do not answer"
    )]
    Quorum { name: String, source: MemberError },
    #[error("the node was removed, and its store is still being taken out of the cluster's")]
    BeingRemoved,
    #[error("{name} is a worker and has no store")]
    NoStore { name: String },
    #[error(transparent)]
    SharedSecrets(#[from] SharedSecretsError),
    #[error("the cluster's authorities are being exchanged; control planes join again once that is done")]
    Rotating,
    #[error("too many nodes change the same records at this moment")]
    Contended,
    #[error("the system has no random bytes")]
    NoRandomness,
    #[error("making a token")]
    Encode(#[source] serde_json::Error),
    #[error("a key")]
    Key(#[from] KeyError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// What decisions are made from.
#[derive(Debug)]
pub struct Admission<'a> {
    pub registry: &'a Registry,
    pub held: &'a ControlPlane,
    pub trust: &'a Trust,
    pub identity: &'a Identity,
    pub cluster: &'a ClusterConfig,
    /// The virtual address that the cluster was founded with, whatever operators have said since.
    pub virtual_address: Option<IpAddr>,
    /// Who may make tokens offline; only asked about where a token is judged.
    pub operators: &'a [OperatorKey],
    /// This control plane's own.
    pub addresses: &'a [IpAddr],
    pub clock: Clock,
}

impl Admission<'_> {
    fn now(&self) -> i64 {
        self.clock.now.max(self.clock.floor).unix_timestamp()
    }

    /// What is told of a change, in the change itself.
    fn event(&self, kind: EventKind, actor: &str, message: String) -> EventRecord {
        EventRecord::new(&self.identity.name, actor, kind, self.now(), message)
    }

    /// Tells of what was done with a node elsewhere than in the records.
    pub async fn tell(&self, kind: EventKind, node: &str, actor: &str, message: String) -> Result<(), AdmissionError> {
        let event = self.event(kind, actor, message).about(node);
        self.registry.commit(Change::default().put(&event)?).await?;
        Ok(())
    }

    /// Certifies a node's requests under what its record says.
    fn certify(
        &self,
        record: &NodeRecord,
        requests: &Identities<String>,
    ) -> Result<Identities<String>, AdmissionError> {
        let identity = Identity {
            node_uid: NodeUid::from_record(&record.uid),
            cluster_id: self.identity.cluster_id.clone(),
            role: record.role,
            name: record.name.clone(),
        };
        let addresses = verified(record);
        let circumstances = Circumstances { identity: &identity, cluster: self.cluster, addresses: &addresses };
        let names = Identities {
            node: "requests.node",
            api_serving: "requests.apiServing",
            kubelet_client: "requests.kubeletClient",
            kubelet_serving: "requests.kubeletServing",
            kube_proxy: "requests.kubeProxy",
            network_reconciler: "requests.networkReconciler",
        };
        let profiles = circumstances.node_identities().zip(requests.each_ref()).zip(names);
        profiles.try_map(|(((kind, profile), request), identity)| {
            let certificate = self.held.authorities.get(kind).issue_for_request(&profile, request, self.clock);
            certificate
                .map(|certificate| certificate_pem(&certificate))
                .map_err(|source| AdmissionError::Request { identity, source })
        })
    }

    /// What a node has to know of the cluster.
    async fn settings(&self, record: &NodeRecord) -> Result<NodeSettings, AdmissionError> {
        let view = self.view().await?;
        let Scopes { node, cluster } = view.scopes(&record.name);
        Ok(NodeSettings {
            addresses: record.addresses.clone(),
            trust: rotation::bundle(&view, &self.held.authorities).unwrap_or_else(|| self.trust.bundle()),
            pod_cidr: self.cluster.pod_cidr.first().to_string(),
            secondary_pod_cidr: self.cluster.pod_cidr.second().map(|range| range.to_string()),
            service_cidr: self.cluster.service_cidr.first().to_string(),
            secondary_service_cidr: self.cluster.service_cidr.second().map(|range| range.to_string()),
            cluster_domain: self.cluster.cluster_domain.clone(),
            dns_address: self.cluster.dns_address.to_string(),
            virtual_address: self.virtual_address.map(|address| address.to_string()),
            virtual_address_holder: self
                .virtual_address
                .and_then(|address| view.virtual_addresses.get(&address.to_string()))
                .map(|record| record.name.clone()),
            pod_network: FeatureName::Network.record(&view).enabled,
            control_planes: self.control_planes().await?,
            members: self.members(|_| true).await?,
            configuration: Some(NodeScopes { node, cluster }),
            removed_operators: crate::operators::removed_of_late(&view, self.clock.now).collect(),
        })
    }

    async fn control_planes(&self) -> Result<Vec<MemberAddresses>, AdmissionError> {
        self.members(|role| role == Role::ControlPlane).await
    }

    /// Those of the records, and this control plane, whose record may be on its way.
    async fn members(&self, chosen: impl Fn(Role) -> bool) -> Result<Vec<MemberAddresses>, AdmissionError> {
        let view = self.view().await?;
        let records = view.nodes.values().filter(|node| chosen(node.role));
        let mut members: Vec<_> = records
            .map(|node| MemberAddresses { name: node.name.clone(), addresses: node.addresses.clone() })
            .collect();
        if !members.iter().any(|member| member.name == self.identity.name) {
            let addresses = self.addresses.iter().map(ToString::to_string).collect();
            members.push(MemberAddresses { name: self.identity.name.clone(), addresses });
        }
        Ok(members)
    }

    async fn view(&self) -> Result<Arc<View>, AdmissionError> {
        match self.registry.view_now() {
            Some(view) => Ok(view),
            None => Ok(self.registry.refresh().await?),
        }
    }

    /// What a node with a certificate is told; `uid` is the certificate's.
    pub async fn settings_of(&self, name: &str, uid: &str) -> Result<NodeSettings, AdmissionError> {
        let record = self.member(name, uid).await?;
        self.settings(&record).await
    }

    /// Keeps what a worker says of its authorities, for as long as that matters to anybody. It will say so again.
    pub async fn heard(&self, name: &str, uid: &str, said: NodeGenerations) -> Result<(), AdmissionError> {
        if self.view().await?.rotation.is_none() {
            return Ok(());
        }
        let Some(stored) = self.registry.get::<NodeRecord>(name).await? else { return Ok(()) };
        if stored.value.uid != uid
            || stored.value.role != Role::Worker
            || stored.value.generations.as_ref() == Some(&said)
        {
            return Ok(());
        }
        let record = NodeRecord { generations: Some(said), ..stored.value };
        self.registry.commit(Change::default().expect::<NodeRecord>(name, stored.revision).put(&record)?).await?;
        Ok(())
    }

    /// The record of a member, or why there is none.
    async fn member(&self, name: &str, uid: &str) -> Result<NodeRecord, AdmissionError> {
        use crate::registry::RemovedRecord;
        if let Some(stored) = self.registry.get::<NodeRecord>(name).await?
            && stored.value.uid == uid
        {
            return Ok(stored.value);
        }
        match self.registry.get::<RemovedRecord>(uid).await? {
            // Until then a quorum may need it, so it must not forget anything.
            Some(_) if self.registry.members().await?.iter().any(|member| member.name == uid) => {
                Err(AdmissionError::BeingRemoved)
            }
            Some(_) => Err(AdmissionError::Removed),
            None => Err(AdmissionError::NoMember),
        }
    }
}

fn verified(record: &NodeRecord) -> Vec<IpAddr> {
    record.addresses.iter().filter_map(|address| address.parse().ok()).collect()
}

fn key_text(key: &[u8]) -> String {
    STANDARD.encode(key)
}

/// Before the next attempt at a change that somebody else was faster with: longer each time, and by chance.
async fn pause(attempt: u32) -> Result<(), AdmissionError> {
    let mut chance = [0];
    rand::fill(&mut chance).map_err(|_| AdmissionError::NoRandomness)?;
    let [chance] = chance;
    let milliseconds = PAUSE_MIN_MILLISECONDS + u64::from(chance) * u64::from(attempt.min(8)) / 16;
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    Ok(())
}

pub(crate) fn role_of(role: TokenRole) -> Role {
    match role {
        TokenRole::ControlPlane => Role::ControlPlane,
        TokenRole::Worker => Role::Worker,
    }
}

pub(crate) fn token_role(role: Role) -> TokenRole {
    match role {
        Role::ControlPlane => TokenRole::ControlPlane,
        Role::Worker => TokenRole::Worker,
    }
}
