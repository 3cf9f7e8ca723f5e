//! A watch: one JSON object a line until the server ends it.

use bytes::{Buf as _, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;

use super::ClientError;

/// A Node with a thousand images is a megabyte.
const LINE_MAX: usize = 8 << 20;

#[derive(Debug)]
pub struct Watch {
    body: Incoming,
    buffer: BytesMut,
}

#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent {
    /// Added or changed.
    Present(Value),
    Deleted(Value),
    /// The server cannot go on from here: list again.
    Expired,
}

impl Watch {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next event; `None` when the server has ended the watch, which it does every few minutes.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, ClientError> {
        loop {
            if let Some(line) = take_line(&mut self.buffer) {
                let event: Value = serde_json::from_slice(&line).map_err(ClientError::Answer)?;
                if let Some(event) = interpret(event) {
                    return Ok(Some(event));
                }
                continue;
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(ClientError::Http(error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
            if self.buffer.len() > LINE_MAX {
                return Err(ClientError::TooLarge);
            }
        }
    }
}

fn take_line(buffer: &mut BytesMut) -> Option<BytesMut> {
    let end = buffer.iter().position(|byte| *byte == b'\n')?;
    let line = buffer.split_to(end);
    buffer.advance(1);
    Some(line)
}

fn interpret(mut event: Value) -> Option<WatchEvent> {
    let object = event.get_mut("object").map(Value::take)?;
    match event.get("type")?.as_str()? {
        "ADDED" | "MODIFIED" => Some(WatchEvent::Present(object)),
        "DELETED" => Some(WatchEvent::Deleted(object)),
        "ERROR" => Some(WatchEvent::Expired),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_are_taken_as_they_become_whole() {
        let mut buffer = BytesMut::from(&b"{\"a\":1}\n{\"b\""[..]);
        assert_eq!(take_line(&mut buffer).unwrap(), &b"{\"a\":1}"[..]);
        assert!(take_line(&mut buffer).is_none());
        buffer.extend_from_slice(b":2}\n");
        assert_eq!(take_line(&mut buffer).unwrap(), &b"{\"b\":2}"[..]);
    }

    #[test]
    fn events_say_what_happened_to_the_object() {
        let event = |kind: &str| json!({ "type": kind, "object": { "kind": "Node" } });
        let node = json!({ "kind": "Node" });
        assert_eq!(interpret(event("ADDED")), Some(WatchEvent::Present(node.clone())));
        assert_eq!(interpret(event("MODIFIED")), Some(WatchEvent::Present(node.clone())));
        assert_eq!(interpret(event("DELETED")), Some(WatchEvent::Deleted(node)));
        assert_eq!(interpret(event("ERROR")), Some(WatchEvent::Expired));
        assert_eq!(interpret(event("BOOKMARK")), None);
    }
}
