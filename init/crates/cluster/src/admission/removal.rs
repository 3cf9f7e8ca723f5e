//! A member is put out: from one transaction on, nothing that it holds opens a door.
//!
//! Of a control plane the store's membership changes too, after that transaction: whoever is a control plane then takes the
//! member out ([`settle`]), as often as it takes, so that it does not matter whether the one that was asked, or the one that is removed,
//! lives on. Before it, the store was asked whether those that stay could go on without it.

use keelson_api::{EventKind, RemovalOrder};
use keelson_config::Role;

use super::{Admission, AdmissionError};
use crate::registry::members::{self, node_of};
use crate::registry::{
    Change, ConfigurationRecord, MemberChange, MemberError, NodeRecord, Registry, RegistryError, Removal,
    RemovedRecord, StoreMember, View,
};

/// A member that is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    pub uid: String,
    /// Control planes that had to go with it, because they did not answer and it was forced.
    pub lost: Vec<String>,
    /// What it knew is exchanged.
    pub rotating: bool,
}

/// How a member goes.
#[derive(Debug, Clone, Copy, Default)]
struct Departure {
    forced: bool,
    compromised: bool,
}

impl Admission<'_> {
    /// The UID is denied from now on. Kubernetes' objects of the node are for others to delete.
    /// With a compromised control plane goes what it knew: see [`crate::rotation`].
    pub async fn remove(&self, name: &str, by: &str, order: RemovalOrder) -> Result<Gone, AdmissionError> {
        let RemovalOrder { force, compromised } = order;
        let present = self.registry.get::<NodeRecord>(name).await?;
        let present = present.ok_or_else(|| AdmissionError::NoNode { name: name.to_owned() })?.value;
        let member = match present.role {
            Role::ControlPlane => self.check_quorum(&present, force).await?,
            Role::Worker => None,
        };
        let forced = force && member.is_some();
        let how = Departure { forced, compromised };
        // First too: a removal that breaks off before its end is asked for again, and one that has put the node out is not.
        if compromised {
            self.revoke_all(by).await?;
        }
        let uid = self.put_out(name, &present.uid, by, how).await?;
        // Until then it could make others.
        if compromised {
            self.revoke_all(by).await?;
        }
        let rotating = compromised && present.role == Role::ControlPlane;
        let lost = match member.filter(|_| forced) {
            Some(member) => self.force_out(&member, by).await?,
            None => Vec::new(),
        };
        Ok(Gone { uid, lost, rotating })
    }

    /// Whether the others can do without it: its member in the store, if it has one.
    async fn check_quorum(&self, record: &NodeRecord, force: bool) -> Result<Option<StoreMember>, AdmissionError> {
        let name = &record.name;
        let view = self.registry.refresh().await?;
        let planes = view.nodes.values().filter(|node| node.role == Role::ControlPlane);
        if planes.count() < 2 {
            return Err(AdmissionError::LastControlPlane { name: name.clone() });
        }
        let members = self.registry.members().await?;
        let Some(member) = members.iter().find(|member| member.name == record.uid) else { return Ok(None) };
        let tried = remove(self.registry, member, Removal::Try, &members, &view).await;
        match tried {
            Ok(_) => {}
            Err(RegistryError::Members(MemberError::Unhealthy)) if force => {}
            Err(RegistryError::Members(
                source @ (MemberError::Unhealthy | MemberError::NotEnoughStarted | MemberError::NotReady),
            )) => return Err(AdmissionError::Quorum { name: name.clone(), source }),
            Err(error) => return Err(error.into()),
        }
        Ok(Some(member.clone()))
    }

    async fn put_out(&self, name: &str, uid: &str, by: &str, how: Departure) -> Result<String, AdmissionError> {
        for attempt in 0..super::ATTEMPTS {
            let stored = self.registry.get::<NodeRecord>(name).await?.filter(|stored| stored.value.uid == uid);
            let stored = stored.ok_or_else(|| AdmissionError::NoNode { name: name.to_owned() })?;
            let record = stored.value;
            let Departure { forced, compromised } = how;
            let removed =
                RemovedRecord { forced, compromised, ..RemovedRecord::of(&record, self.now(), by.to_owned()) };
            let mut change = Change::default()
                .expect::<NodeRecord>(name, stored.revision)
                .delete::<NodeRecord>(name)
                .delete::<ConfigurationRecord>(&ConfigurationRecord::id_of(Some(name)))
                .put(&removed)?
                .put(&self.event(EventKind::NodeRemoved, by, format!("{name} was removed")).about(name))?;
            for address in &record.addresses {
                change = change.free_address(address);
            }
            if compromised && record.role == Role::ControlPlane {
                change = self.exchange_because(change, name, by).await?;
            }
            if self.registry.commit(change).await? {
                return Ok(record.uid);
            }
            super::pause(attempt).await?;
        }
        Err(AdmissionError::Contended)
    }

    /// Takes the member out together with those that do not answer, and puts their nodes out as well: their stores would
    /// come back to a cluster that has gone on without them.
    async fn force_out(&self, member: &StoreMember, by: &str) -> Result<Vec<String>, AdmissionError> {
        let before = self.registry.members().await?;
        let view = self.registry.refresh().await?;
        let after = match remove(self.registry, member, Removal::Force, &before, &view).await {
            Ok(after) => after,
            // Somebody else was faster, or will be: see `settle`.
            Err(RegistryError::Members(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut lost = Vec::new();
        for gone in before.iter().filter(|one| one.id != member.id && !after.iter().any(|left| left.id == one.id)) {
            if let Some(name) = node_of(&view, &gone.name) {
                self.put_out(name, &gone.name, by, Departure::default()).await?;
                lost.push(name.to_owned());
            }
        }
        Ok(lost)
    }
}

/// Takes the members out whose nodes were removed, but for `own`: others do that. What is not possible yet is tried again by
/// whoever calls this next.
pub async fn settle(registry: &Registry, view: &View, own: &str) -> Result<Vec<StoreMember>, RegistryError> {
    let mut present = registry.members().await?;
    let gone: Vec<_> = members::removed(&present, view).into_iter().filter(|gone| gone.name != own).cloned().collect();
    for member in gone {
        let forced = view.removed.get(&member.name).is_some_and(|record| record.forced);
        let how = if forced { Removal::Force } else { Removal::Safe };
        match remove(registry, &member, how, &present, view).await {
            Ok(after) => present = after,
            Err(RegistryError::Members(MemberError::NotFound)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(present)
}

/// The only voter can go once another one votes.
async fn remove(
    registry: &Registry,
    member: &StoreMember,
    how: Removal,
    members: &[StoreMember],
    view: &View,
) -> Result<Vec<StoreMember>, RegistryError> {
    let change = MemberChange::Remove { id: member.id, how };
    match registry.change_members(change.clone()).await {
        Err(RegistryError::Members(MemberError::NotEnoughStarted)) => {}
        result => return result,
    }
    let stays = |other: &&StoreMember| !other.votes && !view.removed.contains_key(&other.name) && other.id != member.id;
    let learner = members.iter().find(stays).ok_or(RegistryError::Members(MemberError::NotEnoughStarted))?;
    registry.change_members(MemberChange::Promote { id: learner.id }).await?;
    registry.change_members(change).await
}
