//! A node with a token becomes a member.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keelson_api::join::control_plane_message;
use keelson_api::{EventKind, JoinRequest, Joined, Token, TokenRole, WrappedSecrets};
use keelson_config::Role;
use keelson_pki::request_key;

use super::{Admission, AdmissionError, key_text, names, role_of};
use crate::identity::NodeUid;
use crate::registry::records::Redemption;
use crate::registry::{Change, EventRecord, NodeRecord, RemovedRecord, RotationRecord, Stored, TokenRecord};
use crate::rotation;
use crate::secrets;
use crate::shared_secrets::{Recipient, SharedSecrets};

impl Admission<'_> {
    /// `peer` is where the request came from: the one address of the node that is known to be its own.
    pub async fn join(&self, request: &JoinRequest, peer: IpAddr) -> Result<Joined, AdmissionError> {
        let token = Token::parse(&request.token)?;
        let peer = peer.to_canonical();
        // Before anything of the cluster is told.
        self.proven(&token).await?;
        self.check_node(request, peer)?;
        let key = request_key(&request.requests.node)
            .map_err(|source| AdmissionError::Request { identity: "requests.node", source })?;
        let key = key_text(&key);
        self.check_control_plane(request)?;
        self.check_api_server_address(role_of(request.role), peer)?;
        for attempt in 0..super::ATTEMPTS {
            if let Some(record) = self.try_join(request, &token, peer, &key).await? {
                return Ok(Joined {
                    secrets: self.wrapped_secrets(request, &record)?,
                    cluster_id: self.identity.cluster_id.to_string(),
                    node_uid: record.uid.clone(),
                    certificates: self.certify(&record, &request.requests)?,
                    settings: self.settings(&record).await?,
                });
            }
            super::pause(attempt).await?;
        }
        Err(AdmissionError::Contended)
    }

    fn check_node(&self, request: &JoinRequest, peer: IpAddr) -> Result<(), AdmissionError> {
        if let Some(problem) = names::problem(&request.name, self.cluster) {
            return Err(AdmissionError::Name { name: request.name.clone(), problem });
        }
        if !request.addresses.iter().any(|address| address.parse() == Ok(peer)) {
            return Err(AdmissionError::Translated { known: request.addresses.join(", "), peer });
        }
        self.check_address(peer)
    }

    /// The cluster's networks and its virtual address are no node's, whatever the node itself believes them to be.
    fn check_address(&self, peer: IpAddr) -> Result<(), AdmissionError> {
        if self.cluster.virtual_address == Some(peer) {
            return Err(AdmissionError::VirtualAddress(peer));
        }
        self.cluster.conflict(peer).map_or(Ok(()), |conflict| Err(AdmissionError::Conflict(conflict)))
    }

    /// Where clients look for an API server there is no worker: kubelet's certificate is by the authority that API servers are believed by.
    fn check_api_server_address(&self, role: Role, peer: IpAddr) -> Result<(), AdmissionError> {
        let is_said = self.cluster.extra_sans.iter().any(|san| san.parse() == Ok(peer));
        if role == Role::Worker && is_said { Err(AdmissionError::ApiServerAddress(peer)) } else { Ok(()) }
    }

    /// The keys that a control plane sends are the node's: whoever has the token alone gets nothing that was wrapped for a
    /// node which joined with it.
    fn check_control_plane(&self, request: &JoinRequest) -> Result<(), AdmissionError> {
        let field = |field, problem: &str| Err(AdmissionError::Field { field, problem: problem.to_owned() });
        let plane = match (request.role, &request.control_plane) {
            (TokenRole::Worker, None) => return Ok(()),
            (TokenRole::Worker, Some(_)) => return field("controlPlane", "a worker has no such keys"),
            (TokenRole::ControlPlane, None) => return field("controlPlane", "a control plane has to send its keys"),
            (TokenRole::ControlPlane, Some(plane)) => plane,
        };
        let key = request_key(&request.requests.node)
            .map_err(|source| AdmissionError::Request { identity: "requests.node", source })?;
        let signature = STANDARD.decode(&plane.signature).map_err(|_| AdmissionError::NoProof)?;
        let message = |fingerprint: &str| {
            control_plane_message(fingerprint, &request.name, &plane.wrapping_key, &plane.signing_key)
        };
        if !self.trust.is_proven(key, &signature, message) {
            return Err(AdmissionError::NoProof);
        }
        let known = STANDARD.decode(&plane.signing_key).ok().and_then(|key| secrets::key_id_of(&key));
        if known.is_none() {
            return field("controlPlane.signingKey", "this is no P-256 key");
        }
        Ok(())
    }

    fn wrapped_secrets(
        &self,
        request: &JoinRequest,
        record: &NodeRecord,
    ) -> Result<Option<WrappedSecrets>, AdmissionError> {
        let Some(plane) = &request.control_plane else { return Ok(None) };
        let recipient =
            Recipient { cluster_id: self.identity.cluster_id.as_str(), name: &record.name, uid: &record.uid };
        Ok(Some(SharedSecrets::of(self.held).wrap(&plane.wrapping_key, recipient)?))
    }

    /// `None` if somebody else changed one of the records in between.
    async fn try_join(
        &self,
        request: &JoinRequest,
        token: &Token,
        peer: IpAddr,
        key: &str,
    ) -> Result<Option<NodeRecord>, AdmissionError> {
        let token = self.proven(token).await?;
        let present = self.registry.get::<NodeRecord>(&request.name).await?;
        let is_this = |stored: &Stored<NodeRecord>| {
            stored.value.key.as_deref() == Some(key) && stored.value.role == role_of(request.role)
        };
        if let Some(stored) = present.as_ref().filter(|stored| is_this(stored)) {
            // Asked again after a power cut: it is a member already.
            return self.readdress(stored, peer, &request.addresses).await;
        }
        check_token(&token.value, request, self.now())?;
        self.check_return(&token.value, request).await?;
        // What it would be given is what is being exchanged.
        if request.role == TokenRole::ControlPlane && self.registry.get::<RotationRecord>(rotation::ID).await?.is_some()
        {
            return Err(AdmissionError::Rotating);
        }
        let replaced = match &present {
            Some(stored) if may_replace(&token.value, &stored.value) => Some(&stored.value),
            Some(_) => return Err(AdmissionError::NameInUse { name: request.name.clone() }),
            None => None,
        };
        let record = NodeRecord {
            version: 1,
            name: request.name.clone(),
            uid: NodeUid::generate().as_str().to_owned(),
            role: role_of(request.role),
            addresses: vec![peer.to_string()],
            key: Some(key.to_owned()),
            hardware: hardware_of(request),
            signing_key: request.control_plane.as_ref().map(|plane| plane.signing_key.clone()),
            token: Some(token.value.id.clone()),
            joined: self.now(),
            generations: None,
        };
        let [joined, used] = self.told_of_join(&record, &token.value, peer, replaced.is_some());
        let mut change = Change::default()
            .expect::<NodeRecord>(&request.name, present.as_ref().map_or(0, |stored| stored.revision))
            .expect::<TokenRecord>(&token.value.id, token.revision)
            .put(&record)?
            .put(&redeemed(token.value, &record, replaced.is_some())?)?
            .put(&joined)?
            .put(&used)?;
        change = self.take_address(change, &record, replaced, peer).await?;
        if record.role == Role::ControlPlane {
            change = change.expect::<RotationRecord>(rotation::ID, 0);
        }
        if let Some(old) = replaced {
            let by = format!("its successor, by token {}", record.token.as_deref().unwrap_or_default());
            change = change.put(&RemovedRecord { replaced: true, ..RemovedRecord::of(old, self.now(), by) })?;
        }
        Ok(self.registry.commit(change).await?.then_some(record))
    }

    /// A node that was removed is told the same words at its next boot, and the token in them may be good for others yet. Another machine may
    /// have the name; one that is known by its uuid alone may be any, since makers give the same to many.
    async fn check_return(&self, token: &TokenRecord, request: &JoinRequest) -> Result<(), AdmissionError> {
        let hardware = hardware_of(request);
        let is_other = |removed: &RemovedRecord| {
            removed.hardware.as_ref().zip(hardware.as_ref()).is_some_and(|(former, own)| former != own)
        };
        let is_this = |removed: &&RemovedRecord| removed.name == request.name && !is_other(removed);
        let view = self.view().await?;
        let mut removed = view.removed.values().filter(|removed| !removed.replaced);
        match removed.find(|removed| removed.token.as_ref() == Some(&token.id) && is_this(removed)) {
            Some(removed) => Err(AdmissionError::SameToken { name: removed.name.clone() }),
            None => Ok(()),
        }
    }

    fn told_of_join(&self, record: &NodeRecord, token: &TokenRecord, peer: IpAddr, returns: bool) -> [EventRecord; 2] {
        let name = &record.name;
        let place = if returns { ", in the place of its former self" } else { "" };
        let message = format!("{name} joined as a {}, from {peer}{place}", record.role);
        let joined = self.event(EventKind::NodeJoined, &format!("the token {}", token.id), message);
        let used = self.event(EventKind::TokenUsed, name, format!("the token {} was used by {name}", token.id));
        [joined.about(name), used.about(name)]
    }

    async fn take_address(
        &self,
        mut change: Change,
        record: &NodeRecord,
        replaced: Option<&NodeRecord>,
        peer: IpAddr,
    ) -> Result<Change, AdmissionError> {
        let address = peer.to_string();
        let (revision, owner) = self.registry.address(&address).await?;
        if let Some(owner) = owner.filter(|owner| *owner != record.name) {
            return Err(AdmissionError::AddressInUse { address: peer, owner });
        }
        for old in replaced.into_iter().flat_map(|old| &old.addresses).filter(|old| !record.addresses.contains(old)) {
            change = change.free_address(old);
        }
        Ok(change.take_address(&address, revision, &record.name))
    }

    /// The record with the address at which the node was seen now. `claimed` is what the node says that it has.
    pub(super) async fn readdress(
        &self,
        stored: &Stored<NodeRecord>,
        peer: IpAddr,
        claimed: &[String],
    ) -> Result<Option<NodeRecord>, AdmissionError> {
        let addresses = self.addresses_now(&stored.value.addresses, peer, claimed);
        if addresses == stored.value.addresses {
            return Ok(Some(stored.value.clone()));
        }
        self.check_address(peer)?;
        self.check_api_server_address(stored.value.role, peer)?;
        let record = NodeRecord { addresses, ..stored.value.clone() };
        let change = Change::default().expect::<NodeRecord>(&record.name, stored.revision).put(&record)?;
        let message = format!("{} is at {} now", record.name, record.addresses.join(" and "));
        let change = change.put(&self.event(EventKind::NodeMoved, &record.name, message).about(&record.name))?;
        let change = self.take_address(change, &record, Some(&stored.value), peer).await?;
        Ok(self.registry.commit(change).await?.then_some(record))
    }
}

