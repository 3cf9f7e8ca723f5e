//! STATE and DATA: found or made, checked, mounted, laid out. And the user's disk of images.
//!
//! The rule above all: a disk is written to only if it is blank or ours. What is ours is said by the disk itself, by the types
//! of its partitions; what is blank is meant strictly ([`signature`]). Everything else holds the machine with a message that names
//! each disk and what is on it.
//!
//! A disk that does not answer, or answers with an error, holds up nobody whose STATE is on another one. But while there is one, nothing is
//! made: it may be the one with STATE on it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keelson_config::StateSelection;
use keelson_job::{DATA, Disks, Selection, UserImages};
use keelson_sys::block;
use thiserror::Error;

use crate::root::{RootError, RootHash};

pub(crate) mod ask;
mod attach;
mod grow;
mod install;
pub(crate) mod inventory;
mod labelled;
mod layout;
mod make;
mod select;
mod signature;
pub(crate) mod wait;

use ask::{Asked, SILENCE};
use inventory::{Disk, Places, human};
use keelson_gpt::{self as gpt, DATA_TYPE, STATE_TYPE, Table};
use select::{Decision, NoDecision, Seen, Standing};
use signature::Content;

/// How long the list of disks must stay as it is before a blank disk is taken: the one with STATE on it may just be slower. The
/// kernel waits for its asynchronous probes before it starts PID 1 (`async_synchronize_full` in `kernel_init`), which covers
/// ATA, SAS and `NVMe`; what comes later hangs on USB.
const SETTLE: Duration = Duration::from_millis(250);

/// How long is waited for what may still come.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// For any usable disk.
    late: Duration,
    /// For a disk that does not answer, where STATE was found on another one.
    silence: Duration,
    /// The same where no STATE was found.
    doubt: Duration,
}

const PATIENCE: Patience = Patience { late: Duration::from_secs(5), silence: SILENCE, doubt: Duration::from_mins(1) };

/// The label of the user's disk of images. FAT has room for eleven characters of it.
const IMAGES_LABEL: &str = "KEELSON-IMAGES";
const IMAGES_LABEL_FAT: &str = "KEELSON-IMA";

