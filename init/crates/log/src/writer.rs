//! The thread that writes the files, and the only one that waits for a disk.
//!
//! It takes lines from the rings by its own cursor. While the disk stalls, the rings go on; what they had to drop before
//! it was written is counted, and a line in the file says so where the lines are missing. When writing fails (no
//! directory, disk full, read-only), it says so once in its own log, tries again every [`RETRY_PAUSE`], and says once when
//! it works again. Memory and queries are untouched by either.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use crate::{
    error_chain::chain,
    files::{Storage, StorageError},
    rings::{Batch, FilePosition, Rings},
    service::ServiceName,
    timestamp::Timestamp,
};

/// How long it waits after a failure. A full disk does not empty itself in less, and a log is not worth a busy disk.
pub const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// A write that took this long is reported, because somebody may wonder why lines are missing.
const SLOW_WRITE: Duration = Duration::from_secs(5);

/// Writes until the rings are closed and everything is written, or cannot be.
#[derive(Debug)]
pub struct Writer<'a, S> {
    rings: &'a Rings,
    storage: S,
    /// The service under whose name the writer speaks.
    own: ServiceName,
    retry_pause: Duration,
    failing: bool,
}

impl<'a, S: Storage> Writer<'a, S> {
    pub fn new(rings: &'a Rings, storage: S, own: ServiceName) -> Self {
        Self { rings, storage, own, retry_pause: RETRY_PAUSE, failing: false }
    }

    #[must_use]
    pub fn retry_pause(mut self, pause: Duration) -> Self {
        self.retry_pause = pause;
        self
    }

    pub fn run(mut self) {
        let mut last = None;
        while let Some(batch) = self.rings.next_batch(last.as_ref()) {
            if !self.write(&batch) && self.rings.pause(self.retry_pause) {
                // Closing, and the disk refuses: what is in memory is lost with it.
                return;
            }
            last = Some(batch.service);
        }
    }

    /// Whether the batch is in its file.
    fn write(&mut self, batch: &Batch) -> bool {
        let begin = Instant::now();
        match self.append(batch) {
            Ok(position) => {
                self.rings.written(&batch.service, batch.chunk.next, position);
                if begin.elapsed() >= SLOW_WRITE {
                    self.say(format!("the disk took {} s for a write of the log", begin.elapsed().as_secs()));
                }
                if self.failing {
                    self.failing = false;
                    self.say("logs are written to disk again".to_owned());
                }
                true
            }
            Err(error) => {
                if !self.failing {
                    self.failing = true;
                    self.say(format!("logs are kept in memory only: {}", chain(&error)));
                }
                false
            }
        }
    }

    fn append(&mut self, batch: &Batch) -> Result<FilePosition, StorageError> {
        if self.rings.file(&batch.service).is_none() {
            self.rings.opened(&batch.service, self.storage.open(&batch.service)?);
        }
        self.storage.append(&batch.service, &text_of(batch))
    }

    fn say(&self, text: String) {
        self.rings.append(&self.own, [(Timestamp::now(), text)]);
    }
}

fn text_of(batch: &Batch) -> Vec<u8> {
    let mut text = String::new();
    if batch.chunk.missed > 0 {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {}", Timestamp::now(), missed_text(batch.chunk.missed));
    }
    for line in &batch.chunk.lines {
        text.push_str(line);
        text.push('\n');
    }
    text.into_bytes()
}

/// The line that stands where lines are missing.
pub fn missed_text(missed: u64) -> String {
    format!("keelson-log: {missed} lines are missing here; they came faster than they could be written")
}

#[cfg(test)]
mod tests;
