//! Checking and mounting file systems.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use keelson_config::LEAVING_PATH;
use keelson_job::{DATA, STATE, USER_IMAGES};
use keelson_sys::mount::{self, MountFlags};
use thiserror::Error;

use super::make::{self, DATA_LABEL, MakeError};
use super::signature::{self, Labelled};

const E2FSCK: &str = "/usr/bin/e2fsck";
/// Exit bits of e2fsck(8): 1 errors corrected, 2 reboot wanted (it means a mounted root, which ours are not). Above: not.
const CORRECTED: i32 = 1;
const MAX_GOOD_STATUS: i32 = 3;

#[derive(Debug, Error)]
pub(crate) enum AttachError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is marked as {label} and complete, but holds no ext4 file system of that label; it is left as it is", path.display())]
    NotOurs { path: PathBuf, label: String },
    #[error("cannot run {E2FSCK}")]
    RunCheck(#[source] io::Error),
    #[error("{} has errors that e2fsck does not correct by itself; it is left as it is: {output}", path.display())]
    Damaged { path: PathBuf, output: String },
    #[error("cannot make DATA again on {}, as a node has to that was removed from its cluster", path.display())]
    MakeAgain { path: PathBuf, source: MakeError },
    #[error("cannot mount {what} at {target}")]
    Mount { what: String, target: &'static str, source: io::Error },
}

/// STATE holds files and nothing to run.
const STATE_FLAGS: MountFlags =
    MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC).union(MountFlags::NOATIME);
/// DATA is not noexec: programs in an emptyDir and CNI plug-ins of the user's run from it. Container images are mounted
/// from it as overlays, whose flags are their own.
const DATA_FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOATIME);
const IMAGES_FLAGS: MountFlags =
    MountFlags::RDONLY.union(MountFlags::NOSUID).union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// A file system that found an error is better read than written to.
const EXT4_OPTIONS: &str = "errors=remount-ro";

/// Returns what is worth a line on the console.
pub(super) fn check_and_mount(state: &Path, state_label: &str, data: &Path) -> Result<Vec<String>, AttachError> {
    let [state_check, data_check] =
        [(state, state_label), (data, DATA_LABEL)].map(|(volume, label)| start_check(volume, label));
    let mut notes = Vec::new();
    notes.extend(state_check?.map(finish_check).transpose()?.flatten());
    mount_at(state, STATE, "ext4", STATE_FLAGS, EXT4_OPTIONS)?;
    if Path::new(LEAVING_PATH).exists() {
        // Whatever it says: but nobody else may be at work there.
        if let Ok(Some(mut check)) = data_check {
            check.child.wait().map_err(AttachError::RunCheck)?;
        }
        make::make_data_again(data).map_err(|source| AttachError::MakeAgain { path: data.to_owned(), source })?;
        notes.push("this node was removed from its cluster, and DATA was made anew".to_owned());
    } else {
        notes.extend(data_check?.map(finish_check).transpose()?.flatten());
    }
    mount_at(data, DATA, "ext4", DATA_FLAGS, EXT4_OPTIONS)?;
    Ok(notes)
}

/// Everything in memory: for workers that keep nothing. Half of the memory for DATA is containerd's, which has nowhere else.
pub(super) fn mount_memory() -> Result<(), AttachError> {
    let tmpfs = Path::new("tmpfs");
    mount_at(tmpfs, STATE, "tmpfs", STATE_FLAGS, "mode=0755,size=10%")?;
    mount_at(tmpfs, DATA, "tmpfs", DATA_FLAGS, "mode=0755,size=50%")
}

/// Read-only to the last byte: ext4 would replay its journal even so.
pub(super) fn mount_images(device: &Path, file_system: &str) -> Result<(), AttachError> {
    let options = if file_system == "ext4" { "noload" } else { "" };
    mount_at(device, USER_IMAGES, file_system, IMAGES_FLAGS, options)
}

pub(super) fn has_label(device: &Path, label: &str) -> io::Result<bool> {
    let found = signature::labelled(&File::open(device)?)?;
    Ok(found.is_some_and(|found| is_ours(&found, label)))
}

fn is_ours(found: &Labelled, label: &str) -> bool {
    found.file_system == "ext4" && found.label == label
}

fn mount_at(
    source: &Path,
    target: &'static str,
    file_system: &str,
    flags: MountFlags,
    options: &str,
) -> Result<(), AttachError> {
    let name = source.to_string_lossy();
    mount::mount(&name, Path::new(target), file_system, flags, options).map_err(|error| AttachError::Mount {
        what: format!("{name} ({file_system})"),
        target,
        source: error,
    })
}

/// An e2fsck at work.
struct Check {
    volume: PathBuf,
    label: String,
    child: Child,
}

/// Replays the journal and corrects what can be corrected without a question (`-p`). Nothing is started for a file system
/// that says that it is clean.
fn start_check(volume: &Path, label: &str) -> Result<Option<Check>, AttachError> {
    let unread = |source| AttachError::Read { path: volume.to_owned(), source };
    let device = File::open(volume).map_err(unread)?;
    let found = signature::labelled(&device).map_err(unread)?;
    if !found.is_some_and(|found| is_ours(&found, label)) {
        return Err(AttachError::NotOurs { path: volume.to_owned(), label: label.to_owned() });
    }
    if signature::is_clean_ext4(&device).map_err(unread)? {
        return Ok(None);
    }
    let mut command = Command::new(E2FSCK);
    command.arg("-p").arg(volume).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(AttachError::RunCheck)?;
    Ok(Some(Check { volume: volume.to_owned(), label: label.to_owned(), child }))
}

/// What was corrected, if anything was.
fn finish_check(check: Check) -> Result<Option<String>, AttachError> {
    let output = check.child.wait_with_output().map_err(AttachError::RunCheck)?;
    let words = [output.stdout, output.stderr].concat();
    let words = String::from_utf8_lossy(&words).split_whitespace().collect::<Vec<_>>().join(" ");
    match output.status.code() {
        Some(status) if status <= MAX_GOOD_STATUS => {
            Ok((status & CORRECTED != 0).then(|| format!("{} was corrected: {words}", check.label)))
        }
        _ => Err(AttachError::Damaged { path: check.volume, output: words }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_on_a_disk_is_a_device_or_runs_set_id_and_only_data_runs_at_all() {
        for flags in [STATE_FLAGS, DATA_FLAGS, IMAGES_FLAGS] {
            assert!(flags.contains(MountFlags::NOSUID | MountFlags::NODEV));
        }
        assert!(STATE_FLAGS.contains(MountFlags::NOEXEC));
        assert!(IMAGES_FLAGS.contains(MountFlags::NOEXEC | MountFlags::RDONLY));
    }
}
