//! Letting go of file systems at the machine's end, in a bounded time whatever hangs.
//!
//! First those whose other side is not this machine's (network file systems, FUSE): one thread asks for all of them in order, from the last
//! mounted to the first, so that a server that is there gets what is to be written. It has a limit for all of them together. What is then
//! left is detached by force, from the first mounted to the last: an outer one takes along what is mounted in it, and no path leads through one
//! that hangs. Then all others, from the last mounted to the first: what is busy is made read-only and detached. Each has its limit, and all
//! together have one; STATE and DATA, which come last, have a time of their own that no other can use up.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keelson_job::{DATA, STATE};
use keelson_sys::mount::{self, Mount, MountFlags, UnmountFlags};

use super::SUBJECT;
use crate::bounded;
use crate::console::Console;

/// What may not be missed for the hanging of others.
const SURE: [&str; 2] = [STATE, DATA];

/// Unmounts everything that holds data; names what is abandoned.
pub(super) fn everything(console: &mut Console) {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts: Vec<Mount> = mount::table(&table).filter(|mount| holds_data(&mount.point)).collect();
    let left = let_go_of(&mounts, CALLS, LIMITS);
    for (point, error) in &left.refused {
        console.warn(SUBJECT, format_args!("cannot unmount {point}: {error}"));
    }
    for (why, points) in [("they do not answer", &left.silent), ("no time is left for them", &left.untried)] {
        if !points.is_empty() {
            console.warn(SUBJECT, format_args!("abandoned, because {why}: {}", points.join(", ")));
        }
    }
    let _ = mount::remount_bind(Path::new("/"), MountFlags::RDONLY);
}

/// Everything but the root and the kernel's own file systems, which hold nothing that could be lost.
fn holds_data(point: &str) -> bool {
    let kernels = ["/proc", "/sys", "/dev"];
    point != "/" && !kernels.iter().any(|kernel| Path::new(point).starts_with(kernel))
}

/// Whether what it waits for may be elsewhere: another machine, or a process that is gone by now.
fn is_remote(file_system: &str) -> bool {
    const REMOTE: [&str; 7] = ["nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs"];
    REMOTE.contains(&file_system) || file_system.starts_with("fuse")
}

type Call = fn(&Path) -> io::Result<()>;

/// How it is done. Tests do it otherwise.
#[derive(Debug, Clone, Copy)]
struct Calls {
    unmount: Call,
    force: Call,
    let_go: Call,
}

const CALLS: Calls = Calls { unmount, force, let_go };

#[derive(Debug, Clone, Copy)]
struct Limits {
    /// For all remote ones, asked in order.
    gentle: Duration,
    /// For one remote one by force, and for all of them.
    force: Duration,
    force_all: Duration,
    /// For one of the others.
    one: Duration,
    /// What each of [`SURE`] has in any case.
    sure: Duration,
    /// For everything; the last of [`SURE`] may take its own time longer.
    all: Duration,
}

/// With the record (12 s), the processes (2 s) and the sync (10 s) it is less than what the enforcer gives.
const LIMITS: Limits = Limits {
    gentle: Duration::from_secs(2),
    force: Duration::from_millis(500),
    force_all: Duration::from_secs(3),
    one: Duration::from_secs(5),
    sure: Duration::from_millis(1500),
    all: Duration::from_secs(12),
};

impl Limits {
    /// How long one of the others may take when so much time has gone; `None`: it is not tried any more.
    fn of(&self, point: &str, elapsed: Duration) -> Option<Duration> {
        let left = self.all.saturating_sub(elapsed);
        if SURE.contains(&point) {
            return Some(self.one.min(left).max(self.sure));
        }
        let free = left.saturating_sub(self.sure * 2);
        (!free.is_zero()).then(|| self.one.min(free))
    }
}

/// What is still mounted, by the reason.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    refused: Vec<(String, String)>,
    silent: Vec<String>,
    untried: Vec<String>,
}

impl Left {
    fn add(&mut self, point: &str, answer: Option<io::Result<()>>) {
        match answer {
            Some(Ok(())) => {}
            Some(Err(error)) => self.refused.push((point.to_owned(), error.to_string())),
            None => self.silent.push(point.to_owned()),
        }
    }
}

fn let_go_of(mounts: &[Mount], calls: Calls, limits: Limits) -> Left {
    let start = Instant::now();
    let mut left = Left::default();
    let (remote, own): (Vec<&Mount>, Vec<&Mount>) = mounts.iter().partition(|mount| is_remote(&mount.file_system));
    detach_remote(&remote, calls, limits, &mut left);
    for mount in own.into_iter().rev() {
        match limits.of(&mount.point, start.elapsed()) {
            Some(limit) => left.add(&mount.point, ask(calls.let_go, &mount.point, limit)),
            None => left.untried.push(mount.point.clone()),
        }
    }
    left
}

fn detach_remote(mounts: &[&Mount], calls: Calls, limits: Limits, left: &mut Left) {
    if mounts.is_empty() {
        return;
    }
    let points: Vec<PathBuf> = mounts.iter().rev().map(|mount| PathBuf::from(&mount.point)).collect();
    // Which of them are gone is seen when they are asked by force.
    let gently = move || {
        for point in &points {
            let _ = (calls.unmount)(point);
        }
    };
    let _ = bounded::within(limits.gentle, gently);
    let start = Instant::now();
    for mount in mounts {
        let limit = limits.force.min(limits.force_all.saturating_sub(start.elapsed()));
        if limit.is_zero() {
            left.untried.push(mount.point.clone());
        } else {
            left.add(&mount.point, ask(calls.force, &mount.point, limit));
        }
    }
}

