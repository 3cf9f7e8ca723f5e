//! What STATE keeps for PID 1: `format`, `machine-id`, `boots/`, `clock`, `seed`. All of them are durable files ([`durable`]).
//!
//! `format` says that this is a STATE and of which layout; it is written last when STATE is new. The others can be missing
//! without harm, and what is damaged among clock, seed and boots is replaced: none of it is worth a node that does not boot.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use keelson_config::{Remembered, Role};
use keelson_job::{BootEnd, BootRecord, Progress, STATE, State};
use keelson_sys::{clock, entropy};
use serde::Deserialize;
use thiserror::Error;

use crate::durable::{self, DurableError};
use crate::jobs::chain;
use crate::root::RootHash;

mod boots;
mod evidence;

const VERSION: &str = "/usr/share/keelson/version";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const PSTORE: &str = "/sys/fs/pstore";
const KERNEL_LOG: &str = "/dev/kmsg";
/// The version of keelson-cluster's identity file that is understood here.
const IDENTITY_VERSION: u32 = 1;

#[derive(Debug, Error)]
pub(crate) enum StateError {
    #[error(transparent)]
    Durable(#[from] DurableError),
    #[error("cannot make {}", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} cannot be understood", path.display())]
    Identity { path: PathBuf, source: serde_json::Error },
    #[error("{} was written by a later release: it needs version {oldest_reader}", path.display())]
    IdentityTooNew { path: PathBuf, oldest_reader: u32 },
    #[error("cannot draw random bytes")]
    Random(#[source] io::Error),
    #[error("{} does not hold a machine-id", path.display())]
    MachineId { path: PathBuf },
    #[error("cannot write a boot's record as JSON")]
    Encode(#[source] serde_json::Error),
}

/// Begins a boot: reads what is remembered, spends the seed, starts a record.
pub(crate) fn open(booted_at: u64) -> Result<State, StateError> {
    open_in(Path::new(STATE), booted_at, &Sources::default())
}

/// In the middle of a boot: saves the clock and what is known of the boot so far.
pub(crate) fn keep(progress: Progress) -> Result<(), StateError> {
    keep_in(Path::new(STATE), progress)
}

fn keep_in(state: &Path, progress: Progress) -> Result<(), StateError> {
    save_clock(state)?;
    boots::update(state, |record| record.progress = progress)
}

/// Ends a boot: completes its record, saves the clock and the kernel's last messages.
pub(crate) fn close(progress: Progress, end: BootEnd) -> Result<(), StateError> {
    close_in(Path::new(STATE), progress, end, Path::new(KERNEL_LOG))
}

fn close_in(state: &Path, progress: Progress, end: BootEnd, kernel_log: &Path) -> Result<(), StateError> {
    save_clock(state)?;
    boots::update(state, |record| {
        record.progress = progress;
        record.end = Some(end);
    })?;
    evidence::keep_kernel_log(kernel_log, &boots::beside_latest(state, "kmsg"))
}

/// Where things are on a machine. Tests have them elsewhere.
#[derive(Debug)]
struct Sources<'a> {
    random: &'a Path,
    pstore: &'a Path,
}

impl Default for Sources<'_> {
    fn default() -> Self {
        Self { random: Path::new("/dev/urandom"), pstore: Path::new(PSTORE) }
    }
}

fn open_in(state: &Path, booted_at: u64, sources: &Sources<'_>) -> Result<State, StateError> {
    let mut notes = Vec::new();
    // Refuses a STATE of a later release before anything in it is touched.
    let format = durable::read(&state.join("format"), "state")?;
    let machine_id = machine_id(state)?;
    let remembered = remembered(state)?;
    let history = boots::history(state, &mut notes);
    let number = history.last().map_or(1, |record| record.number.saturating_add(1));
    let command_line = fs::read("/proc/cmdline").unwrap_or_default();
    let image = RootHash::find(&command_line).ok().flatten().map(|hash| hash.to_string()).unwrap_or_default();
    let mut record = BootRecord {
        number,
        booted_at,
        image,
        version: word(VERSION),
        boot_id: word(BOOT_ID),
        ..BootRecord::default()
    };
    boots::begin(state, &record)?;
    // What the last boot left behind is kept under its number, and only then taken out of the firmware's store.
    record.before =
        evidence::harvest(sources.pstore, &boots::beside(state, number.saturating_sub(1), "pstore"), &mut notes);
    boots::write(state, &record)?;
    let saved_clock = worthless_if_damaged(durable::read(&state.join("clock"), "clock"), &mut notes);
    spend_seed(state, sources.random, &mut notes)?;
    if format.is_none() {
        durable::write(&state.join("format"), "state", b"")?;
    }
    Ok(State {
        machine_id,
        clock: saved_clock.and_then(|body| String::from_utf8(body).ok()?.trim().parse().ok()),
        history,
        present: record,
        remembered,
        notes,
    })
}

/// A small file of one word; nothing if it cannot be read.
fn word(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// machine-id(5): made once, random, with the version and variant bits of a UUID of version 4.
fn machine_id(state: &Path) -> Result<String, StateError> {
    let path = state.join("machine-id");
    if let Some(body) = durable::read(&path, "machine-id")? {
        let text = String::from_utf8(body).unwrap_or_default();
        let valid = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        return if valid { Ok(text) } else { Err(StateError::MachineId { path }) };
    }
    let random = entropy::seed_material().map_err(StateError::Random)?;
    let random = random.first_chunk::<16>().map_or(0, |bytes| u128::from_be_bytes(*bytes));
    let text = format!("{:032x}", random & !(0xf << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62);
    durable::write(&path, "machine-id", text.as_bytes())?;
    Ok(text)
}

/// Those fields of keelson-cluster's `identity.json` that overrule the sources.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IdentityFile {
    oldest_reader: u32,
    cluster_id: Option<String>,
    role: Option<Role>,
    name: Option<String>,
}

fn remembered(state: &Path) -> Result<Remembered, StateError> {
    let path = state.join("identity.json");
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Remembered::default()),
        Err(source) => return Err(StateError::Read { path, source }),
        Ok(text) => text,
    };
    let file: IdentityFile = match serde_json::from_slice(&text) {
        Ok(file) => file,
        Err(source) => return Err(StateError::Identity { path, source }),
    };
    if file.oldest_reader > IDENTITY_VERSION {
        return Err(StateError::IdentityTooNew { path, oldest_reader: file.oldest_reader });
    }
    Ok(Remembered { role: file.role, name: file.name, cluster_id: file.cluster_id })
}

