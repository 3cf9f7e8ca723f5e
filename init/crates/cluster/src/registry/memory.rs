//! Records in memory, for tests.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::{Answer, Backend, Change, Entry, MemberChange, MemberError, Removal, Revision, StoreMember};

#[derive(Debug, Default)]
pub(crate) struct Memory {
    content: Mutex<(Revision, BTreeMap<String, Entry>)>,
    members: Mutex<Vec<StoreMember>>,
    /// Members that do not answer.
    pub(crate) silent: Mutex<Vec<u64>>,
}

impl Memory {
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
            let content = self.content.lock().unwrap();
            let entries = content.1.values().filter(|entry| entry.key.starts_with(&prefix));
            Ok(entries.cloned().collect())
        })
    }

    fn commit(&self, change: Change) -> Answer<'_, bool> {
        Box::pin(async move {
            let mut content = self.content.lock().unwrap();
            let at = |key: &String| content.1.get(key).map_or(0, |entry| entry.revision);
            if change.expected.iter().any(|(key, revision)| at(key) != *revision) {
                return Ok(false);
            }
            content.0 += 1;
            let revision = content.0;
            for (key, value) in change.writes {
                match value {
                    Some(value) => drop(content.1.insert(key.clone(), Entry { key, revision, value })),
                    None => drop(content.1.remove(&key)),
                }
            }
            Ok(true)
        })
    }

    fn members(&self) -> Answer<'_, Vec<StoreMember>> {
        Box::pin(async move { Ok(self.members.lock().unwrap().clone()) })
    }

    fn leader(&self) -> Answer<'_, Option<u64>> {
        Box::pin(
            async move { Ok(self.members.lock().unwrap().iter().find(|member| member.votes).map(|member| member.id)) },
        )
    }

    fn change_members(&self, change: MemberChange) -> Answer<'_, Vec<StoreMember>> {
        Box::pin(async move { Ok(self.change(change)?) })
    }
}
