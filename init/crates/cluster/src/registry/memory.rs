//! Records in memory, for tests.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::{
    Answer, Backend, Change, Entry, Glance, LeaseId, MemberChange, MemberError, RegistryError, Removal, Revision,
    StoreMember,
};

#[derive(Debug, Default)]
pub(crate) struct Memory {
    content: Mutex<(Revision, BTreeMap<String, Entry>)>,
    members: Mutex<Vec<StoreMember>>,
    /// Members that do not answer.
    pub(crate) silent: Mutex<Vec<u64>>,
    /// How often a list was read.
    pub(crate) lists: AtomicUsize,
    /// As if whoever changes members lost its power just before.
    pub(crate) break_off_at_member_changes: AtomicBool,
    /// Nobody says who leads.
    pub(crate) leaderless: AtomicBool,
    leases: Mutex<Leases>,
}

/// The clock is the test's.
#[derive(Debug, Default)]
struct Leases {
    now: Duration,
    granted: i64,
    present: BTreeMap<LeaseId, Lease>,
}

#[derive(Debug)]
struct Lease {
    life: Duration,
    end: Duration,
    keys: Vec<String>,
}

impl Memory {
    pub(crate) fn now(&self) -> Duration {
        self.leases.lock().unwrap().now
    }

    /// Moves the clock, which ends leases.
    pub(crate) fn advance(&self, time: Duration) {
        let mut leases = self.leases.lock().unwrap();
        leases.now += time;
        let now = leases.now;
        let ended: Vec<_> = leases.present.iter().filter(|(_, lease)| lease.end <= now).map(|(id, _)| *id).collect();
        for id in ended {
            self.end_lease(&mut leases, id);
        }
    }

    fn end_lease(&self, leases: &mut Leases, id: LeaseId) {
        let Some(lease) = leases.present.remove(&id) else { return };
        let mut content = self.content.lock().unwrap();
        content.0 += 1;
        for key in lease.keys {
            content.1.remove(&key);
        }
    }

    /// The store's rules: added ones learn, two learners become voters beside one, who stays must have a quorum.
    fn change(&self, change: MemberChange) -> Result<Vec<StoreMember>, MemberError> {
        let mut members = self.members.lock().unwrap();
        match change {
            MemberChange::Add { name, peer_url } => {
                if members.iter().any(|member| member.name == name || member.peer_urls == [peer_url.clone()]) {
                    return Err(MemberError::Exists);
                }
                let id = members.iter().map(|member| member.id).max().unwrap_or(0) + 1;
                let votes = members.is_empty();
                members.push(StoreMember { id, name, peer_urls: vec![peer_url], votes });
                let learners = members.iter().filter(|member| !member.votes).count();
                if learners == 2 {
                    members.iter_mut().for_each(|member| member.votes = true);
                }
            }
            MemberChange::Update { id, peer_url } => {
                let member = members.iter_mut().find(|member| member.id == id).ok_or(MemberError::NotFound)?;
                member.peer_urls = vec![peer_url];
            }
            MemberChange::Promote { id } => {
                let member = members.iter_mut().find(|member| member.id == id).ok_or(MemberError::NotFound)?;
                member.votes = true;
            }
            MemberChange::Remove { id, how } => {
                let member = members.iter().find(|member| member.id == id).ok_or(MemberError::NotFound)?;
                let silent = self.silent.lock().unwrap();
                let left: Vec<_> = members.iter().filter(|other| other.votes && other.id != id).collect();
                let answering = left.iter().filter(|other| !silent.contains(&other.id)).count();
                if member.votes && left.is_empty() {
                    return Err(MemberError::NotEnoughStarted);
                }
                let lost = member.votes && answering < left.len() / 2 + 1;
                match how {
                    _ if lost && how != Removal::Force => return Err(MemberError::Unhealthy),
                    Removal::Try => {}
                    Removal::Force if lost => {
                        members.retain(|other| other.id != id && !(other.votes && silent.contains(&other.id)));
                    }
                    _ => members.retain(|other| other.id != id),
                }
            }
        }
        Ok(members.clone())
    }
}

