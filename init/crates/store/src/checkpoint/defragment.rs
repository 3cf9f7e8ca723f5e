//! Giving freed space back to the disk: the rows are copied into a new file, which takes the old one's name.
//!
//! redb reuses the pages of removed rows and gives them back to the disk only from the file's end. Its own compaction moves pages in place and
//! wants no reader; a copy is written front to back, is whole or not there at all, and lets readers of the old file finish. It needs room for
//! both, which is looked at first. A copy that was interrupted is removed when the checkpoint is opened.

use std::io;
use std::sync::{Arc, PoisonError};

use redb::ReadableTable as _;

use super::{Checkpoint, CheckpointError, FILE_NAME, KEY_FORMAT, META, Open, finish, rows, start, table_definition};
use crate::disk::Disk;
use crate::state::Table;

const COPY_NAME: &str = "state.redb.copy";
/// Free space that the copy leaves: the log goes on meanwhile.
const SPARE_BYTES: u64 = 64 << 20;

pub(super) fn remove_leftover(disk: &dyn Disk) -> io::Result<()> {
    match disk.remove(COPY_NAME) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Checkpoint {
    /// Replaces the file by one without gaps. To be called where commits are made, so that none comes in between.
    pub(super) fn defragment(&self, disk: &dyn Disk) -> Result<(), CheckpointError> {
        let failed = |source| CheckpointError::Io { operation: "defragment", source };
        let old = self.open_file();
        let (_, needed) = self.applied()?;
        let available = disk.available().map_err(failed)?.saturating_sub(SPARE_BYTES);
        if available < needed {
            return Err(CheckpointError::NoRoom { needed, available });
        }
        let new = match copy(&old, disk) {
            Ok(new) => new,
            Err(error) => {
                // Opening the checkpoint removes it, should this fail.
                drop(remove_leftover(disk));
                return Err(error);
            }
        };
        disk.rename(COPY_NAME, FILE_NAME).map_err(failed)?;
        disk.sync_directory().map_err(failed)?;
        drop(old);
        let old = std::mem::replace(&mut *self.open.write().unwrap_or_else(PoisonError::into_inner), Arc::new(new));
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).push(old);
        self.close_retired();
        Ok(())
    }
}

/// A durable copy of all tables.
fn copy(old: &Open, disk: &dyn Disk) -> Result<Open, CheckpointError> {
    let file = disk.create(COPY_NAME).map_err(|source| CheckpointError::Io { operation: "copy", source })?;
    let mut new = Open::new(file)?;
    {
        let from = old.read()?;
        let meta = from.open_table(META).map_err(CheckpointError::database("copy"))?;
        let format = meta.get(KEY_FORMAT).map_err(CheckpointError::database("copy"))?;
        let format = format.ok_or(CheckpointError::Format("it has no format record"))?;
        let to = new.begin()?;
        start(&to, format.value())?;
        for table in Table::ALL {
            let source = from.open_table(table_definition(table)).map_err(CheckpointError::database("copy"))?;
            let mut target = to.open_table(table_definition(table)).map_err(CheckpointError::database("copy"))?;
            for row in source.iter().map_err(CheckpointError::database("copy"))? {
                let (key, value) = row.map_err(CheckpointError::database("copy"))?;
                // A damaged row is found before the file that has it is given up.
                rows::check(table, key.value(), value.value())?;
                target.insert(key.value(), value.value()).map_err(CheckpointError::database("copy"))?;
            }
        }
        let applied = meta.get(super::KEY_APPLIED).map_err(CheckpointError::database("copy"))?;
        let (applied, used) = match applied {
            Some(applied) => super::decode_applied(applied.value())?,
            None => Default::default(),
        };
        finish(to, &applied, used)?;
    }
    // What a large transaction leaves free at the end of its file.
    new.database.compact().map_err(CheckpointError::database("compact"))?;
    Ok(new)
}
