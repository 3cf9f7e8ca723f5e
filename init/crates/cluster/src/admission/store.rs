//! A control plane's store becomes a member of the cluster's.

use std::net::IpAddr;

use keelson_api::StoreMembers;
use keelson_config::Role;

use super::{Admission, AdmissionError};
use crate::registry::members::node_of;
use crate::registry::{MemberChange, MemberError, NodeRecord, RegistryError, StoreMember};
use crate::store::peer_url;
use crate::store::peers::address_of;

impl Admission<'_> {
    /// Adds it, if the store does not have it yet, and says who the members are. `uid` is the caller's certificate's.
    pub async fn store_member(&self, name: &str, uid: &str, peer: IpAddr) -> Result<StoreMembers, AdmissionError> {
        let peer = peer.to_canonical();
        for attempt in 0..super::ATTEMPTS {
            self.member(name, uid).await?;
            let stored = self.registry.get::<NodeRecord>(name).await?;
            let stored = stored.filter(|stored| stored.value.uid == uid).ok_or(AdmissionError::NoMember)?;
            if stored.value.role != Role::ControlPlane {
                return Err(AdmissionError::NoStore { name: name.to_owned() });
            }
            if let Some(record) = self.readdress(&stored, peer, &[]).await?
                && let Some(members) = self.admit_store(&record, peer).await?
            {
                // Who leads is an operator's question.
                return self.described(&members, None).await;
            }
            super::pause(attempt).await?;
        }
        Err(AdmissionError::Contended)
    }

    /// The store's members, for an operator.
    pub async fn store_members(&self) -> Result<StoreMembers, AdmissionError> {
        let members = self.registry.members().await?;
        let leader = self.registry.leader().await?;
        self.described(&members, leader).await
    }

    /// `None` if somebody else changed the members in between.
    async fn admit_store(&self, record: &NodeRecord, peer: IpAddr) -> Result<Option<Vec<StoreMember>>, AdmissionError> {
        let members = self.registry.members().await?;
        let verified = super::verified(record);
        let reaches = |url: &String| address_of(url).is_some_and(|address| verified.contains(&address));
        let peer_url = peer_url(peer);
        let change = match members.iter().find(|member| member.name == record.uid) {
            Some(member) if member.peer_urls.iter().any(reaches) => return Ok(Some(members)),
            Some(member) => MemberChange::Update { id: member.id, peer_url },
            None => MemberChange::Add { name: record.uid.clone(), peer_url },
        };
        match self.registry.change_members(change).await {
            Ok(members) => Ok(Some(members)),
            Err(RegistryError::Members(MemberError::Exists | MemberError::NotFound)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn described(&self, members: &[StoreMember], leader: Option<u64>) -> Result<StoreMembers, AdmissionError> {
        let view = self.registry.refresh().await?;
        let describe = |member: &StoreMember| keelson_api::StoreMember {
            name: member.name.clone(),
            node: node_of(&view, &member.name).map(str::to_owned),
            peer_urls: member.peer_urls.clone(),
            votes: member.votes,
            leads: leader == Some(member.id),
        };
        Ok(StoreMembers { members: members.iter().map(describe).collect() })
    }
}
