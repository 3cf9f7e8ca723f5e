//! A service's log, passed on from keelson-log as it comes.
//!
//! Nothing is collected: a chunk is read from keelson-log when the connection has room for it, so a slow operator slows the
//! stream down, and keelson-log drops a reader that is too slow. The connection carries the chunk and nothing more.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame};
use keelson_api::{ErrorCode, LogQuery, logs::LINES_MAX};
use keelson_log::query::{ERROR_PREFIX, Query, QueryError};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf},
    net::UnixStream,
    time::timeout,
};

use super::{
    respond::{self, Answer, Refusal},
    router::Context as ServerContext,
};

/// How much is read from keelson-log at a time.
const CHUNK_BYTES: usize = 16 * 1024;

/// How long keelson-log may take for the first of the lines that exist already.
const FIRST_LINES_DEADLINE: Duration = Duration::from_secs(10);

/// When only new lines are wanted there may be none for hours; an error comes at once.
const NO_ERROR_WAIT: Duration = Duration::from_millis(500);

/// Lines on their way to an operator.
#[derive(Debug)]
pub struct LogBody {
    first: Option<Bytes>,
    stream: UnixStream,
}

pub async fn answer(context: &ServerContext, service: &str, query: Option<&str>) -> Result<Answer, Refusal> {
    let parameters = parse(query)?;
    let query = Query { service: service.to_owned(), lines: parameters.lines, follow: parameters.follow };
    let unavailable = |error: &io::Error| Refusal::new(ErrorCode::Unavailable, format!("keelson-log: {error}"));
    let line = query.to_line().map_err(|error: QueryError| Refusal::because(ErrorCode::Internal, &error))?;
    let mut stream = UnixStream::connect(context.node.paths.log_socket()).await.map_err(|error| unavailable(&error))?;
    stream.write_all(line.as_bytes()).await.map_err(|error| unavailable(&error))?;

    let mut first = BytesMut::with_capacity(CHUNK_BYTES);
    let only_new = parameters.follow && parameters.lines == 0;
    let wait = if only_new { NO_ERROR_WAIT } else { FIRST_LINES_DEADLINE };
    match timeout(wait, read_line(&mut stream, &mut first)).await {
        Ok(read) => read.map_err(|error| unavailable(&error))?,
        // A service that has written nothing yet: the stream begins empty.
        Err(_) if parameters.follow => {}
        Err(_) => return Err(Refusal::new(ErrorCode::Timeout, "keelson-log did not answer in time")),
    }
    if let Some(message) = first.strip_prefix(ERROR_PREFIX.as_bytes()) {
        return Err(refused(service, String::from_utf8_lossy(message).trim()));
    }
    let first = (!first.is_empty()).then(|| first.freeze());
    Ok(respond::log(LogBody { first, stream }))
}

/// Reads a line at least, or what there is before the end: an error must be seen whole to be told from a line.
async fn read_line(stream: &mut UnixStream, into: &mut BytesMut) -> io::Result<()> {
    while !into.contains(&b'\n') && into.len() < CHUNK_BYTES {
        if stream.read_buf(into).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// keelson-log's reasons are for people; the one that is the operator's mistake is told by its wording.
fn refused(service: &str, message: &str) -> Refusal {
    if message.starts_with("there is no service") {
        let message = format!("there is no service {service:?} on this node");
        return Refusal::new(ErrorCode::NotFound, message).about("name");
    }
    Refusal::new(ErrorCode::Unavailable, format!("keelson-log: {message}"))
}

/// Reads `lines` and `follow`; anything else is a mistake that is told.
fn parse(query: Option<&str>) -> Result<LogQuery, Refusal> {
    let mut parsed = LogQuery { lines: keelson_api::logs::LINES_DEFAULT, follow: false };
    for parameter in respond::parameters(query) {
        match parameter {
            ("lines", value) => {
                parsed.lines = value.parse().ok().filter(|lines| *lines <= LINES_MAX).ok_or_else(|| {
                    Refusal::invalid("lines", format!("{value:?} is not a number between 0 and {LINES_MAX}"))
                })?;
            }
            ("follow", "true" | "1" | "") => parsed.follow = true,
            ("follow", "false" | "0") => parsed.follow = false,
            ("follow", value) => {
                return Err(Refusal::invalid("follow", format!("{value:?} is neither true nor false")));
            }
            (name, _) => return Err(Refusal::invalid(name, "there is no such parameter; there are lines and follow")),
        }
    }
    Ok(parsed)
}

impl Body for LogBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let mut bytes = vec![0; CHUNK_BYTES];
        let mut buffer = ReadBuf::new(&mut bytes);
        match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
            Poll::Ready(Ok(())) => {
                let length = buffer.filled().len();
                bytes.truncate(length);
                Poll::Ready((length > 0).then(|| Ok(Frame::data(bytes.into()))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_and_mistakes_are_told_by_name() {
        let read = |query| parse(Some(query)).map(|parsed| (parsed.lines, parsed.follow));
        assert_eq!(parse(None).map(|parsed| (parsed.lines, parsed.follow)), Ok((100, false)));
        assert_eq!(read("lines=5&follow=true"), Ok((5, true)));
        assert_eq!(read("follow"), Ok((100, true)));
        assert_eq!(read("lines=0&follow=false"), Ok((0, false)));
        for (query, field) in [
            ("lines=-1", "lines"),
            ("lines=", "lines"),
            ("lines=1000001", "lines"),
            ("follow=maybe", "follow"),
            ("tail=3", "tail"),
        ] {
            let refusal = read(query).expect_err(query);
            assert_eq!(refusal.body.field.as_deref(), Some(field), "{query}");
        }
    }
}
