//! What STATE keeps for PID 1: `format`, `machine-id`, `boots/`, `clock`, `seed`. All of them are durable files ([`durable`]).
//!
//! `format` says that this is a STATE and of which layout; it is written last when STATE is new. Its body is empty, or [`MEMBER`] once
//! the node is a member of a cluster. What is damaged or missing among clock, seed and boots is replaced: none of it is worth a node that
//! does not boot.
//!
//! Who the node is, is never replaced: a STATE with a `format` has a machine-id, and one whose `format` says "member" has
//! keelson-cluster's identity.json, or a marker that the node was removed from its cluster and is to forget it. Else something was lost, and the machine
//! holds: a node that comes up under a new name in the place of a known one would found or join anew with nobody's word.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use keelson_config::kept::{self, Form, Kept, KeptError};
use keelson_config::{LEAVING_PATH, Remembered, Role};
use keelson_job::{BootEnd, BootRecord, Progress, STATE, State};
use keelson_sys::{clock, entropy};
use serde::Deserialize;
use thiserror::Error;

use crate::durable::{self, DurableError};
use crate::jobs::chain;
use crate::root::RootHash;

mod boots;
mod evidence;
mod seed;

use seed::Pool;

const VERSION: &str = "/usr/share/keelson/version";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const PSTORE: &str = "/sys/fs/pstore";
const BLOCKS: &str = "/sys/block";
const KERNEL_LOG: &str = "/dev/kmsg";
/// The body of `format` on the STATE of a member.
const MEMBER: &[u8] = b"member\n";

#[derive(Debug, Error)]
pub(crate) enum StateError {
    #[error(transparent)]
    Durable(#[from] DurableError),
    #[error("cannot make {}", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("cannot lock {}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} cannot be understood", path.display())]
    Identity { path: PathBuf, source: KeptError },
    #[error("{} cannot be understood", path.display())]
    Boot { path: PathBuf, source: serde_json::Error },
    #[error("cannot draw random bytes")]
    Random(#[source] io::Error),
    #[error("{} does not hold a machine-id", path.display())]
    MachineId { path: PathBuf },
    #[error(
        "{} is gone, although this STATE has been in use. Nothing is made in its place, for the node would be another one: put the file back, or erase the disk to begin anew",
        path.display()
    )]
    Lost { path: PathBuf },
    #[error("cannot write a boot's record as JSON")]
    Encode(#[source] serde_json::Error),
}

/// Begins a boot: reads what is remembered, spends the seed, starts a record.
pub(crate) fn open(booted_at: u64, progress: Progress) -> Result<State, StateError> {
    open_in(Path::new(STATE), booted_at, progress, &Sources::default())
}

/// In the middle of a boot: saves the clock and what is known of the boot so far.
pub(crate) fn keep(progress: Progress) -> Result<(), StateError> {
    keep_in(Path::new(STATE), progress)
}

fn keep_in(state: &Path, progress: Progress) -> Result<(), StateError> {
    let _alone = boots::lock(state)?;
    boots::update(state, |record| record.progress = progress)?;
    save(state)
}

/// Ends a boot: completes its record, saves the clock and the kernel's last messages.
pub(crate) fn close(progress: Progress, end: BootEnd) -> Result<(), StateError> {
    close_in(Path::new(STATE), progress, end, Path::new(KERNEL_LOG))
}

/// The record comes first: nothing else that is saved here is worth as much.
fn close_in(state: &Path, progress: Progress, end: BootEnd, kernel_log: &Path) -> Result<(), StateError> {
    let _alone = boots::lock(state)?;
    boots::update(state, |record| {
        record.progress = progress;
        record.end = Some(end);
    })?;
    let saved = save(state);
    evidence::keep_kernel_log(kernel_log, &boots::beside_latest(state, "kmsg"))?;
    saved
}

/// Where things are on a machine. Tests have them elsewhere.
#[derive(Debug)]
struct Sources<'a> {
    pool: Pool<'a>,
    pstore: &'a Path,
    blocks: &'a Path,
}

impl Default for Sources<'_> {
    fn default() -> Self {
        Self { pool: Pool::default(), pstore: Path::new(PSTORE), blocks: Path::new(BLOCKS) }
    }
}