fn ask(call: Call, point: &str, limit: Duration) -> Option<io::Result<()>> {
    let path = PathBuf::from(point);
    bounded::within(limit, move || call(&path))
}

fn unmount(path: &Path) -> io::Result<()> {
    mount::unmount(path, UnmountFlags::empty())
}

/// Aborts what waits for the other side, and takes it out of sight of everybody.
fn force(path: &Path) -> io::Result<()> {
    gone_is_well(mount::unmount(path, UnmountFlags::FORCE | UnmountFlags::DETACH))
}

/// Unmounts one; returns why not, if it could not even be made read-only and detached.
fn let_go(path: &Path) -> io::Result<()> {
    let Err(error) = gone_is_well(unmount(path)) else { return Ok(()) };
    let read_only = mount::remount_read_only(path);
    let detached = mount::unmount(path, UnmountFlags::DETACH);
    if read_only.is_ok() && detached.is_ok() { Ok(()) } else { Err(error) }
}

/// It may be gone with another one: no mount point any more, or not even there.
fn gone_is_well(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::thread;

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

    #[test]
    fn what_waits_for_others_is_known() {
        for name in ["nfs4", "ceph", "fuse", "fuse.s3fs", "fuseblk"] {
            assert!(is_remote(name), "{name}");
        }
        for name in ["ext4", "overlay", "tmpfs", "xfs"] {
            assert!(!is_remote(name), "{name}");
        }
    }

    const SCALED: Limits = Limits {
        gentle: Duration::from_millis(200),
        force: Duration::from_millis(250),
        force_all: Duration::from_millis(800),
        one: Duration::from_secs(1),
        sure: Duration::from_millis(500),
        all: Duration::from_secs(4),
    };

    fn mounts(rows: &[(&str, &str)]) -> Vec<Mount> {
        rows.iter().map(|&(point, kind)| Mount { point: point.to_owned(), file_system: kind.to_owned() }).collect()
    }

    fn hang(_: &Path) -> io::Result<()> {
        loop {
            thread::park();
        }
    }

    /// Hangs for everything that is said to.
    fn hang_there(path: &Path) -> io::Result<()> {
        if path.to_string_lossy().contains("hung") { hang(path) } else { Ok(()) }
    }

    static DONE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

    fn note(path: &Path) -> io::Result<()> {
        if path.to_string_lossy().contains("hung") {
            return hang(path);
        }
        DONE.lock().unwrap().push(path.to_owned());
        Ok(())
    }

    #[test]
    fn state_and_data_are_let_go_of_whatever_hangs_and_however_much() {
        let mut rows = vec![("/state", "ext4"), ("/var", "ext4"), ("/run", "tmpfs")];
        for _ in 0..20 {
            rows.extend([("/var/hung-pod", "ext4"), ("/var/hung-server", "nfs4")]);
        }
        let start = Instant::now();
        let calls = Calls { unmount: hang, force: hang_there, let_go: note };
        let left = let_go_of(&mounts(&rows), calls, SCALED);
        let took = start.elapsed();
        let done = DONE.lock().unwrap().clone();
        for point in ["/var", "/state"] {
            assert!(done.contains(&PathBuf::from(point)), "{point}: {left:?}");
        }
        assert!(left.silent.iter().all(|point| point.contains("hung")), "{left:?}");
        assert!(!left.untried.is_empty() && left.untried.iter().all(|point| !SURE.contains(&point.as_str())));
        let slack = Duration::from_secs(10);
        assert!(took < SCALED.all + SCALED.sure + slack, "{took:?}");
    }

    #[test]
    fn remote_ones_that_hang_cost_their_own_time_and_none_of_the_others() {
        let calls = Calls { unmount: hang, force: hang_there, let_go: hang_there };
        let own = [("/state", "ext4"), ("/var", "ext4"), ("/var/b", "ext4")];
        let rows = [own.as_slice(), &[("/var/a", "nfs"), ("/var/hung", "fuse.s3fs")][..]].concat();
        let left = let_go_of(&mounts(&rows), calls, SCALED);
        assert_eq!(left, Left { silent: vec!["/var/hung".to_owned()], ..Left::default() });
    }

    #[test]
    fn time_of_state_and_data_is_theirs() {
        for elapsed in (0..20).map(Duration::from_secs) {
            for point in SURE {
                assert!(LIMITS.of(point, elapsed).unwrap() >= LIMITS.sure, "{elapsed:?}");
            }
        }
        assert_eq!(LIMITS.of("/var/a", Duration::ZERO), Some(LIMITS.one));
        assert_eq!(LIMITS.of("/var/a", LIMITS.all.checked_sub(LIMITS.sure * 2).unwrap()), None);
        // Whatever goes before, and even if both use it up.
        let worst = LIMITS.all + LIMITS.sure;
        assert!(worst + Duration::from_secs(12 + 2 + 10) < Duration::from_secs(40));
    }

    #[test]
    fn what_is_gone_already_is_well() {
        assert!(gone_is_well(Err(io::ErrorKind::InvalidInput.into())).is_ok());
        assert!(gone_is_well(Err(io::ErrorKind::NotFound.into())).is_ok());
        assert!(gone_is_well(Err(io::ErrorKind::ResourceBusy.into())).is_err());
    }
}
