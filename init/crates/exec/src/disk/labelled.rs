//! STATE and DATA by the labels of their file systems (`keelson.state=LABEL=…`).
//!
//! A label is a name that anybody can give twice: the disk of another node that was plugged in, a copy. So exactly one file system must
//! have STATE's, and DATA is the one on the same disk, or else the only one that there is.

use std::path::PathBuf;
use std::time::Instant;

use thiserror::Error;

use super::ask::{Asked, SILENCE};
use super::inventory::{self, Disk, Places};
use super::{SETTLE, attach, make, wait};

#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum LabelError {
    #[error("no file system labelled {label} was found (keelson.state=LABEL={label})")]
    NoState { label: String },
    #[error("no file system labelled {} was found for DATA", make::DATA_LABEL)]
    NoData,
    #[error(
        "more than one file system is labelled {label}: {seen}. None was mounted, and none was written to. Remove all but one"
    )]
    Several { label: String, seen: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Volume {
    /// The kernel's name of the disk that it is on.
    disk: String,
    path: PathBuf,
}

/// The devices of STATE and DATA.
pub(super) fn find(places: &Places, label: &str) -> Result<(PathBuf, PathBuf), LabelError> {
    let [states, all] = seen(places, label);
    let state = only(&states, label)?.ok_or_else(|| LabelError::NoState { label: label.to_owned() })?;
    let beside: Vec<_> = all.iter().filter(|volume| volume.disk == state.disk).cloned().collect();
    let data = only(if beside.is_empty() { &all } else { &beside }, make::DATA_LABEL)?.ok_or(LabelError::NoData)?;
    Ok((state.path, data.path))
}

fn only(found: &[Volume], label: &str) -> Result<Option<Volume>, LabelError> {
    match found {
        [] => Ok(None),
        [volume] => Ok(Some(volume.clone())),
        several => {
            let seen: Vec<_> = several.iter().map(|volume| volume.path.display().to_string()).collect();
            Err(LabelError::Several { label: label.to_owned(), seen: seen.join(", ") })
        }
    }
}

/// The file systems of STATE's label and of DATA's, once there are some of both and they have been the same ones for a while: a second one may just be slower.
fn seen(places: &Places, label: &str) -> [Vec<Volume>; 2] {
    let mut found = [Vec::new(), Vec::new()];
    let mut same_since = Instant::now();
    let (seen, label) = (places.clone(), label.to_owned());
    let mut asked = Asked::new(move |disk| [&*label, make::DATA_LABEL].map(|label| look(disk, &seen, label)));
    // Without an answer the last look counts.
    let _ = wait::until(wait::DEVICE_LIMIT, || {
        asked.ask(&inventory::disks(places), |_| true);
        let now = [0, 1].map(|kind| asked.answers().filter_map(|found| found.get(kind)).flatten().cloned().collect());
        if now != found {
            found = now;
            same_since = Instant::now();
        }
        let complete = found.iter().all(|volumes: &Vec<_>| !volumes.is_empty());
        (complete && same_since.elapsed() >= SETTLE && asked.has_waited(SILENCE)).then_some(())
    });
    found
}

fn look(disk: &Disk, places: &Places, label: &str) -> Vec<Volume> {
    let devices = disk.devices(places).into_iter().filter(|path| attach::has_label(path, label).unwrap_or(false));
    devices.map(|path| Volume { disk: disk.name.clone(), path }).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    use super::super::inventory::tests::Machine;
    use super::*;

    const GIB: u64 = 1024 * 1024 * 1024;
    const LABEL: &str = "MY-STATE";

    /// A partition whose file system has this label.
    fn add(machine: &Machine, disk: &str, number: usize, label: &str) -> PathBuf {
        machine.add_volume(disk, number);
        let path = machine.places.dev.join(format!("{disk}{number}"));
        write(&path, label);
        path
    }

    fn write(path: &Path, label: &str) {
        let device = File::options().write(true).open(path).unwrap();
        device.write_all_at(b"\x53\xef", 1080).unwrap();
        let mut field = [0; 16];
        field[..label.len()].copy_from_slice(label.as_bytes());
        device.write_all_at(&field, 1144).unwrap();
    }

    #[test]
    fn data_is_the_one_on_states_disk_and_else_the_only_one() {
        let machine = Machine::new();
        machine.add("vda", 8 * GIB);
        machine.add("vdb", 8 * GIB);
        let other = add(&machine, "vda", 1, make::DATA_LABEL);
        let state = add(&machine, "vdb", 1, LABEL);
        assert_eq!(find(&machine.places, LABEL), Ok((state.clone(), other)));
        let beside = add(&machine, "vdb", 2, make::DATA_LABEL);
        assert_eq!(find(&machine.places, LABEL), Ok((state, beside)));
    }

    #[test]
    fn label_that_two_have_is_nobodys_and_both_are_named() {
        let machine = Machine::new();
        machine.add("vda", 8 * GIB);
        let first = add(&machine, "vda", 1, LABEL);
        add(&machine, "vda", 2, make::DATA_LABEL);
        // The disk of another node, without partitions.
        machine.add("vdb", 8 * GIB);
        let second = machine.places.dev.join("vdb");
        write(&second, LABEL);
        let seen = format!("{}, {}", first.display(), second.display());
        assert_eq!(find(&machine.places, LABEL), Err(LabelError::Several { label: LABEL.to_owned(), seen }));
    }

    #[test]
    fn data_that_two_other_disks_have_is_not_guessed() {
        let machine = Machine::new();
        for disk in ["vda", "vdb", "vdc"] {
            machine.add(disk, 8 * GIB);
        }
        add(&machine, "vda", 1, LABEL);
        for disk in ["vdb", "vdc"] {
            add(&machine, disk, 1, make::DATA_LABEL);
        }
        assert!(matches!(find(&machine.places, LABEL), Err(LabelError::Several { .. })));
    }
}
