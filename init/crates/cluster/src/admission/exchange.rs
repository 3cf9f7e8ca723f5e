//! An exchange of the cluster's authorities begins: see [`crate::rotation`].

use keelson_api::EventKind;

use super::{Admission, AdmissionError};
use crate::registry::{Change, EventRecord, RotationRecord};
use crate::rotation;

impl Admission<'_> {
    /// Because an operator wants it. One that goes on already is all that is wanted.
    ///
    /// Join tokens know the cluster by its former authority, so those that were made until now are revoked.
    pub async fn exchange_authorities(&self, by: &str) -> Result<(), AdmissionError> {
        if self.registry.get::<RotationRecord>(rotation::ID).await?.is_some() {
            return Ok(());
        }
        // First too: what breaks off in between is asked for again, and what has begun is not.
        self.revoke_all(by).await?;
        let record = RotationRecord::begun(None, by, self.now());
        let event = self.exchange_began(by, &format!("{by} wants it"));
        let change = Change::default().expect::<RotationRecord>(rotation::ID, 0).put(&record)?.put(&event)?;
        if self.registry.commit(change).await? {
            self.revoke_all(by).await?;
        }
        // Otherwise another one has just begun.
        Ok(())
    }

    /// Adds the beginning to a change, because that control plane is compromised. What is exchanged at this moment is exchanged once more
    /// for it.
    pub(super) async fn exchange_because(
        &self,
        change: Change,
        because: &str,
        by: &str,
    ) -> Result<Change, AdmissionError> {
        let stored = self.registry.get::<RotationRecord>(rotation::ID).await?;
        let revision = stored.as_ref().map_or(0, |stored| stored.revision);
        let record = match stored {
            Some(stored) => RotationRecord { again: Some(because.to_owned()), ..stored.value },
            None => RotationRecord::begun(Some(because), by, self.now()),
        };
        let event = self.exchange_began(by, &format!("{because} is compromised")).about(because);
        Ok(change.expect::<RotationRecord>(rotation::ID, revision).put(&record)?.put(&event)?)
    }

    fn exchange_began(&self, by: &str, why: &str) -> EventRecord {
        let message = format!("{why}: the cluster's authorities and the key of its Secrets are exchanged");
        self.event(EventKind::AuthorityRotationStarted, by, message)
    }
}
