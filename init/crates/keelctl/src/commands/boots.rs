//! `keelctl boots`: the node's boots, newest first, or all that it knows of one.

use keelson_api::{Boot, BootDetails, BootList, BootPhase, paths};

use crate::{
    age,
    cli::{self, Format, OutputFormat},
    error::Error,
    output::{self, Table, clean},
    session::Session,
};

/// The phase that lasts until the end.
const SERVICES: &str = "services";

pub(super) async fn run(session: Session, arguments: &cli::Boots) -> Result<(), Error> {
    match arguments.number {
        Some(number) => show(session, number, arguments.format).await,
        None => list(session, arguments.format).await,
    }
}

async fn list(mut session: Session, format: Format) -> Result<(), Error> {
    let list: BootList = session.get(paths::BOOTS).await?;
    output::print(format, &list, || {
        let mut table = Table::new(["BOOT", "STARTED", "ENDED", "VERSION", "GOOD", "END"]);
        for boot in &list.boots {
            let (number, started) = (boot.number.to_string(), boot.started.clone());
            table.row([number, started, ended_at(boot), boot.version.clone(), good(boot), end(boot)]);
            for message in &boot.last_messages {
                table.row(["", "", "", "", "", &format!("  {message}")].map(str::to_owned));
            }
        }
        table
    })
}

async fn show(mut session: Session, number: u64, format: Format) -> Result<(), Error> {
    let details: BootDetails = session.get(&paths::boot(number)).await?;
    match format.output {
        OutputFormat::Table => print(&details),
        _ => output::structured(format, &details),
    }
}

fn print(details: &BootDetails) -> Result<(), Error> {
    let boot = &details.boot;
    let mut head = Table::new(["BOOT", &boot.number.to_string()]);
    head.row(["ID".to_owned(), boot.id.clone()]);
    head.row(["STARTED".to_owned(), boot.started.clone()]);
    head.row(["ENDED".to_owned(), ended_at(boot)]);
    head.row(["END".to_owned(), end(boot)]);
    head.row(["RAN FOR".to_owned(), age::format(boot.up_seconds)]);
    head.row(["GOOD".to_owned(), good(boot)]);
    head.row(["VERSION".to_owned(), boot.version.clone()]);
    head.row(["IMAGE".to_owned(), details.image.clone().unwrap_or_else(|| "-".to_owned())]);
    output::table(&head)?;

    if !details.phases.is_empty() {
        let mut table = Table::new(["PHASE", "BEGAN AFTER", "TOOK"]);
        for phase in &details.phases {
            table.row([phase.name.clone(), seconds(phase.start_milliseconds), took(phase)]);
        }
        output::line("")?;
        output::table(&table)?;
    }
    lines("LAST MESSAGES", &details.messages)?;
    if details.saved.is_empty() {
        return lines("SAVED BY THE KERNEL AS IT DIED", &boot.last_messages);
    }
    for file in &details.saved {
        lines(&format!("SAVED BY THE KERNEL AS IT DIED: {}", file.name), &file.lines)?;
    }
    Ok(())
}

/// A paragraph of its own, if there is something to say in it.
fn lines(heading: &str, lines: &[String]) -> Result<(), Error> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut text = format!("\n{}\n", clean(heading));
    for line in lines {
        text.push_str(&clean(line));
        text.push('\n');
    }
    output::text(&text)
}

fn good(boot: &Boot) -> String {
    if boot.good { "yes" } else { "no" }.to_owned()
}

fn ended_at(boot: &Boot) -> String {
    boot.ended_at.clone().filter(|_| !boot.current).unwrap_or_else(|| "-".to_owned())
}

fn end(boot: &Boot) -> String {
    match (&boot.ended, boot.current) {
        (_, true) => "running".to_owned(),
        (Some(reason), false) => reason.clone(),
        (None, false) if boot.phase.is_empty() => "without a word: power cut or crash".to_owned(),
        (None, false) => format!("without a word, in phase {}: power cut or crash", boot.phase),
    }
}

fn took(phase: &BootPhase) -> String {
    if phase.name == SERVICES { "-".to_owned() } else { seconds(phase.milliseconds) }
}

fn seconds(milliseconds: u64) -> String {
    format!("{}.{:03} s", milliseconds / 1000, milliseconds % 1000)
}
