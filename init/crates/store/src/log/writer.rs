//! What writes the log, and the thread that keeps its next file ready.
//!
//! The writer takes all that is queued, writes it as one batch (several if it is large), waits for `fdatasync`, and only then calls
//! back. It is a thread, or a task beside consensus on the thread of that: there nobody has to be woken between a proposal and its
//! answer, and what arrives while the disk is waited for is the next batch. Making a file means writing zeros and syncing them, which would hold commits up, so a second thread does it ahead.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::format::{BatchEncoder, SEGMENT_HEADER_LEN, SegmentHeader};
use super::index::Place;
use super::segment::{Factory, Segment};
use super::{Completion, LogId, OnFailure, Operation, Options, Place as Where, Request, Shared, Vote, Wake};
use crate::disk::Disk;
use crate::random::Random;

/// A batch is closed at this size: beyond it the disk's bandwidth, not the `fdatasync`, is what one waits for.
const BATCH_TARGET: usize = 1 << 20;
/// More than a segment's first batch takes.
const OPENING_LEN: u32 = 256;
/// Nor may it fill a segment: an entry of up to a quarter of one may still be added.
const SEGMENT_PARTS: usize = 4;

/// Where recovery found the end of the log.
#[derive(Debug)]
pub(super) struct Tail {
    pub active: Option<(Segment, u32)>,
    /// A segment behind the active one that nothing was written to yet.
    pub prepared: Option<Segment>,
    pub next_number: u64,
    pub next_sequence: u64,
}

