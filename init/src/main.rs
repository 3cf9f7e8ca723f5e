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
mod vitals;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use boot::{Stop, Verdict};
use console::Console;
use recovery::{Failure, Rule};
use vitals::Vitals;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        return ExitCode::FAILURE;
    }
    signals::block_all();
    let mut console = Console::default();
    recovery::report_panics();
    // Outside, so that the end can use them after a panic.
    let mut vitals = Vitals::default();
    let outcome = catch_unwind(AssertUnwindSafe(|| live(&mut console, &mut vitals)));
    let failure = outcome.unwrap_or_else(|_| Failure::panicked());
    recovery::recover(&mut console, &failure, &mut vitals)
}

/// Returns only what cannot be helped.
fn live(console: &mut Console, vitals: &mut Vitals) -> Failure {
    match run(console, vitals) {
        Ok(verdict) => finish::end(console, vitals, &verdict),
        Err(Stop::Asked(request)) => finish::end(console, vitals, &request.into()),
        Err(Stop::Failed(failure)) => failure,
    }
}

fn run(console: &mut Console, vitals: &mut Vitals) -> Result<Verdict, Stop> {
    if root::in_initramfs() {
        return Err(root::enter(console, vitals));
    }
    let mut facts = boot::run(console, vitals)?;
    supervise::run(console, &mut facts, vitals).map_err(|error| Failure::new("services", Rule::Fatal, error).into())
}
