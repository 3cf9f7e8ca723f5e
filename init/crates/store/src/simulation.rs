//! Clusters on one thread, in simulated time, from a seed.
//!
//! Everything below the peer protocol is the real code: consensus, log, checkpoints, recovery, forwarding, changes. Simulated are what it
//! stands on: time (tokio's paused clock), disks (`disk::fake`, which lose and tear what was not synced when power is cut), the network (which delays,
//! loses, and is cut one way or both), and randomness. What threads do elsewhere is done by tasks here.
//!
//! A seed repeats the faults and all randomness of this project's and of consensus, but not yet each step: tokio's watch channels wake those who wait in
//! an order of their own, which cannot be seeded in its stable interface. A failure's seed is run a few times.

pub(crate) mod cluster;
pub(crate) mod linearizability;
pub(crate) mod network;
pub mod runtime;
mod tests;

use std::cell::Cell;
use std::time::Duration;

use crate::disk::fake::Throws;
use crate::random::Random;

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Whether this thread is one of a simulation.
pub(crate) fn is_active() -> bool {
    SEED.get().is_some()
}

/// The next number of the simulation's own sequence.
pub(crate) fn draw() -> u64 {
    let seed = SEED.get().unwrap().wrapping_add(0x9e37_79b9_7f4a_7c15);
    SEED.set(Some(seed));
    Throws::new(seed).draw()
}

pub(crate) fn below(bound: u64) -> u64 {
    draw() % bound.max(1)
}

/// What a disk takes for a batch.
pub(crate) async fn wait_for_disk() {
    tokio::time::sleep(Duration::from_micros(100 + below(4000))).await;
}

#[derive(Debug)]
pub(crate) struct SimulatedRandom;

impl Random for SimulatedRandom {
    fn next_u64(&self) -> u64 {
        draw()
    }
}

/// Runs a simulation to its end.
pub(crate) fn run<F: Future>(seed: u64, simulation: impl FnOnce() -> F) -> F::Output {
    struct Ended;
    impl Drop for Ended {
        fn drop(&mut self) {
            SEED.set(None);
        }
    }
    SEED.set(Some(seed.wrapping_mul(0xd134_2543_de82_ef95)));
    let _ended = Ended;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(simulation())
}
