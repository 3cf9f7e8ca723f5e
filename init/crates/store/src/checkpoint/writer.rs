//! The thread that commits checkpoints while the state goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{oneshot, watch};

use super::{Applied, Checkpoint, CheckpointError};
use crate::disk::Disk;
use crate::histogram::Histogram;
use crate::state::{Delta, LoadError, Row};

/// One is being committed, one waits: consensus builds one checkpoint at a time.
const QUEUE: usize = 1;

/// All rows of a snapshot.
pub type SnapshotRows = Box<dyn Iterator<Item = Result<Row, LoadError>> + Send>;

enum Job {
    Commit { delta: Delta, applied: Applied, epoch: Epoch, done: Done },
    Replace { rows: SnapshotRows, applied: Applied, epoch: Epoch, done: oneshot::Sender<Result<(), LoadError>> },
    Defragment { disk: Arc<dyn Disk>, done: Done },
}

/// How often all rows were replaced. A delta is of the rows that it was taken from: handed over after they were replaced, it is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch(u64);

impl Epoch {
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
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
    /// How many checkpoints were begun, and the number of the last that is durable.
    begun: AtomicU64,
    durable: watch::Sender<u64>,
    /// Works in the caller's place.
    #[cfg(test)]
    simulated: Option<std::sync::Mutex<Committer>>,
}

/// What the thread works with.
#[derive(Debug)]
struct Committer {
    checkpoint: Arc<Checkpoint>,
    bytes_in_use: Arc<AtomicU64>,
    commit_times: Arc<Histogram>,
    epoch: Epoch,
}

impl Committer {
    fn run(mut self, queue: Receiver<Job>) {
        for job in queue {
            self.carry_out(job);
        }
    }

    fn carry_out(&mut self, job: Job) {
        // Nobody waits any more when the process stops.
        match job {
            Job::Commit { delta, applied, epoch, done } => drop(done.send(self.commit(delta, &applied, epoch))),
            Job::Replace { rows, applied, epoch, done } => drop(done.send(self.replace(rows, &applied, epoch))),
            Job::Defragment { disk, done } => drop(done.send(self.checkpoint.defragment(disk.as_ref()))),
        }
    }

    fn commit(&self, delta: Delta, applied: &Applied, epoch: Epoch) -> Result<(), CheckpointError> {
        if epoch != self.epoch {
            return Ok(());
        }
        let began = Instant::now();
        let result = self.checkpoint.commit(&delta, applied);
        self.commit_times.observe(began.elapsed());
        // Freed here, not in the task that waits: a delta may be large.
        drop(delta);
        result.map(|used| self.bytes_in_use.store(used, Ordering::Relaxed))
    }

    fn replace(&mut self, mut rows: SnapshotRows, applied: &Applied, epoch: Epoch) -> Result<(), LoadError> {
        self.epoch = epoch;
        let used = self.checkpoint.replace(rows.as_mut(), applied)?;
        self.bytes_in_use.store(used, Ordering::Relaxed);
        Ok(())
    }
}

impl Writer {
    pub fn start(checkpoint: Arc<Checkpoint>) -> Result<Self, CheckpointError> {
        let (_, used) = checkpoint.applied()?;
        let bytes_in_use = Arc::new(AtomicU64::new(used));
        let commit_times = Arc::new(Histogram::default());
        let (jobs, queue) = sync_channel::<Job>(QUEUE);
        let committer = Committer {
            checkpoint: Arc::clone(&checkpoint),
            bytes_in_use: Arc::clone(&bytes_in_use),
            commit_times: Arc::clone(&commit_times),
            epoch: Epoch::default(),
        };
        #[cfg(test)]
        if crate::simulation::is_active() {
            let simulated = Some(std::sync::Mutex::new(committer));
            let (begun, durable) = Default::default();
            return Ok(Self {
                checkpoint,
                jobs: None,
                thread: None,
                bytes_in_use,
                commit_times,
                begun,
                durable,
                simulated,
            });
        }
        let thread = std::thread::Builder::new().name("checkpoint".to_owned()).spawn(move || committer.run(queue));
        let thread = thread.map_err(|source| CheckpointError::Io { operation: "start the thread of", source })?;
        Ok(Self {
            checkpoint,
            jobs: Some(jobs),
            thread: Some(thread),
            bytes_in_use,
            commit_times,
            begun: AtomicU64::default(),
            durable: watch::Sender::default(),
            #[cfg(test)]
            simulated: None,
        })
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

    /// The number of the checkpoint that is taken from the state now.
    pub fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Says that the checkpoint of this number is durable.
    pub fn finish(&self, number: u64) {
        self.durable.send_if_modified(|last| std::mem::replace(last, number.max(*last)) < number);
    }

    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Waits for a durable checkpoint of a higher number.
    pub async fn later_than(&self, number: u64) {
        let mut durable = self.durable.subscribe();
        // The sender lives as long as this does, so the wait cannot fail.
        let _ = durable.wait_for(|last| *last > number).await;
    }

    /// Hands a delta over; the receiver is told when it is durable.
    pub fn commit(
        &self,
        delta: Delta,
        applied: Applied,
        epoch: Epoch,
    ) -> oneshot::Receiver<Result<(), CheckpointError>> {
        let (done, receiver) = oneshot::channel();
        self.submit(Job::Commit { delta, applied, epoch, done });
        receiver
    }

    /// Replaces all rows, after what was handed over before; `epoch` is that of the new rows.
    pub fn replace(
        &self,
        rows: SnapshotRows,
        applied: Applied,
        epoch: Epoch,
    ) -> oneshot::Receiver<Result<(), LoadError>> {
        let (done, receiver) = oneshot::channel();
        self.submit(Job::Replace { rows, applied, epoch, done });
        receiver
    }

    /// Has the file copied without its gaps; commits wait meanwhile, and the log takes what they do not.
    pub fn defragment(&self, disk: Arc<dyn Disk>) -> oneshot::Receiver<Result<(), CheckpointError>> {
        let (done, receiver) = oneshot::channel();
        self.submit(Job::Defragment { disk, done });
        receiver
    }

    fn submit(&self, job: Job) {
        #[cfg(test)]
        if let Some(simulated) = &self.simulated {
            return simulated.lock().unwrap().carry_out(job);
        }
        if let Some(jobs) = &self.jobs {
            // An error means that the thread is gone; then the sender in the job is dropped, which the receiver sees.
            drop(jobs.send(job));
        }
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
