//! The node's local balancer to all of the cluster's API servers.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use keelson_control::notify;
use keelson_proxy::{Settings, server};
use tokio::signal::unix::{SignalKind, signal};

/// Copying is all that it does; a second thread is for the moment when one is busy.
const WORKER_THREADS: usize = 2;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKER_THREADS).enable_all().build();
    let outcome = runtime.map_err(server::ServerError::Runtime).and_then(|runtime| runtime.block_on(run()));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            server::say_error(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), server::ServerError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(server::ServerError::Runtime)?;
    let server = server::Server::bind(Settings::default()).await?;
    notify::ready().map_err(server::ServerError::Ready)?;
    tokio::spawn(notify::keep_alive(tokio::time::sleep));
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        never = server.serve() => match never {},
    }
}
