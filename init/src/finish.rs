//! The machine's end: what is left is stopped, the record is written, file systems are unmounted, the kernel is told.
//!
//! Any of these steps may block for ever (a dead disk, a network file system without a server). So that the machine ends all
//! the same, a [`Deadline`] is armed when the end begins: a thread that waits and then calls reboot(2), which needs no lock,
//! no memory and no disk. The watchdog, if there is one, is behind it; it is never disarmed.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use keelson_job::{BootEnd, Request};
use keelson_sys::mount::{self, MountFlags, UnmountFlags};
use keelson_sys::{clock, power};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::boot::job;
use crate::boot::{Action, Boot, Verdict};
use crate::console::Console;
use crate::signals;

/// How long everything after the services' stop may take.
const FINISH_LIMIT: Duration = Duration::from_secs(30);
/// How long processes outside any service get after SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(2);
/// Stack of PID 1's helper threads: they call the kernel and little else. Locked memory, so not more than needed.
pub(crate) const THREAD_STACK_BYTES: usize = 64 * 1024;
const SUBJECT: &str = "shutdown";

/// Ends the machine at a fixed time, whatever the rest of PID 1 does. It cannot be disarmed.
#[derive(Debug)]
pub(crate) struct Deadline;

impl Deadline {
    pub(crate) fn arm(limit: Duration, action: Action) {
        let end = Instant::now() + limit;
        let thread =
            thread::Builder::new().name("deadline".to_owned()).stack_size(THREAD_STACK_BYTES).spawn(move || {
                loop {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        power::end(action.into());
                    }
                    // After a reboot call that failed: try again, there is nothing better to do.
                    thread::park_timeout(left.max(Duration::from_secs(1)));
                }
            });
        // Without a thread the steps below still run; only their hanging is then left to the watchdog.
        drop(thread);
    }
}

impl From<Action> for power::End {
    fn from(action: Action) -> Self {
        match action {
            Action::Reboot => Self::Reboot,
            Action::PowerOff => Self::PowerOff,
            Action::Halt => Self::Halt,
        }
    }
}

/// Ends the machine. Services have stopped, or could not be stopped.
pub(crate) fn end(console: &mut Console, boot: &Boot, verdict: &Verdict) -> ! {
    Deadline::arm(FINISH_LIMIT, verdict.action);
    console.info(SUBJECT, format_args!("{}: {}", verdict.action.words(), verdict.reason));
    record(console, boot, verdict);
    kill_everything(console);
    unmount_everything(console);
    rustix::fs::sync();
    console.info(SUBJECT, verdict.action.words());
    console.flush();
    let error = power::end(verdict.action.into());
    console.error(SUBJECT, format_args!("the kernel did not {}: {error}", verdict.action.words()));
    // The deadline's thread goes on asking.
    loop {
        thread::park();
    }
}

fn record(console: &mut Console, boot: &Boot, verdict: &Verdict) {
    let record = BootEnd {
        at: clock::wall().as_secs(),
        action: verdict.action.words().to_owned(),
        reason: verdict.reason.clone(),
        phase: boot.facts.timeline.last().map(|span| span.name.clone()).unwrap_or_default(),
        phases: boot
            .facts
            .timeline
            .iter()
            .map(|span| (span.name.clone(), milliseconds(span.start), milliseconds(span.length)))
            .collect(),
    };
    if let Err(error) = job::run::<()>(console, &Request::CloseState { record }) {
        console.warn(SUBJECT, format_args!("the boot's record was not kept: {}", crate::recovery::chain(&error)));
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Services are in their cgroups and gone; this is for whatever escaped.
fn kill_everything(console: &mut Console) {
    // ESRCH: there is nobody else.
    if kill(Pid::from_raw(-1), Signal::SIGKILL).is_err() {
        return;
    }
    let left = signals::reap_until_alone(KILL_LIMIT);
    if left {
        console.warn(SUBJECT, "some processes did not end; they wait for a device");
    }
}

/// Unmounts from the last mounted to the first. What is busy is made read-only and detached.
fn unmount_everything(console: &mut Console) {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points: Vec<String> = mount::points(&table).filter(|point| holds_data(point)).collect();
    for point in points.iter().rev() {
        let path = Path::new(point);
        let Err(error) = mount::unmount(path, UnmountFlags::empty()) else { continue };
        // Several mounts of one table line may be gone with an earlier one.
        if error.kind() == std::io::ErrorKind::InvalidInput {
            continue;
        }
        let read_only = mount::remount_read_only(path);
        let detached = mount::unmount(path, UnmountFlags::DETACH);
        if read_only.is_err() || detached.is_err() {
            console.warn(SUBJECT, format_args!("cannot unmount {point}: {error}"));
        }
    }
    let _ = mount::remount_bind(Path::new("/"), MountFlags::RDONLY);
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
