//! How long a client waits for an answer, as its call says (`grpc-timeout`), and what it is told when that is over.
//!
//! The library has a timer for it, but calls its end CANCELLED, which in etcd is only what the client has given up. Before it answers so it
//! asks the service once more: whoever then looks at the clock needs no timer of its own.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use axum::http::{HeaderMap, Response};
use tokio::time::Instant;
use tonic::Status;

use super::errors::Error;

/// Of the number in the header.
const MOST_DIGITS: usize = 8;

/// When the time of a call that begins now is over.
pub(super) fn of(headers: &HeaderMap) -> Option<Instant> {
    Instant::now().checked_add(parse(headers.get("grpc-timeout")?.to_str().ok()?)?)
}

/// A number and a unit (gRPC over HTTP/2, "Timeout").
fn parse(timeout: &str) -> Option<Duration> {
    let (number, unit) = timeout.split_at_checked(timeout.len().checked_sub(1)?)?;
    if number.len() > MOST_DIGITS {
        return None;
    }
    let number = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_hours(number),
        "M" => Duration::from_mins(number),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// None if the time is over before there is an answer.
pub(super) async fn within<F: Future>(deadline: Option<Instant>, answer: F) -> Option<F::Output> {
    let mut answer = pin!(answer);
    let poll = |context: &mut std::task::Context<'_>| match answer.as_mut().poll(context) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending if deadline.is_some_and(|deadline| deadline <= Instant::now()) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    };
    std::future::poll_fn(poll).await
}

pub(super) fn exceeded<B: Default>() -> Response<B> {
    Status::from(Error::DeadlineExceeded).into_http()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_has_them() {
        assert_eq!(parse("99999999H"), Some(Duration::from_hours(99_999_999)));
        let read = ["2M", "3S", "4m", "5u", "6n"].map(parse);
        let expected = [120_000_000_000, 3_000_000_000, 4_000_000, 5000, 6].map(Duration::from_nanos).map(Some);
        assert_eq!(read, expected);
        for wrong in ["", "S", "1", "1s", "100000000S", "-1S", "1€"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
