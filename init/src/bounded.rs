//! Calls that may never return, made by a thread that may hang instead of PID 1.
//!
//! What touches a disk or a network file system sleeps in the kernel for as long as that does not answer, and no signal wakes
//! it. The thread is then left alone: the machine ends without it.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Such a thread calls the kernel and little else. Locked memory, so not more than needed.
const STACK_BYTES: usize = 64 * 1024;

/// What `work` returned, unless it took longer or there is no memory for a thread.
pub(crate) fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, wait) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        // Nobody waits any more: too late.
        let _ = done.send(work());
    });
    thread.ok()?;
    wait.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn answer_comes_back_and_what_hangs_is_left() {
        assert_eq!(within(Duration::from_secs(20), || 7), Some(7));
        let start = Instant::now();
        assert_eq!(within(Duration::from_millis(50), thread::park), None);
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}
