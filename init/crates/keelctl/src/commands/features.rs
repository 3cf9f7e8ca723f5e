//! `keelctl feature`: what the cluster has beside its components.

use std::collections::BTreeMap;

use keelson_api::{Feature, FeatureChange, FeatureList, FeatureState, paths};

use crate::{
    cli::{self, Format},
    error::Error,
    output::{self, Table},
    session::Session,
};

pub(super) async fn run(mut session: Session, arguments: cli::Feature) -> Result<(), Error> {
    match arguments {
        cli::Feature::List(format) => list(&mut session, format).await,
        cli::Feature::Enable { name } => {
            change(&mut session, &name, &FeatureChange { enabled: Some(true), ..FeatureChange::default() }).await
        }
        cli::Feature::Disable { name } => {
            change(&mut session, &name, &FeatureChange { enabled: Some(false), ..FeatureChange::default() }).await
        }
        cli::Feature::Set { name, settings } => {
            // Without a value it is the default again.
            let settings: BTreeMap<_, _> = settings
                .into_iter()
                .map(|(name, value)| (name, Some(value).filter(|value| !value.is_empty())))
                .collect();
            change(&mut session, &name, &FeatureChange { enabled: None, settings }).await
        }
    }
}

async fn change(session: &mut Session, name: &str, change: &FeatureChange) -> Result<(), Error> {
    let feature: Feature = session.post(&paths::feature(name), change).await?;
    output::line(&output::clean(&format!("{}: {}: {}", feature.name, state(feature.state), feature.reason)))
}

async fn list(session: &mut Session, format: Format) -> Result<(), Error> {
    let list: FeatureList = session.get(paths::FEATURES).await?;
    output::print(format, &list, || {
        let mut table = Table::new(["NAME", "STATE", "SETTINGS", "REASON"]);
        for feature in &list.features {
            let settings = feature.settings.iter();
            let said = settings.filter_map(|one| Some(format!("{}={}", one.name, one.value.as_deref()?)));
            table.row([
                feature.name.clone(),
                state(feature.state).to_owned(),
                said.collect::<Vec<_>>().join(" "),
                feature.reason.clone(),
            ]);
        }
        table
    })
}

fn state(state: FeatureState) -> &'static str {
    match state {
        FeatureState::Enabled => "enabled",
        FeatureState::Disabled => "disabled",
        FeatureState::Waiting => "waiting",
        FeatureState::Failed => "failed",
        FeatureState::Unknown => "?",
    }
}
