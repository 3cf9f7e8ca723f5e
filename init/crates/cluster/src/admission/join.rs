//! A node with a token becomes a member.

use std::net::IpAddr;

use keelson_api::{JoinRequest, Joined, Token, TokenRole};
use keelson_config::Role;
use keelson_pki::request_key;

use super::{Admission, AdmissionError, key_text, names, role_of};
use crate::identity::NodeUid;
use crate::registry::records::Redemption;
use crate::registry::{Change, NodeRecord, RemovedRecord, Stored, TokenRecord};

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
        for attempt in 0..super::ATTEMPTS {
            if let Some(record) = self.try_join(request, &token, peer, &key).await? {
                return Ok(Joined {
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
        if request.role == TokenRole::ControlPlane {
            return Err(AdmissionError::ControlPlane);
        }
        Ok(())
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
            return self.readdress(stored, peer).await;
        }
        check_token(&token.value, request, self.now())?;
        let replaced = match &present {
            Some(stored) if may_replace(&token.value, &stored.value) => Some(&stored.value),
            Some(_) => return Err(AdmissionError::NameInUse { name: request.name.clone() }),
            None => None,
        };
        let record = NodeRecord {
            version: 1,
            name: request.name.clone(),
            uid: NodeUid::generate().as_str().to_owned(),
            role: Role::Worker,
            addresses: vec![peer.to_string()],
            key: Some(key.to_owned()),
            hardware: request.hardware.as_deref().map(str::to_ascii_lowercase),
            token: Some(token.value.id.clone()),
            joined: self.now(),
        };
        let mut change = Change::default()
            .expect::<NodeRecord>(&request.name, present.as_ref().map_or(0, |stored| stored.revision))
            .expect::<TokenRecord>(&token.value.id, token.revision)
            .put(&record)?
            .put(&redeemed(token.value, &record, replaced.is_some())?)?;
        change = self.take_address(change, &record, replaced, peer).await?;
        if let Some(old) = replaced {
            change = change.put(&RemovedRecord {
                version: 1,
                uid: old.uid.clone(),
                name: old.name.clone(),
                removed: self.now(),
                by: format!("its successor, by token {}", record.token.as_deref().unwrap_or_default()),
            })?;
        }
        Ok(self.registry.commit(change).await?.then_some(record))
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
        for old in replaced.into_iter().flat_map(|old| &old.addresses).filter(|old| **old != address) {
            change = change.free_address(old);
        }
        Ok(change.take_address(&address, revision, &record.name))
    }

    /// The record with the address at which the node was seen now.
    pub(super) async fn readdress(
        &self,
        stored: &Stored<NodeRecord>,
        peer: IpAddr,
    ) -> Result<Option<NodeRecord>, AdmissionError> {
        let address = peer.to_string();
        if stored.value.addresses.contains(&address) {
            return Ok(Some(stored.value.clone()));
        }
        let record = NodeRecord { addresses: vec![address], ..stored.value.clone() };
        let change = Change::default().expect::<NodeRecord>(&record.name, stored.revision).put(&record)?;
        let change = self.take_address(change, &record, Some(&stored.value), peer).await?;
        Ok(self.registry.commit(change).await?.then_some(record))
    }
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
    let hardware = request.hardware.as_deref().map(str::to_ascii_lowercase);
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
