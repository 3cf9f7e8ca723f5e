//! Tokens, joins, renewals and what nodes are told: the API's side of [`crate::admission`].

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use keelson_api::{
    CreatedToken, ErrorCode, FieldFault, JoinRequest, Joined, NodeSettings, OperatorEntry, OperatorList,
    OperatorRequest, RenewRequest, Renewed, Rotation, StoreMembers, TokenEntry, TokenList, TokenRequest,
};
use keelson_config::{ClusterConfig, ConfigError, OperatorKey};

use super::caller::Caller;
use super::operators::{challenge_refusal, forgive, limit};
use super::respond::Refusal;
use super::router::Context;
use crate::admission::{Admission, AdmissionError};
use crate::membership::ControlPlane;
use crate::node::{Member, Node};
use crate::operators;
use crate::registry::{Registry, RegistryError};
use crate::rotation;
use crate::shared_secrets::SharedSecretsError;

/// What only a control plane has, kept while an admission borrows it.
pub(super) struct Powers {
    member: Arc<Member>,
    pub(super) registry: Arc<Registry>,
    held: Arc<ControlPlane>,
    addresses: Vec<IpAddr>,
    cluster: Arc<ClusterConfig>,
    virtual_address: Option<IpAddr>,
    operators: Vec<OperatorKey>,
}

impl Powers {
    pub(super) fn of(context: &Context) -> Result<Self, Refusal> {
        let member = context.member()?;
        let held = member.membership.control_plane().cloned();
        match (held, member.registry.clone()) {
            (Some(held), Some(registry)) => Ok(Self {
                registry,
                addresses: context.node.addresses(),
                cluster: context.node.cluster(),
                virtual_address: founded_virtual_address(&context.node, &held),
                held,
                operators: Vec::new(),
                member,
            }),
            _ => Err(not_a_control_plane(&member)),
        }
    }

    pub(super) fn admission<'a>(&'a self, context: &'a Context) -> Admission<'a> {
        Admission {
            registry: &self.registry,
            held: &self.held,
            trust: self.member.trust(),
            identity: &self.member.identity,
            cluster: &self.cluster,
            virtual_address: self.virtual_address,
            operators: &self.operators,
            addresses: &self.addresses,
            clock: context.node.clock(),
        }
    }
}

impl Powers {
    /// What this control plane acts on is to be what it has just written. Otherwise it is so a moment later.
    pub(super) async fn renew_view(&self) {
        if let Err(error) = self.registry.refresh().await {
            crate::report::error(&error);
        }
    }

    /// Those whose word is believed for tokens that they made offline.
    async fn with_operators(self, context: &Context) -> Self {
        Self { operators: operators::accepted(&context.node, Some(&self.registry)).await, ..self }
    }
}

/// As this node was told when it joined, or as it was told to have it itself.
fn founded_virtual_address(node: &Node, held: &ControlPlane) -> Option<IpAddr> {
    let told = held.settings.as_ref().and_then(|settings| settings.virtual_address.as_deref()?.parse().ok());
    told.or(node.config.own().cluster.virtual_address)
}

/// A worker cannot decide; it says who can.
pub(super) fn not_a_control_plane(member: &Member) -> Refusal {
    let endpoints = member.worker.as_ref().map(|worker| crate::worker::endpoints(&worker.settings_now()));
    let endpoints = endpoints.unwrap_or_default().join(", ");
    Refusal::new(
        ErrorCode::NotControlPlane,
        format!("this node is a worker; a control plane answers that: {endpoints}"),
    )
}

pub(super) async fn create_token(
    context: &Context,
    request: &TokenRequest,
    operator: &str,
) -> Result<CreatedToken, Refusal> {
    let powers = Powers::of(context)?;
    powers.admission(context).create_token(request, operator).await.map_err(|error| refusal(&error))
}

pub(super) async fn list_tokens(context: &Context) -> Result<TokenList, Refusal> {
    let powers = Powers::of(context)?;
    powers.admission(context).list_tokens().await.map_err(|error| refusal(&error))
}

