//! A member is put out: from one transaction on, nothing that it holds opens a door.
//!
//! Of a control plane the store's membership changes too, after that transaction: whoever is a control plane then takes the
//! member out ([`Remover::settle`]), as often as it takes, so that it does not matter whether the one that was asked, or the one that is
//! removed, lives on. Before it, the store was asked whether those that stay could go on without it. With one that is removed by force
//! go those that do not answer; who had a member before stands in its record until they are put out as well.

use keelson_api::{EventKind, RemovalOrder};
use keelson_config::Role;

use super::{Admission, AdmissionError};
use crate::registry::members;
use crate::registry::{
    Change, ConfigurationRecord, EventRecord, MemberChange, MemberError, NodeRecord, Registry, RegistryError, Removal,
    RemovedRecord, StoreMember, Stored, View,
};

/// More than operators remove in years. The oldest ones go, of which hardly one will come back.
const REMOVED_MAX: usize = 10_000;
/// Records that are deleted in one transaction.
const PRUNED_AT_ONCE: usize = 50;

/// A member that is no more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gone {
    pub uid: String,
    /// Control planes that had to go with it, because they did not answer and it was forced.
    pub lost: Vec<String>,
    /// What it knew is exchanged.
    pub rotating: bool,
}

/// How a member goes.
#[derive(Debug, Clone, Copy)]
struct Departure<'a> {
    /// Whoever has a member in the store, if it goes by force.
    among: &'a [String],
    compromised: bool,
}

