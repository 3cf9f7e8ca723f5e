//! The replicated log on this member's disk: what makes a write survive a power cut.
//!
//! # Why in this form
//!
//! An append-only file whose blocks are already allocated and zeroed needs one `fdatasync` and no metadata to make a group of
//! writes durable, 2.5 times faster than a commit of a B-tree and up to thirty times in batches. So all that consensus must not
//! forget (entries, vote, what was truncated and purged) goes into this one log, in order, by one thread:
//! whatever is asked for while an `fdatasync` runs is the next batch.
//!
//! # Layout, version 1
//!
//! Files `log-<number>`, sixteen hexadecimal digits, of one fixed size; all integers little endian.
//!
//! ```text
//! segment header, 4096 bytes, zero padded          batch header, 56 bytes, 8-aligned
//!    0  u64  magic "KEELSLOG"                         0  u32  magic "KBAT"
//!    8  u32  format version                           4  u32  CRC-32 of the header after this field and of the payload
//!   12  u32  oldest version that reads it             8  u64  salt of the segment
//!   16  u64  store id, as in the identity file       16  u64  sequence, one more than the batch before
//!   24  u64  segment number                          24  u32  payload length
//!   32  u64  salt, random                            28  u32  records in the payload
//!   40  u32  segment size                            32  u64  index of the last entry known committed
//!   44  u32  CRC-32 of the bytes before              40  u64  its term   48  u64  1 if there is one
//!
//! records: u8 kind, then by kind
//!   1 entry     u8 payload kind, u16 0, u32 length, u32 CRC-32 of the record without these 8 bytes, u32 0, u64 index, u64 term, payload
//!   2 vote      u8 committed, 6 zero bytes, u64 term, u64 member
//!   3 truncate  7 zero bytes, u64 first index removed
//!   4 purge     7 zero bytes, u64 last index removed, u64 its term
//! payload of an entry: 0 blank (empty), 1 command (`command`), 2 membership (`member`)
//! ```
//!
//! Upgrade rule: a release reads every version from the oldest it names up to its own and writes the older one until its
//! OS slot is marked good; a file that names a newer "oldest reader" is refused with a message.
//!
//! # Invariants
//!
//! - A batch is written only after the `fdatasync` of the one before returned. Hence at most the last batch can be torn, and a
//!   bad batch before a valid one is damage: the member refuses to start rather than forget what it promised.
//! - Torn and flipped cannot be told apart in the last batch: the sectors of one unsynced write persist in any order. One CRC covers
//!   header and payload, so a torn batch is dropped whole; nothing in it was ever acknowledged.
//! - A segment's first batch repeats vote, purge and commit marks, so older segments can go once it is durable.
//! - A segment has its name once all of it is durable, so one that is shorter than its header says has lost its end: damage, too.
//! - Recycled segments get a new salt, so that what was in them never looks current.
//! - The commit mark rides in batch headers and may be behind after a crash; it never costs an `fdatasync`.
//! - After a failed write or `fdatasync` nothing is tried again: the page cache may have dropped what it could not write. The process ends.

pub mod format;
mod index;
pub mod recovery;
mod segment;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::command::Encoded;
use crate::disk::Disk;
use crate::histogram::Histogram;
use crate::member::{MemberId, Membership};
use crate::random::Random;

use index::Index;
pub use recovery::OpenError;
use segment::Segments;

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogId {
    pub term: u64,
    pub index: u64,
}

/// Whom this member voted for in a term; `committed` once that member won.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    pub term: u64,
    pub member: MemberId,
    pub committed: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub id: LogId,
    pub payload: Payload,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    Blank,
    Command(Encoded),
    Membership(Arc<Membership>),
}

/// What consensus asks the log about on start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    /// The last entry, or `purged` if there is none behind it.
    pub last: Option<LogId>,
}

/// Bounds of the log.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Size of a file, and so the largest batch.
    pub segment_size: u32,
    /// Memory for recent entries, which apply and replication read.
    pub cache_bytes: usize,
    /// Which store the files belong to.
    pub store_id: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_size: 8 << 20, cache_bytes: 4 << 20, store_id: 0 }
    }
}

/// Where the log is written.
#[derive(Clone, Debug)]
pub enum Place {
    /// On a thread of its own.
    Thread,
    /// By a task of this runtime, whose thread then waits for the disk: for one that has nothing to do until the disk is done.
    Runtime(tokio::runtime::Handle),
    /// By a task whose disk takes its time.
    #[cfg(test)]
    Simulation,
}

/// Called once the operation it came with is durable, or failed for good.
pub type Completion = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Called when the log can promise nothing any more. It is meant not to return.
pub type OnFailure = Box<dyn Fn(&io::Error) + Send>;

/// A handle on the log; clones see the same one. The writer's thread ends with the last of them.
#[derive(Clone, Debug)]
pub struct Log {
    shared: Arc<Shared>,
    _writer: Arc<writer::Handle>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Wake,
    sync_times: Histogram,
}

#[derive(Debug)]
struct State {
    index: Index,
    vote: Option<Vote>,
    committed: Option<LogId>,
    segments: Segments,
    queue: Vec<Request>,
    closed: bool,
    failed: bool,
}

