//! The cgroup v2 tree: PID 1 in a leaf of its own, services below `/keelson`, pods in kubelet's `/kubepods`, PID 1's jobs in groups
//! with bounds ([`job::GROUPS`]).
//!
//! Controllers can be enabled for children only in a group without processes ("no internal processes", cgroups(7)), so
//! PID 1 leaves the root first.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{Machine, PhaseResult};
use crate::boot::{CGROUP_ROOT, job};
use crate::console::Console;

/// PID 1's own group.
const INIT: &str = "init";
/// The parent of all services' groups.
const SERVICES: &str = "keelson";
/// What kubelet (kubernetes-1.37: cpu, cpuset, memory, pids are required) and our services' limits use.
const CONTROLLERS: [&str; 6] = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"];

#[derive(Debug, Error)]
enum CgroupError {
    #[error("cannot make the cgroup {}", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("cannot move PID 1 into {}", path.display())]
    Move { path: PathBuf, source: io::Error },
    #[error("cannot read {}", path.display())]
    Available { path: PathBuf, source: io::Error },
    #[error("cannot enable {controller} in {}", path.display())]
    Enable { controller: &'static str, path: PathBuf, source: io::Error },
}

pub(super) fn run(_: &mut Machine, console: &mut Console) -> PhaseResult {
    let root = Path::new(CGROUP_ROOT);
    let (init, services) = (root.join(INIT), root.join(SERVICES));
    make(&init)?;
    make(&services)?;
    let procs = init.join("cgroup.procs");
    fs::write(&procs, "1").map_err(|source| CgroupError::Move { path: init, source })?;
    let missing = enable(root)?;
    enable(&services)?;
    for group in job::GROUPS {
        let path = root.join(group.name);
        make(&path)?;
        for problem in bound(&path, group.bounds) {
            console.warn("cgroups", problem);
        }
    }
    if !missing.is_empty() {
        console.warn("cgroups", format_args!("this kernel has no controller for {}", missing.join(", ")));
    }
    Ok(String::new())
}

fn make(path: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(CgroupError::Make { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// Sets a group's files. Returns what could not be set: a job without its bounds is better than no boot.
fn bound(group: &Path, bounds: &[(&str, &str)]) -> Vec<String> {
    let set = |(file, value): &(&str, &str)| {
        let path = group.join(file);
        fs::write(&path, value).err().map(|error| format!("cannot write {value} to {}: {error}", path.display()))
    };
    bounds.iter().filter_map(set).collect()
}

/// Enables what the group has. Returns what it has not.
fn enable(group: &Path) -> Result<Vec<&'static str>, CgroupError> {
    let path = group.join("cgroup.controllers");
    let available = fs::read_to_string(&path).map_err(|source| CgroupError::Available { path, source })?;
    let (present, missing): (Vec<_>, Vec<_>) = CONTROLLERS
        .iter()
        .copied()
        .partition(|controller| available.split_ascii_whitespace().any(|name| name == *controller));
    let path = group.join("cgroup.subtree_control");
    for controller in present {
        // One at a time, so that an error names its controller.
        fs::write(&path, format!("+{controller}")).map_err(|source| CgroupError::Enable {
            controller,
            path: path.clone(),
            source,
        })?;
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_bounded_in_processes_and_those_that_parse_in_memory() {
        let value = |name: &str, file: &str| {
            let group = job::GROUPS.iter().find(|group| group.name == name)?;
            group.bounds.iter().find(|(bound, _)| *bound == file).map(|(_, value)| value.parse::<u64>())
        };
        for group in job::GROUPS {
            assert!(value(group.name, "pids.max").unwrap().is_ok(), "{}", group.name);
        }
        assert!(value("jobs", "memory.max").unwrap().unwrap() >= 64 << 20);
    }

    #[test]
    fn bounds_that_cannot_be_set_are_told_and_the_others_are_set() {
        let group = tempfile::tempdir().unwrap();
        fs::create_dir(group.path().join("memory.max")).unwrap();
        let problems = bound(group.path(), &[("memory.max", "1"), ("pids.max", "32")]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("memory.max"));
        assert_eq!(fs::read_to_string(group.path().join("pids.max")).unwrap(), "32");
    }
}
