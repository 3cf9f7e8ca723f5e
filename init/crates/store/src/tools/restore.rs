//! A data directory made from rows: what a restored, imported or recovered member starts from.
//!
//! The member is the only one of a new cluster, under new ids: whoever knew the old cluster must not take this one for it. Its checkpoint is
//! of an entry that the log is purged up to, so that a member which joins later is given the whole state and never only what came after.
//! Order: identity, log, checkpoint, and last the mark that the identity is in use. A log that is purged beyond the checkpoint is refused by a
//! start, so half a restore is never started from.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::{Applied, Checkpoint, CheckpointError};
use crate::disk::{Disk, HostDisk};
use crate::identity::{Identity, IdentityError};
use crate::log::{self, Completion, Log, LogId, OpenError, Vote};
use crate::member::{Member, Membership};
use crate::random::{Random, SystemRandom};
use crate::state::{Keys, LoadError, Revisions, Row};

#[derive(Debug, thiserror::Error)]
pub(super) enum RestoreError {
    #[error("{} is not empty: a restore makes a new data directory", path.display())]
    NotEmpty { path: PathBuf },
    #[error("{operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write the identity")]
    Identity(#[source] IdentityError),
    #[error("write the log")]
    Log(#[source] OpenError),
    #[error("write the log's first marks")]
    Marks(#[source] io::Error),
    #[error("write the checkpoint")]
    Checkpoint(#[from] CheckpointError),
    #[error("write the checkpoint's rows")]
    Rows(#[from] LoadError),
    #[error("revision {revision} cannot be raised by {by}: there are no such revisions")]
    Bump { revision: i64, by: u64 },
}

/// What becomes of the revisions. Clients that saw the old cluster have seen revisions which the new one has not: were it to use them again
/// for other changes, their caches would be silently wrong. Raised beyond them, and compacted there, they must read everything anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bump {
    No,
    By(u64),
}

/// Passes rows on, without alarms (which are about the old cluster's members), with the revisions raised.
pub(super) struct Rewritten<I> {
    rows: I,
    bump: Bump,
    public: Revisions,
    cluster: Revisions,
    last: Option<std::vec::IntoIter<Row>>,
}

impl<I: Iterator<Item = Result<Row, LoadError>>> Rewritten<I> {
    pub(super) fn new(rows: I, bump: Bump) -> Self {
        Self { rows, bump, public: Revisions::default(), cluster: Revisions::default(), last: None }
    }

    /// Of what etcd's API shows, as far as rows were taken; all of them at the end.
    pub(super) fn revisions(&self) -> Revisions {
        self.public
    }

    fn of(&mut self, keys: Keys) -> &mut Revisions {
        match keys {
            Keys::Public => &mut self.public,
            Keys::Cluster => &mut self.cluster,
        }
    }

    fn finish(&mut self) -> Result<Vec<Row>, RestoreError> {
        let mut rows = Vec::new();
        for keys in Keys::ALL {
            let bump = self.bump;
            let revisions = self.of(keys);
            if let Bump::By(by) = bump {
                let revision = revisions.current;
                let raised = i64::try_from(by).ok().and_then(|by| revision.checked_add(by));
                let raised = raised.ok_or(RestoreError::Bump { revision, by })?;
                *revisions = Revisions { current: raised, compacted: raised };
            }
            rows.extend(revisions.rows(keys));
        }
        Ok(rows)
    }
}

impl<I: Iterator<Item = Result<Row, LoadError>>> Iterator for Rewritten<I> {
    type Item = Result<Row, LoadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(last) = &mut self.last {
            return last.next().map(Ok);
        }
        while let Some(row) = self.rows.next() {
            let row = match row {
                Ok(row) => row,
                Err(error) => return Some(Err(error)),
            };
            let (keys, tables) = (row.table.keys(), row.table.keys().tables());
            if row.table == tables.meta {
                self.of(keys).take(&row);
                continue;
            }
            if let Some(revision) = crate::mvcc::Revision::from_key(&row.key).filter(|_| row.table == tables.revisions)
            {
                let revisions = self.of(keys);
                revisions.current = revisions.current.max(revision.main);
            }
            return Some(Ok(row));
        }
        match self.finish() {
            Ok(rows) => self.last.insert(rows.into_iter()).next().map(Ok),
            Err(error) => Some(Err(LoadError::Read(io::Error::other(error)))),
        }
    }
}

/// Makes the data directory. Its first entry will come behind `at`.
pub(super) fn write(
    path: &Path,
    member: Member,
    at: LogId,
    rows: &mut dyn Iterator<Item = Result<Row, LoadError>>,
) -> Result<Identity, RestoreError> {
    let failed = |operation| move |source| RestoreError::Io { operation, path: path.to_owned(), source };
    let disk = HostDisk::open(path).map_err(failed("make"))?;
    if !disk.list().map_err(failed("list"))?.is_empty() {
        return Err(RestoreError::NotEmpty { path: path.to_owned() });
    }
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let mut identity = Identity::load_or_create(disk.as_ref(), random.as_ref()).map_err(RestoreError::Identity)?;
    write_log(&disk, &random, identity, at)?;
    let member = Member { store_id: identity.store_id, wants_vote: false, ..member };
    let membership = Membership {
        voters: vec![BTreeSet::from([identity.member_id])],
        members: BTreeMap::from([(identity.member_id, member)]),
    };
    let applied = Applied { last: Some(at), membership, membership_id: Some(at) };
    Checkpoint::open(disk.as_ref(), identity.store_id)?.replace(rows, &applied)?;
    identity.mark_in_use(disk.as_ref()).map_err(RestoreError::Identity)?;
    Ok(identity)
}

/// A log that ends at `at` and keeps nothing.
fn write_log(
    disk: &Arc<dyn Disk>,
    random: &Arc<dyn Random>,
    identity: Identity,
    at: LogId,
) -> Result<(), RestoreError> {
    let options = log::Options { store_id: identity.store_id, ..log::Options::default() };
    let log = Log::open(Arc::clone(disk), random, options, Box::new(|_| {})).map_err(RestoreError::Log)?;
    let (tell, told) = std::sync::mpsc::channel();
    let done = |tell: &std::sync::mpsc::Sender<io::Result<()>>| -> Completion {
        let tell = tell.clone();
        // Nobody listens any more after the first failure.
        Box::new(move |result| drop(tell.send(result)))
    };
    log.save_vote(Vote { term: at.term, member: identity.member_id, committed: false }, done(&tell));
    log.purge(at, done(&tell));
    drop(tell);
    // The log is dropped behind this, which ends its threads.
    told.iter().take(2).try_for_each(|result| result.map_err(RestoreError::Marks))
}