impl Backend for Memory {
    fn get(&self, key: String) -> Answer<'_, Option<Entry>> {
        Box::pin(async move { Ok(self.content.lock().unwrap().1.get(&key).cloned()) })
    }

    fn list(&self, prefix: String) -> Answer<'_, Vec<Entry>> {
        Box::pin(async move {
            self.lists.fetch_add(1, Ordering::Relaxed);
            let content = self.content.lock().unwrap();
            let entries = content.1.values().filter(|entry| entry.key.starts_with(&prefix));
            Ok(entries.cloned().collect())
        })
    }

    fn kubernetes_page(&self, prefix: String, after: String, limit: u32) -> Answer<'_, Vec<Entry>> {
        Box::pin(async move {
            let content = self.content.lock().unwrap();
            let below = content.1.values().filter(|entry| entry.key.starts_with(&prefix) && entry.key > after);
            Ok(below.take(usize::try_from(limit).unwrap()).cloned().collect())
        })
    }

    fn glance(&self, prefix: String, after: Revision) -> Answer<'_, Glance> {
        Box::pin(async move {
            let content = self.content.lock().unwrap();
            let below: Vec<_> = content.1.values().filter(|entry| entry.key.starts_with(&prefix)).collect();
            let written = below.iter().any(|entry| entry.revision > after);
            Ok(Glance { revision: content.0, keys: i64::try_from(below.len()).unwrap(), written })
        })
    }

    fn commit(&self, change: Change) -> Answer<'_, bool> {
        Box::pin(async move {
            let mut leases = self.leases.lock().unwrap();
            let mut content = self.content.lock().unwrap();
            let at = |key: &String| content.1.get(key).map_or(0, |entry| entry.revision);
            if change.expected.iter().any(|(key, revision)| at(key) != *revision) {
                return Ok(false);
            }
            let lease = change.lease.map(|id| leases.present.get_mut(&id).ok_or(id)).transpose();
            let mut lease = lease.map_err(|id| RegistryError::Unavailable(format!("there is no {id:?}").into()))?;
            content.0 += 1;
            let revision = content.0;
            for (key, value) in change.writes {
                match value {
                    Some(value) => {
                        if let Some(lease) = &mut lease {
                            lease.keys.push(key.clone());
                        }
                        drop(content.1.insert(key.clone(), Entry { key, revision, value }));
                    }
                    None => drop(content.1.remove(&key)),
                }
            }
            Ok(true)
        })
    }

    fn grant(&self, seconds: u32) -> Answer<'_, LeaseId> {
        Box::pin(async move {
            let mut leases = self.leases.lock().unwrap();
            leases.granted += 1;
            let (id, life) = (LeaseId(leases.granted), Duration::from_secs(seconds.into()));
            let end = leases.now + life;
            leases.present.insert(id, Lease { life, end, keys: Vec::new() });
            Ok(id)
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, bool> {
        Box::pin(async move {
            let mut leases = self.leases.lock().unwrap();
            let now = leases.now;
            let Some(lease) = leases.present.get_mut(&lease) else { return Ok(false) };
            lease.end = now + lease.life;
            Ok(true)
        })
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        Box::pin(async move {
            let mut leases = self.leases.lock().unwrap();
            self.end_lease(&mut leases, lease);
            Ok(())
        })
    }

    fn members(&self) -> Answer<'_, Vec<StoreMember>> {
        Box::pin(async move { Ok(self.members.lock().unwrap().clone()) })
    }

    fn leader(&self) -> Answer<'_, Option<u64>> {
        Box::pin(async move {
            if self.leaderless.load(Ordering::Relaxed) {
                return Err(RegistryError::Unavailable("nobody leads".into()));
            }
            Ok(self.members.lock().unwrap().iter().find(|member| member.votes).map(|member| member.id))
        })
    }

    fn change_members(&self, change: MemberChange) -> Answer<'_, Vec<StoreMember>> {
        Box::pin(async move {
            let tries = matches!(change, MemberChange::Remove { how: Removal::Try, .. });
            if self.break_off_at_member_changes.load(Ordering::Relaxed) && !tries {
                return Err(RegistryError::Unavailable("it broke off".into()));
            }
            Ok(self.change(change)?)
        })
    }
}
