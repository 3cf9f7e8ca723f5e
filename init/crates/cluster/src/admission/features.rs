//! Features are enabled, disabled and set.

use keelson_api::{EventKind, FeatureChange};

use super::{Admission, AdmissionError};
use crate::features::settings::FeatureName;
use crate::registry::{Change, FeatureRecord};

impl Admission<'_> {
    /// What is so already is not written, and is no event.
    pub async fn change_feature(
        &self,
        name: &str,
        change: &FeatureChange,
        by: &str,
    ) -> Result<FeatureName, AdmissionError> {
        let feature = FeatureName::from_name(name).ok_or_else(|| AdmissionError::NoFeature {
            name: name.to_owned(),
            there: FeatureName::ALL.map(FeatureName::as_str).join(", "),
        })?;
        for attempt in 0..super::ATTEMPTS {
            let stored = self.registry.get::<FeatureRecord>(name).await?;
            let revision = stored.as_ref().map_or(0, |stored| stored.revision);
            let before = stored.map_or_else(|| feature.default_record(), |stored| stored.value);
            let after = self.changed(feature, &before, change)?;
            if after == before {
                return Ok(feature);
            }
            let event = self.event(EventKind::FeatureChanged, by, told(&before, &after));
            let change = Change::default().expect::<FeatureRecord>(name, revision).put(&after)?.put(&event)?;
            if self.registry.commit(change).await? {
                return Ok(feature);
            }
            super::pause(attempt).await?;
        }
        Err(AdmissionError::Contended)
    }

    fn changed(
        &self,
        feature: FeatureName,
        before: &FeatureRecord,
        change: &FeatureChange,
    ) -> Result<FeatureRecord, AdmissionError> {
        let mut after = before.clone();
        after.enabled = change.enabled.unwrap_or(before.enabled);
        for (name, value) in &change.settings {
            // That of a later release can be taken back, too.
            let Some(value) = value else {
                after.settings.remove(name);
                continue;
            };
            let kept = feature
                .check(name, value, self.cluster)
                .map_err(|problem| AdmissionError::Setting { name: name.clone(), problem })?;
            after.settings.insert(name.clone(), kept);
        }
        Ok(after)
    }
}

fn told(before: &FeatureRecord, after: &FeatureRecord) -> String {
    let mut parts = Vec::new();
    if before.enabled != after.enabled {
        parts.push(if after.enabled { "enabled" } else { "disabled" }.to_owned());
    }
    for (name, value) in after.settings.iter().filter(|(name, value)| before.settings.get(*name) != Some(*value)) {
        parts.push(format!("{name} set to {value}"));
    }
    for name in before.settings.keys().filter(|name| !after.settings.contains_key(*name)) {
        parts.push(format!("{name} back to its default"));
    }
    format!("the feature {} was changed: {}", after.name, parts.join(", "))
}