/// Uses the saved seed once. First it is mixed in without credit, then a new one takes its place on the disk, and only then is
/// the old one credited: a power cut in between cannot make two boots count the same secret.
fn spend_seed(state: &Path, random: &Path, notes: &mut Vec<String>) -> Result<(), StateError> {
    let path = state.join("seed");
    let old: Option<[u8; entropy::SEED_BYTES]> =
        worthless_if_damaged(durable::read(&path, "seed"), notes).and_then(|body| body.try_into().ok());
    if let Some(old) = &old {
        // Anybody may write here; it only ever adds.
        fs::write(random, old).map_err(StateError::Random)?;
    }
    let new = entropy::seed_material().map_err(StateError::Random)?;
    durable::write(&path, "seed", &new)?;
    if let Some(old) = &old {
        let credited = File::open(random).and_then(|random| entropy::credit(&random, old));
        if let Err(error) = credited {
            notes.push(format!("the saved seed is not credited: {error}"));
        }
    }
    Ok(())
}

fn save_clock(state: &Path) -> Result<(), StateError> {
    Ok(durable::write(&state.join("clock"), "clock", clock::wall().as_secs().to_string().as_bytes())?)
}

/// For what a node can do without: damage is said, and the file is written anew anyway.
fn worthless_if_damaged(read: Result<Option<Vec<u8>>, DurableError>, notes: &mut Vec<String>) -> Option<Vec<u8>> {
    read.unwrap_or_else(|error| {
        notes.push(chain(&error));
        None
    })
}

#[cfg(test)]
mod tests {
    use keelson_job::Cause;

    use super::*;

    /// The pool cannot be credited by everyone, and must not be by a test: a plain file stands for it.
    fn open_here(state: &Path) -> Result<State, StateError> {
        let pool = tempfile::NamedTempFile::new().unwrap();
        open_in(state, 1_767_225_600, &Sources { random: pool.path(), pstore: Path::new("/nonexistent") })
    }

    fn end(cause: Cause) -> BootEnd {
        BootEnd { at: 5, action: "reboot".to_owned(), reason: "asked".to_owned(), cause }
    }

    fn progress(phase: &str) -> Progress {
        Progress { at: 4, up_milliseconds: 60_000, phase: phase.to_owned(), ..Progress::default() }
    }

    #[test]
    fn new_state_gets_a_machine_id_that_stays() {
        let state = tempfile::tempdir().unwrap();
        let first = open_here(state.path()).unwrap();
        assert_eq!((first.present.number, first.history.len()), (1, 0));
        assert_eq!(first.machine_id.len(), 32);
        assert_eq!(first.machine_id.as_bytes()[12], b'4');
        let second = open_here(state.path()).unwrap();
        assert_eq!(second.machine_id, first.machine_id);
        assert_eq!(second.present.number, 2);
    }

