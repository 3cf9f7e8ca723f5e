//! Waiting for a node, and telling what is awaited.

use std::time::{Duration, Instant};

use crate::{error::Error, output};

/// How often a node is asked. A boot takes tens of seconds.
const INTERVAL: Duration = Duration::from_secs(1);
/// Who says that he does not wait wants one look, which has to get through.
const ONE_LOOK: Duration = Duration::from_secs(10);

/// What a look at the node has shown.
pub(crate) enum Seen<T> {
    Done(T),
    /// What is awaited, in words.
    NotYet(String),
}

/// Looks again and again until it is done or `timeout` has passed, also while a look goes on; tells each new reason once. That the
/// node cannot be asked is one of them.
pub(crate) async fn wait<T>(
    timeout: Duration,
    mut look: impl AsyncFnMut() -> Result<Seen<T>, Error>,
) -> Result<T, Error> {
    let begin = Instant::now();
    let left = || timeout.saturating_sub(begin.elapsed());
    let mut bound = if timeout.is_zero() { ONE_LOOK } else { timeout };
    let mut told = String::new();
    loop {
        let reason = match tokio::time::timeout(bound, look()).await {
            Ok(Ok(Seen::Done(value))) => return Ok(value),
            Ok(Ok(Seen::NotYet(reason))) => reason,
            Ok(Err(error)) => reason(error)?,
            // What was awaited before is awaited still.
            Err(_) if told.is_empty() => "the node has not answered yet".to_owned(),
            Err(_) => told.clone(),
        };
        if reason != told {
            output::note(&format!("{:>4} s  {reason}", begin.elapsed().as_secs()));
            told = reason;
        }
        tokio::time::sleep(INTERVAL.min(left())).await;
        bound = left();
        if bound.is_zero() {
            return Err(Error::NotInTime(told));
        }
    }
}

/// What it means while waiting that the node cannot be asked, in words: it may be on its way. That it refuses the key, or is
/// another node, does not change by waiting.
pub(crate) fn reason(error: Error) -> Result<String, Error> {
    use crate::client::ClientError;
    match error {
        Error::Client { source: ClientError::Pin { .. } | ClientError::Name, .. } => Err(error),
        Error::Client { ref source, .. } if source.is_own_fault() => Err(error),
        Error::Client { .. } => Ok(output::with_causes(&error)),
        Error::Answer { ref body, .. } if body.code.status() >= 500 => Ok(output::with_causes(&error)),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientError;

    fn run<T>(waiting: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(waiting)
    }

    #[test]
    fn a_look_that_never_ends_does_not_outlast_the_wait() {
        for (timeout, looks) in [(Duration::from_millis(50), 0), (Duration::from_millis(1200), 1)] {
            let (begin, mut seen) = (Instant::now(), 0);
            let waited = run(wait::<()>(timeout, async || {
                if seen == looks {
                    return std::future::pending().await;
                }
                seen += 1;
                Ok(Seen::NotYet("a reason".to_owned()))
            }));
            let reason = if looks == 0 { "the node has not answered yet" } else { "a reason" };
            assert!(matches!(&waited, Err(Error::NotInTime(told)) if told == reason), "{waited:?}");
            assert!(begin.elapsed() >= timeout && begin.elapsed() < ONE_LOOK, "{:?}", begin.elapsed());
        }
    }

    #[test]
    fn who_does_not_wait_looks_once() {
        let mut looks = 0;
        let waited = run(wait::<()>(Duration::ZERO, async || {
            looks += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(Seen::NotYet("a reason".to_owned()))
        }));
        assert!(matches!(&waited, Err(Error::NotInTime(told)) if told == "a reason"), "{waited:?}");
        assert_eq!(looks, 1);
    }

    #[test]
    fn a_request_that_cannot_be_made_is_not_waited_for() {
        let of = |source| reason(Error::Client { endpoint: "https://a:1".to_owned(), source });
        let build = hyper::Request::builder().uri("/v1/ x").body(()).unwrap_err();
        let error = of(ClientError::Build(build)).unwrap_err();
        assert_eq!(error.exit_status(), crate::error::ExitStatus::Failure);
        assert!(of(ClientError::ConnectTimeout).is_ok());
    }
}
