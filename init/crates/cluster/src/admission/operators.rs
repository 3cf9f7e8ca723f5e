//! Operators' keys are added and removed.

use keelson_api::{EventKind, OperatorEntry, OperatorList, OperatorRequest};
use keelson_config::OperatorKey;

use super::tokens::is_id;
use super::{Admission, AdmissionError, timestamp};
use crate::operators::id_of;
use crate::registry::records::OperatorRemoval;
use crate::registry::{Change, OperatorRecord, Stored};

/// Of each key that was ever removed there is a record.
const OPERATORS_MAX: usize = 1000;

impl Admission<'_> {
    pub async fn list_operators(&self) -> Result<OperatorList, AdmissionError> {
        let stored = self.registry.list::<OperatorRecord>().await?;
        let mut operators: Vec<_> =
            stored.iter().map(|stored| &stored.value).filter(|record| is_active(record)).map(entry).collect();
        operators.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        Ok(OperatorList { operators })
    }

    /// Also for a key that was removed before. A name that is there already gets one key more.
    pub async fn add_operator(&self, request: &OperatorRequest, by: &str) -> Result<OperatorEntry, AdmissionError> {
        let field = |field, problem: String| AdmissionError::Field { field, problem };
        if !OperatorKey::is_name(&request.name) {
            let problem = format!("{:?} is no operator's name; one has {}", request.name, OperatorKey::NAME_FORM);
            return Err(field("name", problem));
        }
        if is_id(&request.name) {
            return Err(field("name", format!("{} looks like the id of a key", request.name)));
        }
        let no_key = || field("publicKey", "this is not the base64 of an ECDSA P-256 public key".to_owned());
        let id = id_of(&request.public_key).ok_or_else(no_key)?;
        for attempt in 0..super::ATTEMPTS {
            let all = self.registry.list::<OperatorRecord>().await?;
            let present = all.iter().find(|stored| stored.value.id == id);
            if let Some(Stored { value, .. }) = present.filter(|stored| is_active(&stored.value)) {
                if value.name == request.name {
                    return Ok(entry(value));
                }
                return Err(AdmissionError::KeyInUse { name: value.name.clone() });
            }
            if present.is_none() && all.len() >= OPERATORS_MAX {
                return Err(AdmissionError::TooManyOperators { count: all.len() });
            }
            let record = OperatorRecord {
                version: 1,
                id: id.clone(),
                name: request.name.clone(),
                public_key: request.public_key.clone(),
                added: self.now(),
                added_by: by.to_owned(),
                removed: None,
            };
            let revision = present.map_or(0, |stored| stored.revision);
            let message = format!("the key {id} of the operator {} was added", record.name);
            let event = self.event(EventKind::OperatorAdded, by, message);
            let change = Change::default().expect::<OperatorRecord>(&id, revision).put(&record)?.put(&event)?;
            if self.registry.commit(change).await? {
                return Ok(entry(&record));
            }
            super::pause(attempt).await?;
        }
        Err(AdmissionError::Contended)
    }

    /// `name` is an operator's, with all keys, or the id of one key. Says which are gone.
    pub async fn remove_operator(&self, name: &str, by: &str) -> Result<OperatorList, AdmissionError> {
        for attempt in 0..super::ATTEMPTS {
            let all = self.registry.list::<OperatorRecord>().await?;
            let active = all.iter().filter(|stored| is_active(&stored.value));
            let (gone, stay): (Vec<_>, Vec<_>) =
                active.partition(|stored| stored.value.name == name || stored.value.id == name);
            if gone.is_empty() {
                return Err(AdmissionError::NoOperator { name: name.to_owned() });
            }
            // Of two operators who remove each other in the same moment one stays.
            let Some(witness) = stay.first() else {
                return Err(AdmissionError::LastOperator { name: name.to_owned() });
            };
            let mut change = Change::default().expect::<OperatorRecord>(&witness.value.id, witness.revision);
            for stored in &gone {
                let removed = Some(OperatorRemoval { at: self.now(), by: by.to_owned() });
                let record = OperatorRecord { removed, ..stored.value.clone() };
                let message = format!("the key {} of the operator {} was removed", record.id, record.name);
                let event = self.event(EventKind::OperatorRemoved, by, message);
                change = change.expect::<OperatorRecord>(&record.id, stored.revision).put(&record)?.put(&event)?;
            }
            if self.registry.commit(change).await? {
                return Ok(OperatorList { operators: gone.iter().map(|stored| entry(&stored.value)).collect() });
            }
            super::pause(attempt).await?;
        }
        Err(AdmissionError::Contended)
    }
}

fn is_active(record: &OperatorRecord) -> bool {
    record.removed.is_none()
}

fn entry(record: &OperatorRecord) -> OperatorEntry {
    OperatorEntry {
        id: record.id.clone(),
        name: record.name.clone(),
        public_key: record.public_key.clone(),
        added: timestamp(record.added),
        added_by: record.added_by.clone(),
    }
}
