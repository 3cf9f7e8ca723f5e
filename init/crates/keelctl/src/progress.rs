//! Waiting for a node, and telling what is awaited.

use std::time::{Duration, Instant};

use crate::{error::Error, output};

/// How often a node is asked. A boot takes tens of seconds.
const INTERVAL: Duration = Duration::from_secs(1);

/// What a look at the node has shown.
pub(crate) enum Seen<T> {
    Done(T),
    /// What is awaited, in words.
    NotYet(String),
}

/// Looks again and again until it is done or `timeout` has passed; tells each new reason once. That the node cannot be asked is one of
/// them.
pub(crate) async fn wait<T>(
    timeout: Duration,
    mut look: impl AsyncFnMut() -> Result<Seen<T>, Error>,
) -> Result<T, Error> {
    let begin = Instant::now();
    let mut told = String::new();
    loop {
        let reason = match look().await {
            Ok(Seen::Done(value)) => return Ok(value),
            Ok(Seen::NotYet(reason)) => reason,
            Err(error) => reason(error)?,
        };
        if reason != told {
            output::note(&format!("{:>4} s  {reason}", begin.elapsed().as_secs()));
            told = reason;
        }
        if begin.elapsed() >= timeout {
            return Err(Error::NotInTime(told));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// What it means while waiting that the node cannot be asked, in words: it may be on its way. That it refuses the key, or is
/// another node, does not change by waiting.
pub(crate) fn reason(error: Error) -> Result<String, Error> {
    use crate::client::ClientError;
    match error {
        Error::Client { source: ClientError::Pin { .. } | ClientError::Name, .. } => Err(error),
        Error::Client { .. } => Ok(output::with_causes(&error)),
        Error::Answer { ref body, .. } if body.code.status() >= 500 => Ok(output::with_causes(&error)),
        error => Err(error),
    }
}
