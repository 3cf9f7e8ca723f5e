//! The first stage: from the initramfs to the root.
//!
//! The kernel runs this program from the initramfs, a tmpfs that cannot be unmounted. It finds the root file system, mounts it,
//! moves the mounts that exist over to it, makes it `/`, empties the initramfs (which is memory) and executes itself from
//! there. `pivot_root(2)` does not work on the initramfs, so this is `MS_MOVE` and chroot, as in `switch_root(8)`.
//!
//! The root is a file that came with the initramfs, or a partition. Either way the kernel verifies it by its root hash as it is
//! read; keelson-exec, which the initramfs has too, finds it and sets that up.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use keelson_job::{CommandLine, Request, Root};
use keelson_sys::mount::{self, MountFlags};
use keelson_sys::{clock, memfd, process};
use thiserror::Error;

use crate::boot::job::JobError;
use crate::boot::{Span, Stop, job, mounts};
use crate::bounded;
use crate::console::Console;
use crate::recovery::{Failure, Rule};
use crate::vitals::Vitals;

mod empty;
pub(crate) mod handover;

/// Where the root is mounted until it is `/`.
const NEW_ROOT: &str = "/sysroot";
/// This program, in the root.
const INIT: &str = "/usr/bin/init";
/// How long the root may take to be mounted and to give the first program: far more than a slow disk needs.
const ROOT_LIMIT: Duration = Duration::from_mins(1);
/// Of the root's mount.
const FLAGS: MountFlags = MountFlags::RDONLY.union(MountFlags::NODEV).union(MountFlags::NOSUID);
/// Mounts of the first stage that the second goes on using.
const KEPT_MOUNTS: [&str; 4] = ["dev", "proc", "sys", "run"];

/// Magic numbers of statfs(2) that say "this is the initramfs".
const RAMFS_MAGIC: u64 = 0x8584_58f6;
const TMPFS_MAGIC: u64 = 0x0102_1994;

#[derive(Debug, Error)]
enum RootError {
    #[error("cannot mount what the first stage needs")]
    Mounts(#[from] mounts::MountError),
    #[error("cannot read the kernel command line")]
    CommandLine(#[source] io::Error),
    #[error("there is no root")]
    Find(#[source] JobError),
    #[error("cannot mount {device} at {NEW_ROOT}")]
    Mount { device: PathBuf, source: io::Error },
    #[error("{device} did not give the root within {} s", ROOT_LIMIT.as_secs())]
    Silent { device: PathBuf },
    #[error("the root has no {INIT}")]
    NoInit(#[source] io::Error),
    #[error("cannot move /{mount} into the root")]
    Move { mount: &'static str, source: io::Error },
    #[error("cannot make {NEW_ROOT} the root")]
    Enter(#[source] io::Error),
    #[error("cannot hand the timings over")]
    HandOver(#[source] io::Error),
    #[error("cannot execute {INIT}")]
    Execute(#[source] io::Error),
}

/// Whether this process still has the initramfs as its root.
pub(crate) fn in_initramfs() -> bool {
    rustix::fs::statfs("/").is_ok_and(|status| {
        let kind = u64::from_ne_bytes(status.f_type.to_ne_bytes());
        kind == RAMFS_MAGIC || kind == TMPFS_MAGIC
    })
}

/// Moves to the root and executes it. Returns only if that failed, or if somebody has asked for the machine's end.
pub(crate) fn enter(console: &mut Console, vitals: &mut Vitals) -> Stop {
    match try_enter(console, vitals) {
        Ok(never) => match never {},
        Err(RootError::Find(JobError::Asked(request))) => Stop::Asked(request),
        Err(error) => Failure::new("root", Rule::Fatal, error).into(),
    }
}

fn try_enter(console: &mut Console, vitals: &mut Vitals) -> Result<Infallible, RootError> {
    let start = clock::since_boot();
    mounts::mount_first_stage()?;
    vitals.requests.open();
    console.open();
    console.info("root", format_args!("Keelson {}", env!("CARGO_PKG_VERSION")));

    let device = find(console, vitals)?;
    let new_root = Path::new(NEW_ROOT);
    mount_root(&device, new_root)?;
    for mount in KEPT_MOUNTS {
        mount::move_mount(&Path::new("/").join(mount), &new_root.join(mount))
            .map_err(|source| RootError::Move { mount, source })?;
    }

    let old_root = File::open("/").map_err(RootError::Enter)?;
    rustix::process::chdir(new_root).map_err(|error| RootError::Enter(error.into()))?;
    mount::move_mount(Path::new("."), Path::new("/")).map_err(RootError::Enter)?;
    mount::enter_root(Path::new(".")).map_err(RootError::Enter)?;
    // A root that came with it stays alive by its loop device; all other bytes of the initramfs are freed.
    if let Err(error) = empty::empty(&old_root) {
        console.warn("root", format_args!("the initramfs keeps some memory: {error}"));
    }
    drop(old_root);

    let span = Span { name: "root".to_owned(), start, length: clock::since_boot().saturating_sub(start) };
    execute(&[span])
}

/// The verified device.
fn find(console: &mut Console, vitals: &mut Vitals) -> Result<PathBuf, RootError> {
    let command_line = fs::read("/proc/cmdline").map_err(RootError::CommandLine)?;
    let request = Request::Root { command_line: CommandLine(command_line) };
    let root: Root = job::run_in_first_stage(console, &request, vitals).map_err(RootError::Find)?;
    console.info("root", format_args!("{} is verified as it is read", root.found_on.display()));
    Ok(root.device)
}

/// The disk behind it may have died since it was looked at: a thread may hang in PID 1's stead.
fn mount_root(device: &Path, target: &Path) -> Result<(), RootError> {
    let (source, point) = (device.to_owned(), target.to_owned());
    let mounted = bounded::within(ROOT_LIMIT, move || mount_and_read(&source, &point));
    mounted.unwrap_or_else(|| Err(RootError::Silent { device: device.to_owned() }))
}

/// With all of the next stage's program read, executing it waits for no disk.
fn mount_and_read(device: &Path, target: &Path) -> Result<(), RootError> {
    let failed = |source| RootError::Mount { device: device.to_owned(), source };
    fs::create_dir_all(target).map_err(failed)?;
    mount::mount(&device.to_string_lossy(), target, "erofs", FLAGS, "").map_err(failed)?;
    let program = File::open(target.join(INIT.trim_start_matches('/')));
    program.and_then(|mut program| io::copy(&mut program, &mut io::sink())).map_err(RootError::NoInit)?;
    Ok(())
}

/// Executes this program from the root, with the time spent so far in a memfd that its argument names.
fn execute(spans: &[Span]) -> Result<Infallible, RootError> {
    let text = handover::encode(spans).map_err(RootError::HandOver)?;
    let sealed = memfd::sealed("handover", &text).map_err(RootError::HandOver)?;
    rustix::io::fcntl_setfd(&sealed, rustix::io::FdFlags::empty())
        .map_err(|error| RootError::HandOver(error.into()))?;
    let argument = handover::argument(sealed.as_raw_fd());
    // Left open on purpose: the next program closes it.
    let _ = sealed.into_raw_fd();
    let words = [INIT.to_owned(), argument].map(CString::new).into_iter().collect::<Result<Vec<_>, _>>();
    let words = words.map_err(|error| RootError::Execute(error.into()))?;
    let Some(program) = words.first() else { return Err(RootError::Execute(io::ErrorKind::InvalidInput.into())) };
    process::execute(program, &words).map_err(RootError::Execute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_only_read_and_has_no_devices_and_no_set_id_programs() {
        assert!(FLAGS.contains(MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID));
    }
}
