//! `keelctl events`: what happened to the cluster.

use std::time::Duration;

use keelson_api::{Event, EventList, paths};

use crate::{
    cli::{self, Format, OutputFormat},
    error::Error,
    output, progress,
    session::Session,
};

/// How often is asked for more.
const INTERVAL: Duration = Duration::from_secs(1);

pub(super) async fn run(mut session: Session, arguments: &cli::Events) -> Result<(), Error> {
    let mut news: EventList = session.get(paths::EVENTS).await?;
    if !arguments.follow {
        return match arguments.format.output {
            OutputFormat::Table => lines(&news.events),
            _ => output::structured(arguments.format, &news),
        };
    }
    let mut last = 0;
    let mut told = String::new();
    loop {
        print(arguments.format, &news.events)?;
        last = news.events.last().map_or(last, |event| event.revision);
        tokio::time::sleep(INTERVAL).await;
        news = match session.get(&format!("{}?after={last}", paths::EVENTS)).await {
            Ok(more) => {
                told.clear();
                more
            }
            Err(error) => {
                let reason = progress::reason(error)?;
                if reason != told {
                    output::note(&reason);
                    told = reason;
                }
                EventList::default()
            }
        };
    }
}

/// Each event for itself, as a reader of a stream needs it.
fn print(format: Format, events: &[Event]) -> Result<(), Error> {
    match format.output {
        OutputFormat::Table => lines(events),
        OutputFormat::Json => events.iter().try_for_each(|event| {
            let line = serde_json::to_string(event).map_err(|error| Error::Format(error.to_string()))?;
            output::line(&line)
        }),
        OutputFormat::Yaml => events.iter().try_for_each(|event| output::structured(format, &[event])),
    }
}

fn lines(events: &[Event]) -> Result<(), Error> {
    events.iter().try_for_each(|event| {
        output::line(&output::clean(&format!("{}  {}  ({})", event.time, event.message, event.actor)))
    })
}
