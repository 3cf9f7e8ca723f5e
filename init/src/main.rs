//! PID 1: finds the root, boots by named phases, supervises services.
//!
//! One program, two stages. Run from an initramfs it finds the root and moves there ([`root`]), executing itself; run from
//! the root it boots ([`boot`]), supervises ([`supervise`]) and, once told how the machine is to end, ends it ([`finish`]).
//! Whatever goes wrong for good, a panic included, arrives at [`recovery`]: PID 1 never exits, because its exit is a kernel
//! panic.
#![forbid(unsafe_code)]

mod boot;
mod console;
mod finish;
mod recovery;
mod root;
mod signals;
mod supervise;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use console::Console;
use recovery::{Failure, Rule};

fn main() -> ExitCode {
    if std::process::id() != 1 {
        return ExitCode::FAILURE;
    }
    signals::block_all();
    let mut console = Console::default();
    recovery::report_panics();
    let outcome = catch_unwind(AssertUnwindSafe(|| live(&mut console)));
    let failure = match outcome {
        Ok(failure) => failure,
        Err(_) => Failure::panicked(),
    };
    recovery::recover(&mut console, &failure)
}

/// Returns only what cannot be helped.
fn live(console: &mut Console) -> Failure {
    if root::in_initramfs() {
        return root::enter(console);
    }
    match boot::run(console) {
        Ok(mut boot) => match supervise::run(console, &mut boot) {
            Ok(verdict) => finish::end(console, &boot, &verdict),
            Err(error) => Failure::new("services", Rule::Fatal, error),
        },
        Err(failure) => failure,
    }
}
