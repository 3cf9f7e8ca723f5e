//! The node's boots: all of them in short, and all that is known of one.
//!
//! PID 1 tells what the boot history says. What lies beside it on STATE is read here: PID 1 touches no disk, and it would not
//! fit a packet of its. A disk may never answer: one thread at a time reads, and nobody waits for it longer than
//! [`STATE_DEADLINE`], so a disk that hangs costs one thread, however often it is asked for. Of the boot that runs nothing is
//! there to be read yet, so what is known of that one is told whatever the disk does.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use keelson_api::{Boot, BootDetails, BootList, BootPhase, ErrorCode, SavedFile};
use keelson_control::{BootDetails as Known, BootRecord, ClientError, ErrorKind as ControlErrorKind};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    respond::Refusal,
    router::Context,
    views::{boot_id, control_refusal},
};
use crate::node::ControlError;

/// How long STATE may take. An answer has thirty seconds in all.
const STATE_DEADLINE: Duration = Duration::from_secs(10);

/// As much of each file as keelson-exec keeps (`evidence`). Of a longer one the end is told: the last messages are those that matter.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// As many files of one death as keelson-exec keeps.
const FILES_MAX: usize = 32;

/// Why what STATE has of a boot cannot be told.
#[derive(Debug, thiserror::Error)]
enum EvidenceError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("what STATE has of the boot was not read to the end")]
    Interrupted,
    #[error("STATE did not answer in time")]
    Late,
}

impl From<EvidenceError> for Refusal {
    fn from(error: EvidenceError) -> Self {
        let code = match error {
            EvidenceError::Late => ErrorCode::Timeout,
            EvidenceError::Read { .. } | EvidenceError::Interrupted => ErrorCode::Internal,
        };
        Self::because(code, &error)
    }
}

/// What tells how a boot ended.
#[derive(Debug, Default, Eq, PartialEq)]
struct Evidence {
    /// The kernel's last messages at an ordered end.
    messages: Vec<String>,
    /// What it saved when it died.
    saved: Vec<SavedFile>,
}

/// Whose turn it is to read STATE.
#[derive(Debug)]
pub struct EvidenceReader {
    turn: Arc<Semaphore>,
}

impl Default for EvidenceReader {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)) }
    }
}

impl EvidenceReader {
    async fn read(&self, boots: PathBuf, number: u64) -> Result<Evidence, EvidenceError> {
        let reading = async {
            let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(|_| EvidenceError::Interrupted)?;
            let read = move || {
                // Given back by the thread, also when nobody waits for it any more.
                let _turn = turn;
                evidence(&boots, number)
            };
            tokio::task::spawn_blocking(read).await.map_err(|_| EvidenceError::Interrupted)?
        };
        timeout(STATE_DEADLINE, reading).await.map_err(|_| EvidenceError::Late)?
    }
}

pub(super) async fn list(context: &Context) -> Result<BootList, Refusal> {
    let mut records =
        context.node.control(|mut client| client.boots()).await.map_err(|error| control_refusal(&error))?;
    records.sort_by_key(|record| std::cmp::Reverse(record.number));
    let current = boot_id(&context.node);
    Ok(BootList { boots: records.into_iter().map(|record| boot(record, &current)).collect() })
}

pub(super) async fn details(context: &Context, number: &str) -> Result<BootDetails, Refusal> {
    let no_number = || Refusal::invalid("number", format!("{number:?} is not the number of a boot"));
    let number: u64 = number.parse().map_err(|_| no_number())?;
    let asked = context.node.control(move |mut client| client.boot(number)).await;
    let Known { boot: record, image, phases } = asked.map_err(|error| refusal(&error, number))?;
    let boot = boot(record, &boot_id(&context.node));
    let Evidence { messages, saved } = if boot.current {
        Evidence::default()
    } else {
        context.evidence.read(context.node.paths.boots(), number).await?
    };
    let phases = phases.into_iter().map(|phase| BootPhase {
        name: phase.name,
        start_milliseconds: phase.start_milliseconds,
        milliseconds: phase.milliseconds,
    });
    let image = Some(image).filter(|image| !image.is_empty());
    Ok(BootDetails { boot, image, phases: phases.collect(), messages, saved })
}

fn refusal(error: &ControlError, number: u64) -> Refusal {
    match error {
        ControlError::Client(ClientError::Refused { kind: ControlErrorKind::UnknownBoot, .. }) => {
            Refusal::new(ErrorCode::NotFound, format!("this node knows of no boot {number}")).about("number")
        }
        error => control_refusal(error),
    }
}

