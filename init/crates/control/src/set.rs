//! The services that keelson-cluster hands over, all at once, and what makes a set acceptable.
//!
//! A set replaces the one before it as a whole, so there is no order of updates to get wrong. It is checked twice: by
//! the client, for a good message near the mistake, and by PID 1, which believes nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Condition, Readiness, SERVICES_MAX, ServiceName, ServiceSpec};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSet {
    /// Grows with each change. PID 1 refuses an older one than it has applied, so that a late client cannot undo a
    /// newer decision; the same one again is accepted.
    pub version: u64,
    pub services: Vec<ServiceSpec>,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct InvalidSet {
    pub problems: Vec<SetProblem>,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SetProblem {
    #[error("{count} services, at most {SERVICES_MAX} are possible")]
    TooMany { count: usize },
    #[error("{service}: the name is given twice")]
    Duplicate { service: ServiceName },
    #[error("{service}: the name belongs to one of PID 1's own services")]
    Reserved { service: ServiceName },
    #[error("{service}: {field} is not an absolute path without \"..\": {path}")]
    Path { service: ServiceName, field: &'static str, path: String },
    #[error("{service}: {field} is not below /run, /dev, /proc or /sys, and PID 1 looks at no disk: {path}")]
    OnDisk { service: ServiceName, field: &'static str, path: String },
    #[error("{service}: waits for service {target}, which does not exist")]
    UnknownTarget { service: ServiceName, target: ServiceName },
    #[error("{}: each needs the next one, and the last the first", .services.iter().map(ServiceName::as_str).collect::<Vec<_>>().join(" -> "))]
    Cycle { services: Vec<ServiceName> },
    #[error("{service}: {field} is out of range: {value}")]
    Range { service: ServiceName, field: &'static str, value: i64 },
    #[error("{service}: {field} holds a NUL byte or is no environment variable's name")]
    Text { service: ServiceName, field: &'static str },
    #[error("{service}: a one-shot is ready when it ends, it cannot have another readiness")]
    OneShotReadiness { service: ServiceName },
    #[error("{service}: watchdog_seconds is given, but only a service that says that it is ready says that it lives")]
    MuteWatchdog { service: ServiceName },
}

impl ServiceSet {
    /// Checks the set beside the static services, whose names and edges count too. Every problem is reported.
    pub fn validate(&self, static_services: &[ServiceSpec]) -> Result<(), InvalidSet> {
        let mut problems = Vec::new();
        if self.services.len() + static_services.len() > SERVICES_MAX {
            problems.push(SetProblem::TooMany { count: self.services.len() + static_services.len() });
        }
        let reserved: BTreeSet<_> = static_services.iter().map(|spec| &spec.name).collect();
        let mut known = reserved.clone();
        for spec in &self.services {
            if reserved.contains(&spec.name) {
                problems.push(SetProblem::Reserved { service: spec.name.clone() });
            } else if !known.insert(&spec.name) {
                problems.push(SetProblem::Duplicate { service: spec.name.clone() });
            }
        }
        for spec in &self.services {
            check_spec(spec, &mut problems);
            check_targets(spec, &known, &mut problems);
        }
        if let Some(services) = find_cycle(static_services.iter().chain(&self.services)) {
            problems.push(SetProblem::Cycle { services });
        }
        if problems.is_empty() { Ok(()) } else { Err(InvalidSet { problems }) }
    }
}

fn check_targets(spec: &ServiceSpec, known: &BTreeSet<&ServiceName>, problems: &mut Vec<SetProblem>) {
    for condition in &spec.conditions {
        if let Condition::ServiceReady(target) = condition
            && !known.contains(target)
        {
            problems.push(SetProblem::UnknownTarget { service: spec.name.clone(), target: target.clone() });
        }
    }
}

fn check_spec(spec: &ServiceSpec, problems: &mut Vec<SetProblem>) {
    check_path(spec, "program", &spec.program, problems);
    for condition in &spec.conditions {
        if let Condition::FileExists(path) | Condition::SocketAnswers(path) = condition {
            check_watched(spec, "conditions", path, problems);
        }
    }
    if let Readiness::Socket(path) = &spec.readiness {
        check_watched(spec, "readiness", path, problems);
    }
    if spec.kind == crate::ServiceKind::OneShot && spec.readiness != Readiness::Started {
        problems.push(SetProblem::OneShotReadiness { service: spec.name.clone() });
    }
    if spec.watchdog().is_some() && spec.readiness != Readiness::Notify {
        problems.push(SetProblem::MuteWatchdog { service: spec.name.clone() });
    }
    check_text(spec, problems);
    check_ranges(spec, problems);
}

fn check_path(spec: &ServiceSpec, field: &'static str, path: &Path, problems: &mut Vec<SetProblem>) {
    let parent = path.components().any(|part| part == std::path::Component::ParentDir);
    let nul = path.as_os_str().as_encoded_bytes().contains(&0);
    if !path.is_absolute() || parent || nul {
        problems.push(SetProblem::Path { service: spec.name.clone(), field, path: path.display().to_string() });
    }
}

/// What PID 1 itself looks at has to lie in memory: a look at a disk that hangs would hang PID 1.
fn check_watched(spec: &ServiceSpec, field: &'static str, path: &Path, problems: &mut Vec<SetProblem>) {
    check_path(spec, field, path, problems);
    if path.is_absolute() && !IN_MEMORY.iter().any(|directory| path.starts_with(directory)) {
        problems.push(SetProblem::OnDisk { service: spec.name.clone(), field, path: path.display().to_string() });
    }
}

/// File systems without a device behind them.
const IN_MEMORY: [&str; 4] = ["/run", "/dev", "/proc", "/sys"];

fn check_text(spec: &ServiceSpec, problems: &mut Vec<SetProblem>) {
    if spec.arguments.iter().any(|argument| argument.contains('\0')) {
        problems.push(SetProblem::Text { service: spec.name.clone(), field: "arguments" });
    }
    let bad_variable =
        |(name, value): (&String, &String)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0');
    if spec.environment.iter().any(bad_variable) {
        problems.push(SetProblem::Text { service: spec.name.clone(), field: "environment" });
    }
}

fn check_ranges(spec: &ServiceSpec, problems: &mut Vec<SetProblem>) {
    let limits = &spec.limits;
    let mut check = |field, value: Option<i64>, min, max| {
        if let Some(value) = value.filter(|value| *value < min || *value > max) {
            problems.push(SetProblem::Range { service: spec.name.clone(), field, value });
        }
    };
    check("timeout_start_seconds", Some(i64::from(spec.timeout_start_seconds)), 0, TIMEOUT_MAX_SECONDS);
    check("watchdog_seconds", Some(i64::from(spec.watchdog_seconds)), 0, TIMEOUT_MAX_SECONDS);
    check("timeout_stop_seconds", Some(i64::from(spec.timeout_stop_seconds)), 1, TIMEOUT_MAX_SECONDS);
    check("cpu_weight", limits.cpu_weight.map(i64::from), 1, 10_000);
    check("oom_score_adj", limits.oom_score_adj.map(i64::from), -1000, 1000);
    check("nice", limits.nice.map(i64::from), -20, 19);
    check("pids_max", limits.pids_max.map(i64::from), 1, i64::from(u32::MAX));
}

/// An hour: whatever takes longer to start or stop is broken.
const TIMEOUT_MAX_SECONDS: i64 = 3600;

/// A cycle among the edges "waits for" and "stops before", if there is one.
///
/// Services that lead nowhere are taken away until none is left that does; what remains holds a cycle, which is then
/// walked. No recursion: the depth would be the client's choice.
fn find_cycle<'a>(specs: impl Iterator<Item = &'a ServiceSpec>) -> Option<Vec<ServiceName>> {
    let mut needs: BTreeMap<&ServiceName, BTreeSet<&ServiceName>> =
        specs.map(|spec| (&spec.name, spec.needs().collect())).collect();
    loop {
        let known: BTreeSet<_> = needs.keys().copied().collect();
        for targets in needs.values_mut() {
            targets.retain(|target| known.contains(target));
        }
        let before = needs.len();
        needs.retain(|_, targets| !targets.is_empty());
        if needs.len() == before {
            break;
        }
    }
    let mut path: Vec<&ServiceName> = Vec::new();
    let mut at = needs.keys().next().copied()?;
    loop {
        if let Some(start) = path.iter().position(|name| *name == at) {
            return Some(path.into_iter().skip(start).cloned().collect());
        }
        path.push(at);
        at = needs.get(at)?.iter().next().copied()?;
    }
}

#[cfg(test)]
mod tests;
