//! Supervision with real processes, as an ordinary process instead of PID 1.
//!
//! Each test starts this program again as a supervisor ([`supervisor::main`]): a process of its own, that orphans come to
//! (`PR_SET_CHILD_SUBREAPER`) and that can be signalled, with its sockets in a directory of its own. The test is its
//! client. So there is no libtest main here; [`main`] runs the list of tests and takes a name to filter by.
//!
//! Where a writable cgroup v2 hierarchy exists (root on most machines), services are in cgroups as in the image;
//! elsewhere they are told apart by their sessions.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test outside libtest, which clippy does not recognise as one"
)]

#[path = "supervision/sessions.rs"]
mod sessions;
#[path = "supervision/supervised.rs"]
mod supervised;
#[path = "supervision/supervisor.rs"]
mod supervisor;
#[path = "supervision/tests.rs"]
mod tests;

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, kind, directory] = arguments.as_slice()
        && command == supervisor::COMMAND
    {
        return supervisor::main(kind, directory.as_ref());
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let is_selected = |(name, _): &&tests::Test| filter.is_none_or(|filter| name.contains(filter.as_str()));
    let failed = run(tests::ALL.iter().filter(is_selected).copied().collect());
    println!("\n{} failed {failed:?}\n", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Mostly they wait, so several at once cost little.
const THREADS: usize = 4;

/// Returns the names of those that failed.
fn run(tests: Vec<tests::Test>) -> Vec<&'static str> {
    let waiting = Mutex::new(tests.into_iter());
    let failed = Mutex::new(Vec::new());
    let work = || {
        loop {
            let Some((name, test)) = waiting.lock().unwrap().next() else { return };
            let outcome = catch_unwind(test);
            println!("test {name} ... {}", if outcome.is_ok() { "ok" } else { "FAILED" });
            if outcome.is_err() {
                failed.lock().unwrap().push(name);
            }
        }
    };
    thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(work))));
    failed.into_inner().unwrap()
}