pub(super) async fn revoke_token(context: &Context, id: &str, operator: &str) -> Result<TokenEntry, Refusal> {
    let powers = Powers::of(context)?;
    powers.admission(context).revoke_token(id, operator).await.map_err(|error| refusal(&error))
}

/// It goes on by itself; what is answered is how far it is.
pub(super) async fn exchange_authorities(context: &Context, operator: &str) -> Result<Rotation, Refusal> {
    let powers = Powers::of(context)?;
    powers.admission(context).exchange_authorities(operator).await.map_err(|error| refusal(&error))?;
    let view = powers.registry.refresh().await.map_err(|error| refusal(&error.into()))?;
    // The last control plane may have gone through it in this moment.
    rotation::shown(&view).ok_or_else(|| Refusal::new(ErrorCode::Conflict, "an exchange has just ended; ask again"))
}

pub(super) async fn join(context: &Context, caller: &Caller, request: &JoinRequest) -> Result<Joined, Refusal> {
    limit(context, caller)?;
    let powers = Powers::of(context)?.with_operators(context).await;
    let joined = powers.admission(context).join(request, peer(caller)).await.map_err(|error| refusal(&error))?;
    forgive(context, caller);
    crate::report::info(format!("{} joined as {}, from {}", request.name, request.role, peer(caller)));
    Ok(joined)
}

pub(super) async fn renew(context: &Context, caller: &Caller, request: &RenewRequest) -> Result<Renewed, Refusal> {
    limit(context, caller)?;
    let powers = Powers::of(context)?;
    let now = Instant::now();
    let nonce = context.challenges.check(&request.nonce, now).map_err(|error| challenge_refusal(&error))?;
    let renewed = powers.admission(context).renew(request, peer(caller)).await.map_err(|error| refusal(&error))?;
    context.challenges.consume(&nonce, now).map_err(|error| challenge_refusal(&error))?;
    forgive(context, caller);
    Ok(renewed)
}

/// For the node whose certificate the caller has shown.
pub(super) async fn settings(context: &Context, caller: &Caller, query: Option<&str>) -> Result<NodeSettings, Refusal> {
    let said = rotation::said(query)?;
    let Caller::Node { name, uid, .. } = caller else {
        return Err(refusal(&AdmissionError::NoMember));
    };
    let powers = Powers::of(context)?;
    let admission = powers.admission(context);
    if let Some(said) = said {
        admission.heard(name, uid, said).await.map_err(|error| refusal(&error))?;
    }
    admission.settings_of(name, uid).await.map_err(|error| refusal(&error))
}

/// For the control plane whose certificate the caller has shown.
pub(super) async fn store_member(context: &Context, caller: &Caller) -> Result<StoreMembers, Refusal> {
    let Caller::Node { name, uid, .. } = caller else {
        return Err(refusal(&AdmissionError::NoMember));
    };
    let powers = Powers::of(context)?;
    powers.admission(context).store_member(name, uid, peer(caller)).await.map_err(|error| refusal(&error))
}

pub(super) async fn store_members(context: &Context) -> Result<StoreMembers, Refusal> {
    let powers = Powers::of(context)?;
    powers.admission(context).store_members().await.map_err(|error| refusal(&error))
}

pub(super) async fn list_operators(context: &Context) -> Result<OperatorList, Refusal> {
    let powers = Powers::of(context)?;
    powers.admission(context).list_operators().await.map_err(|error| refusal(&error))
}

pub(super) async fn add_operator(
    context: &Context,
    request: &OperatorRequest,
    operator: &str,
) -> Result<OperatorEntry, Refusal> {
    let powers = Powers::of(context)?;
    let added = powers.admission(context).add_operator(request, operator).await.map_err(|error| refusal(&error))?;
    powers.renew_view().await;
    Ok(added)
}

