//! What is on disk, opened and checked against each other.

use std::io;
use std::sync::Arc;

use tokio::sync::watch;

use super::{Config, Failure, StartError, report};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::writer::Writer;
use crate::disk::Disk;
use crate::identity::Identity;
use crate::log::{self, Log};
use crate::peer::spool::Spool;
use crate::raft::machine::Machine;
use crate::random::Random;
use crate::state::Replicated;

/// What a node is made of below consensus.
pub(super) struct Parts<S> {
    pub(super) log: Log,
    pub(super) checkpoint: Arc<Writer>,
    pub(super) machine: Machine<S>,
}

/// Opens what is on disk. It reads much and blocks, so it runs where that is allowed.
pub(super) async fn open<S: Replicated>(
    config: &Config,
    identity: Identity,
    disk: &Arc<dyn Disk>,
    random: &Arc<dyn Random>,
    state: &S,
    fail: Arc<watch::Sender<Option<Failure>>>,
) -> Result<Parts<S>, StartError> {
    let options = log::Options {
        segment_size: config.log_segment_size,
        cache_bytes: config.log_cache_bytes,
        store_id: identity.store_id,
    };
    let place = match &config.consensus {
        Some(runtime) => log::Place::Runtime(runtime.clone()),
        #[cfg(test)]
        None if crate::simulation::is_active() => log::Place::Simulation,
        None => log::Place::Thread,
    };
    let (disk, random, state) = (Arc::clone(disk), Arc::clone(random), state.clone());
    let opened = crate::blocking::run(move || {
        Spool::clean(disk.as_ref()).map_err(StartError::Disk)?;
        let checkpoint = Arc::new(Checkpoint::open(disk.as_ref(), identity.store_id)?);
        let rows = checkpoint.rows()?;
        let applied = rows.applied().clone();
        state.load(&mut rows.ahead()?)?;
        let on_failure = move |error: &io::Error| {
            report(&fail, format!("the log cannot be written: {error}"));
        };
        let log = Log::open_on(disk, &random, options, Box::new(on_failure), place).map_err(StartError::Log)?;
        let marks = log.marks();
        if identity.in_use && marks.last.is_none() {
            return Err(StartError::LogLost);
        }
        if let Some(purged) = marks.purged {
            let checkpoint = applied.last.map_or(0, |id| id.index);
            if checkpoint < purged.index {
                return Err(StartError::Hole { checkpoint, purged: purged.index });
            }
        }
        if let (Some(last), Some(applied_last)) = (marks.last, applied.last)
            && last.index < applied_last.index
            && applied.membership.needs(identity.member_id)
        {
            return Err(StartError::EndLost { log: last.index, checkpoint: applied_last.index });
        }
        let checkpoint = Arc::new(Writer::start(checkpoint)?);
        let machine = Machine::new(state, Arc::clone(&checkpoint), &applied).map_err(StartError::Thread)?;
        Ok(Parts { log, checkpoint, machine })
    });
    opened.await.map_err(StartError::Thread)?
}
