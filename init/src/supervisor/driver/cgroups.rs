//! One cgroup v2 per service (Documentation/admin-guide/cgroup-v2.rst).
//!
//! The cgroup is what makes "all processes of a service" a fact: it holds the service's limits, it is killed as a whole,
//! and a service has ended when it is empty. It stays between runs, so that its counters go on; it goes when the service
//! is forgotten.
//!
//! A group that was killed is made anew, because of a fault in Linux (seen in 6.12 and 6.18): `cgroup_css_set_fork` takes
//! the kill sequence number for `CLONE_INTO_CGROUP` from the cloning process's own group instead of the target, so
//! `cgroup_post_fork` believes that the target is being killed just now and kills the child. A group that was ever killed
//! can therefore not be cloned into any more.
//!
//! What a group is protected by (`memory.min`, `memory.low`) counts only up to what its parent is protected by, so the
//! parent of all services has the sum of what they have.
//!
//! The trait exists for tests on machines without a writable cgroup v2 hierarchy.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use keelson_control::{Limits, ServiceName, ServiceSpec};
use keelson_sys::poller::{Interest, Poller};
use rustix::fs::{Mode, OFlags};

use super::Source;
use crate::process;

/// What a service consumes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub memory_bytes: Option<u64>,
    pub cpu_microseconds: Option<u64>,
}

/// Holds the processes of each service together.
pub trait Containment: fmt::Debug {
    /// Makes the place for a service's processes and sets its limits. Limits that cannot be set are reported, because a
    /// service without its limits is better than none.
    fn prepare(&mut self, spec: &ServiceSpec, poller: &Poller) -> io::Result<Vec<String>>;

    /// The cgroup's directory, for clone3.
    fn directory(&self, service: &ServiceName) -> Option<BorrowedFd<'_>>;

    /// Its first process, for those who cannot be started inside.
    fn started(&mut self, service: &ServiceName, pid: i32);

    /// SIGKILL to every process of the service.
    fn kill(&mut self, service: &ServiceName) -> io::Result<()>;

    fn is_empty(&self, service: &ServiceName) -> io::Result<bool>;

    /// Its processes, for a message: name, number, and what they sleep in.
    fn processes(&self, service: &ServiceName) -> Vec<String>;

    /// To which service a process belongs.
    fn owner(&self, pid: i32) -> Option<ServiceName>;

    fn usage(&self, service: &ServiceName) -> Usage;

    fn forget(&mut self, service: &ServiceName);
}

/// The kernel's own containment.
#[derive(Debug)]
pub struct Cgroups {
    /// Of services: `/sys/fs/cgroup/keelson`.
    base: PathBuf,
    groups: BTreeMap<ServiceName, Group>,
    /// `memory.min` and `memory.low` of each service.
    protected: BTreeMap<ServiceName, (u64, u64)>,
    next_number: u64,
}

#[derive(Debug)]
struct Group {
    directory: OwnedFd,
    killed: bool,
    /// Kept open because epoll watches it.
    _events: OwnedFd,
}

/// Controllers that services use. Those that the kernel lacks are left out.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];

