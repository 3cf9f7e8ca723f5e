//! Clusters on one thread, in simulated time, from a seed.
//!
//! Everything but what carries messages is the real code: services, state, watches, leases, consensus, log, checkpoints in redb, recovery, forwarding,
//! changes of the members. Simulated are what it stands on: time (tokio's paused clock), disks (`disk::fake`, which lose and tear what was not synced
//! when power is cut), the network (which delays, loses, and is cut one way or both), and randomness. What threads do elsewhere is done
//! by tasks here, each of which knows whose it is ([`process`]).
//!
//! - [`cluster`]: members that start, lose their power, stop, come and go; [`faults`] and [`operator`]: what is done to them
//! - [`clients`], [`watchers`], [`cluster_client`]: who uses them, and what each was answered
//! - [`record`]: what was applied where; [`check`], [`watch_check`]: what must hold of all that; [`linearizability`]: the same of single keys, from
//!   the answers alone
//! - [`scenarios`]: etcd's own record of what went wrong, one test for each entry
//!
//! # What a seed repeats
//!
//! Every step: two runs of a seed draw the same numbers at the same simulated times, write and sync the same bytes and apply the same entries
//! (`a_seed_repeats_its_run_step_by_step` compares a hash of all of that). Three things were in the way. tokio's watch channels wake those who wait
//! in an order that only its unstable interface seeds, so consensus is given channels of ours ([`channel`]). `select!` without `biased` draws
//! where it begins, so what runs in here is biased. And the standard hash maps' order differs from run to run: nothing here depends on it.
//!
//! # What is not simulated
//!
//! gRPC, TLS and frames between members (tests of real processes have them); threads, so races within a process; clocks that run at
//! different speeds, though one may stop and jump.

pub(crate) mod channel;
pub(crate) mod check;
pub(crate) mod clients;
pub(crate) mod cluster;
pub(crate) mod cluster_client;
pub(crate) mod faults;
pub(crate) mod history;
pub(crate) mod linearizability;
pub(crate) mod network;
pub(crate) mod operator;
pub(crate) mod process;
pub(crate) mod record;
pub mod runtime;
mod scenarios;
mod tests;
pub(crate) mod watch_check;
pub(crate) mod watchers;

#[path = "../tests/api/model.rs"]
#[expect(dead_code, reason = "the tests that it is shared with use all of it")]
pub(crate) mod model;

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::disk::fake::Throws;
use crate::random::Random;

/// A defect that is put in on purpose, for the tests that show that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Reads that do not ask whether the member is up to date.
    NoReadIndex,
    /// Disks that say they synced and did not.
    SkippedSync,
    /// Members that lose their disk and come back as who they were.
    ReusedId,
    /// A restarted leader that leads on, with the state of its checkpoint.
    LeaderRestore,
    /// A progress mark that comes before the events of the revision that it names.
    EarlyProgress,
    /// Leaders that are taken for dead as soon as a connection ends.
    HastySuccession,
    /// Reads that are answered by a round which was under way when they came.
    JoinedRound,
}

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
    static BUG: Cell<Option<Bug>> = const { Cell::new(None) };
    static TRACE: Cell<u64> = const { Cell::new(0) };
}

/// Whether this thread is one of a simulation.
pub(crate) fn is_active() -> bool {
    SEED.get().is_some()
}

/// Whether a defect is put in.
pub(crate) fn has(bug: Bug) -> bool {
    BUG.get() == Some(bug)
}

/// The next number of the simulation's own sequence.
pub(crate) fn draw() -> u64 {
    let seed = SEED.get().unwrap().wrapping_add(0x9e37_79b9_7f4a_7c15);
    SEED.set(Some(seed));
    let drawn = Throws::new(seed).draw();
    trace(&drawn);
    drawn
}

pub(crate) fn below(bound: u64) -> u64 {
    draw() % bound.max(1)
}

pub(crate) fn one_in(chance: u64) -> bool {
    below(chance) == 0
}

/// One of several.
pub(crate) fn pick<T: Clone>(from: &[T]) -> T {
    from[usize::try_from(below(from.len() as u64)).unwrap()].clone()
}

/// Makes a step part of what two runs of a seed must have in common.
pub(crate) fn trace(step: &impl Hash) {
    if is_active() {
        let mut hasher = DefaultHasher::new();
        (TRACE.get(), step).hash(&mut hasher);
        TRACE.set(hasher.finish());
    }
}

/// A hash of all steps so far.
pub(crate) fn traced() -> u64 {
    TRACE.get()
}

/// What a disk takes for a batch.
pub(crate) async fn wait_for_disk() {
    let slowest = process::Process::current().map_or(0, |process| process.slowest_micros());
    tokio::time::sleep(Duration::from_micros(100 + below(4000 + slowest))).await;
}

/// Consensus' settings, with a defect if it is one of theirs.
pub(crate) fn spoil(config: openraft::Config) -> openraft::Config {
    if has(Bug::LeaderRestore) { openraft::Config { enable_leader_restore: Some(true), ..config } } else { config }
}

#[derive(Debug)]
pub(crate) struct SimulatedRandom;

impl Random for SimulatedRandom {
    fn next_u64(&self) -> u64 {
        draw()
    }
}

/// Runs a simulation to its end.
pub(crate) fn run<F: Future>(seed: u64, bug: Option<Bug>, simulation: impl FnOnce() -> F) -> F::Output {
    struct Ended;
    impl Drop for Ended {
        fn drop(&mut self) {
            SEED.set(None);
            BUG.set(None);
            record::end();
        }
    }
    SEED.set(Some(seed.wrapping_mul(0xd134_2543_de82_ef95)));
    BUG.set(bug);
    TRACE.set(0);
    let _ended = Ended;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let local = tokio::task::LocalSet::new();
    runtime.block_on(local.run_until(async {
        record::begin();
        simulation().await
    }))
}
