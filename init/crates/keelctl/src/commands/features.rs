//! `keelctl feature`: what the cluster has beside its components.

use std::{collections::BTreeMap, time::Duration};

use keelson_api::{Feature, FeatureChange, FeatureList, FeatureState, paths};

use crate::{
    cli::{self, Format},
    error::Error,
    output::{self, Table},
    progress::{self, Seen},
    session::Session,
};

pub(super) async fn run(mut session: Session, arguments: cli::Feature) -> Result<(), Error> {
    match arguments {
        cli::Feature::List(format) => list(&mut session, format).await,
        cli::Feature::Enable(arguments) => switch(&mut session, &arguments, true).await,
        cli::Feature::Disable(arguments) => switch(&mut session, &arguments, false).await,
        cli::Feature::Set(cli::SetFeature { name, settings, settling }) => {
            // Without a value it is the default again.
            let settings: BTreeMap<_, _> = settings
                .into_iter()
                .map(|(name, value)| (name, Some(value).filter(|value| !value.is_empty())))
                .collect();
            change(&mut session, &name, &FeatureChange { enabled: None, settings }, settling).await
        }
    }
}

async fn switch(session: &mut Session, arguments: &cli::SwitchFeature, enabled: bool) -> Result<(), Error> {
    let wanted = FeatureChange { enabled: Some(enabled), ..FeatureChange::default() };
    change(session, &arguments.name, &wanted, arguments.settling).await
}

async fn change(
    session: &mut Session,
    name: &str,
    change: &FeatureChange,
    settling: cli::Settling,
) -> Result<(), Error> {
    let mut feature: Feature = session.post(&paths::feature(name), change).await?;
    if settling.wait {
        feature = settled(session, name, settling.timeout).await?;
    }
    output::line(&output::clean(&standing(&feature)))
}

fn standing(feature: &Feature) -> String {
    format!("{}: {}: {}", feature.name, state(feature.state), feature.reason)
}

/// The feature once it is as it is wanted, enabled or disabled.
async fn settled(session: &mut Session, name: &str, timeout: Duration) -> Result<Feature, Error> {
    progress::wait(timeout, async || {
        let list: FeatureList = session.get(paths::FEATURES).await?;
        Ok(match list.features.into_iter().find(|feature| feature.name == name) {
            Some(feature) if matches!(feature.state, FeatureState::Enabled | FeatureState::Disabled) => {
                Seen::Done(feature)
            }
            Some(feature) => Seen::NotYet(standing(&feature)),
            None => Seen::NotYet(format!("the node does not list {name}")),
        })
    })
    .await
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
