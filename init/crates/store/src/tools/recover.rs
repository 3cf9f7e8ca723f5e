//! Recovery from a lost quorum: one member's data, made into a cluster of its own.
//!
//! To be run on a member that is stopped, and on one member only: the one that is farthest, which is why index and term are told before
//! anything is changed. All entries of its log are applied, also those that are not known to be committed: whether they were acknowledged
//! cannot be told any more, and losing one that was is worse than keeping one that was not. The old directory is kept beside the new one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::restore::{self, Bump, RestoreError, Rewritten};
use crate::checkpoint::{Applied, Checkpoint, CheckpointError};
use crate::data_dir::{DataDir, DataDirError};
use crate::disk::Disk;
use crate::identity::{Identity, IdentityError};
use crate::log::{self, Log, LogId, Marks, OpenError, Payload};
use crate::member::Member;
use crate::random::{Random, SystemRandom};
use crate::state::{Committed, LoadError, Replicated as _, State};

/// Log read at once.
const READ_BYTES: usize = 4 << 20;
/// Rows taken from the state at once.
const SLICE_ROWS: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub(super) enum RecoverError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("{} holds no member", path.display())]
    NoMember { path: PathBuf },
    #[error("read the log")]
    Log(#[source] OpenError),
    #[error("read the log's entries")]
    Entries(#[source] std::io::Error),
    #[error("read the checkpoint")]
    Checkpoint(#[from] CheckpointError),
    #[error("read the checkpoint's rows")]
    Rows(#[from] LoadError),
    #[error(
        "this member's checkpoint ends at entry {checkpoint} and its log begins after {purged}: entries between them are lost here. Recover another member"
    )]
    Hole { checkpoint: u64, purged: u64 },
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error("the recovered member is in {}: {} cannot be replaced by it", new.display(), old.display())]
    Rename {
        old: PathBuf,
        new: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// A stopped member's state, with its whole log applied.
pub(super) struct Stopped {
    path: PathBuf,
    pub(super) identity: Identity,
    pub(super) marks: Marks,
    pub(super) last: Option<LogId>,
    pub(super) members: usize,
    pub(super) state: State,
    member: Member,
    _lock: DataDir,
}

impl Stopped {
    pub(super) async fn load(path: &Path) -> Result<Self, RecoverError> {
        if !path.is_dir() {
            return Err(RecoverError::NoMember { path: path.to_owned() });
        }
        let lock = DataDir::open(path).await?;
        let disk: Arc<dyn Disk> = Arc::<crate::disk::HostDisk>::clone(&lock.disk);
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        if disk.list().map_err(RecoverError::Entries)?.iter().all(|name| name != "identity") {
            return Err(RecoverError::NoMember { path: path.to_owned() });
        }
        let identity = Identity::load_or_create(disk.as_ref(), random.as_ref())?;
        let state = State::default();
        let checkpoint = Checkpoint::open(disk.as_ref(), identity.store_id)?;
        let mut rows = checkpoint.rows()?;
        let mut applied = rows.applied().clone();
        state.load(&mut rows)?;
        let options = log::Options { store_id: identity.store_id, ..log::Options::default() };
        let log = Log::open(disk, &random, options, Box::new(|_| {})).map_err(RecoverError::Log)?;
        let marks = log.marks();
        let checkpoint = applied.last.map_or(0, |id| id.index);
        if let Some(purged) = marks.purged.filter(|purged| purged.index > checkpoint) {
            return Err(RecoverError::Hole { checkpoint, purged: purged.index });
        }
        apply(&log, &state, &mut applied).map_err(RecoverError::Entries)?;
        let member = applied.membership.members.get(&identity.member_id).cloned().unwrap_or_default();
        let members = applied.membership.members.len();
        Ok(Self { path: path.to_owned(), identity, marks, last: applied.last, members, state, member, _lock: lock })
    }

    /// Writes the new member, and puts it in the old one's place. Returns where the old one is.
    pub(super) fn make_alone(&self, bump: Bump) -> Result<(PathBuf, Identity), RecoverError> {
        let beside = |suffix: &str| {
            let mut name = self.path.clone().into_os_string();
            name.push(suffix);
            PathBuf::from(name)
        };
        let old = beside(&format!(".before-recovery-{:x}", self.identity.cluster_id));
        let new = beside(".recovered");
        let at = self.last.unwrap_or(LogId { term: 1, index: 1 });
        let mut rows = Rewritten::new(self.state.snapshot().rows(SLICE_ROWS), bump);
        let identity = restore::write(&new, self.member.clone(), at, &mut rows)?;
        let renamed = std::fs::rename(&self.path, &old).and_then(|()| std::fs::rename(&new, &self.path));
        renamed.map_err(|source| RecoverError::Rename { old: self.path.clone(), new, source })?;
        Ok((old, identity))
    }
}

/// Applies what the log has behind the checkpoint.
fn apply(log: &Log, state: &State, applied: &mut Applied) -> std::io::Result<()> {
    let end = log.marks().last.map_or(0, |last| last.index + 1);
    // An empty checkpoint is one before the first entry, whose index is 0.
    let mut next = applied.last.map_or(0, |last| last.index + 1);
    while next < end {
        let entries = log.read(next, end, READ_BYTES)?;
        if entries.is_empty() {
            return Err(std::io::Error::other(format!("entry {next} is not there")));
        }
        for entry in entries {
            match entry.payload {
                Payload::Blank => {}
                Payload::Command(command) => {
                    let command = command.into_command();
                    state.apply(&[Committed { index: entry.id.index, term: entry.id.term, command }]);
                }
                Payload::Membership(membership) => {
                    applied.membership = membership.as_ref().clone();
                    applied.membership_id = Some(entry.id);
                }
            }
            applied.last = Some(entry.id);
            next = entry.id.index + 1;
        }
    }
    Ok(())
}