#[derive(Debug, Error)]
pub(crate) enum DiskError {
    /// In the words of the job that has read them.
    #[error("{fault}")]
    Sources { fault: String },
    #[error(transparent)]
    NoDecision(#[from] NoDecision),
    #[error("cannot make STATE and DATA on {disk}")]
    Make { disk: String, source: make::MakeError },
    #[error(transparent)]
    Root(#[from] RootError),
    #[error("cannot make STATE and DATA behind the image on {disk}")]
    Install { disk: String, source: install::InstallError },
    #[error("cannot repair the partition table of {disk}")]
    Repair { disk: String, source: io::Error },
    #[error("cannot read {disk}")]
    Read { disk: String, source: io::Error },
    #[error("the kernel does not show what is on {disk}")]
    Partition { disk: String, source: make::MakeError },
    #[error("{disk} has no partition for {what}")]
    NoPartition { disk: String, what: &'static str },
    #[error(transparent)]
    Label(#[from] labelled::LabelError),
    #[error(transparent)]
    Attach(#[from] attach::AttachError),
    #[error(transparent)]
    Layout(#[from] layout::LayoutError),
}

/// Brings STATE and DATA about, as the sources say.
pub(crate) fn run(command_line: &[u8], selection: Selection) -> Result<Disks, DiskError> {
    let boot = Boot(RootHash::find(command_line)?);
    let places = Places::default();
    let disks = match selection.state {
        StateSelection::Ram => {
            attach::mount_memory()?;
            Disks {
                summary: "STATE and DATA are in memory and gone after this boot".to_owned(),
                in_memory: true,
                notes: Vec::new(),
            }
        }
        StateSelection::Label(label) => {
            let (state, data) = labelled::find(&places, &label)?;
            let summary = format!("STATE on {}, DATA on {}", state.display(), data.display());
            Disks { summary, in_memory: false, notes: attach::check_and_mount(&state, &label, &data)? }
        }
        StateSelection::Auto => find_or_make(selection.fault, &places, boot)?,
    };
    layout::lay_out()?;
    Ok(disks)
}

/// Mounts the user's images, if there are any.
pub(crate) fn mount_user_images() -> Result<UserImages, DiskError> {
    let places = Places::default();
    let seen = places.clone();
    let found = ask::all(&places, move |disk| images_on(disk, &seen)).into_iter().flatten().next();
    let Some((path, file_system)) = found else { return Ok(UserImages { device: None }) };
    attach::mount_images(&path, file_system)?;
    Ok(UserImages { device: Some(format!("{} ({file_system})", path.display())) })
}

fn images_on(disk: &Disk, places: &Places) -> Option<(PathBuf, &'static str)> {
    disk.devices(places).into_iter().find_map(|path| {
        let found = signature::labelled(&File::open(&path).ok()?).ok()??;
        is_images(&found.label, found.file_system).then_some((path, found.file_system))
    })
}

fn is_images(label: &str, file_system: &str) -> bool {
    label == IMAGES_LABEL || (file_system == "vfat" && label == IMAGES_LABEL_FAT)
}

/// The root that this machine was booted from, if it lies on a disk: that disk is ours, whatever else is on it.
#[derive(Debug, Clone, Copy)]
struct Boot(Option<RootHash>);

impl Boot {
    fn is_on(self, table: &Table) -> bool {
        self.0.is_some_and(|hash| table.find_unique(hash.root()).is_some())
    }
}

fn find_or_make(fault: Option<String>, places: &Places, boot: Boot) -> Result<Disks, DiskError> {
    let Decided { disk, decision, mut notes } = decide(places, boot, PATIENCE)?;
    let name = disk.name.clone();
    let install = matches!(decision, Decision::Install(_));
    let made = match decision {
        Decision::Use(_) => None,
        Decision::Make(_) => Some("made on the blank disk"),
        Decision::MakeAgain(_) => Some("made again on the half-made disk"),
        Decision::Install(_) => Some("made behind the image on"),
    };
    if made.is_some() {
        // A node that is told nonsense must not take a disk first.
        if let Some(fault) = fault {
            return Err(DiskError::Sources { fault });
        }
        if install {
            install::install(&disk, places).map_err(|source| DiskError::Install { disk: name.clone(), source })?;
        } else {
            make::make(&disk, places).map_err(|source| DiskError::Make { disk: name.clone(), source })?;
        }
    }
    let (state, data) = volumes(&disk, places, boot, &mut notes)?;
    notes.extend(attach::check_and_mount(&state, make::STATE_LABEL, &data)?);
    notes.extend(grow::file_system(&data, Path::new(DATA)));
    let how = made.unwrap_or("on");
    Ok(Disks { summary: format!("STATE and DATA {how} {name} ({})", human(disk.bytes())), in_memory: false, notes })
}

/// The disk, and what is to be done with it.
#[derive(Debug)]
struct Decided {
    disk: Disk,
    decision: Decision,
    notes: Vec<String>,
}

/// Looks until there is an answer that waiting would not change.
fn decide(places: &Places, boot: Boot, patience: Patience) -> Result<Decided, NoDecision> {
    let start = Instant::now();
    let mut quiet_since = start;
    let mut disks = Vec::new();
    let mut asked = ask_standings(places, boot);
    loop {
        let now = candidates(places);
        if now != disks {
            quiet_since = Instant::now();
            disks = now;
        }
        asked.ask(&disks, |(standing, _)| matches!(standing, Standing::Unknown(_)));
        let decision = judge(&asked);
        let quiet = quiet_since.elapsed() >= SETTLE;
        let settled = match &decision {
            Ok(Decision::Use(_)) => asked.has_waited(patience.silence),
            Ok(Decision::Install(_)) => true,
            Ok(Decision::Make(_) | Decision::MakeAgain(_)) => quiet,
            Err(NoDecision::SeveralBlank { .. } | NoDecision::SeveralOurs { .. } | NoDecision::Halved { .. }) => {
                quiet && asked.has_waited(patience.silence)
            }
            // A disk may come late, or answer late.
            Err(NoDecision::NoDisk | NoDecision::NoneUsable { .. } | NoDecision::Doubt { .. }) => {
                start.elapsed() >= patience.late && asked.has_waited(patience.doubt)
            }
        };
        if settled {
            return decision.and_then(|decision| decided(disks, decision, &asked));
        }
        wait::pause();
    }
}

fn decided(disks: Vec<Disk>, decision: Decision, asked: &Asked<Judged>) -> Result<Decided, NoDecision> {
    let disk = disks.into_iter().find(|disk| disk.name == decision.disk()).ok_or(NoDecision::NoDisk)?;
    let notes = asked.silent().iter().map(|name| format!("{name} does not answer and is left out")).collect();
    Ok(Decided { disk, decision, notes })
}

/// What can be pulled out is not even opened: a drive without a disc takes its time to say so.
fn candidates(places: &Places) -> Vec<Disk> {
    inventory::disks(places).into_iter().filter(|disk| !disk.removable).collect()
}

/// What a disk is, and whether this machine was booted from it.
type Judged = (Standing, bool);

fn ask_standings(places: &Places, boot: Boot) -> Asked<Judged> {
    let places = places.clone();
    Asked::new(move |disk| standing(disk, &places, boot))
}

fn judge(asked: &Asked<Judged>) -> Result<Decision, NoDecision> {
    let silent = || (Standing::Unknown("does not answer".to_owned()), false);
    let seen: Vec<_> = asked
        .disks()
        .map(|(disk, answer)| {
            let (standing, boots) = answer.cloned().unwrap_or_else(silent);
            Seen { name: disk.name.clone(), size: human(disk.bytes()), standing, boots }
        })
        .collect();
    select::select(&seen, &human(make::MINIMUM_BYTES))
}

fn standing(disk: &Disk, places: &Places, boot: Boot) -> Judged {
    let unread = |error| (Standing::Unknown(format!("cannot be read: {error}")), false);
    read_standing(disk, places, boot).unwrap_or_else(unread)
}

fn read_standing(disk: &Disk, places: &Places, boot: Boot) -> io::Result<Judged> {
    let device = disk.open(places)?;
    let found = gpt::read(&device, disk.geometry)?;
    let boots = found.as_ref().is_some_and(|found| boot.is_on(&found.table));
    match found {
        Some(found) if found.table.is_complete() => Ok((Standing::Ours, boots)),
        Some(found) if found.table.has_lost_its_other_half() => Ok((Standing::Halved, boots)),
        _ if boots => Ok((Standing::Image, true)),
        found => Ok((standing_of_others(disk, &device, found)?, false)),
    }
}

fn standing_of_others(disk: &Disk, device: &File, found: Option<gpt::Found>) -> io::Result<Standing> {
    if let Some(found) = found {
        let table = &found.table;
        let is_ours = |kind| kind == STATE_TYPE || kind == DATA_TYPE;
        let mut partitions = table.partitions.iter().flatten();
        if table.find(STATE_TYPE).is_some() && partitions.all(|partition| is_ours(partition.kind)) {
            return Ok(Standing::HalfMade);
        }
    }
    if gpt::is_claimed(device)? {
        return Ok(Standing::HalfMade);
    }
    if signature::labelled(device)?.is_some_and(|found| is_images(&found.label, found.file_system)) {
        return Ok(Standing::Images);
    }
    Ok(match signature::inspect(device, disk.bytes())? {
        Content::Something(found) => Standing::Foreign(found),
        Content::Blank if disk.read_only => Standing::ReadOnly,
        Content::Blank if disk.bytes() < make::MINIMUM_BYTES => Standing::TooSmall,
        Content::Blank => Standing::Blank,
    })
}

/// The device files of STATE and DATA on our disk. Mends the table if one of its copies is damaged, and takes the claim away
/// if a cut left it there.
fn volumes(disk: &Disk, places: &Places, boot: Boot, notes: &mut Vec<String>) -> Result<(PathBuf, PathBuf), DiskError> {
    let unread = |source| DiskError::Read { disk: disk.name.clone(), source };
    let unrepaired = |source| DiskError::Repair { disk: disk.name.clone(), source };
    let missing = |what| DiskError::NoPartition { disk: disk.name.clone(), what };
    let device = disk.open(places).map_err(unread)?;
    let mut found = gpt::read(&device, disk.geometry).map_err(unread)?.ok_or_else(|| missing("STATE"))?;
    let grown = grow::table(&found.table, disk.geometry);
    let claimed = gpt::is_claimed(&device).map_err(unread)?;
    if found.needs_repair || claimed || grown.is_some() {
        let path = disk.path(places);
        // The root in use is on it: nobody can have the disk for himself.
        let opened = if boot.is_on(&found.table) { make::open_shared(&path) } else { make::open_exclusively(&path) };
        let writable = opened.map_err(unrepaired)?;
        if let Some(table) = grown {
            gpt::write(&writable, disk.geometry, &table).map_err(unrepaired)?;
            notes.push(format!("{} has grown to {}, and DATA with it", disk.name, human(disk.bytes())));
            grow::announce(&writable, disk, &table).map_err(unrepaired)?;
            found.table = table;
        } else if found.needs_repair {
            gpt::write(&writable, disk.geometry, &found.table).map_err(unrepaired)?;
            notes.push(format!("one copy of the partition table of {} was damaged and was written anew", disk.name));
        }
        make::finish(&writable, disk.geometry).map_err(unrepaired)?;
        // Changes nothing in use; the kernel may have read the damaged copy.
        let _ = block::reread_partitions(&writable);
    }
    let number = |kind, what| found.table.find(kind).map(|(number, _)| number).ok_or_else(|| missing(what));
    let numbers = [number(STATE_TYPE, "STATE")?, number(DATA_TYPE, "DATA")?];
    let known = disk.volumes(places);
    if numbers.iter().any(|number| known.iter().all(|volume| volume.number != *number)) {
        // A disk that did not answer when the kernel looked for partitions may answer now. In use it has them all.
        let _ = make::open_shared(&disk.path(places)).map(|device| block::reread_partitions(&device));
    }
    let [state, data] = numbers.map(|number| {
        make::appear(disk, places, number).map_err(|source| DiskError::Partition { disk: disk.name.clone(), source })
    });
    Ok((state?, data?))
}

#[cfg(test)]
mod tests;
