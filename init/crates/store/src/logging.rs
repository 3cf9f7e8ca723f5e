//! Log lines: one JSON object each, on standard error, in etcd's shape.
//!
//! `{"level":"info","ts":"2026-01-02T03:04:05.678901Z","target":"keelson_store::node","msg":"…",…}`: what is scripted around etcd looks for
//! `level`, `ts` and `msg`. Fields follow as they were given. Libraries are heard from warnings up, consensus from errors up, since it tells of each
//! step. Spans are not recorded.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::macros::format_description;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The crate's own events begin with this target.
const OWN_TARGET: &str = "keelson_store";
/// All spans are one: none is recorded.
const SPAN_ID: u64 = 1;

/// Sends events to standard error from now on.
pub fn start(level: Level) {
    let logger = Logger { level };
    if tracing::subscriber::set_global_default(logger).is_err() {
        tracing::debug!("logging was started before");
    }
}

#[derive(Debug)]
struct Logger {
    level: Level,
}

impl Subscriber for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let bound = match metadata.target() {
            own if own.starts_with(OWN_TARGET) => self.level,
            // It warns of each message of an older term, which every election leaves behind.
            consensus if consensus.starts_with("openraft") => Level::ERROR,
            _ => self.level.min(Level::WARN),
        };
        metadata.is_event() && *metadata.level() <= bound
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(SPAN_ID)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = line(event, OffsetDateTime::now_utc());
        line.push('\n');
        // Nobody is left to tell if standard error is gone.
        drop(std::io::stderr().lock().write_all(line.as_bytes()));
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

fn line(event: &Event<'_>, now: OffsetDateTime) -> String {
    let metadata = event.metadata();
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    let mut fields = Fields::default();
    event.record(&mut fields);
    // By hand, to have what one looks for in front; quoting is serde_json's.
    let mut line = format!(
        r#"{{"level":"{}","ts":"{}","target":{},"msg":{}"#,
        metadata.level().as_str().to_ascii_lowercase(),
        now.format(format).unwrap_or_default(),
        Value::from(metadata.target()),
        Value::from(fields.message),
    );
    for (name, value) in fields.others {
        // Writing to a string does not fail.
        _ = write!(line, ",{}:{value}", Value::from(name));
    }
    line.push('}');
    line
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.others.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // Writing to a string does not fail.
        if write!(text, "{value:?}").is_err() {
            return;
        }
        if field.name() == "message" { self.message = text } else { self.put(field, text.into()) }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a string does not fail.
        if write!(text, ": {error}").is_err() {
            break;
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Capture(Mutex<Vec<String>>);

    impl Subscriber for &'static Capture {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.is_event()
        }
        fn new_span(&self, _span: &Attributes<'_>) -> Id {
            Id::from_u64(SPAN_ID)
        }
        fn record(&self, _span: &Id, _values: &Record<'_>) {}
        fn record_follows_from(&self, _span: &Id, _follows: &Id) {}
        fn event(&self, event: &Event<'_>) {
            self.0.lock().unwrap().push(line(event, OffsetDateTime::UNIX_EPOCH));
        }
        fn enter(&self, _span: &Id) {}
        fn exit(&self, _span: &Id) {}
    }

    #[test]
    fn writes_one_json_object_a_line() {
        let capture: &'static Capture = Box::leak(Box::new(Capture(Mutex::default())));
        tracing::subscriber::with_default(capture, || {
            tracing::info!(member = 7_u64, path = "a\"b\nc", "ready to serve client requests");
        });
        let lines = capture.0.lock().unwrap();
        let value: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(value["msg"], "ready to serve client requests");
        assert_eq!(value["level"], "info");
        assert_eq!(value["ts"], "1970-01-01T00:00:00.000000Z");
        assert_eq!(value["member"], 7);
        assert_eq!(value["path"], "a\"b\nc");
        assert!(!lines[0].contains('\n'));
    }
}
