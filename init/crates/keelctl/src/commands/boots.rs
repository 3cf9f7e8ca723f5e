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
        let mut table = Table::new(["BOOT", "STARTED", "ENDED", "VERSION", "GOOD", "END"]);
        for boot in &list.boots {
            let good = if boot.good { "yes" } else { "no" };
            let ended = boot.ended_at.clone().filter(|_| !boot.current).unwrap_or_else(|| "-".to_owned());
            let started = boot.started.clone();
            table.row([boot.number.to_string(), started, ended, boot.version.clone(), good.to_owned(), end(boot)]);
            for message in &boot.last_messages {
                table.row(["", "", "", "", "", &format!("  {message}")].map(str::to_owned));
            }
        }
        table
    })
}

fn end(boot: &Boot) -> String {
    match (&boot.ended, boot.current) {
        (_, true) => "running".to_owned(),
        (Some(reason), false) => reason.clone(),
        (None, false) if boot.phase.is_empty() => "without a word: power cut or crash".to_owned(),
        (None, false) => format!("without a word, in phase {}: power cut or crash", boot.phase),
    }
}
