//! The machine's end: what is left is stopped, the record is written, file systems are unmounted, the kernel is told.
//!
//! Any of these steps may block for ever (a dead disk, a network file system without a server). So each is done by a process or
//! a thread that may hang in PID 1's stead, with a limit, and what does not answer is named and abandoned. Behind that stands
//! the enforcer's thread (`shutdown`), whose deadline is drawn near as soon as the services have ended, and behind that the
//! watchdog, if there is one: it is never disarmed, and fed between the steps but in none of them.
//!
//! Nobody reads signals any more, so ctrl-alt-del is the kernel's to obey: who presses it now has waited long enough, and gets a
//! restart at once, without a sync, even where every thread of this process hangs.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use keelson_control::ShutdownKind;
use keelson_job::{BootEnd, Request};
use keelson_sys::mount::{self, MountFlags, UnmountFlags};
use keelson_sys::{clock, power, process};

use crate::boot::job;
use crate::boot::{Action, Boot, Verdict};
use crate::bounded;
use crate::console::Console;
use crate::{recovery, signals};

/// How long processes outside any service get after SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(2);
/// How many processes are named that do not end.
const LEFT_MAX: usize = 8;
/// How long one file system may take to let go, and all of them together. With the record (12 s), the processes and the sync
/// (10 s) it is less than what the enforcer gives.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(5);
const UNMOUNT_ALL_LIMIT: Duration = Duration::from_secs(12);
const SUBJECT: &str = "shutdown";

impl From<Action> for ShutdownKind {
    fn from(action: Action) -> Self {
        match action {
            Action::Reboot => Self::Reboot,
            Action::PowerOff => Self::PowerOff,
        }
    }
}

impl From<Action> for power::End {
    fn from(action: Action) -> Self {
        match action {
            Action::Reboot => Self::Reboot,
            Action::PowerOff => Self::PowerOff,
        }
    }
}

/// Ends the machine. Services have stopped, or could not be stopped.
pub(crate) fn end(console: &mut Console, boot: &mut Boot, verdict: &Verdict) -> ! {
    if let Err(error) = power::ctrl_alt_del_restarts() {
        console.warn(SUBJECT, format_args!("ctrl-alt-del does nothing from here on: {error}"));
    }
    console.info(SUBJECT, format_args!("{}: {}", verdict.action.words(), verdict.reason));
    if let Some(enforcer) = &boot.enforcer {
        enforcer.hasten(verdict.action.into(), clock::since_boot());
    }
    feed(boot);
    record(console, boot, verdict);
    kill_everything(console);
    feed(boot);
    unmount_everything(console);
    feed(boot);
    recovery::sync_bounded(console);
    feed(boot);
    console.info(SUBJECT, verdict.action.words());
    console.flush();
    let error = power::end(verdict.action.into());
    console.error(SUBJECT, format_args!("the kernel did not {}: {error}", verdict.action.words()));
    // The enforcer's thread goes on asking.
    loop {
        thread::park();
    }
}

/// Each step gets the watchdog's whole timeout.
fn feed(boot: &mut Boot) {
    if let Some(watchdog) = &mut boot.watchdog {
        let _ = watchdog.feed();
    }
}

fn record(console: &mut Console, boot: &mut Boot, verdict: &Verdict) {
    let end = BootEnd {
        at: clock::wall().as_secs(),
        action: verdict.action.words().to_owned(),
        reason: verdict.reason.clone(),
        cause: verdict.cause,
    };
    let request = Request::CloseState { progress: boot.progress_now(), end };
    if let Err(error) = job::run::<()>(console, &request) {
        console.warn(SUBJECT, format_args!("the boot's record was not kept: {}", recovery::chain(&error)));
    }
}

/// Services are in their cgroups and gone; this is for whatever escaped.
fn kill_everything(console: &mut Console) {
    if process::kill_everything() && signals::reap_until_alone(KILL_LIMIT) {
        let left = keelson_init::process::others(Path::new("/proc"), LEFT_MAX).join("; ");
        console.warn(SUBJECT, format_args!("killed, but still there: {left}"));
    }
}

/// Unmounts from the last mounted to the first. What is busy is made read-only and detached; what does not answer is
/// abandoned, and all else still let go of.
fn unmount_everything(console: &mut Console) {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points: Vec<String> = mount::points(&table).filter(|point| holds_data(point)).collect();
    let start = Instant::now();
    let mut abandoned = Vec::new();
    for point in points.into_iter().rev() {
        let limit = UNMOUNT_LIMIT.min(UNMOUNT_ALL_LIMIT.saturating_sub(start.elapsed()));
        let path = PathBuf::from(&point);
        match bounded::within(limit, move || let_go(&path)) {
            Some(Ok(())) => {}
            Some(Err(error)) => console.warn(SUBJECT, format_args!("cannot unmount {point}: {error}")),
            None => abandoned.push(point),
        }
    }
    if !abandoned.is_empty() {
        console.warn(SUBJECT, format_args!("abandoned, because they do not answer: {}", abandoned.join(", ")));
    }
    let _ = mount::remount_bind(Path::new("/"), MountFlags::RDONLY);
}

/// Unmounts one; returns why not, if it could not even be made read-only and detached.
fn let_go(path: &Path) -> std::io::Result<()> {
    let Err(error) = mount::unmount(path, UnmountFlags::empty()) else { return Ok(()) };
    // Several mounts of one table line may be gone with an earlier one.
    if error.kind() == std::io::ErrorKind::InvalidInput {
        return Ok(());
    }
    let read_only = mount::remount_read_only(path);
    let detached = mount::unmount(path, UnmountFlags::DETACH);
    if read_only.is_ok() && detached.is_ok() { Ok(()) } else { Err(error) }
}

/// Everything but the root and the kernel's own file systems, which hold nothing that could be lost.
fn holds_data(point: &str) -> bool {
    let kernels = ["/proc", "/sys", "/dev"];
    point != "/" && !kernels.iter().any(|kernel| Path::new(point).starts_with(kernel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_file_systems_and_the_root_stay_mounted() {
        for point in ["/", "/proc", "/sys/fs/cgroup", "/dev/pts"] {
            assert!(!holds_data(point), "{point}");
        }
        for point in ["/state", "/var", "/run", "/var/lib/kubelet/pods/x", "/system"] {
            assert!(holds_data(point), "{point}");
        }
    }
}