impl Admission<'_> {
    /// The UID is denied from now on. Kubernetes' objects of the node are for others to delete.
    /// With a compromised control plane goes what it knew: see [`crate::rotation`].
    pub async fn remove(&self, name: &str, by: &str, order: RemovalOrder) -> Result<Gone, AdmissionError> {
        let RemovalOrder { force, compromised, dry_run } = order;
        let present = self.registry.get::<NodeRecord>(name).await?;
        let present = present.ok_or_else(|| AdmissionError::NoNode { name: name.to_owned() })?.value;
        let members = match present.role {
            Role::ControlPlane => self.check_quorum(&present, force).await?,
            Role::Worker => Vec::new(),
        };
        if dry_run {
            return Ok(Gone { uid: present.uid, ..Gone::default() });
        }
        let member = members.iter().find(|member| member.name == present.uid);
        let forced = member.filter(|_| force);
        let names: Vec<_> = members.iter().filter(|_| forced.is_some()).map(|member| member.name.clone()).collect();
        let how = Departure { among: &names, compromised };
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
        let lost = match forced {
            Some(member) => self.force_out(member).await?,
            None => Vec::new(),
        };
        Ok(Gone { uid, lost, rotating })
    }

    /// Whether the others can do without it: the store's members, if it is one of them.
    async fn check_quorum(&self, record: &NodeRecord, force: bool) -> Result<Vec<StoreMember>, AdmissionError> {
        let name = &record.name;
        let view = self.registry.refresh().await?;
        let planes = view.nodes.values().filter(|node| node.role == Role::ControlPlane);
        if planes.count() < 2 {
            return Err(AdmissionError::LastControlPlane { name: name.clone() });
        }
        let members = self.registry.members().await?;
        let Some(member) = members.iter().find(|member| member.name == record.uid) else { return Ok(Vec::new()) };
        let tried = remove(self.registry, member, Removal::Try, &members, &view).await;
        match tried {
            Ok(_) => {}
            Err(RegistryError::Members(MemberError::Unhealthy)) if force => {}
            Err(RegistryError::Members(
                source @ (MemberError::Unhealthy | MemberError::NotEnoughStarted | MemberError::NotReady),
            )) => return Err(AdmissionError::Quorum { name: name.clone(), source }),
            Err(error) => return Err(error.into()),
        }
        Ok(members)
    }

    async fn put_out(&self, name: &str, uid: &str, by: &str, how: Departure<'_>) -> Result<String, AdmissionError> {
        for attempt in 0..super::ATTEMPTS {
            let stored = self.registry.get::<NodeRecord>(name).await?.filter(|stored| stored.value.uid == uid);
            let stored = stored.ok_or_else(|| AdmissionError::NoNode { name: name.to_owned() })?;
            let Departure { among, compromised } = how;
            let removed = RemovedRecord {
                forced: !among.is_empty(),
                among: among.to_vec(),
                compromised,
                ..RemovedRecord::of(&stored.value, self.now(), by.to_owned())
            };
            let event = self.event(EventKind::NodeRemoved, by, format!("{name} was removed"));
            let mut change = departing(Change::default(), &stored, &removed, event)?;
            if stored.value.role == Role::ControlPlane {
                change = self.expect_another(change, name).await?;
                if compromised {
                    change = self.exchange_because(change, name, by).await?;
                }
            }
            if self.registry.commit(change).await? {
                return Ok(removed.uid);
            }
            super::pause(attempt).await?;
        }
        Err(AdmissionError::Contended)
    }

    /// Of two control planes that are removed in the same moment one stays.
    async fn expect_another(&self, change: Change, name: &str) -> Result<Change, AdmissionError> {
        let nodes = self.registry.list::<NodeRecord>().await?;
        let stays = |stored: &&Stored<NodeRecord>| stored.value.role == Role::ControlPlane && stored.value.name != name;
        let witness = nodes.iter().find(stays);
        let witness = witness.ok_or_else(|| AdmissionError::LastControlPlane { name: name.to_owned() })?;
        Ok(change.expect::<NodeRecord>(&witness.value.name, witness.revision))
    }

    /// Takes the member out together with those that do not answer, and says whose they were.
    async fn force_out(&self, member: &StoreMember) -> Result<Vec<String>, AdmissionError> {
        let before = self.registry.members().await?;
        let view = self.registry.refresh().await?;
        let after = match remove(self.registry, member, Removal::Force, &before, &view).await {
            Ok(after) => after,
            Err(RegistryError::Members(MemberError::NotFound)) => before,
            // It is tried again: see `settle`.
            Err(RegistryError::Members(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        self.remover().end_forced(&member.name, &after).await?;
        let removed = self.registry.list::<RemovedRecord>().await?;
        let with_it = removed.iter().filter(|stored| stored.value.went_with.as_ref() == Some(&member.name));
        Ok(with_it.map(|stored| stored.value.name.clone()).collect())
    }

    fn remover(&self) -> Remover<'_> {
        let Self { registry, identity, .. } = self;
        Remover { registry, name: &identity.name, uid: identity.node_uid.as_str(), now: self.now() }
    }
}

/// A control plane that brings removals to their end.
#[derive(Debug, Clone, Copy)]
pub struct Remover<'a> {
    pub registry: &'a Registry,
    /// Its own, and its UID.
    pub name: &'a str,
    pub uid: &'a str,
    /// Seconds since the epoch.
    pub now: i64,
}

