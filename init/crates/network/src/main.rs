//! keelson-network: brings the node onto its network and keeps it there.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use keelson_network::daemon::{self, Paths};
use keelson_network::say::{failed, say};

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format_args!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    // The daemon and what says that it lives share one thread.
    runtime.spawn(keelson_control::notify::keep_alive(tokio::time::sleep));
    match runtime.block_on(daemon::run(Paths::default())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            failed(&error);
            ExitCode::FAILURE
        }
    }
}
