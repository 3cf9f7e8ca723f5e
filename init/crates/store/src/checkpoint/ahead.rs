//! Rows that a thread of its own reads, checks and copies, while those before them are taken in: a start on a million keys is bound by
//! both, and neither waits for the other this way.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::Rows;
use crate::state::{LoadError, Row};

/// Rows that change hands at once, so that it costs little for each; fewer of large ones.
const BATCH_ROWS: usize = 512;
const BATCH_BYTES: usize = 256 << 10;
/// Batches that wait to be taken in.
const BATCHES: usize = 4;

type Batch = Vec<Result<Row, LoadError>>;

/// The same rows, in the same order.
#[derive(Debug)]
pub struct Ahead {
    current: std::vec::IntoIter<Result<Row, LoadError>>,
    batches: Option<Receiver<Batch>>,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    pub(super) fn start(rows: Rows) -> io::Result<Self> {
        let (sender, batches) = sync_channel(BATCHES);
        let thread = std::thread::Builder::new().name("read-ahead".to_owned()).spawn(move || read(rows, &sender))?;
        Ok(Self { current: Vec::new().into_iter(), batches: Some(batches), thread: Some(thread) })
    }
}

fn read(mut rows: Rows, batches: &SyncSender<Batch>) {
    loop {
        let mut batch = Batch::with_capacity(BATCH_ROWS);
        let mut bytes = 0;
        while batch.len() < BATCH_ROWS
            && bytes < BATCH_BYTES
            && let Some(row) = rows.next()
        {
            bytes += row.as_ref().map_or(0, |row| row.value.len());
            batch.push(row);
        }
        // An error of the send means that nobody wants the rest.
        if batch.is_empty() || batches.send(batch).is_err() {
            return;
        }
    }
}

impl Iterator for Ahead {
    type Item = Result<Row, LoadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.current.next() {
                return Some(row);
            }
            if let Some(Ok(batch)) = self.batches.as_ref().map(Receiver::recv) {
                self.current = batch.into_iter();
                continue;
            }
            // Rows that the thread did not come to are no end of the rows.
            let ended = self.thread.take()?.join();
            return ended.is_err().then(|| Err(LoadError::Read(io::Error::other("reading the checkpoint panicked"))));
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // The thread's next send fails.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
