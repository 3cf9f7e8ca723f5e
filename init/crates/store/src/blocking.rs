//! Tasks, and work that waits for a disk, away from the threads that serve: in a simulation both are its own.

use std::io;

/// Runs it on a thread for such work. In a simulation, whose disks are memory and whose time stands still meanwhile, at once.
pub(crate) async fn run<T, F>(work: F) -> io::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    #[cfg(test)]
    if crate::simulation::is_active() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// Starts a task of this member.
pub(crate) fn spawn<F>(future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[cfg(test)]
    let future = crate::simulation::process::inherit(future);
    tokio::spawn(future)
}
