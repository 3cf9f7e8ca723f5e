//! One machine, from the bytes that users get, and what it does.
//!
//! The tests run one after the other, in this order, and share one machine: a boot takes minutes under
//! emulation. Its disk forgets what was not flushed (see `keelson_vm::nbd`), so that the power cut is a real one.
//! There are four boots: the first, a worker's, one by `keelctl reboot`, one after the power cut. Pods that mean harm, and a month that
//! the machine is off, are left out unless they are asked for by name.

#![forbid(unsafe_code)]
#![expect(
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test program: serde_json answers null for what is missing, and what was measured is printed"
)]

#[path = "single_node/documents.rs"]
mod documents;
#[path = "single_node/hostile_pods.rs"]
mod hostile_pods;
#[path = "single_node/lifecycle.rs"]
mod lifecycle;
#[path = "single_node/shared.rs"]
mod shared;
#[path = "single_node/workload.rs"]
mod workload;

use libtest_mimic::Arguments;

fn main() {
    let arguments = Arguments::from_args();
    let by_name = arguments.filter.is_some() || arguments.list;
    let mut trials = lifecycle::trials();
    if by_name {
        trials.extend(hostile_pods::trials());
    }
    trials.extend(lifecycle::ends());
    if by_name {
        trials.extend(lifecycle::afterlife());
        trials.extend(documents::trials());
    }
    shared::run(arguments, trials);
}