impl Remover<'_> {
    /// Takes the members out whose nodes were removed, but for its own: others do that. What is not possible yet is tried again by
    /// whoever calls this next.
    pub async fn settle(&self, view: &View) -> Result<Vec<StoreMember>, RegistryError> {
        let mut present = self.registry.members().await?;
        let gone: Vec<_> =
            members::removed(&present, view).into_iter().filter(|gone| gone.name != self.uid).cloned().collect();
        for member in gone {
            let forced = view.removed.get(&member.name).is_some_and(|record| record.forced);
            let how = if forced { Removal::Force } else { Removal::Safe };
            match remove(self.registry, &member, how, &present, view).await {
                Ok(after) => present = after,
                Err(RegistryError::Members(MemberError::NotFound)) => {}
                Err(error) => return Err(error),
            }
        }
        for record in view.removed.values().filter(|record| !record.among.is_empty()) {
            self.end_forced(&record.uid, &present).await?;
        }
        self.prune(view).await?;
        Ok(present)
    }

    /// Puts out the nodes of those that went with a member which was taken out by force: their stores would come back to a cluster that
    /// has gone on without them. `present` are the store's members at a later moment than that of the record.
    async fn end_forced(&self, uid: &str, present: &[StoreMember]) -> Result<(), RegistryError> {
        let is_present = |uid: &String| present.iter().any(|member| member.name == *uid);
        let Some(forced) = self.registry.get::<RemovedRecord>(uid).await? else { return Ok(()) };
        let Stored { value: record, revision } = forced;
        if record.among.is_empty() || is_present(&record.uid) {
            return Ok(());
        }
        let mut change = Change::default().expect::<RemovedRecord>(uid, revision);
        for stored in self.registry.list::<NodeRecord>().await? {
            let node = &stored.value;
            if !record.among.contains(&node.uid) || is_present(&node.uid) {
                continue;
            }
            let removed = RemovedRecord {
                went_with: Some(record.uid.clone()),
                ..RemovedRecord::of(node, self.now, record.by.clone())
            };
            let message = format!("{} was removed: it did not answer when {} was, by force", node.name, record.name);
            let event = EventRecord::new(self.name, &record.by, EventKind::NodeRemoved, self.now, message);
            change = departing(change, &stored, &removed, event)?;
        }
        // If somebody else was faster, there is nothing left to do.
        self.registry.commit(change.put(&RemovedRecord { among: Vec::new(), ..record })?).await.map(drop)
    }

    /// Forgets whom nothing is denied any more that could come back.
    async fn prune(&self, view: &View) -> Result<(), RegistryError> {
        let expired = prunable(view, self.now, REMOVED_MAX);
        if expired.is_empty() {
            return Ok(());
        }
        let change = expired
            .iter()
            .take(PRUNED_AT_ONCE)
            .fold(Change::default(), |change, uid| change.delete::<RemovedRecord>(uid));
        self.registry.commit(change).await.map(drop)
    }
}

/// The UIDs of those that were replaced, and of the oldest others where there are too many. All of their certificates have expired.
fn prunable(view: &View, now: i64, most: usize) -> Vec<String> {
    let denied_for = crate::departed::DENIED_FOR.whole_seconds();
    let is_expired =
        |record: &&RemovedRecord| now.saturating_sub(record.removed) > denied_for && record.among.is_empty();
    let (replaced, mut others): (Vec<_>, Vec<_>) = view.removed.values().partition(|record| record.replaced);
    others.sort_by_key(|record| record.removed);
    let too_many = others.len().saturating_sub(most);
    let chosen = replaced.into_iter().chain(others.into_iter().take(too_many));
    chosen.filter(is_expired).map(|record| record.uid.clone()).collect()
}

/// Its record goes, with everything that is its own, and what is known of one that was removed comes.
fn departing(
    change: Change,
    stored: &Stored<NodeRecord>,
    removed: &RemovedRecord,
    event: EventRecord,
) -> Result<Change, RegistryError> {
    let Stored { value: record, revision } = stored;
    let change = change
        .expect::<NodeRecord>(&record.name, *revision)
        .delete::<NodeRecord>(&record.name)
        .delete::<ConfigurationRecord>(&ConfigurationRecord::id_of(Some(&record.name)))
        .put(removed)?
        .put(&event.about(&record.name))?;
    Ok(record.addresses.iter().fold(change, |change, address| change.free_address(address)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::departed::tests::record;

    #[test]
    fn whom_nothing_is_denied_any_more_is_forgotten_if_it_was_replaced_or_there_are_too_many() {
        let former = record("w1", "192.0.2.1");
        let records = [("a", 300, false), ("b", 100, false), ("c", 200, false), ("d", 100, true), ("e", 900_000, true)];
        let records = records.map(|(uid, at, replaced)| {
            let removed = RemovedRecord::of(&former, at, "ann".to_owned());
            (uid.to_owned(), RemovedRecord { uid: uid.to_owned(), replaced, ..removed })
        });
        let view = View { removed: records.into(), ..View::default() };
        assert_eq!(prunable(&view, 1_000_000, 3), ["d"]);
        assert_eq!(prunable(&view, 1_000_000, 1), ["d", "b", "c"]);
        assert!(prunable(&view, 1000, 1).is_empty(), "their certificates are good");
    }
}
