//! `cargo vm soak`: campaigns that are too long for the test suite.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::killer::{self, KillError, Killer};
use crate::kubectl::text_at;
use crate::machine::{Machine, MachineError};
use crate::node::{Node, Tools};
use crate::project::{self, Project, ProjectError};
use crate::qemu::{QemuError, Speed};
use crate::report::Report;

use super::up::{UpError, image_disk, new_hardware, wait_until_up};

#[derive(Debug, Args)]
pub(super) struct Soak {
    #[command(subcommand)]
    campaign: Campaign,
}

#[derive(Debug, Subcommand)]
enum Campaign {
    /// Kill supervised processes at random; each has to come back, no pod may restart, and nothing may be left behind
    Kill(Kills),
}

#[derive(Debug, Args)]
struct Kills {
    /// How often each service is killed
    #[arg(long, default_value_t = 100)]
    each: usize,
    /// containerd and Kubernetes' components too, and not only Keelson's own
    #[arg(long)]
    all: bool,
    /// Where the random order begins; a failure prints it
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum SoakError {
    #[error(transparent)]
    Up(#[from] UpError),
    #[error("cannot empty {path}", path = path.display())]
    Folder { path: std::path::PathBuf, source: std::io::Error },
    #[error("kill {round} of seed {seed}, of {service}")]
    Kill { round: usize, seed: u64, service: String, source: Box<KillError> },
    #[error("after {rounds} kills of seed {seed} other pods run than before: {before:?}, now {after:?}")]
    PodsRestarted { rounds: usize, seed: u64, before: Vec<String>, after: Vec<String> },
    #[error(transparent)]
    Look(#[from] KillError),
}

impl From<ProjectError> for SoakError {
    fn from(error: ProjectError) -> Self {
        Self::Up(error.into())
    }
}

impl From<MachineError> for SoakError {
    fn from(error: MachineError) -> Self {
        Self::Up(error.into())
    }
}

impl From<QemuError> for SoakError {
    fn from(error: QemuError) -> Self {
        Self::Up(error.into())
    }
}

pub(super) fn soak(options: &Soak) -> Result<(), SoakError> {
    match &options.campaign {
        Campaign::Kill(kills) => kill(kills),
    }
}

fn kill(options: &Kills) -> Result<(), SoakError> {
    let mut report = Report::default();
    let project = Project::of_this_build();
    let image = project.image(&mut report).map_err(UpError::from)?;
    let tools = Tools::new(project.keelctl()?, &image);
    let folder = project.target().join("soak");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(|source| SoakError::Folder { path: folder.clone(), source })?;
    }
    project::create_folder(&folder)?;
    let speed = Speed::measure(&image.kernel, &image.initramfs, &folder)?;
    let mut hardware = new_hardware(&super::Up::defaults(), &folder, &image, &tools)?;
    hardware.disks.extend(image_disk(&folder, std::slice::from_ref(&image.workload))?);
    let mut machine = Machine::create(&folder, hardware, speed)?;
    machine.start()?;
    let mut node = Node::new(machine, tools);
    let result = wait_until_up(&node, &report).map_err(SoakError::from).and_then(|()| rounds(options, &node, &report));
    node.machine.cut_power()?;
    result
}

fn rounds(options: &Kills, node: &Node, report: &Report) -> Result<(), SoakError> {
    let seed = options.seed;
    let killer = Killer::start(node)?;
    let all = killer::services(node)?;
    let names: Vec<&str> = all
        .iter()
        .map(|service| text_at(service, "/name"))
        .filter(|name| options.all || killer::OURS.contains(name))
        .collect();
    let order = Random(seed).shuffled(names.repeat(options.each));
    let rounds = order.len();
    let before = killer::running_pods(node)?;
    let census = killer.census()?;
    let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for (round, service) in (1..).zip(order) {
        let failed = |source| SoakError::Kill { round, seed, service: service.to_owned(), source: Box::new(source) };
        let took = killer.kill(service).map_err(failed)?;
        report.transient(&format!("{round} of {rounds}: {service} was back in {:.1} s", took.as_secs_f64()));
        times.entry(service).or_default().push(took);
    }
    for (service, mut times) in times {
        times.sort_unstable();
        let at = |place: usize| times.get(place).copied().unwrap_or_default().as_secs_f64();
        let count = times.len();
        let (median, longest) = (at(count / 2), at(count.saturating_sub(1)));
        report.line(&format!("{service}: killed {count} times, back in {median:.1} s, at most {longest:.1} s"));
    }
    let after = killer::running_pods(node)?;
    if after != before {
        return Err(SoakError::PodsRestarted { rounds, seed, before, after });
    }
    killer.nothing_left_behind(&census)?;
    report.line(&format!("{rounds} kills: every pod runs on, and nothing is left behind"));
    Ok(killer.end()?)
}

/// xorshift64* (Vigna 2016): a repeatable order, no more.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.max(1);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(value).unwrap_or_default() % bound.max(1)
    }

    /// Fisher and Yates' shuffle.
    fn shuffled<T>(mut self, mut items: Vec<T>) -> Vec<T> {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_repeats_with_its_seed_and_has_everything() {
        let order = |seed| Random(seed).shuffled((0..50).collect::<Vec<_>>());
        assert_eq!(order(7), order(7));
        assert_ne!(order(7), order(8));
        let mut sorted = order(0);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    }
}