fn boot(record: BootRecord, current: &str) -> Boot {
    Boot {
        number: record.number,
        current: record.boot_id == current,
        id: record.boot_id,
        version: record.version,
        started: moment(record.started_unix_seconds),
        good: record.good,
        ended: record.ended,
        ended_at: record.ended_unix_seconds.map(moment),
        phase: record.phase,
        up_seconds: record.up_seconds,
        services_started_after_milliseconds: record.services_started_after_milliseconds,
        last_messages: record.last_messages,
    }
}

fn moment(unix_seconds: u64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp(i64::try_from(unix_seconds).unwrap_or(i64::MAX));
    moment.unwrap_or(OffsetDateTime::UNIX_EPOCH).format(&Rfc3339).unwrap_or_default()
}

/// What lies beside the record of a boot (keelson-exec, `state/boots.rs`). Most boots have one of both at most.
fn evidence(boots: &Path, number: u64) -> Result<Evidence, EvidenceError> {
    let record = boots.join(format!("{number:08}"));
    let messages = lines(&record.with_extension("kmsg"))?;
    let mut saved = Vec::new();
    for path in files(&record.with_extension("pstore"))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        saved.push(SavedFile { name, lines: lines(&path)? });
    }
    saved.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Evidence { messages, saved })
}

/// The plain files of a directory; none if it is not there.
fn files(directory: &Path) -> Result<Vec<PathBuf>, EvidenceError> {
    let failed = |source| EvidenceError::Read { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut files = Vec::new();
    for entry in entries.take(FILES_MAX) {
        let entry = entry.map_err(failed)?;
        // A pipe would be waited for.
        if entry.file_type().map_err(failed)?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}

/// The last lines of a file; none if it is not there.
fn lines(path: &Path) -> Result<Vec<String>, EvidenceError> {
    match end_of(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(EvidenceError::Read { path: path.to_owned(), source }),
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()),
    }
}

fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(file.metadata()?.len().saturating_sub(FILE_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_boot_is_bounded_and_the_end_of_it() {
        let boots = tempfile::tempdir().unwrap();
        let pstore = boots.path().join("00000003.pstore");
        fs::create_dir(&pstore).unwrap();
        for number in 0..FILES_MAX + 8 {
            fs::write(pstore.join(format!("dmesg-{number:02}")), "x\n".repeat(100_000) + "last").unwrap();
        }
        let long = format!("first\n{}last \u{e4}", "x".repeat(100_000));
        fs::write(boots.path().join("00000003.kmsg"), long).unwrap();
        let Evidence { messages, saved } = evidence(boots.path(), 3).unwrap();
        assert_eq!((messages.len(), messages[0].len()), (1, usize::try_from(FILE_BYTES_MAX).unwrap()));
        assert!(messages[0].ends_with("xlast \u{e4}"), "its beginning is left out");
        assert_eq!(saved.len(), FILES_MAX);
        assert!(saved.is_sorted_by(|one, other| one.name < other.name));
        assert!(saved.iter().all(|file| file.lines.len() < 40_000 && file.lines.last().unwrap() == "last"));
    }

    #[test]
    fn what_is_no_file_is_left_out_and_what_is_no_text_made_one() {
        let boots = tempfile::tempdir().unwrap();
        let pstore = boots.path().join("00000003.pstore");
        fs::create_dir_all(pstore.join("folder")).unwrap();
        fs::write(pstore.join("console-ramoops-0"), b"a\xff\nb\0").unwrap();
        let expected =
            SavedFile { name: "console-ramoops-0".to_owned(), lines: vec!["a\u{fffd}".to_owned(), "b\0".to_owned()] };
        assert_eq!(evidence(boots.path(), 3).unwrap(), Evidence { messages: Vec::new(), saved: vec![expected] });
        assert_eq!(evidence(boots.path(), 4).unwrap(), Evidence::default());
        assert_eq!(evidence(&boots.path().join("nowhere"), 3).unwrap(), Evidence::default());
        fs::create_dir(boots.path().join("00000003.kmsg")).unwrap();
        let error = evidence(boots.path(), 3).unwrap_err();
        assert!(error.to_string().ends_with("00000003.kmsg"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_is_waited_for_by_one_thread_and_not_forever() {
        let reader = EvidenceReader::default();
        let hanging = reader.turn.acquire().await.unwrap();
        let late = reader.read(PathBuf::from("/nonexistent"), 1).await.unwrap_err();
        assert!(matches!(late, EvidenceError::Late), "{late:?}");
        assert_eq!(Refusal::from(late).body.code, ErrorCode::Timeout);
        drop(hanging);
        assert_eq!(reader.read(PathBuf::from("/nonexistent"), 1).await.unwrap(), Evidence::default());
    }
}
