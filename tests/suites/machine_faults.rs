//! Faults of one machine: what it does when it is told nonsense, a button is pressed, a bit has flipped, the kernel dies or the
//! disk hangs, and what the next boot tells of it.
//!
//! None of it needs Kubernetes: a machine is used as soon as its operator's API answers, some seconds after power-on. The
//! tests run one after the other; those of `one_machine` share a disk, so that each boot is also the next one's history.
//! They boot for each test, or nearly, so all of them are ignored unless they are asked for; what takes many minutes is left out
//! unless it is asked for by its name.

#![forbid(unsafe_code)]
#![expect(
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test program: serde_json answers null for what is missing, and what was measured is printed"
)]

#[path = "machine_faults/bad_input.rs"]
mod bad_input;
#[path = "machine_faults/image_disk.rs"]
mod image_disk;
#[path = "machine_faults/ladder.rs"]
mod ladder;
#[path = "machine_faults/one_machine.rs"]
mod one_machine;
#[path = "machine_faults/power_cuts.rs"]
mod power_cuts;
#[path = "machine_faults/root.rs"]
mod root;
#[path = "single_node/shared.rs"]
mod shared;
#[path = "machine_faults/support.rs"]
mod support;

use libtest_mimic::Arguments;

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = bad_input::trials();
    trials.extend(root::trials());
    trials.extend(one_machine::trials());
    // Each of these takes minutes by itself.
    let is_named = arguments.filter.is_some();
    if is_named || arguments.list {
        trials.extend(image_disk::trials());
        trials.extend(ladder::trials());
        trials.extend(power_cuts::trials());
    }
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(!is_named)).collect();
    shared::run(arguments, trials);
}
