//! PID 1: finds the root, boots by named phases, supervises services.
//!
//! One program, two stages. Run from an initramfs it finds the root and moves there ([`root`]), executing itself; run from
//! the root it boots ([`boot`]), supervises ([`supervise`]) and, once told how the machine is to end, ends it ([`finish`]).
//! Whatever goes wrong for good, a panic included, arrives at [`recovery`]: PID 1 never exits, because its exit is a kernel
//! panic.
#![forbid(unsafe_code)]

mod boot;
mod bounded;
mod console;
mod finish;
mod recovery;
mod root;
mod screen;
mod signals;
mod supervise;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use boot::Boot;
use console::Console;
use recovery::{Failure, Rule};

fn main() -> ExitCode {
    if std::process::id() != 1 {
        return ExitCode::FAILURE;
    }
    signals::block_all();
    let mut console = Console::default();
    recovery::report_panics();
    let mut boot = None;
    let outcome = catch_unwind(AssertUnwindSafe(|| live(&mut console, &mut boot)));
    let failure = match outcome {
        Ok(failure) => failure,
        Err(_) => Failure::panicked(),
    };
    let failure = match &mut boot {
        Some(boot) => failure.with(boot.progress_now()),
        None => failure,
    };
    // An armed watchdog must be fed even by a machine that holds.
    let watchdog = boot.and_then(|boot| boot.watchdog).or_else(boot::phases::watchdog::take_up_again);
    recovery::recover(&mut console, &failure, watchdog)
}

/// Returns only what cannot be helped. What a finished boot left is kept outside, so that the end can use it after a panic.
fn live(console: &mut Console, boot: &mut Option<Boot>) -> Failure {
    if root::in_initramfs() {
        return root::enter(console);
    }
    let boot = match boot::run(console) {
        Ok(finished) => boot.insert(finished),
        Err(failure) => return failure,
    };
    match supervise::run(console, boot) {
        Ok(verdict) => finish::end(console, boot, &verdict),
        Err(error) => Failure::new("services", Rule::Fatal, error),
    }
}