fn open_in(state: &Path, booted_at: u64, progress: Progress, sources: &Sources<'_>) -> Result<State, StateError> {
    let mut notes = Vec::new();
    // Refuses a STATE of a later release before anything in it is touched.
    let format = durable::read(&state.join("format"), "state")?;
    let machine_id = machine_id(state, format.is_some())?;
    let remembered = remembered(state, format.as_deref() == Some(MEMBER))?;
    let history = boots::history(state, &mut notes);
    let number = history.last().map_or(1, |record| record.number.saturating_add(1));
    let image = RootHash::running(sources.blocks).map(|hash| hash.to_string()).unwrap_or_default();
    let mut record = BootRecord {
        number,
        booted_at,
        image,
        version: word(VERSION),
        boot_id: word(BOOT_ID),
        progress,
        ..BootRecord::default()
    };
    boots::begin(state, &record)?;
    // What the last boot left behind is kept under its number, and only then taken out of the firmware's store.
    record.before =
        evidence::harvest(sources.pstore, &boots::beside(state, number.saturating_sub(1), "pstore"), &mut notes);
    boots::write(state, &record)?;
    let saved_clock = worthless_if_damaged(durable::read(&state.join("clock"), "clock"), &mut notes);
    seed::spend(state, sources.pool, &mut notes)?;
    if format.is_none() {
        durable::write(&state.join("format"), "state", b"")?;
    }
    mark_member(state)?;
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

/// machine-id(5): made once, random, with the version and variant bits of a UUID of version 4. It is written before `format` is, so that a
/// STATE that was in use has one.
fn machine_id(state: &Path, in_use: bool) -> Result<String, StateError> {
    let path = state.join("machine-id");
    if let Some(body) = durable::read(&path, "machine-id")? {
        let text = String::from_utf8(body).unwrap_or_default();
        let valid = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        return if valid { Ok(text) } else { Err(StateError::MachineId { path }) };
    }
    if in_use {
        return Err(StateError::Lost { path });
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
struct Identity {
    cluster_id: Option<String>,
    role: Option<Role>,
    name: Option<String>,
}

impl Kept for Identity {
    const FORM: Form = kept::IDENTITY;
}

fn identity(state: &Path) -> PathBuf {
    state.join("identity.json")
}

/// Whether the node was removed and has not forgotten its cluster yet.
fn is_leaving(state: &Path) -> bool {
    Path::new(LEAVING_PATH).strip_prefix(STATE).is_ok_and(|path| state.join(path).exists())
}

fn remembered(state: &Path, of_member: bool) -> Result<Remembered, StateError> {
    let path = identity(state);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let lost = of_member && !is_leaving(state);
            return if lost { Err(StateError::Lost { path }) } else { Ok(Remembered::default()) };
        }
        Err(source) => return Err(StateError::Read { path, source }),
        Ok(text) => text,
    };
    let file = Identity::from_file(&text).map_err(|source| StateError::Identity { path, source })?;
    let cluster_networks = cluster_networks(state).unwrap_or_default();
    Ok(Remembered { role: file.role, name: file.name, cluster_id: file.cluster_id, cluster_networks })
}

/// Those fields of keelson-cluster's `cluster/settings.json` that say what of the cluster is reached without a proxy.
#[derive(Deserialize)]
struct Settings {
    settings: ClusterNetworks,
}

impl Kept for Settings {
    const FORM: Form = kept::NODE_SETTINGS;
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClusterNetworks {
    #[serde(rename = "podCIDR")]
    pod_cidr: String,
    #[serde(rename = "secondaryPodCIDR")]
    secondary_pod_cidr: Option<String>,
    #[serde(rename = "serviceCIDR")]
    service_cidr: String,
    #[serde(rename = "secondaryServiceCIDR")]
    secondary_service_cidr: Option<String>,
    cluster_domain: String,
}

/// None where they cannot be read. A node comes up without them, and keelson-cluster, which cannot, says what is wrong.
fn cluster_networks(state: &Path) -> Option<Vec<String>> {
    let told = Settings::from_file(&fs::read(state.join("cluster/settings.json")).ok()?).ok()?.settings;
    let pods = std::iter::once(told.pod_cidr).chain(told.secondary_pod_cidr);
    let services = std::iter::once(told.service_cidr).chain(told.secondary_service_cidr);
    let networks: Vec<_> = pods.chain(services).chain([format!(".{}", told.cluster_domain)]).collect();
    let is_one = |text: &String| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:/-".contains(&byte));
    networks.iter().all(is_one).then_some(networks)
}

/// Says in `format` whether the node is a member: keelson-cluster writes and removes the identity while the machine runs. An identity that
/// is merely gone changes nothing here.
///
/// The marker of one that leaves is looked at first, and the identity second. keelson-cluster takes the marker away only after the
/// identity, at a boot that has come through here with the marker; so whoever sees no marker and an identity sees a member, and a cut
/// anywhere in a removal leaves either the marker or a `format` that asks for no identity.
fn mark_member(state: &Path) -> Result<(), StateError> {
    let body: &[u8] = if is_leaving(state) {
        b""
    } else if identity(state).exists() {
        MEMBER
    } else {
        return Ok(());
    };
    let path = state.join("format");
    if durable::read(&path, "state")?.as_deref() != Some(body) {
        durable::write(&path, "state", body)?;
    }
    Ok(())
}

/// What is saved beside a boot's record.
fn save(state: &Path) -> Result<(), StateError> {
    save_clock(state)?;
    seed::improve(state, Pool::default())?;
    mark_member(state)
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
    use std::time::Duration;

    use keelson_job::Cause;

    use super::*;

    /// The pool cannot be credited by everyone, and must not be by a test: a plain file stands for it.
    fn open_here(state: &Path) -> Result<State, StateError> {
        open_after(state, Progress::default())
    }

    /// The same when so much of the boot is known already.
    fn open_after(state: &Path, progress: Progress) -> Result<State, StateError> {
        let device = tempfile::NamedTempFile::new().unwrap();
        let pool = Pool { device: device.path(), ..Pool::default() };
        let nowhere = Path::new("/nonexistent");
        open_in(state, 1_767_225_600, progress, &Sources { pool, pstore: nowhere, blocks: nowhere })
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
    fn boot_that_was_cut_before_its_first_update_shows_what_was_known_when_it_began() {
        let state = tempfile::tempdir().unwrap();
        let known = Progress { watchdog: Some("reset by the watchdog".to_owned()), ..progress("disks") };
        let opened = open_after(state.path(), known.clone()).unwrap();
        assert_eq!(opened.present.progress, known);
        let cut = open_here(state.path()).unwrap().history.pop().unwrap();
        assert_eq!((cut.end, cut.progress), (None, known));
    }

    #[test]
    fn end_is_kept_although_nothing_else_can_be_saved() {
        let state = tempfile::tempdir().unwrap();
        open_here(state.path()).unwrap();
        fs::create_dir(state.path().join("clock.new")).unwrap();
        let kernel_log = tempfile::NamedTempFile::new().unwrap();
        close_in(state.path(), progress("services"), end(Cause::Asked), kernel_log.path()).unwrap_err();
        assert_eq!(open_here(state.path()).unwrap().history.pop().unwrap().end, Some(end(Cause::Asked)));
    }

    /// One that hangs with the disk is killed, and may end late. What it writes is written before the end.
    #[test]
    fn end_waits_for_an_update_that_is_under_way() {
        let state = tempfile::tempdir().unwrap();
        open_here(state.path()).unwrap();
        let update = boots::lock(state.path()).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let path = state.path().to_owned();
        let closing = std::thread::spawn(move || {
            let kernel_log = tempfile::NamedTempFile::new().unwrap();
            sender.send(close_in(&path, progress("services"), end(Cause::Asked), kernel_log.path())).unwrap();
        });
        receiver.recv_timeout(Duration::from_millis(200)).unwrap_err();
        boots::update(state.path(), |record| record.progress = progress("disks")).unwrap();
        drop(update);
        receiver.recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
        closing.join().unwrap();
        let closed = open_here(state.path()).unwrap().history.pop().unwrap();
        assert_eq!((closed.end, closed.progress), (Some(end(Cause::Asked)), progress("services")));
    }

    #[test]
    fn panic_of_the_last_boot_is_told_by_the_next_and_kept_under_its_number() {
        let state = tempfile::tempdir().unwrap();
        open_here(state.path()).unwrap();
        let pstore = tempfile::tempdir().unwrap();
        fs::write(pstore.path().join("dmesg-efi_pstore-1"), "Panic#1 Part1\n<0>[ 9.1] Kernel panic - not syncing: x\n")
            .unwrap();
        let device = tempfile::NamedTempFile::new().unwrap();
        let pool = Pool { device: device.path(), ..Pool::default() };
        let sources = Sources { pool, pstore: pstore.path(), blocks: Path::new("/nonexistent") };
        let opened = open_in(state.path(), 0, Progress::default(), &sources).unwrap();
        assert_eq!(opened.present.before.last_messages, ["[ 9.1] Kernel panic - not syncing: x"]);
        assert!(state.path().join("boots/00000001.pstore/dmesg-efi_pstore-1").exists());
        assert_eq!(fs::read_dir(pstore.path()).unwrap().count(), 0);
        let later = open_here(state.path()).unwrap();
        assert_eq!(later.history.last().unwrap().before, opened.present.before);
    }

    #[test]
    fn machine_id_that_is_gone_from_a_used_state_is_not_made_anew() {
        let state = tempfile::tempdir().unwrap();
        let first = open_here(state.path()).unwrap();
        let path = state.path().join("machine-id");
        let kept = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(matches!(open_here(state.path()), Err(StateError::Lost { .. })));
        assert!(!path.exists());
        fs::write(&path, kept).unwrap();
        assert_eq!(open_here(state.path()).unwrap().machine_id, first.machine_id);
    }

    fn become_member(state: &Path) {
        let text = r#"{"format":"keelson identity","version":1,"oldestReader":1,"clusterId":"c","role":"worker"}"#;
        fs::write(identity(state), text).unwrap();
    }

    #[test]
    fn identity_that_is_gone_from_a_members_state_holds() {
        let state = tempfile::tempdir().unwrap();
        let state = state.path();
        open_here(state).unwrap();
        // A founding that was cut leaves keys and no identity: nothing is missing.
        fs::create_dir(state.join("pki")).unwrap();
        fs::write(state.join("pki/authority.key"), "").unwrap();
        assert_eq!(open_here(state).unwrap().remembered, Remembered::default());
        become_member(state);
        keep_in(state, progress("services")).unwrap();
        fs::remove_file(identity(state)).unwrap();
        // Nothing that runs meanwhile, and no second look, makes it forget.
        keep_in(state, progress("services")).unwrap();
        for _ in 0..2 {
            assert!(matches!(open_here(state), Err(StateError::Lost { .. })));
        }
    }

    /// keelson-cluster's order: marker, identity; at the next boot, the marker again.
    #[test]
    fn removal_that_was_cut_after_any_step_never_holds() {
        let leaving = |state: &Path| state.join("cluster/leaving");
        for steps in 1..=3 {
            let state = tempfile::tempdir().unwrap();
            let state = state.path();
            fs::create_dir(state.join("cluster")).unwrap();
            become_member(state);
            open_here(state).unwrap();
            fs::write(leaving(state), "").unwrap();
            if steps >= 2 {
                fs::remove_file(identity(state)).unwrap();
            }
            if steps >= 3 {
                keep_in(state, progress("services")).unwrap();
            }
            open_here(state).unwrap();
            let _ = fs::remove_file(identity(state));
            fs::remove_file(leaving(state)).unwrap();
            assert_eq!(open_here(state).unwrap().remembered, Remembered::default(), "{steps}");
            // It joins again, and what it is then is not to be lost either.
            become_member(state);
            open_here(state).unwrap();
            fs::remove_file(identity(state)).unwrap();
            assert!(matches!(open_here(state), Err(StateError::Lost { .. })), "{steps}");
        }
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
        let expected = Remembered {
            role: Some(Role::Worker),
            name: Some("w3".to_owned()),
            cluster_id: Some("c".to_owned()),
            cluster_networks: Vec::new(),
        };
        assert_eq!(remembered, expected);
        fs::create_dir_all(state.path().join("cluster")).unwrap();
        let told = |content: &str| {
            fs::write(state.path().join("cluster/settings.json"), content).unwrap();
            open_here(state.path()).unwrap().remembered.cluster_networks
        };
        let settings = r#"{"format":"keelson node settings","version":1,"oldestReader":1,"settings":{"podCIDR":"172.16.0.0/16","serviceCIDR":"172.17.0.0/16","clusterDomain":"k8s.example","trust":{}}}"#;
        assert_eq!(told(settings), ["172.16.0.0/16", "172.17.0.0/16", ".k8s.example"]);
        let both = settings
            .replace("\"trust\"", r#""secondaryPodCIDR":"fd01::/56","secondaryServiceCIDR":"fd02::/112","trust""#);
        let networks = ["172.16.0.0/16", "fd01::/56", "172.17.0.0/16", "fd02::/112", ".k8s.example"];
        assert_eq!(told(&both), networks);
        let later = settings.replace("Reader\":1", "Reader\":2");
        for unfit in [settings.replace("k8s.example", "a,b"), later, "{".to_owned()] {
            assert!(told(&unfit).is_empty(), "{unfit}");
        }
        fs::write(&path, "{").unwrap();
        assert!(matches!(open_here(state.path()), Err(StateError::Identity { .. })));
    }
}