impl Cgroups {
    /// Services will live below `base`, which is made if it is missing.
    pub fn new(base: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&base)?;
        for directory in base.parent().into_iter().chain([base.as_path()]) {
            enable_controllers(directory);
        }
        Ok(Self { base, groups: BTreeMap::new(), protected: BTreeMap::new(), next_number: 0 })
    }

    fn path(&self, service: &ServiceName) -> PathBuf {
        self.base.join(service.as_str())
    }

    fn open(&mut self, service: &ServiceName, poller: &Poller) -> io::Result<Group> {
        let path = self.path(service);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&path, flags | OFlags::DIRECTORY, Mode::empty())?;
        let events = rustix::fs::open(path.join("cgroup.events"), flags, Mode::empty())?;
        self.next_number += 1;
        poller.add(&events, Source::Group(self.next_number).token(), Interest::Priority)?;
        Ok(Group { directory, killed: false, _events: events })
    }

    /// Protects the parent as far as all services together ask for. Returns what could not be set.
    fn protect_base(&self) -> Vec<String> {
        let sum = |part: fn(&(u64, u64)) -> u64| self.protected.values().map(part).fold(0, u64::saturating_add);
        let sums = [("memory.min", sum(|(min, _)| *min)), ("memory.low", sum(|(_, low)| *low))];
        let failed = sums.into_iter().filter_map(|(file, bytes)| {
            let error = fs::write(self.base.join(file), bytes.to_string()).err().filter(|_| bytes > 0)?;
            Some(format!("cannot set {file} of all services to {bytes}: {error}"))
        });
        failed.collect()
    }

    fn remove(&mut self, service: &ServiceName) -> io::Result<()> {
        self.groups.remove(service);
        match remove_tree(&self.path(service)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Removes an empty group and the groups that the service made inside. Deepest first, without recursion.
fn remove_tree(group: &Path) -> io::Result<()> {
    let mut groups = vec![group.to_owned()];
    let mut next = 0;
    while let Some(group) = groups.get(next).cloned() {
        next += 1;
        let inner = fs::read_dir(&group).into_iter().flatten().flatten();
        groups
            .extend(inner.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()));
    }
    groups.iter().rev().try_for_each(fs::remove_dir)
}

/// One by one, since a single unknown name would make the kernel refuse the whole line.
fn enable_controllers(directory: &Path) {
    for controller in CONTROLLERS {
        // A missing controller shows when a limit that needs it cannot be set.
        let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

impl Containment for Cgroups {
    fn prepare(&mut self, spec: &ServiceSpec, poller: &Poller) -> io::Result<Vec<String>> {
        if self.groups.get(&spec.name).is_some_and(|group| group.killed) {
            self.remove(&spec.name)?;
        }
        if !self.groups.contains_key(&spec.name) {
            let group = self.open(&spec.name, poller)?;
            self.groups.insert(spec.name.clone(), group);
        }
        let path = self.path(&spec.name);
        let failed = settings(&spec.limits).into_iter().filter_map(|(file, value, asked)| {
            // What was not asked for is only reset to its default; if the file is not there, that is the default.
            let error = fs::write(path.join(file), &value).err().filter(|_| asked)?;
            Some(format!("cannot set {file} to {value}: {error}"))
        });
        let mut failed: Vec<String> = failed.collect();
        let limits = &spec.limits;
        let protection = (limits.memory_min_bytes.unwrap_or_default(), limits.memory_low_bytes.unwrap_or_default());
        if self.protected.insert(spec.name.clone(), protection) != Some(protection) {
            failed.extend(self.protect_base());
        }
        Ok(failed)
    }

    fn directory(&self, service: &ServiceName) -> Option<BorrowedFd<'_>> {
        self.groups.get(service).map(|group| std::os::fd::AsFd::as_fd(&group.directory))
    }

    fn started(&mut self, _service: &ServiceName, _pid: i32) {}

    fn kill(&mut self, service: &ServiceName) -> io::Result<()> {
        // Mostly the main process was all there was.
        if self.is_empty(service)? {
            return Ok(());
        }
        if let Some(group) = self.groups.get_mut(service) {
            group.killed = true;
        }
        fs::write(self.path(service).join("cgroup.kill"), "1")
    }

    fn is_empty(&self, service: &ServiceName) -> io::Result<bool> {
        let events = fs::read_to_string(self.path(service).join("cgroup.events"))?;
        Ok(events.lines().any(|line| line == "populated 0"))
    }

    fn processes(&self, service: &ServiceName) -> Vec<String> {
        let pids = fs::read_to_string(self.path(service).join("cgroup.procs")).unwrap_or_default();
        pids.lines().take(PROCESSES_MAX).filter_map(|pid| process::describe(Path::new("/proc"), pid)).collect()
    }

    fn owner(&self, pid: i32) -> Option<ServiceName> {
        let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = membership.lines().find_map(|line| line.strip_prefix("0::"))?;
        owner_in(path, self.base.file_name()?.to_str()?).filter(|name| self.groups.contains_key(name))
    }

    fn usage(&self, service: &ServiceName) -> Usage {
        let path = self.path(service);
        let memory = fs::read_to_string(path.join("memory.current")).ok();
        let cpu = fs::read_to_string(path.join("cpu.stat")).ok();
        Usage {
            memory_bytes: memory.and_then(|text| text.trim().parse().ok()),
            cpu_microseconds: cpu.and_then(|text| {
                text.lines().find_map(|line| line.strip_prefix("usage_usec ")).and_then(|value| value.parse().ok())
            }),
        }
    }

    fn forget(&mut self, service: &ServiceName) {
        // What stays is empty, and found again if the service comes back.
        let _ = self.remove(service);
        if self.protected.remove(service).is_some() {
            self.protect_base();
        }
    }
}

/// Enough to recognise what hangs.
const PROCESSES_MAX: usize = 8;

/// The service's name in a cgroup path such as `/keelson/kubelet` or `/a/keelson/kubelet/inner`.
fn owner_in(path: &str, base: &str) -> Option<ServiceName> {
    let mut parts = path.split('/').skip_while(|part| *part != base);
    parts.next()?;
    ServiceName::new(parts.next()?).ok()
}

/// File, value, and whether it was asked for.
fn settings(limits: &Limits) -> Vec<(&'static str, String, bool)> {
    fn or<T: ToString>(value: Option<T>, default: &str) -> (String, bool) {
        value.map_or_else(|| (default.to_owned(), false), |value| (value.to_string(), true))
    }
    [
        ("memory.min", or(limits.memory_min_bytes, "0")),
        ("memory.low", or(limits.memory_low_bytes, "0")),
        ("memory.max", or(limits.memory_max_bytes, "max")),
        ("cpu.weight", or(limits.cpu_weight, "100")),
        ("pids.max", or(limits.pids_max, "max")),
        // Half a service is no service: the kernel's OOM killer takes all of it or nothing.
        ("memory.oom.group", ("1".to_owned(), false)),
    ]
    .into_iter()
    .map(|(file, (value, asked))| (file, value, asked))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_the_directory_below_the_base() {
        let name = |text: &str| Some(ServiceName::new(text).unwrap());
        assert_eq!(owner_in("/keelson/kubelet", "keelson"), name("kubelet"));
        assert_eq!(owner_in("/x/keelson/kubelet/inner", "keelson"), name("kubelet"));
        assert_eq!(owner_in("/keelson", "keelson"), None);
        assert_eq!(owner_in("/kubepods/pod1/keelsonx", "keelson"), None);
        assert_eq!(owner_in("/keelson/..", "keelson"), None);
    }

    #[test]
    fn limits_that_were_not_given_are_the_kernels_defaults() {
        let limits = Limits { memory_low_bytes: Some(4096), ..Limits::default() };
        let settings = settings(&limits);
        assert!(settings.contains(&("memory.low", "4096".into(), true)));
        assert!(settings.contains(&("memory.max", "max".into(), false)));
        assert!(settings.contains(&("pids.max", "max".into(), false)));
    }

    #[test]
    fn parent_is_protected_as_far_as_all_services_together() {
        let base = tempfile::tempdir().unwrap();
        let mut cgroups = Cgroups::new(base.path().to_owned()).unwrap();
        let read = |file: &str| fs::read_to_string(base.path().join(file)).unwrap();
        for (name, protection) in [("a", (1000, 10)), ("b", (0, 500)), ("c", (u64::MAX, 0))] {
            cgroups.protected.insert(ServiceName::new(name).unwrap(), protection);
        }
        assert_eq!(cgroups.protect_base(), Vec::<String>::new());
        assert_eq!((read("memory.min"), read("memory.low")), (u64::MAX.to_string(), "510".to_owned()));
        cgroups.forget(&ServiceName::new("c").unwrap());
        assert_eq!(read("memory.min"), "1000");
    }
}
