//! `keelctl logs`: a service's log, as it comes.
//!
//! One that is followed goes on when its connection breaks or the node reboots. The node is asked for the newest lines
//! again, and those that were printed already are passed over.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::{Response, body::Incoming};
use keelson_api::{ErrorCode, paths};

use crate::{cli, client::ClientError, error::Error, output, progress, session::Session};

/// Between two tries to go on.
const INTERVAL: Duration = Duration::from_secs(1);
/// How many of the newest lines are asked for to go on. Of more that came meanwhile the older ones are missed.
const RESUMED_LINES: u32 = 1000;
/// Longer than any line of keelson-log's; what has no end by then is printed as it is.
const LINE_BYTES_MAX: usize = 1024 * 1024;

pub(super) async fn run(mut session: Session, arguments: &cli::Logs) -> Result<(), Error> {
    let mut printed = Printed::default();
    let first = session.stream(&path(arguments, arguments.lines)).await?;
    let mut ended = print(&session, first, &mut printed).await;
    if !arguments.follow {
        return ended.and_then(|()| printed.finish());
    }
    let mut told = String::new();
    loop {
        let reason = why_ended(ended)?;
        if reason != told {
            output::note(&format!("{reason}; the log goes on as soon as it can"));
            told = reason;
        }
        tokio::time::sleep(INTERVAL).await;
        ended = match session.stream(&path(arguments, printed.lines_to_resume(arguments.lines))).await {
            Ok(response) => {
                told.clear();
                printed.resume();
                print(&session, response, &mut printed).await
            }
            Err(error) => Err(error),
        };
    }
}

fn path(arguments: &cli::Logs, lines: u32) -> String {
    format!("{}?lines={lines}&follow={}", paths::service_logs(&arguments.service), arguments.follow)
}

/// Prints a stream until it ends.
async fn print(session: &Session, response: Response<Incoming>, printed: &mut Printed) -> Result<(), Error> {
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| Error::Client {
            endpoint: session.context.endpoint.to_string(),
            source: ClientError::Request(source),
        })?;
        if let Ok(bytes) = frame.into_data() {
            output::bytes(&printed.take(&bytes))?;
        }
    }
    Ok(())
}

/// Why a log that is followed has come to an end for now. A node that has just booted does not know the service yet.
fn why_ended(ended: Result<(), Error>) -> Result<String, Error> {
    let error = match ended {
        Ok(()) => return Ok("the node has ended the log".to_owned()),
        Err(error) => error,
    };
    if matches!(&error, Error::Answer { body, .. } if body.code == ErrorCode::NotFound) {
        return Ok(output::with_causes(&error));
    }
    progress::reason(error)
}

/// How far the log is printed. A line begins with its time; several may have the same.
#[derive(Debug, Default)]
struct Printed {
    /// A line whose end has not come.
    rest: Vec<u8>,
    /// The time of the last line.
    time: Vec<u8>,
    /// How many lines with that time there were.
    count: usize,
    /// How many of the next lines may have been printed already; none once there was one that had not.
    doubtful: u32,
    /// How many of those had the time of the last line.
    seen: usize,
}

impl Printed {
    /// Without one line there is nothing to go on behind.
    fn lines_to_resume(&self, asked: u32) -> u32 {
        if self.count == 0 { asked } else { RESUMED_LINES }
    }

    /// The next lines are from a stream that was begun anew.
    fn resume(&mut self) {
        self.rest.clear();
        self.doubtful = if self.count == 0 { 0 } else { RESUMED_LINES };
        self.seen = 0;
    }

    /// What of `bytes` is to be printed.
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.rest.extend_from_slice(bytes);
        let mut news = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<_> = self.rest.drain(..=end).collect();
            if !self.is_known(&line) {
                news.extend(printable(&line));
            }
        }
        if self.rest.len() > LINE_BYTES_MAX {
            news.extend(printable(&std::mem::take(&mut self.rest)));
        }
        news
    }

    fn is_known(&mut self, line: &[u8]) -> bool {
        let time = line.split(|byte| *byte == b' ').next().unwrap_or_default();
        if self.doubtful > 0 {
            self.doubtful -= 1;
            if time < self.time.as_slice() {
                return true;
            }
            if time == self.time && self.seen < self.count {
                self.seen += 1;
                return true;
            }
            self.doubtful = 0;
        }
        if time == self.time {
            self.count += 1;
        } else {
            self.time = time.to_vec();
            self.count = 1;
        }
        false
    }

    /// What came without an end.
    fn finish(self) -> Result<(), Error> {
        output::bytes(&printable(&self.rest))
    }
}

/// keelson-log has escaped what would steer a terminal; a node that is not what it says may send it all the same.
fn printable(bytes: &[u8]) -> Vec<u8> {
    let allowed = |byte: &u8| !byte.is_ascii_control() || matches!(byte, b'\n' | b'\t');
    bytes.iter().map(|byte| if allowed(byte) { *byte } else { b'?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_escaped_for_the_terminal() {
        assert_eq!(printable("a\tä\x1b[1m\n".as_bytes()), "a\tä?[1m\n".as_bytes());
    }

    fn taken(printed: &mut Printed, text: &str) -> String {
        String::from_utf8(printed.take(text.as_bytes())).unwrap()
    }

    #[test]
    fn a_stream_that_begins_anew_goes_on_behind_the_last_line() {
        let mut printed = Printed::default();
        assert_eq!(printed.lines_to_resume(7), 7);
        // The last line was cut off, so it is none.
        assert_eq!(taken(&mut printed, "1 a\n2 b\n2 c\n3 d"), "1 a\n2 b\n2 c\n");
        assert_eq!(printed.lines_to_resume(7), RESUMED_LINES);
        printed.resume();
        assert_eq!(taken(&mut printed, "0 z\n1 a\n2 b\n2"), "");
        assert_eq!(taken(&mut printed, " c\n2 d\n3 d\n"), "2 d\n3 d\n");
        // From here on nothing is doubted: the node's clock may be set back.
        assert_eq!(taken(&mut printed, "1 e\n"), "1 e\n");
    }

    #[test]
    fn where_the_last_line_is_gone_everything_is_news() {
        let mut printed = Printed::default();
        taken(&mut printed, "5 a\n");
        printed.resume();
        assert_eq!(taken(&mut printed, "6 a\n6 b\n"), "6 a\n6 b\n");
    }

    #[test]
    fn a_line_without_an_end_is_not_kept_for_ever() {
        let mut printed = Printed::default();
        let long = "x".repeat(LINE_BYTES_MAX + 1);
        assert_eq!(taken(&mut printed, &long), long);
        assert_eq!(taken(&mut printed, "y"), "");
    }
}