    #[test]
    fn boot_that_was_not_closed_shows_no_end() {
        let state = tempfile::tempdir().unwrap();
        open_here(state.path()).unwrap();
        let cut = open_here(state.path()).unwrap().history.pop().unwrap();
        assert_eq!((cut.number, cut.end), (1, None));
        close_in(state.path(), progress("services"), end(Cause::Ladder), Path::new("/nonexistent")).unwrap_err();
        let next = open_here(state.path()).unwrap();
        let closed = next.history.last().unwrap();
        assert_eq!((&closed.end, &closed.progress), (&Some(end(Cause::Ladder)), &progress("services")));
        assert_eq!(next.history.len(), 2);
        assert!(next.clock.unwrap() > 1_767_225_600);
    }

    #[test]
    fn boot_that_was_cut_shows_how_far_it_had_come() {
        let state = tempfile::tempdir().unwrap();
        open_here(state.path()).unwrap();
        keep_in(state.path(), progress("disks")).unwrap();
        keep_in(state.path(), progress("services")).unwrap();
        let cut = open_here(state.path()).unwrap().history.pop().unwrap();
        assert_eq!((cut.end, cut.progress), (None, progress("services")));
        assert!(durable::read(&state.path().join("clock"), "clock").unwrap().is_some());
    }

    #[test]
    fn panic_of_the_last_boot_is_told_by_the_next_and_kept_under_its_number() {
        let state = tempfile::tempdir().unwrap();
        open_here(state.path()).unwrap();
        let pstore = tempfile::tempdir().unwrap();
        fs::write(pstore.path().join("dmesg-efi_pstore-1"), "Panic#1 Part1\n<0>[ 9.1] Kernel panic - not syncing: x\n")
            .unwrap();
        let pool = tempfile::NamedTempFile::new().unwrap();
        let opened = open_in(state.path(), 0, &Sources { random: pool.path(), pstore: pstore.path() }).unwrap();
        assert_eq!(opened.present.before.last_messages, ["[ 9.1] Kernel panic - not syncing: x"]);
        assert!(state.path().join("boots/00000001.pstore/dmesg-efi_pstore-1").exists());
        assert_eq!(fs::read_dir(pstore.path()).unwrap().count(), 0);
        let later = open_here(state.path()).unwrap();
        assert_eq!(later.history.last().unwrap().before, opened.present.before);
    }

    #[test]
    fn seed_is_new_after_each_boot() {
        let state = tempfile::tempdir().unwrap();
        let pool = tempfile::NamedTempFile::new().unwrap();
        let sources = Sources { random: pool.path(), pstore: Path::new("/nonexistent") };
        open_in(state.path(), 0, &sources).unwrap();
        let first = durable::read(&state.path().join("seed"), "seed").unwrap().unwrap();
        open_in(state.path(), 0, &sources).unwrap();
        assert_eq!(fs::read(pool.path()).unwrap(), first);
        assert_ne!(durable::read(&state.path().join("seed"), "seed").unwrap().unwrap(), first);
    }

    #[test]
    fn damaged_clock_and_history_are_said_and_survived() {
        let state = tempfile::tempdir().unwrap();
        open_here(state.path()).unwrap();
        fs::write(state.path().join("clock"), "rubbish").unwrap();
        fs::write(state.path().join("boots/00000001"), "rubbish").unwrap();
        let opened = open_here(state.path()).unwrap();
        let damaged = opened.notes.iter().filter(|note| note.contains("is damaged"));
        assert_eq!(damaged.count(), 2, "{:?}", opened.notes);
        assert_eq!(opened.present.number, 2);
    }

    #[test]
    fn state_of_a_later_release_is_refused_untouched() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join("format"), "keelson state version=9 oldest-reader=9 crc32=00000000\n").unwrap();
        assert!(matches!(open_here(state.path()), Err(StateError::Durable(DurableError::TooNew { .. }))));
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1);
    }

    #[test]
    fn identity_is_remembered_and_damage_to_it_refused() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("identity.json");
        fs::write(&path, r#"{"format":"keelson identity","version":1,"oldestReader":1,"nodeUid":"u","clusterId":"c","role":"worker","name":"w3"}"#).unwrap();
        let remembered = open_here(state.path()).unwrap().remembered;
        assert_eq!(
            remembered,
            Remembered { role: Some(Role::Worker), name: Some("w3".to_owned()), cluster_id: Some("c".to_owned()) }
        );
        fs::write(&path, "{").unwrap();
        assert!(matches!(open_here(state.path()), Err(StateError::Identity { .. })));
    }
}
