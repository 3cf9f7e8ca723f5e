//! The cluster manager: identity, certificates, settings and services of a node.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use keelson_cluster::{Paths, manager, report};
use tokio::signal::unix::{SignalKind, signal};

/// Most of its time this process waits; two threads are for the moments when it does not.
const WORKER_THREADS: usize = 2;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKER_THREADS).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            report::error(&error);
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run());
    // Threads that wait for others' events need not be waited for.
    runtime.shutdown_background();
    code
}

async fn run() -> ExitCode {
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => {
            report::error(&error);
            return ExitCode::FAILURE;
        }
    };
    tokio::spawn(keelson_control::notify::keep_alive(tokio::time::sleep));
    tokio::select! {
        _ = terminate.recv() => ExitCode::SUCCESS,
        ended = manager::run(Paths::default()) => match ended {
            // PID 1 starts it again.
            Ok(()) => {
                report::info("this process begins anew");
                ExitCode::SUCCESS
            }
            Err(error) => {
                report::error(&error);
                ExitCode::FAILURE
            }
        },
    }
}
