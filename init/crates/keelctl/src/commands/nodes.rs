//! `keelctl nodes`: the cluster's nodes, as Kubernetes knows them.

use keelson_api::{ConditionStatus, Node, NodeList, paths};
use time::OffsetDateTime;

use crate::{
    age,
    cli::Format,
    error::Error,
    output::{self, Table},
    session::Session,
};

pub(super) async fn run(mut session: Session, format: Format) -> Result<(), Error> {
    let list: NodeList = session.get(paths::NODES).await?;
    output::print(format, &list, || {
        let now = OffsetDateTime::now_utc();
        let mut table = Table::new(["NAME", "STATUS", "ROLE", "AGE", "VERSION", "ADDRESSES", "REASON"]);
        for node in &list.nodes {
            let age = node.created.as_deref().map_or_else(|| "-".to_owned(), |created| age::since(created, now));
            let virtual_address = node.virtual_address.iter().map(|address| format!("{address} (virtual)"));
            let addresses: Vec<_> = node.addresses.iter().cloned().chain(virtual_address).collect();
            table.row([
                node.name.clone(),
                state(node),
                node.role.clone(),
                age,
                node.kubelet_version.clone(),
                addresses.join(","),
                reason(node),
            ]);
        }
        table
    })
}

fn state(node: &Node) -> String {
    let ready = if node.ready { "Ready" } else { "NotReady" };
    if node.unschedulable { format!("{ready},SchedulingDisabled") } else { ready.to_owned() }
}

/// Why a node is not ready, in Kubernetes' words.
fn reason(node: &Node) -> String {
    let ready = node.conditions.iter().find(|condition| condition.kind == "Ready");
    match ready {
        Some(condition) if condition.status != ConditionStatus::True => condition.reason.clone(),
        _ => String::new(),
    }
}
