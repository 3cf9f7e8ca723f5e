//! `keelctl status`: how the node is, and if it is not ready, why.

use keelson_api::{ConditionStatus, Phase, Status, paths};
use time::OffsetDateTime;

use super::authorities;
use crate::{
    age, cli,
    error::Error,
    output::{self, Table, clean},
    progress::{self, Seen},
    session::Session,
};

pub(super) async fn run(mut session: Session, arguments: &cli::Status) -> Result<(), Error> {
    let status = if arguments.wait {
        progress::wait(arguments.timeout, async || {
            let status: Status = session.get(paths::STATUS).await?;
            Ok(if status.ready { Seen::Done(status) } else { Seen::NotYet(why_not_ready(&status)) })
        })
        .await?
    } else {
        session.get(paths::STATUS).await?
    };
    match arguments.format.output {
        cli::OutputFormat::Table => print(&status),
        _ => output::structured(arguments.format, &status),
    }
}

/// One sentence: the first thing that does not hold, on which all behind it depends.
fn why_not_ready(status: &Status) -> String {
    match status.first_unmet() {
        Some(condition) => format!("{}: {}", condition.kind, condition.reason),
        None => format!("the node is {}", phase(status.phase)),
    }
}

fn print(status: &Status) -> Result<(), Error> {
    let state = if status.ready { "Ready".to_owned() } else { format!("NOT READY: {}", why_not_ready(status)) };
    let mut head = Table::new(["NODE", &clean(&status.name)]);
    head.row(["ROLE".to_owned(), status.role.clone()]);
    head.row(["STATE".to_owned(), state]);
    head.row(["PHASE".to_owned(), phase(status.phase).to_owned()]);
    head.row(["ADDRESSES".to_owned(), or_none(&status.addresses.join(", "))]);
    head.row(["API SERVER".to_owned(), or_none(status.api_server.as_deref().unwrap_or_default())]);
    if let Some(virtual_address) = &status.virtual_address {
        let place = match &virtual_address.holder {
            Some(_) if virtual_address.here => "at this node".to_owned(),
            Some(holder) => format!("at {holder}"),
            None => "at no control plane that is known here".to_owned(),
        };
        head.row(["VIRTUAL ADDRESS".to_owned(), format!("{}, {place}", virtual_address.address)]);
    }
    head.row(["CLUSTER".to_owned(), or_none(status.cluster_id.as_deref().unwrap_or_default())]);
    if let Some(rotation) = &status.rotation {
        head.row(["AUTHORITIES".to_owned(), authorities::exchanged(rotation)]);
    }
    let versions = &status.versions;
    let versions = [("Keelson", &versions.keelson), ("Kubernetes", &versions.kubernetes), ("Linux", &versions.kernel)];
    let versions: Vec<_> = versions
        .iter()
        .filter(|(_, version)| !version.is_empty())
        .map(|(what, version)| format!("{what} {version}"))
        .collect();
    head.row(["VERSIONS".to_owned(), or_none(&versions.join(", "))]);
    output::table(&head)?;

    let now = OffsetDateTime::now_utc();
    let mut table = Table::new(["CONDITION", "HOLDS", "FOR", "REASON"]);
    for condition in &status.conditions {
        let holds = match condition.status {
            ConditionStatus::True => "yes",
            ConditionStatus::False => "NO",
            ConditionStatus::Unknown => "?",
        };
        let since = condition.since.as_deref().map_or_else(|| "-".to_owned(), |since| age::since(since, now));
        table.row([condition.kind.clone(), holds.to_owned(), since, condition.reason.clone()]);
    }
    output::line("")?;
    output::table(&table)
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "none yet".to_owned() } else { text.to_owned() }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::StartingStore => "starting the store",
        Phase::StartingKubernetes => "starting Kubernetes",
        Phase::Ready => "ready",
        Phase::Degraded => "degraded: it was ready in this boot",
        Phase::ShuttingDown => "shutting down",
        Phase::Unknown => "in a phase that this keelctl does not know",
    }
}
