//! The thread that commits checkpoints while the state goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::oneshot;

use super::{Applied, Checkpoint, CheckpointError};
use crate::disk::Disk;
use crate::histogram::Histogram;
use crate::state::Delta;

/// One is being committed, one waits: consensus builds one checkpoint at a time.
const QUEUE: usize = 1;

enum Job {
    Commit { delta: Delta, applied: Applied, done: Done },
    Defragment { disk: Arc<dyn Disk>, done: Done },
}

type Done = oneshot::Sender<Result<(), CheckpointError>>;

/// Commits deltas in the order they are handed over. Dropping it waits for the one that is under way.
#[derive(Debug)]
pub struct Writer {
    checkpoint: Arc<Checkpoint>,
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    bytes_in_use: Arc<AtomicU64>,
    commit_times: Arc<Histogram>,
}

impl Writer {
    pub fn start(checkpoint: Arc<Checkpoint>) -> Result<Self, CheckpointError> {
        let (_, used) = checkpoint.applied()?;
        let bytes_in_use = Arc::new(AtomicU64::new(used));
        let commit_times = Arc::new(Histogram::default());
        let (jobs, queue) = sync_channel::<Job>(QUEUE);
        let thread = {
            let checkpoint = Arc::clone(&checkpoint);
            let bytes_in_use = Arc::clone(&bytes_in_use);
            let commit_times = Arc::clone(&commit_times);
            std::thread::Builder::new().name("checkpoint".to_owned()).spawn(move || {
                for job in queue {
                    let (delta, applied, done) = match job {
                        Job::Commit { delta, applied, done } => (delta, applied, done),
                        Job::Defragment { disk, done } => {
                            drop(done.send(checkpoint.defragment(disk.as_ref())));
                            continue;
                        }
                    };
                    let began = Instant::now();
                    let result = checkpoint.commit(&delta, &applied);
                    commit_times.observe(began.elapsed());
                    // Freed here, not in the task that waits: a delta may be large.
                    drop(delta);
                    let result = result.map(|used| bytes_in_use.store(used, Ordering::Relaxed));
                    // Nobody waits any more when the process stops.
                    drop(done.send(result));
                }
            })
        };
        let thread = thread.map_err(|source| CheckpointError::Io { operation: "start the thread of", source })?;
        Ok(Self { checkpoint, jobs: Some(jobs), thread: Some(thread), bytes_in_use, commit_times })
    }

    pub fn checkpoint(&self) -> &Arc<Checkpoint> {
        &self.checkpoint
    }

    /// Bytes of all rows as of the last commit.
    pub fn bytes_in_use(&self) -> u64 {
        self.bytes_in_use.load(Ordering::Relaxed)
    }

    /// How long commits took.
    pub fn commit_times(&self) -> &Histogram {
        &self.commit_times
    }

    pub fn set_bytes_in_use(&self, bytes: u64) {
        self.bytes_in_use.store(bytes, Ordering::Relaxed);
    }

    /// Hands a delta over; the receiver is told when it is durable.
    pub fn commit(&self, delta: Delta, applied: Applied) -> oneshot::Receiver<Result<(), CheckpointError>> {
        let (done, receiver) = oneshot::channel();
        if let Some(jobs) = &self.jobs {
            // An error means that the thread is gone; then the sender in the job is dropped, which the receiver sees.
            drop(jobs.send(Job::Commit { delta, applied, done }));
        }
        receiver
    }

    /// Has the file copied without its gaps; commits wait meanwhile, and the log takes what they do not.
    pub fn defragment(&self, disk: Arc<dyn Disk>) -> oneshot::Receiver<Result<(), CheckpointError>> {
        let (done, receiver) = oneshot::channel();
        if let Some(jobs) = &self.jobs {
            drop(jobs.send(Job::Defragment { disk, done }));
        }
        receiver
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
