//! The boot history: `/state/boots/<number>`, a durable file of kind `boot` with a [`BootRecord`] as JSON. One is begun at each
//! boot and completed at an ordered end, so a record without an end tells of a crash or a power cut.

use std::fs;
use std::path::{Path, PathBuf};

use keelson_job::{BootEnd, BootRecord};

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
    record.unwrap_or(BootRecord { number, version: String::new(), booted_at: 0, end: None })
}

fn read(state: &Path, number: u64) -> Result<Option<BootRecord>, StateError> {
    let Some(body) = durable::read(&file(state, number), KIND)? else { return Ok(None) };
    serde_json::from_slice(&body).map_err(|source| StateError::Identity { path: file(state, number), source })
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
    }
    Ok(())
}

/// Completes the latest record.
pub(super) fn finish(state: &Path, end: BootEnd) -> Result<(), StateError> {
    let Some(number) = numbers(state).last().copied() else { return Ok(()) };
    let mut record = read_or_blank(state, number, &mut Vec::new());
    record.end = Some(end);
    write(state, &record)
}

fn write(state: &Path, record: &BootRecord) -> Result<(), StateError> {
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
            begin(state.path(), &BootRecord { number, version: "1".to_owned(), booted_at: number, end: None }).unwrap();
        }
        let numbers = numbers(state.path());
        assert_eq!((numbers.len(), numbers.last()), (KEPT, Some(&40)));
        assert_eq!(history(state.path(), &mut Vec::new()).last().unwrap().number, 40);
    }
}