/// Stops and joins both threads when dropped, or tells the task to end; what was queued before is written first.
#[derive(Debug)]
pub(super) struct Handle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    pub(super) fn start(
        disk: Arc<dyn Disk>,
        random: Arc<dyn Random>,
        options: Options,
        shared: Arc<Shared>,
        tail: Tail,
        on_failure: OnFailure,
        place: Where,
    ) -> io::Result<Self> {
        #[cfg(test)]
        if matches!(place, Where::Simulation) {
            let files = Files::Simulated { factory: Factory::new(disk), made: std::collections::VecDeque::new() };
            let writer = Writer::new(&shared, random, options, tail, files);
            crate::blocking::spawn(writer.run_as_task(on_failure, crate::simulation::wait_for_disk));
            return Ok(Self { shared, thread: None });
        }
        let (jobs, job_queue) = channel();
        let (ready, prepared) = channel();
        let keeper = std::thread::Builder::new()
            .name("log-files".to_owned())
            .spawn(move || keep_files(Factory::new(disk), &job_queue, &ready))?;
        let writer = Writer::new(&shared, random, options, tail, Files::Thread { jobs, prepared });
        if let Where::Runtime(runtime) = place {
            // What else is ready goes first: the entries are on their way to other members while this one's disk is waited for. The thread
            // that keeps files ends when the writer has.
            runtime.spawn(writer.run_as_task(on_failure, tokio::task::yield_now));
            return Ok(Self { shared, thread: None });
        }
        let thread = std::thread::Builder::new().name("log-writer".to_owned()).spawn(move || {
            writer.run(&on_failure);
            // The writer's end of the channel is gone now, so this thread has ended or is about to.
            drop(keeper.join());
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake_writer();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

enum FileJob {
    Make(SegmentHeader),
    Dispose(Vec<Segment>),
}

fn keep_files(mut factory: Factory, jobs: &Receiver<FileJob>, ready: &Sender<io::Result<Segment>>) {
    for job in jobs {
        let result = match job {
            FileJob::Make(header) => factory.make(header),
            FileJob::Dispose(segments) => match segments.iter().try_for_each(|segment| factory.dispose(segment)) {
                Ok(()) => continue,
                Err(error) => Err(error),
            },
        };
        if ready.send(result).is_err() {
            return;
        }
    }
}

/// Who makes and disposes of files.
enum Files {
    Thread {
        jobs: Sender<FileJob>,
        prepared: Receiver<io::Result<Segment>>,
    },
    #[cfg(test)]
    Simulated {
        factory: Factory,
        made: std::collections::VecDeque<io::Result<Segment>>,
    },
}

fn gone() -> io::Error {
    io::Error::other("the log's file thread is gone")
}

impl Files {
    fn ask(&mut self, job: FileJob) -> io::Result<()> {
        match self {
            Self::Thread { jobs, .. } => jobs.send(job).map_err(|_| gone()),
            #[cfg(test)]
            Self::Simulated { factory, made } => {
                match job {
                    FileJob::Make(header) => made.push_back(factory.make(header)),
                    FileJob::Dispose(segments) => segments.iter().try_for_each(|segment| factory.dispose(segment))?,
                }
                Ok(())
            }
        }
    }

    fn wait(&mut self) -> io::Result<Segment> {
        match self {
            Self::Thread { prepared, .. } => prepared.recv().map_err(|_| gone())?,
            #[cfg(test)]
            Self::Simulated { made, .. } => made.pop_front().ok_or_else(gone)?,
        }
    }

    /// One that is made by now.
    fn look(&mut self) -> io::Result<Option<Segment>> {
        match self {
            Self::Thread { prepared, .. } => match prepared.try_recv() {
                Ok(made) => made.map(Some),
                Err(std::sync::mpsc::TryRecvError::Empty) => Ok(None),
                Err(std::sync::mpsc::TryRecvError::Disconnected) => Err(gone()),
            },
            #[cfg(test)]
            Self::Simulated { made, .. } => made.pop_front().transpose(),
        }
    }
}

struct Writer {
    shared: Arc<Shared>,
    random: Arc<dyn Random>,
    options: Options,
    active: Option<(Segment, u32)>,
    spare: Option<Segment>,
    /// Whether a segment was asked for and has not come yet.
    awaited: bool,
    next_number: u64,
    next_sequence: u64,
    /// As far as they are durable.
    vote: Option<Vote>,
    purged: Option<LogId>,
    /// In the encoder.
    new_vote: Option<Vote>,
    new_purged: Option<LogId>,
    encoder: BatchEncoder,
    /// Entries in the encoder, with their place from the batch's start.
    places: Vec<(LogId, u32, u32)>,
    done: Vec<Completion>,
    files: Files,
}

impl Writer {
    fn new(shared: &Arc<Shared>, random: Arc<dyn Random>, options: Options, tail: Tail, files: Files) -> Self {
        let (vote, purged) = {
            let state = shared.lock();
            (state.vote, state.index.purged())
        };
        Self {
            shared: Arc::clone(shared),
            random,
            options,
            active: tail.active,
            spare: tail.prepared,
            awaited: false,
            next_number: tail.next_number,
            next_sequence: tail.next_sequence,
            vote,
            purged,
            new_vote: None,
            new_purged: None,
            encoder: BatchEncoder::default(),
            places: Vec::new(),
            done: Vec::new(),
            files,
        }
    }

    /// As a task, which waits before each batch for what is given.
    async fn run_as_task<F: Future<Output = ()>>(mut self, on_failure: OnFailure, wait: impl Fn() -> F) {
        let mut requests = Vec::new();
        let shared = Arc::clone(&self.shared);
        let Wake::Task(woken) = &shared.wake else { return };
        loop {
            woken.notified().await;
            wait().await;
            {
                let mut state = self.shared.lock();
                if state.queue.is_empty() && state.closed {
                    return;
                }
                std::mem::swap(&mut state.queue, &mut requests);
            }
            if let Err(error) = self.write(requests.drain(..)) {
                on_failure(&error);
                self.fail();
                return;
            }
        }
    }

    fn run(mut self, on_failure: &OnFailure) {
        let mut requests = Vec::new();
        while self.take(&mut requests) {
            if let Err(error) = self.write(requests.drain(..)) {
                on_failure(&error);
                self.fail();
                return;
            }
        }
    }

    /// Waits for requests; false once there are none and the log is closed.
    fn take(&self, requests: &mut Vec<Request>) -> bool {
        let mut state = self.shared.lock();
        while state.queue.is_empty() {
            if state.closed {
                return false;
            }
            let Wake::Thread(condition) = &self.shared.wake else { return false };
            state = condition.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut state.queue, requests);
        true
    }

    fn fail(&mut self) {
        let queued = {
            let mut state = self.shared.lock();
            state.failed = true;
            std::mem::take(&mut state.queue)
        };
        let waiting = queued.into_iter().map(|request| request.done);
        for done in self.done.drain(..).chain(waiting) {
            done(Err(io::Error::other("the log has failed")));
        }
    }

    fn write(&mut self, requests: impl Iterator<Item = Request>) -> io::Result<()> {
        let target = BATCH_TARGET.min(self.options.segment_size as usize / SEGMENT_PARTS);
        self.encoder.clear();
        for Request { operation, done } in requests {
            match operation {
                Operation::Append(entries) => {
                    for entry in &entries {
                        if self.encoder.len() > target {
                            self.commit()?;
                        }
                        let (offset, len) = self.encoder.entry(entry);
                        self.places.push((entry.id, offset, len));
                    }
                }
                Operation::Vote(vote) => {
                    self.encoder.vote(vote);
                    self.new_vote = Some(vote);
                }
                Operation::Truncate(first) => {
                    // Places are noted by index and term, and entries of the same place may follow: settle these first.
                    self.commit()?;
                    self.encoder.truncate(first);
                }
                Operation::Purge(last) => {
                    self.encoder.purge(last);
                    self.new_purged = Some(last);
                }
                Operation::Flush => {}
            }
            self.done.push(done);
        }
        self.commit()
    }

    /// Makes what is in the encoder durable and calls back.
    fn commit(&mut self) -> io::Result<()> {
        if self.encoder.is_empty() && self.done.is_empty() {
            return Ok(());
        }
        self.make_room()?;
        let segment = self.write_batch()?;
        {
            let mut state = self.shared.lock();
            for (id, offset, len) in self.places.drain(..) {
                state.index.placed(id, Place { segment: segment.0, offset: segment.1 + offset, len });
                state.segments.holds(segment.0, id.index);
            }
            state.index.evict();
        }
        self.encoder.clear();
        self.vote = self.new_vote.take().or(self.vote);
        let purged = self.new_purged.take();
        self.purged = purged.or(self.purged);
        for done in self.done.drain(..) {
            done(Ok(()));
        }
        if let Some(purged) = purged {
            self.dispose_purged(segment.0, purged)?;
        }
        self.prepare_next()
    }

    /// Writes the encoder's batch to the active segment; returns the segment's number and the batch's offset.
    fn write_batch(&mut self) -> io::Result<(u64, u32)> {
        let committed = self.shared.lock().committed;
        let Some((segment, offset)) = &mut self.active else {
            return Err(io::Error::other("the log has no segment to write to"));
        };
        let data = self.encoder.finish(segment.header.salt, self.next_sequence, committed);
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        segment.file.write_at(u64::from(*offset), data)?;
        let began = Instant::now();
        segment.file.sync_data()?;
        self.shared.sync_times.observe(began.elapsed());
        let place = (segment.header.number, *offset);
        *offset += len;
        self.next_sequence += 1;
        Ok(place)
    }

    /// Goes to the next segment if the batch does not fit into the active one.
    fn make_room(&mut self) -> io::Result<()> {
        // Headers are aligned, so a batch ends at most this much behind its last record.
        let len = self.encoder.len().next_multiple_of(super::format::BATCH_ALIGN);
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        // The opening batch takes some of it.
        let capacity = self.options.segment_size.saturating_sub(SEGMENT_HEADER_LEN + OPENING_LEN);
        if len > capacity {
            return Err(io::Error::other(format!("a batch of {len} bytes is larger than a segment")));
        }
        let fits = |(segment, offset): &(Segment, u32)| offset.saturating_add(len) <= segment.header.size;
        // More than one step only where segments were smaller when the prepared one was made.
        while !self.active.as_ref().is_some_and(fits) {
            let segment = self.next_segment()?;
            self.shared.lock().segments.insert(segment.clone(), None);
            self.active = Some((segment, SEGMENT_HEADER_LEN));
            self.write_opening()?;
        }
        Ok(())
    }

    /// The first batch of a segment: what must not be lost when the segments before it go.
    fn write_opening(&mut self) -> io::Result<()> {
        let mut opening = BatchEncoder::default();
        opening.clear();
        if let Some(vote) = self.vote {
            opening.vote(vote);
        }
        if let Some(purged) = self.purged {
            opening.purge(purged);
        }
        std::mem::swap(&mut self.encoder, &mut opening);
        let written = self.write_batch();
        std::mem::swap(&mut self.encoder, &mut opening);
        written.map(|_| ())
    }

    fn next_segment(&mut self) -> io::Result<Segment> {
        if let Some(segment) = self.spare.take() {
            return Ok(segment);
        }
        self.ask_for_segment()?;
        self.awaited = false;
        self.files.wait()
    }

    fn ask_for_segment(&mut self) -> io::Result<()> {
        if self.awaited {
            return Ok(());
        }
        let header = SegmentHeader {
            store_id: self.options.store_id,
            number: self.next_number,
            salt: self.random.next_u64(),
            size: self.options.segment_size,
        };
        self.next_number += 1;
        self.awaited = true;
        self.files.ask(FileJob::Make(header))
    }

    /// Has the next segment made while this one fills up, and notices if that failed.
    fn prepare_next(&mut self) -> io::Result<()> {
        if self.spare.is_none()
            && self.awaited
            && let Some(made) = self.files.look()?
        {
            self.spare = Some(made);
            self.awaited = false;
        }
        let half_full = self.active.as_ref().is_some_and(|(segment, offset)| *offset > segment.header.size / 2);
        if half_full && self.spare.is_none() { self.ask_for_segment() } else { Ok(()) }
    }

    fn dispose_purged(&mut self, active: u64, purged: LogId) -> io::Result<()> {
        // The durable copies of vote and marks are in the active segment's first batch.
        let taken = self.shared.lock().segments.take_purged(active, purged.index);
        if taken.is_empty() {
            return Ok(());
        }
        self.files.ask(FileJob::Dispose(taken))
    }
}
