//! `keelctl store`: the members of the store.

use keelson_api::{StoreMember, StoreMembers, paths};

use crate::{
    cli::Format,
    error::Error,
    output::{self, Table},
    session::Session,
};

pub(super) async fn members(mut session: Session, format: Format) -> Result<(), Error> {
    let list: StoreMembers = session.get(paths::STORE_MEMBERS).await?;
    output::print(format, &list, || {
        let mut table = Table::new(["NODE", "ROLE", "PEER", "UID"]);
        for member in &list.members {
            let node = member.node.clone().unwrap_or_else(|| "-".to_owned());
            let role = match member {
                StoreMember { leads: true, .. } => "leader",
                StoreMember { votes: true, .. } => "voter",
                _ => "learner",
            };
            table.row([node, role.to_owned(), member.peer_urls.join(","), member.name.clone()]);
        }
        table
    })
}
