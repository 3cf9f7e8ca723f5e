//! `keelctl services`: what PID 1 supervises on the node.

use keelson_api::{ServiceList, ServiceState, paths};

use crate::{
    age,
    cli::Format,
    error::Error,
    output::{self, Table},
    session::Session,
};

pub(super) async fn run(mut session: Session, format: Format) -> Result<(), Error> {
    let list: ServiceList = session.get(paths::SERVICES).await?;
    output::print(format, &list, || {
        let mut table = Table::new(["NAME", "STATE", "FOR", "RESTARTS", "PID", "MEMORY", "REASON"]);
        for service in &list.services {
            let reason = match (&service.last_exit, service.reason.is_empty()) {
                (Some(exit), true) if service.state != ServiceState::Done => exit.clone(),
                (Some(exit), false) => format!("{}; {exit}", service.reason),
                (_, _) => service.reason.clone(),
            };
            table.row([
                service.name.clone(),
                state(service.state).to_owned(),
                age::format(service.seconds_in_state),
                service.restarts.to_string(),
                service.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
                service.usage.resident_bytes.map_or_else(|| "-".to_owned(), mebibytes),
                reason,
            ]);
        }
        table
    })
}

/// Resident memory of the main process, as `ps` shows it.
fn mebibytes(bytes: u64) -> String {
    let tenths = bytes / (1024 * 1024 / 10);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

fn state(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Waiting => "waiting",
        ServiceState::Starting => "starting",
        ServiceState::Ready => "ready",
        ServiceState::Backoff => "BACKOFF",
        ServiceState::Stopping => "stopping",
        ServiceState::Stopped => "stopped",
        ServiceState::Done => "done",
        ServiceState::Failed => "FAILED",
        ServiceState::Unknown => "?",
    }
}