pub(super) async fn remove_operator(context: &Context, name: &str, operator: &str) -> Result<OperatorList, Refusal> {
    let powers = Powers::of(context)?;
    let removed = powers.admission(context).remove_operator(name, operator).await.map_err(|error| refusal(&error))?;
    powers.renew_view().await;
    Ok(removed)
}

/// Root on the control plane itself has no address of its own.
fn peer(caller: &Caller) -> IpAddr {
    caller.address().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

pub(super) fn refusal(error: &AdmissionError) -> Refusal {
    use AdmissionError as E;
    let (code, field) = match error {
        E::Token(_) | E::Unproven => (ErrorCode::TokenInvalid, Some("token")),
        E::Foreign { .. } => (ErrorCode::TokenForeign, Some("token")),
        E::Expired => (ErrorCode::TokenExpired, Some("token")),
        E::Revoked => (ErrorCode::TokenRevoked, Some("token")),
        E::Used { .. } | E::SameToken { .. } => (ErrorCode::TokenUsed, Some("token")),
        E::Role { .. } => (ErrorCode::TokenRole, Some("role")),
        E::BoundName { .. } => (ErrorCode::TokenBound, Some("name")),
        E::BoundMachine => (ErrorCode::TokenBound, Some("hardware")),
        E::Name { .. } | E::LastControlPlane { .. } => (ErrorCode::Invalid, Some("name")),
        E::NoStore { .. } => (ErrorCode::Invalid, None),
        E::Quorum { .. } | E::LastOperator { .. } => (ErrorCode::Conflict, Some("name")),
        E::NameInUse { .. } => (ErrorCode::NameInUse, Some("name")),
        E::AddressInUse { .. } | E::VirtualAddress(_) | E::ApiServerAddress(_) => {
            (ErrorCode::AddressInUse, Some("addresses"))
        }
        E::Translated { .. } | E::Conflict(_) => (ErrorCode::Invalid, Some("addresses")),
        E::Request { identity, .. } => (ErrorCode::Invalid, Some(*identity)),
        E::Field { field, .. } => (ErrorCode::Invalid, Some(*field)),
        E::Setting { name, .. } => (ErrorCode::Invalid, Some(name.as_str())),
        E::Configuration(errors) => (ErrorCode::Invalid, errors.0.first().map(ConfigError::place)),
        E::Outdated => (ErrorCode::Conflict, Some("revision")),
        E::Removed => (ErrorCode::Removed, None),
        E::NoMember => (ErrorCode::Unauthenticated, None),
        E::NoProof => (ErrorCode::Unauthenticated, Some("signature")),
        E::KeyInUse { .. } => (ErrorCode::Conflict, Some("publicKey")),
        E::NoToken => (ErrorCode::NotFound, Some("id")),
        E::NoNode { .. } | E::NoOperator { .. } | E::NoFeature { .. } => (ErrorCode::NotFound, Some("name")),
        E::TooManyTokens { .. } | E::TooManyOperators { .. } => (ErrorCode::TooManyRequests, None),
        E::Contended | E::BeingRemoved | E::Rotating | E::Registry(RegistryError::Unavailable(_)) => {
            (ErrorCode::Unavailable, None)
        }
        E::SharedSecrets(SharedSecretsError::NoKey | SharedSecretsError::Seal(_)) => {
            (ErrorCode::Invalid, Some("controlPlane.wrappingKey"))
        }
        E::NoRandomness | E::Encode(_) | E::Key(_) | E::Registry(_) | E::SharedSecrets(_) => {
            (ErrorCode::Internal, None)
        }
    };
    let mut refusal = Refusal::because(code, error);
    refusal.body.field = field.map(str::to_owned);
    if let E::Configuration(errors) = error {
        refusal.body.faults = errors.0.iter().map(fault).collect();
    }
    refusal
}

fn fault(error: &ConfigError) -> FieldFault {
    FieldFault { field: error.place().to_owned(), problem: error.problem.clone(), allowed: error.allowed.clone() }
}
