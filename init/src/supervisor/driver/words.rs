//! What is said about services: a line for a person, an event for a program.

use std::error::Error;
use std::fmt::Write;
use std::time::Duration;

use keelson_control::{Applied, ServiceName, ServiceState};

use crate::supervisor::Severity;
use crate::supervisor::core::{Change, StopCause};

/// An error with its causes in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The console's line, for changes that are worth one.
pub(super) fn change(change: &Change) -> Option<(Severity, String)> {
    Some(match change {
        Change::Waiting { reason, since } => (Severity::Info, format!("waiting for {reason} since {}", span(*since))),
        Change::Starting => (Severity::Info, "started".to_owned()),
        Change::Ready { after } => (Severity::Info, format!("ready after {}", span(*after))),
        // A shutdown has its own lines, and for an end the line that says what follows names the reason.
        Change::Stopping { cause: StopCause::Shutdown } | Change::Ended { .. } | Change::Lingers => return None,
        Change::Stopping { cause } => (severity_of(cause), format!("stopping: {cause}")),
        Change::Stopped => (Severity::Info, "stopped".to_owned()),
        Change::Done => (Severity::Info, "done".to_owned()),
        Change::Backoff { reason, delay } => (Severity::Warning, format!("{reason}, restarting in {}", span(*delay))),
        Change::Failed { reason, retry: Some(retry) } => {
            (Severity::Error, format!("{reason}; left alone for {}", span(*retry)))
        }
        Change::Failed { reason, retry: None } => (Severity::Error, format!("{reason}; not restarted")),
    })
}

fn severity_of(cause: &StopCause) -> Severity {
    match cause {
        StopCause::Unhealthy { .. } | StopCause::StartTimeout | StopCause::Silent => Severity::Warning,
        _ => Severity::Info,
    }
}

/// The state that subscribers are told of, and why.
pub(super) fn event(change: &Change) -> Option<(ServiceState, Option<String>)> {
    Some(match change {
        Change::Waiting { reason, .. } => (ServiceState::Waiting, Some(reason.clone())),
        Change::Starting => (ServiceState::Starting, None),
        Change::Ready { .. } => (ServiceState::Ready, None),
        Change::Stopping { cause } => (ServiceState::Stopping, Some(cause.to_string())),
        Change::Ended { reason } => (ServiceState::Stopping, Some(reason.to_string())),
        Change::Lingers => return None,
        Change::Stopped => (ServiceState::Stopped, None),
        Change::Done => (ServiceState::Done, None),
        Change::Backoff { reason, .. } => (ServiceState::Backoff, Some(reason.clone())),
        Change::Failed { reason, .. } => (ServiceState::Failed, Some(reason.clone())),
    })
}

pub(super) fn applied(applied: &Applied) -> String {
    let names = |names: &[ServiceName]| names.iter().map(ServiceName::as_str).collect::<Vec<_>>().join(", ");
    let mut text = format!("set {} applied", applied.version);
    for (word, list) in [("new", &applied.added), ("changed", &applied.changed), ("gone", &applied.removed)] {
        if !list.is_empty() {
            // Writing to a string cannot fail.
            let _ = write!(text, "; {word}: {}", names(list));
        }
    }
    text
}

/// A duration as people say it: 0.12 s, 3.4 s, 75 s.
fn span(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1.0 {
        format!("{seconds:.2} s")
    } else if seconds < 10.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{seconds:.0} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_happened_and_what_follows() {
        let line = |c: &Change| change(c).unwrap().1;
        assert_eq!(line(&Change::Ready { after: Duration::from_millis(1234) }), "ready after 1.2 s");
        let backoff = Change::Backoff { reason: "was killed by SIGKILL".into(), delay: Duration::from_millis(105) };
        assert_eq!(line(&backoff), "was killed by SIGKILL, restarting in 0.10 s");
        let waiting =
            Change::Waiting { reason: "file /run/x, tcp 127.0.0.1:2379".into(), since: Duration::from_secs(20) };
        assert_eq!(line(&waiting), "waiting for file /run/x, tcp 127.0.0.1:2379 since 20 s");
    }

    #[test]
    fn an_applied_set_is_one_line() {
        let name = |text| ServiceName::new(text).unwrap();
        let what =
            Applied { version: 3, added: vec![name("a"), name("b")], removed: vec![name("c")], ..Applied::default() };
        assert_eq!(applied(&what), "set 3 applied; new: a, b; gone: c");
    }
}
