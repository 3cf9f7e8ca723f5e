//! Records in memory, for tests.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::{Answer, Backend, Change, Entry, Revision};

#[derive(Debug, Default)]
pub(crate) struct Memory {
    content: Mutex<(Revision, BTreeMap<String, Entry>)>,
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
}
