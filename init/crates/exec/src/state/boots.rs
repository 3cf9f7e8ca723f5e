//! The boot history: `/state/boots/<number>`, a durable file of kind `boot` with a [`BootRecord`] as JSON. One is begun at each
//! boot, brought up to date while it runs, and completed at an ordered end, so a record without an end tells of a crash or a
//! power cut. Beside a record there may be `<number>.kmsg`, the kernel's last messages at an ordered end, and
//! `<number>.pstore/`, what the kernel saved of its last messages when it died.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use keelson_job::BootRecord;

use super::StateError;
use crate::durable;
use crate::jobs::chain;

/// How many boots are kept.
const KEPT: usize = 32;
const KIND: &str = "boot";

fn directory(state: &Path) -> PathBuf {
    state.join("boots")
}

fn file(state: &Path, number: u64) -> PathBuf {
    directory(state).join(format!("{number:08}"))
}

/// The numbers of the boots that have a record, ascending.
fn numbers(state: &Path) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(directory(state)) else { return Vec::new() };
    let mut numbers: Vec<u64> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// All records, the latest last. A damaged one still gives its number, so that numbers never repeat.
pub(super) fn history(state: &Path, notes: &mut Vec<String>) -> Vec<BootRecord> {
    numbers(state).into_iter().map(|number| read_or_blank(state, number, notes)).collect()
}

fn read_or_blank(state: &Path, number: u64, notes: &mut Vec<String>) -> BootRecord {
    let record = read(state, number).unwrap_or_else(|error| {
        notes.push(chain(&error));
        None
    });
    record.unwrap_or(BootRecord { number, ..BootRecord::default() })
}

fn read(state: &Path, number: u64) -> Result<Option<BootRecord>, StateError> {
    let Some(body) = durable::read(&file(state, number), KIND)? else { return Ok(None) };
    serde_json::from_slice(&body).map_err(|source| StateError::Boot { path: file(state, number), source })
}

/// Writes the record of a boot that begins, and lets the oldest go.
pub(super) fn begin(state: &Path, record: &BootRecord) -> Result<(), StateError> {
    let directory = directory(state);
    if !directory.is_dir() {
        fs::create_dir(&directory).map_err(|source| StateError::Make { path: directory, source })?;
    }
    write(state, record)?;
    let numbers = numbers(state);
    let surplus = numbers.len().saturating_sub(KEPT);
    for number in numbers.into_iter().take(surplus) {
        // One too many is no fault.
        let _ = fs::remove_file(file(state, number));
        let _ = fs::remove_file(beside(state, number, "kmsg"));
        let _ = fs::remove_dir_all(beside(state, number, "pstore"));
    }
    Ok(())
}

/// Held by whoever changes a record while the machine runs: an update may still be under way when the end is written. Who holds it was
/// killed or ends by itself, and PID 1 gives nobody who waits more than a job's time.
pub(super) fn lock(state: &Path) -> Result<File, StateError> {
    let path = directory(state);
    let locked = File::open(&path).and_then(|directory| directory.lock().map(|()| directory));
    locked.map_err(|source| StateError::Lock { path, source })
}

/// Changes the latest record, which is the present boot's.
pub(super) fn update(state: &Path, change: impl FnOnce(&mut BootRecord)) -> Result<(), StateError> {
    let Some(number) = numbers(state).last().copied() else { return Ok(()) };
    let mut record = read_or_blank(state, number, &mut Vec::new());
    change(&mut record);
    write(state, &record)
}

/// Where more is kept of a boot than its record.
pub(super) fn beside(state: &Path, number: u64, what: &str) -> PathBuf {
    file(state, number).with_extension(what)
}

pub(super) fn beside_latest(state: &Path, what: &str) -> PathBuf {
    beside(state, numbers(state).last().copied().unwrap_or_default(), what)
}

pub(super) fn write(state: &Path, record: &BootRecord) -> Result<(), StateError> {
    let body = serde_json::to_vec(record).map_err(StateError::Encode)?;
    Ok(durable::write(&file(state, record.number), KIND, &body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_bounded_and_keeps_the_latest() {
        let state = tempfile::tempdir().unwrap();
        for number in 1..=40 {
            begin(state.path(), &BootRecord { number, booted_at: number, ..BootRecord::default() }).unwrap();
            fs::write(beside(state.path(), number, "kmsg"), "x").unwrap();
            fs::create_dir(beside(state.path(), number, "pstore")).unwrap();
        }
        let numbers = numbers(state.path());
        assert_eq!((numbers.len(), numbers.last()), (KEPT, Some(&40)));
        assert_eq!(fs::read_dir(directory(state.path())).unwrap().count(), KEPT * 3);
        assert_eq!(history(state.path(), &mut Vec::new()).last().unwrap().number, 40);
    }
}
