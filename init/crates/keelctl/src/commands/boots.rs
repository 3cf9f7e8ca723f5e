//! `keelctl boots`: the node's boots, newest first.

use keelson_api::{Boot, BootList, paths};

use crate::{
    cli::Format,
    error::Error,
    output::{self, Table},
    session::Session,
};

pub(super) async fn run(mut session: Session, format: Format) -> Result<(), Error> {
    let list: BootList = session.get(paths::BOOTS).await?;
    output::print(format, &list, || {
        let mut table = Table::new(["BOOT", "STARTED", "VERSION", "GOOD", "END"]);
        for boot in &list.boots {
            let good = if boot.good { "yes" } else { "no" };
            table.row([boot.id.clone(), boot.started.clone(), boot.version.clone(), good.to_owned(), end(boot)]);
        }
        table
    })
}

fn end(boot: &Boot) -> String {
    match (&boot.ended, boot.current) {
        (_, true) => "running".to_owned(),
        (Some(reason), false) => reason.clone(),
        (None, false) => "without a word: power cut or crash".to_owned(),
    }
}