impl Admission<'_> {
    /// Where a node is that was seen at `peer` now. In dual stack it may have been seen at an address of the other family before, and
    /// keeps that for as long as it says that it has it; what it claims and was never seen at counts for nothing. The cluster's first
    /// family comes first.
    fn addresses_now(&self, known: &[String], peer: IpAddr, claimed: &[String]) -> Vec<String> {
        let ranges = &self.cluster.pod_cidr;
        if !ranges.is_dual() || claimed.is_empty() {
            let address = peer.to_string();
            return if known.contains(&address) { known.to_vec() } else { vec![address] };
        }
        let of_the_other_family = |address: &IpAddr| address.is_ipv4() != peer.is_ipv4();
        let kept = known.iter().filter(|address| claimed.contains(address));
        let kept = kept.filter_map(|address| address.parse().ok()).find(of_the_other_family);
        let mut addresses: Vec<IpAddr> = std::iter::once(peer).chain(kept).collect();
        addresses.sort_by_key(|address| !ranges.begins_with_family_of(*address));
        addresses.iter().map(ToString::to_string).collect()
    }
}

/// As the records have it.
fn hardware_of(request: &JoinRequest) -> Option<String> {
    request.hardware.as_deref().map(str::to_ascii_lowercase)
}

/// Whether a token that is proven is good for this node. What is said first is what no other token of its kind mends.
fn check_token(token: &TokenRecord, request: &JoinRequest, now: i64) -> Result<(), AdmissionError> {
    if token.revoked {
        return Err(AdmissionError::Revoked);
    }
    if now >= token.expires {
        return Err(AdmissionError::Expired);
    }
    if token.role != role_of(request.role) {
        return Err(AdmissionError::Role { token: super::token_role(token.role), asked: request.role });
    }
    if let Some(bound) = token.name.as_ref().filter(|bound| **bound != request.name) {
        return Err(AdmissionError::BoundName { bound: bound.clone() });
    }
    let hardware = hardware_of(request);
    if token.hardware.is_some() && token.hardware != hardware {
        return Err(AdmissionError::BoundMachine);
    }
    Ok(())
}

/// A node without a disk comes back with a new key. It is the same node if the token is bound to its name, or to the machine
/// that had the name. Only a worker: a control plane that forgot everything has forgotten its vote.
fn may_replace(token: &TokenRecord, present: &NodeRecord) -> bool {
    let by_name = token.name.as_deref() == Some(&present.name);
    let by_machine = token.hardware.is_some() && token.hardware == present.hardware;
    present.role == Role::Worker && (by_name || by_machine)
}

/// The token with this use counted. Who returns under its own name is not another node.
fn redeemed(mut token: TokenRecord, record: &NodeRecord, returns: bool) -> Result<TokenRecord, AdmissionError> {
    let used = u32::try_from(token.redemptions.len()).unwrap_or(u32::MAX);
    let before = token.redemptions.iter_mut().find(|redemption| returns && redemption.name == record.name);
    let redemption = Redemption { name: record.name.clone(), uid: record.uid.clone(), at: record.joined };
    match before {
        Some(before) => *before = redemption,
        None if used >= token.uses => return Err(AdmissionError::Used { uses: token.uses }),
        None => token.redemptions.push(redemption),
    }
    Ok(token)
}
