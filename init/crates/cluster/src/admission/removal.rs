//! A member is put out: from one transaction on, nothing that it holds opens a door.

use keelson_config::Role;

use super::{Admission, AdmissionError};
use crate::registry::{Change, NodeRecord, RemovedRecord};

impl Admission<'_> {
    /// Returns the UID that is denied from now on. Kubernetes' objects of the node are for others to delete.
    pub async fn remove(&self, name: &str, by: &str) -> Result<String, AdmissionError> {
        for attempt in 0..super::ATTEMPTS {
            let stored = self.registry.get::<NodeRecord>(name).await?;
            let stored = stored.ok_or_else(|| AdmissionError::NoNode { name: name.to_owned() })?;
            let record = stored.value;
            if record.role == Role::ControlPlane {
                return Err(AdmissionError::RemovesControlPlane { name: name.to_owned() });
            }
            let removed = RemovedRecord {
                version: 1,
                uid: record.uid.clone(),
                name: record.name.clone(),
                removed: self.now(),
                by: by.to_owned(),
            };
            let mut change = Change::default()
                .expect::<NodeRecord>(name, stored.revision)
                .delete::<NodeRecord>(name)
                .put(&removed)?;
            for address in &record.addresses {
                change = change.free_address(address);
            }
            if self.registry.commit(change).await? {
                return Ok(record.uid);
            }
            super::pause(attempt).await?;
        }
        Err(AdmissionError::Contended)
    }
}