struct Request {
    operation: Operation,
    done: Completion,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.operation.fmt(f)
    }
}

#[derive(Debug)]
enum Operation {
    Append(Vec<Entry>),
    Vote(Vote),
    /// Removes this index and all behind it.
    Truncate(u64),
    /// Removes this entry and all before it.
    Purge(LogId),
    /// Writes nothing but the commit mark.
    Flush,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // The state is changed by whole steps that do not panic; a poisoned lock has a consistent state behind it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the writer waits.
#[derive(Debug)]
enum Wake {
    Thread(std::sync::Condvar),
    Task(tokio::sync::Notify),
}

impl Shared {
    fn wake_writer(&self) {
        match &self.wake {
            Wake::Thread(condition) => condition.notify_one(),
            Wake::Task(notify) => notify.notify_one(),
        }
    }
}

impl Log {
    /// Recovers the log from its files and starts the writer, on a thread of its own.
    pub fn open(
        disk: Arc<dyn Disk>,
        random: &Arc<dyn Random>,
        options: Options,
        on_failure: OnFailure,
    ) -> Result<Self, OpenError> {
        Self::open_on(disk, random, options, on_failure, Place::Thread)
    }

    /// As [`Log::open`], with the writer in another place.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        random: &Arc<dyn Random>,
        options: Options,
        on_failure: OnFailure,
        place: Place,
    ) -> Result<Self, OpenError> {
        let recovered = recovery::recover(disk.as_ref(), options)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                index: recovered.index,
                vote: recovered.vote,
                committed: recovered.committed,
                segments: recovered.segments,
                queue: Vec::new(),
                closed: false,
                failed: false,
            }),
            wake: match &place {
                Place::Thread => Wake::Thread(std::sync::Condvar::new()),
                Place::Runtime(_) => Wake::Task(tokio::sync::Notify::new()),
                #[cfg(test)]
                Place::Simulation => Wake::Task(tokio::sync::Notify::new()),
            },
            sync_times: Histogram::default(),
        });
        let random = Arc::clone(random);
        let writer =
            writer::Handle::start(disk, random, options, Arc::clone(&shared), recovered.tail, on_failure, place)
                .map_err(|source| OpenError::Io { operation: "start the log's writer", name: String::new(), source })?;
        Ok(Self { shared, _writer: Arc::new(writer) })
    }

    pub fn marks(&self) -> Marks {
        let state = self.shared.lock();
        Marks { vote: state.vote, committed: state.committed, purged: state.index.purged(), last: state.index.last() }
    }

    pub fn vote(&self) -> Option<Vote> {
        self.shared.lock().vote
    }

    /// Appends entries, which can be read at once; `done` is called when they are durable.
    pub fn append(&self, entries: Vec<Entry>, done: Completion) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.index.append(&entries)?;
        self.submit(&mut state, Operation::Append(entries), done);
        Ok(())
    }

    pub fn save_vote(&self, vote: Vote, done: Completion) {
        let mut state = self.shared.lock();
        state.vote = Some(vote);
        self.submit(&mut state, Operation::Vote(vote), done);
    }

    /// Notes what is committed; it becomes durable with the next batch.
    pub fn save_committed(&self, committed: Option<LogId>) {
        self.shared.lock().committed = committed;
    }

    /// Removes `first` and all entries behind it.
    pub fn truncate(&self, first: u64, done: Completion) {
        let mut state = self.shared.lock();
        state.index.truncate(first);
        self.submit(&mut state, Operation::Truncate(first), done);
    }

    /// Removes `last` and all entries before it, also if that is beyond the end: the state may be ahead of the log.
    pub fn purge(&self, last: LogId, done: Completion) {
        let mut state = self.shared.lock();
        state.index.purge(last);
        self.submit(&mut state, Operation::Purge(last), done);
    }

    /// Makes the commit mark durable.
    pub fn flush(&self, done: Completion) {
        let mut state = self.shared.lock();
        self.submit(&mut state, Operation::Flush, done);
    }

    fn submit(&self, state: &mut State, operation: Operation, done: Completion) {
        if state.failed || state.closed {
            done(Err(io::Error::other("the log has failed")));
            return;
        }
        state.queue.push(Request { operation, done });
        if state.queue.len() == 1 {
            self.shared.wake_writer();
        }
    }

    /// The entries of `[start, end)` that are there, at least one and then at most about `max_bytes`.
    pub fn read(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let lookups = {
            let state = self.shared.lock();
            state.index.lookup(start, end, max_bytes, &state.segments)?
        };
        lookups.into_iter().map(index::Lookup::resolve).collect()
    }

    /// How long batches took to become durable.
    pub fn sync_times(&self) -> &Histogram {
        &self.shared.sync_times
    }

    /// The newest entry that can be purged so that about `keep_bytes` of log remain behind it.
    pub fn purge_point(&self, keep_bytes: u64) -> Option<u64> {
        self.shared.lock().index.purge_point(keep_bytes)
    }

    /// Bytes of entries that were ever made durable since the start, those found then included.
    pub fn appended_bytes(&self) -> u64 {
        self.shared.lock().index.appended_bytes()
    }

    /// Bytes of entries in the log.
    pub fn retained_bytes(&self) -> u64 {
        self.shared.lock().index.retained_bytes()
    }
}
