//! Machines that become a cluster of control planes and a worker, and what becomes of it.
//!
//! The tests run in this order and share the machines. They are many for an emulated host, so the suite runs only when it is asked for:
//! `cargo test --package keelson-vm --test many_nodes -- --ignored`. There are three control planes where the host can carry them, and
//! two elsewhere (`machines::planes`).

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a test program: what was measured is printed")]

#[path = "many_nodes/machines.rs"]
mod machines;
#[path = "single_node/shared.rs"]
#[expect(dead_code, reason = "shared with a suite that uses more of it")]
mod shared;
#[path = "many_nodes/story.rs"]
mod story;
#[path = "single_node/workload.rs"]
#[expect(dead_code, reason = "shared with a suite that uses more of it")]
mod workload;

use libtest_mimic::Arguments;

fn main() {
    let arguments = Arguments::from_args();
    let trials = story::trials().into_iter().map(|trial| trial.with_ignored_flag(true)).collect();
    let conclusion = shared::conclude(arguments, trials);
    machines::cut_power();
    conclusion.exit();
}
