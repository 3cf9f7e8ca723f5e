//! Requests whose end has not come yet: what all of them together may hold.
//!
//! A request is taken up once it is there as a whole, and until then what has come of it is in memory. One is bounded, the streams of a connection
//! are as good as not, and whoever sends the last byte of none of them could have all the memory there is. So the bytes of
//! unfinished messages are counted, and something for each stream on which no message has come yet, and one that would exceed the sum is refused with
//! etcd's word for too much at once. etcd has no such bound.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{self, Poll};

use axum::http::Request;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use super::errors::Error;

/// Nearly a hundred of the largest requests, and thousands of usual ones. Most come in one piece, and count for nothing.
pub(super) const MOST_BYTES: usize = 128 << 20;
/// Of a stream on which no message has come: its headers may be as large, and the rest of it is less. Eight thousand of them may be there, more
/// than of clients that mean it, whose first message comes right behind the headers.
const STREAM_BYTES: usize = 16 << 10;
/// In front of each message (gRPC over HTTP/2, "Length-Prefixed-Message"): a flag and a length.
pub(super) const HEADER_LEN: usize = 5;

/// What is held, and may be.
#[derive(Debug)]
pub(super) struct Unfinished {
    held: AtomicUsize,
    most: usize,
}

impl Unfinished {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), most })
    }

    /// Has the messages of a request counted.
    pub(super) fn count(self: &Arc<Self>, request: Request<Body>) -> Request<Body> {
        request.map(|body| {
            Body::new(Counted { body, held: Held { all: Arc::clone(self), bytes: 0 }, message: Message::default() })
        })
    }
}

/// One stream's part of it, which it gives back when it ends.
#[derive(Debug)]
struct Held {
    all: Arc<Unfinished>,
    bytes: usize,
}

impl Held {
    /// False if that is too much for all.
    fn set(&mut self, bytes: usize) -> bool {
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes == before {
            return true;
        }
        if bytes < before {
            self.all.held.fetch_sub(before - bytes, Ordering::Relaxed);
            return true;
        }
        let more = bytes - before;
        self.all.held.fetch_add(more, Ordering::Relaxed) + more <= self.all.most
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Where in the stream of messages a body is.
#[derive(Debug, Default)]
struct Message {
    header: [u8; HEADER_LEN],
    /// Bytes of the header that are there.
    header_len: usize,
    /// Bytes of the message that are there, and those that are not.
    got: usize,
    missing: usize,
    /// One was there as a whole.
    any: bool,
}

impl Message {
    /// Takes the next bytes of the body.
    fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.missing == 0 {
                let (taken, rest) = bytes.split_at((HEADER_LEN - self.header_len).min(bytes.len()));
                if let Some(place) = self.header.get_mut(self.header_len..self.header_len + taken.len()) {
                    place.copy_from_slice(taken);
                }
                self.header_len += taken.len();
                bytes = rest;
                if self.header_len == HEADER_LEN {
                    let [_, length @ ..] = self.header;
                    (self.header_len, self.got) = (0, 0);
                    self.missing = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                    self.any |= self.missing == 0;
                }
            } else {
                let taken = self.missing.min(bytes.len());
                self.missing -= taken;
                self.got += taken;
                self.any |= self.missing == 0;
                bytes = bytes.get(taken..).unwrap_or_default();
            }
        }
    }

    /// What is counted for it.
    fn held(&self) -> usize {
        let unfinished = if self.missing == 0 { self.header_len } else { self.got };
        if self.any { unfinished } else { STREAM_BYTES + unfinished }
    }
}

#[derive(Debug)]
struct Counted {
    body: Body,
    held: Held,
    message: Message,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let frame = Pin::new(&mut this.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(bytes) = frame.data_ref()
        {
            this.message.advance(bytes);
        }
        if !matches!(frame, Poll::Ready(None | Some(Err(_)))) && !this.held.set(this.message.held()) {
            return Poll::Ready(Some(Err(Error::TooManyRequests.into())));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt as _;
    use futures::stream::{self, StreamExt as _};

    use super::*;

    /// A message of so many bytes, with its header.
    fn message(len: u8) -> Vec<u8> {
        [vec![0, 0, 0, 0, len], vec![7; usize::from(len)]].concat()
    }

    #[test]
    fn bytes_count_until_their_message_is_whole() {
        let bytes = [message(20), message(0), message(3)].concat();
        for piece in 1..=bytes.len() {
            let mut stream = Message::default();
            let mut at = 0;
            for part in bytes.chunks(piece) {
                at += part.len();
                let expected = match at {
                    0..=4 => STREAM_BYTES + at,
                    5..25 => STREAM_BYTES + at - 5,
                    25..30 => at - 25,
                    30..35 => at - 30,
                    35..38 => at - 35,
                    _ => 0,
                };
                stream.advance(part);
                assert_eq!(stream.held(), expected, "{at} of pieces of {piece}");
            }
        }
    }

    /// A body whose pieces come as they are, and then nothing does.
    fn body(all: &Arc<Unfinished>, pieces: Vec<Vec<u8>>) -> Body {
        let frames = stream::iter(pieces).map(|piece| Ok::<_, Status>(Frame::data(Bytes::from(piece))));
        let body = http_body_util::StreamBody::new(frames.chain(stream::pending()));
        all.count(Request::new(Body::new(body))).into_body()
    }

    fn read(body: &mut Body) -> Option<Result<usize, Status>> {
        let frame = std::future::poll_fn(|context| pin!(&mut *body).poll_frame(context)).now_or_never()??;
        Some(frame.map(|frame| frame.data_ref().unwrap().len()))
    }

    #[test]
    fn unfinished_requests_are_refused_where_there_are_too_many_and_no_others() {
        let all = Unfinished::new(2 * STREAM_BYTES + 30);
        let half = |len: u8| message(len)[..usize::from(len)].to_vec();
        let (mut first, mut second) = (body(&all, vec![half(20)]), body(&all, vec![half(25)]));
        assert_eq!(read(&mut first).unwrap().unwrap(), 20);
        let refused = read(&mut second).unwrap().unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (tonic::Code::ResourceExhausted, "etcdserver: too many requests")
        );
        // Those that are whole need no room, however large.
        assert_eq!(read(&mut body(&all, vec![message(200)])).unwrap().unwrap(), 205);
        drop(second);
        assert_eq!(all.held.load(Ordering::Relaxed), STREAM_BYTES + 15);
        drop(first);
        assert_eq!(all.held.load(Ordering::Relaxed), 0);
        assert_eq!(read(&mut body(&all, vec![half(25)])).unwrap().unwrap(), 25);
    }

    #[test]
    fn streams_that_say_nothing_are_counted_until_they_have_said_something() {
        let all = Unfinished::new(2 * STREAM_BYTES);
        let silent = || body(&all, Vec::new());
        let (mut first, mut second, mut third) = (silent(), silent(), silent());
        assert!(read(&mut first).is_none() && read(&mut second).is_none());
        assert_eq!(read(&mut third).unwrap().unwrap_err().code(), tonic::Code::ResourceExhausted);
        drop(third);
        // Whoever waits for the next message on a stream, as most watches do, holds nothing.
        let mut watch = body(&all, vec![message(20)]);
        assert_eq!(read(&mut watch).unwrap().unwrap(), 25);
        assert!(read(&mut watch).is_none());
        assert_eq!(all.held.load(Ordering::Relaxed), 2 * STREAM_BYTES);
    }
}
