//! `keelctl operator`: whose keys obtain certificates.

use keelson_api::{OperatorEntry, OperatorList, OperatorRequest, paths};
use time::OffsetDateTime;

use crate::{
    age,
    cli::{self, Format},
    error::Error,
    key,
    output::{self, Table},
    session::Session,
};

pub(super) async fn run(mut session: Session, arguments: cli::Operator) -> Result<(), Error> {
    match arguments {
        cli::Operator::List(format) => list(&mut session, format).await,
        cli::Operator::Add { name, key } => {
            let request = OperatorRequest { name, public_key: key::public_of(&key).to_owned() };
            let added: OperatorEntry = session.post(paths::OPERATORS, &request).await?;
            output::line(&format!("the key {} of {} obtains certificates", added.id, added.name))
        }
        cli::Operator::Remove { name } => {
            let removed: OperatorList = session.delete(&paths::operator(&name)).await?;
            for key in &removed.operators {
                output::line(&format!(
                    "the key {} of {} obtains no certificates any more; a kubeconfig that it has is good for 24 hours at most",
                    key.id, key.name
                ))?;
            }
            Ok(())
        }
    }
}

async fn list(session: &mut Session, format: Format) -> Result<(), Error> {
    let list: OperatorList = session.get(paths::OPERATORS).await?;
    output::print(format, &list, || {
        let now = OffsetDateTime::now_utc();
        let mut table = Table::new(["NAME", "KEY", "AGE", "ADDED BY"]);
        for operator in &list.operators {
            table.row([
                operator.name.clone(),
                operator.id.clone(),
                age::since(&operator.added, now),
                operator.added_by.clone(),
            ]);
        }
        table
    })
}
