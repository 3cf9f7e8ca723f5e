//! `keelctl proxy`: the node's way to the API servers.

use keelson_api::{ProxyEndpoint, ProxyEndpointState, ProxyStatus, paths};

use crate::{
    cli::Format,
    error::Error,
    output::{self, Table},
    session::Session,
};

pub(super) async fn run(mut session: Session, format: Format) -> Result<(), Error> {
    let status: ProxyStatus = session.get(paths::PROXY).await?;
    if !status.told {
        output::note("the proxy was told nothing since it was started, and goes by what it has kept");
    }
    if status.waiting > 0 {
        output::note(&format!("connections that wait for an API server: {}", status.waiting));
    }
    output::print(format, &status, || {
        let mut table =
            Table::new(["ADDRESS", "STATE", "ANSWERS IN", "OPEN", "ALL", "SENT", "RECEIVED", "GIVEN UP", "REASON"]);
        for endpoint in &status.endpoints {
            table.row([
                address(endpoint),
                state(endpoint.state).to_owned(),
                endpoint.round_trip_milliseconds.map_or_else(|| "-".to_owned(), |time| format!("{time} ms")),
                endpoint.connections.to_string(),
                endpoint.connections_total.to_string(),
                bytes(endpoint.bytes_up),
                bytes(endpoint.bytes_down),
                endpoint.evictions.to_string(),
                endpoint.reason.clone(),
            ]);
        }
        table
    })
}

fn address(endpoint: &ProxyEndpoint) -> String {
    let own = if endpoint.local { " (own)" } else { "" };
    format!("{}{own}", endpoint.address)
}

/// In the largest unit that leaves a whole number.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut number, mut units) = (count, UNITS.into_iter());
    let mut unit = units.next().unwrap_or_default();
    while number >= 1024 {
        let Some(larger) = units.next() else { break };
        (number, unit) = (number / 1024, larger);
    }
    format!("{number} {unit}")
}

fn state(state: ProxyEndpointState) -> &'static str {
    match state {
        ProxyEndpointState::Ready => "ready",
        ProxyEndpointState::NotReady => "NOT READY",
        ProxyEndpointState::Dead => "DEAD",
        ProxyEndpointState::Unknown => "?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_the_largest_unit_that_leaves_a_number() {
        let shown = [0, 1023, 1024, 5_000_000, 1 << 40, 1 << 60].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1 KiB", "4 MiB", "1 TiB", "1048576 TiB"]);
    }
}
