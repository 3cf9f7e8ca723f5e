//! Faults of one machine: what it does when a button is pressed, a bit has flipped, the kernel dies or the disk hangs, and what
//! the next boot tells of it.
//!
//! None of it needs Kubernetes: a machine is used as soon as its operator's API answers, some seconds after power-on. The
//! tests run one after the other; those of `one_machine` share a disk, so that each boot is also the next one's history.
//! What takes many minutes is left out unless it is asked for by its name.

#![forbid(unsafe_code)]
#![expect(
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test program: serde_json answers null for what is missing, and what was measured is printed"
)]

#[path = "machine_faults/image_disk.rs"]
mod image_disk;
#[path = "machine_faults/ladder.rs"]
mod ladder;
#[path = "machine_faults/one_machine.rs"]
mod one_machine;
#[path = "machine_faults/root.rs"]
mod root;
#[path = "single_node/shared.rs"]
mod shared;
#[path = "machine_faults/support.rs"]
mod support;

use libtest_mimic::Arguments;

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = root::trials();
    trials.extend(one_machine::trials());
    // Each of these takes minutes by itself.
    if arguments.filter.is_some() || arguments.list {
        trials.extend(image_disk::trials());
        trials.extend(ladder::trials());
    }
    shared::run(arguments, trials);
}
